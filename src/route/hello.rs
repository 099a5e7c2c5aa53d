//! ● Server name and protocols of a ClientHello → target. Most specific name, then a protocol.

use super::host::{HostId, Hosts};
use crate::config::HostPattern;

/// An immutable route table of one listener that does not end TLS.
#[derive(Debug, Default)]
pub struct Names<T> {
    hosts: Hosts,
    /// By host.
    rules: Vec<Vec<Protocols<T>>>,
}

/// One name pattern; `None` matches every client, also one that names nothing.
#[derive(Debug, Clone)]
pub struct NameRule<T> {
    pub name: Option<HostPattern>,
    /// The client offers one of these; empty: whatever it offers.
    pub alpn: Vec<String>,
    pub target: T,
}

#[derive(Debug)]
struct Protocols<T> {
    alpn: Vec<String>,
    target: T,
}

impl<T> Names<T> {
    /// Of two rules that match alike the first wins.
    pub fn new(rules: Vec<NameRule<T>>) -> Self {
        let mut hosts = Hosts::default();
        let mut by_host: Vec<Vec<Protocols<T>>> = Vec::new();
        for NameRule { name, alpn, target } in rules {
            let host = hosts.insert(name.as_ref()) as usize;
            by_host.resize_with(by_host.len().max(host + 1), Vec::new);
            by_host[host].push(Protocols { alpn, target });
        }
        hosts.link();
        Self { hosts, rules: by_host }
    }

    /// Of all rules that match, the one with the most specific name, whatever its protocols;
    /// between rules of one name the one with the protocol the client likes best, then the one for
    /// all.
    pub fn find(&self, name: Option<&str>, alpn: &[Vec<u8>]) -> Option<&T> {
        let mut pattern = Some(self.hosts.most_specific(name.unwrap_or_default().as_bytes()));
        while let Some(host) = pattern {
            if let Some(target) = self.of_host(host, alpn) {
                return Some(target);
            }
            pattern = self.hosts.less_specific(host);
        }
        None
    }

    fn of_host(&self, host: HostId, alpn: &[Vec<u8>]) -> Option<&T> {
        let rules = self.rules.get(host as usize)?;
        let speaks = |offered: &Vec<u8>| {
            let names =
                |rule: &&Protocols<T>| rule.alpn.iter().any(|name| name.as_bytes() == &offered[..]);
            rules.iter().find(names)
        };
        let found = alpn.iter().find_map(speaks);
        let found = found.or_else(|| rules.iter().find(|rule| rule.alpn.is_empty()));
        found.map(|rule| &rule.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(rules: &[(&str, &[&str])]) -> Names<usize> {
        let rules = rules.iter().enumerate().map(|(target, (name, alpn))| {
            let name = match (name.strip_prefix("*."), *name) {
                (_, "*") => None,
                (Some(parent), _) => Some(HostPattern::Wildcard(parent.into())),
                (None, name) => Some(HostPattern::Exact(name.into())),
            };
            NameRule { name, alpn: alpn.iter().map(|name| (*name).into()).collect(), target }
        });
        Names::new(rules.collect())
    }

    fn find(names: &Names<usize>, name: Option<&str>, alpn: &[&str]) -> Option<usize> {
        let alpn: Vec<_> = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        names.find(name, &alpn).copied()
    }

    #[test]
    fn exact_name_goes_before_wildcard_and_that_before_the_rest() {
        let names = names(&[("*", &[]), ("*.a.test", &[]), ("b.a.test", &[])]);
        for (name, target) in [
            (Some("b.a.test"), 2),
            (Some("c.a.test"), 1),
            (Some("d.c.a.test"), 1),
            (Some("a.test"), 0),
            (Some("z.test"), 0),
            (None, 0),
        ] {
            assert_eq!(find(&names, name, &[]), Some(target), "{name:?}");
        }
    }

    #[test]
    fn without_a_rule_for_all_a_stranger_matches_nothing() {
        let names = names(&[("a.test", &[])]);
        assert_eq!(find(&names, Some("b.test"), &[]), None);
        assert_eq!(find(&names, None, &["h2"]), None);
    }

    #[test]
    fn protocol_the_client_likes_best_decides_within_a_name() {
        let names = names(&[("a.test", &["http/1.1"]), ("a.test", &["h2", "h3"]), ("*", &["x/1"])]);
        assert_eq!(find(&names, Some("a.test"), &["h2", "http/1.1"]), Some(1));
        assert_eq!(find(&names, Some("a.test"), &["http/1.1", "h2"]), Some(0));
        assert_eq!(find(&names, Some("a.test"), &["x/1"]), Some(2), "a less specific name serves");
        assert_eq!(find(&names, Some("a.test"), &[]), None);
    }
}
