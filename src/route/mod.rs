//! ● Host and path → target. Most specific host, then longest path prefix.
//!
//! Knows nothing of services or tables: a target is whatever the caller stores. Cost does not grow
//! with the number of routes: one probe of an index for the name, one for each of its suffixes that
//! is no longer than a configured one, one for each cut of the path at a segment border where the
//! host has a prefix of just that length.
//!
//! Of all rules that match both the host and the path of a request, the one with the most specific
//! host wins: the exact name, then the wildcard with the longest suffix, then the rules for every
//! host; between rules of one host the longest prefix wins. A host whose prefixes do not match
//! therefore does not hide a less specific host that has one: a request is answered with 404 only
//! where no rule matches it at all. (nginx stops at the most specific host; the Gateway API speaks
//! of precedence between the rules that match, as here.)

pub mod hello;
mod host;
mod index;
mod path;

use host::Hosts;
use path::Paths;

/// An immutable route table of one listener.
#[derive(Debug)]
pub struct Routes<T> {
    targets: Vec<T>,
    hosts: Hosts,
    paths: Paths,
}

/// One host pattern and path prefix; `host` none matches every host.
#[derive(Debug, Clone)]
pub struct Rule<T> {
    pub host: Option<crate::config::HostPattern>,
    /// `/`, or a prefix without a trailing slash that ends at a segment border.
    pub path_prefix: String,
    pub target: T,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl<T> Routes<T> {
    /// The first of two equal rules wins (configuration refuses such pairs).
    pub fn new(rules: Vec<Rule<T>>) -> Self {
        let mut hosts = Hosts::default();
        let mut paths = Paths::default();
        let mut targets = Vec::with_capacity(rules.len());
        for rule in rules {
            let host = hosts.insert(rule.host.as_ref());
            paths.insert(host, rule.path_prefix.as_bytes(), targets.len() as u32);
            targets.push(rule.target);
        }
        hosts.link();
        Self { targets, hosts, paths }
    }

    /// `host`: without port, any letter case, a trailing dot ignored; one longer than 255 bytes is
    /// no name (RFC 1035 section 2.3.4) and matches only rules for every host. `path`: from the
    /// first slash, without the query. No allocation.
    pub fn find(&self, host: &[u8], path: &[u8]) -> Option<&T> {
        let mut pattern = Some(self.hosts.most_specific(host));
        while let Some(host) = pattern {
            if let Some(target) = self.paths.longest(host, path) {
                return self.targets.get(target as usize);
            }
            pattern = self.hosts.less_specific(host);
        }
        None
    }
}

#[cfg(test)]
mod tests;
