#![no_main]
//! Whatever host and path are asked for: no panic, and letter case and a trailing dot of the host
//! change nothing.

use libfuzzer_sys::fuzz_target;
use standfast::config::HostPattern;
use standfast::route::{Routes, Rule};

fuzz_target!(|input: (Vec<(Option<bool>, String, String)>, Vec<u8>, Vec<u8>)| {
    let (rules, host, path) = input;
    let rules = rules.into_iter().enumerate().map(|(target, (kind, name, path_prefix))| {
        let host = kind.map(|exact| match exact {
            true => HostPattern::Exact(name.to_ascii_lowercase()),
            false => HostPattern::Wildcard(name.to_ascii_lowercase()),
        });
        Rule { host, path_prefix, target }
    });
    let routes = Routes::new(rules.collect());
    let found = routes.find(&host, &path);
    assert_eq!(found, routes.find(&host.to_ascii_uppercase(), &path));
    if !host.ends_with(b".") {
        assert_eq!(found, routes.find(&[&host[..], b"."].concat(), &path));
    }
});
