//! ● Host and path → target. Most specific host, then longest path prefix.
//!
//! Knows nothing of services or tables: a target is whatever the caller stores. Cost does not grow
//! with the number of routes but with the length of host and path.

/// An immutable route table of one listener.
#[derive(Debug, Default)]
pub struct Routes<T> {
    entries: Vec<T>,
}

/// One host pattern and path prefix; `host` none matches every host.
#[derive(Debug, Clone)]
pub struct Rule<T> {
    pub host: Option<crate::config::HostPattern>,
    /// `/`, or a prefix without a trailing slash that ends at a segment border.
    pub path_prefix: String,
    pub target: T,
}

impl<T> Routes<T> {
    /// The first of two equal rules wins (configuration refuses such pairs).
    pub fn new(rules: Vec<Rule<T>>) -> Self {
        Self { entries: rules.into_iter().map(|rule| rule.target).collect() }
    }

    /// `host`: without port, any letter case, a trailing dot ignored. `path`: from the first slash,
    /// without the query. No allocation.
    pub fn find(&self, host: &[u8], path: &[u8]) -> Option<&T> {
        let _ = (host, path);
        todo!("route helper")
    }
}
