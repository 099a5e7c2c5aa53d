use proptest::prelude::*;

use super::*;
use crate::config::HostPattern;

fn rule(host: &str, path: &str, target: usize) -> Rule<usize> {
    let host = match host.strip_prefix("*.") {
        _ if host == "*" => None,
        Some(suffix) => Some(HostPattern::Wildcard(suffix.to_owned())),
        None => Some(HostPattern::Exact(host.to_owned())),
    };
    Rule { host, path_prefix: path.to_owned(), target }
}

fn routes(rules: &[(&str, &str)]) -> Routes<usize> {
    let rules = rules.iter().enumerate();
    Routes::new(rules.map(|(target, (host, path))| rule(host, path, target)).collect())
}

fn find(routes: &Routes<usize>, host: &str, path: &str) -> Option<usize> {
    routes.find(host.as_bytes(), path.as_bytes()).copied()
}

#[test]
fn an_empty_table_routes_nothing() {
    assert_eq!(find(&Routes::default(), "a.test", "/"), None);
}

#[test]
fn the_exact_host_comes_before_wildcards_and_the_longest_suffix_before_shorter_ones() {
    let table = routes(&[("*", "/"), ("*.test", "/"), ("*.a.test", "/"), ("b.a.test", "/")]);
    assert_eq!(find(&table, "b.a.test", "/x"), Some(3));
    assert_eq!(find(&table, "c.a.test", "/x"), Some(2));
    assert_eq!(find(&table, "d.c.a.test", "/x"), Some(2));
    assert_eq!(find(&table, "a.test", "/x"), Some(1));
    assert_eq!(find(&table, "test", "/x"), Some(0));
    assert_eq!(find(&table, "", "/x"), Some(0));
}

#[test]
fn a_wildcard_needs_one_more_label() {
    let table = routes(&[("*.a.test", "/")]);
    for host in ["a.test", ".a.test", "xa.test"] {
        assert_eq!(find(&table, host, "/"), None, "{host}");
    }
    assert_eq!(find(&table, "x.a.test", "/"), Some(0));
}

#[test]
fn letter_case_and_a_trailing_dot_do_not_matter() {
    let table = routes(&[("a.test", "/"), ("*.b.test", "/")]);
    assert_eq!(find(&table, "A.TeSt.", "/"), Some(0));
    assert_eq!(find(&table, "X.B.tEST.", "/"), Some(1));
    assert_eq!(find(&table, "a.test..", "/"), None);
}

#[test]
fn prefixes_end_at_segment_borders_and_the_longest_wins() {
    let table = routes(&[("*", "/"), ("*", "/api"), ("*", "/api/v1")]);
    for (path, target) in [
        ("/", 0),
        ("/apix", 0),
        ("/ap", 0),
        ("/API", 0),
        ("/api", 1),
        ("/api/", 1),
        ("/api/v", 1),
        ("/api/v1", 2),
        ("/api/v1/x/y", 2),
        ("/api//v1", 1),
        ("*", 0),
    ] {
        assert_eq!(find(&table, "a.test", path), Some(target), "{path}");
    }
}

#[test]
fn a_host_without_a_matching_path_does_not_hide_a_less_specific_one() {
    let table = routes(&[("a.b.test", "/api"), ("*.b.test", "/web"), ("*", "/")]);
    assert_eq!(find(&table, "a.b.test", "/api/x"), Some(0));
    assert_eq!(find(&table, "a.b.test", "/web"), Some(1));
    assert_eq!(find(&table, "a.b.test", "/other"), Some(2));
}

#[test]
fn the_first_of_two_equal_rules_wins() {
    let table = routes(&[("a.test", "/"), ("A.test", "/"), ("a.test", "/x"), ("a.test", "/x/")]);
    assert_eq!(find(&table, "a.test", "/y"), Some(0));
    assert_eq!(find(&table, "a.test", "/x"), Some(2));
}

#[test]
fn a_host_longer_than_any_name_matches_only_rules_for_every_host() {
    let long = format!("{}.test", "a".repeat(251));
    let table = routes(&[("*.test", "/"), ("*", "/")]);
    assert_eq!(find(&table, &long, "/"), Some(1));
    assert_eq!(find(&table, &long[1..], "/"), Some(0));
}

/// The rules read literally: every one is tried, the best of those that match is taken.
fn reference(rules: &[Rule<usize>], host: &str, path: &str) -> Option<usize> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let specific = |rule: &Rule<usize>| match &rule.host {
        None => Some(0),
        Some(HostPattern::Exact(name)) => (*name == host).then_some(usize::MAX),
        Some(HostPattern::Wildcard(suffix)) => {
            let label = host.strip_suffix(suffix.as_str())?.strip_suffix('.')?;
            (!label.is_empty()).then_some(suffix.len())
        }
    };
    let reaches = |prefix: &str| match path.strip_prefix(prefix.trim_end_matches('/')) {
        Some(rest) => prefix == "/" || rest.is_empty() || rest.starts_with('/'),
        None => false,
    };
    let mut best: Option<((usize, usize), usize)> = None;
    for rule in rules.iter().filter(|rule| reaches(&rule.path_prefix)) {
        let Some(host) = specific(rule) else { continue };
        let rank = (host, rule.path_prefix.trim_end_matches('/').len());
        if best.is_none_or(|(held, _)| rank > held) {
            best = Some((rank, rule.target));
        }
    }
    best.map(|(_, target)| target)
}

fn host() -> impl Strategy<Value = String> {
    proptest::string::string_regex("(a|b|ab)(\\.(a|b|ab)){0,3}").unwrap()
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![Just("*".to_owned()), host(), host().prop_map(|host| format!("*.{host}"))]
}

fn path() -> impl Strategy<Value = String> {
    proptest::string::string_regex("/|(/(a|b|ab)){1,4}").unwrap()
}

proptest! {
    #[test]
    fn finds_what_a_linear_search_finds(
        rules in proptest::collection::vec((pattern(), path()), 0..40),
        asked in proptest::collection::vec(
            (host(), "(\\.)?", path(), "(/|x|/\\.\\.)?"), 1..20),
    ) {
        let rules: Vec<_> = rules.iter().enumerate()
            .map(|(target, (host, path))| rule(host, path, target)).collect();
        let table = Routes::new(rules.clone());
        for (host, dot, path, tail) in asked {
            let (host, path) = (format!("{host}{dot}").to_uppercase(), path + &tail);
            prop_assert_eq!(find(&table, &host, &path), reference(&rules, &host, &path));
        }
    }

    #[test]
    fn any_bytes_are_routed_without_a_panic(
        host in proptest::collection::vec(any::<u8>(), 0..300),
        path in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let table = routes(&[("*", "/"), ("*.a", "/b"), ("a", "/a/b")]);
        prop_assert!(table.find(&host, &path).is_some());
    }
}
