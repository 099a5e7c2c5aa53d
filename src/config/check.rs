//! ● Text → [`Config`], or every error at once.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::{Config, Secret};

/// What the configuration must ask of the world. Implemented by `cli::load` with real files.
pub trait World {
    /// Paths are relative to the working directory, like a shell's.
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>>;
    fn env(&self, name: &str) -> Option<String>;
    /// Addresses of a host name, in the resolver's order.
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
    /// Parses a chain and its key and matches them. The error says what is wrong and what to do.
    fn inspect_certificate(
        &self,
        chain_pem: &[u8],
        key_pem: &Secret,
    ) -> Result<CertificateFacts, Problem>;
    /// Checks a bundle of CA certificates.
    fn inspect_ca(&self, pem: &[u8]) -> Result<(), Problem>;
    /// Descriptors this process may open (the hard limit; it is raised to that at the start).
    fn descriptor_limit(&self) -> u64;
    /// Unix seconds.
    fn unix_now(&self) -> i64;
    /// Usable cores.
    fn cores(&self) -> usize;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// DNS names of the leaf, lower case.
    pub names: Vec<String>,
    pub not_before: i64,
    pub not_after: i64,
}

/// Which of the two files is wrong, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub in_key: bool,
    pub message: String,
    pub remedy: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// A dotted path such as `services.app.pools[0].endpoints[1]`; empty for the text as a whole.
    pub path: String,
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// The source line.
    pub snippet: String,
    /// What is wrong, a fragment in lower case.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// A configuration with its warnings, or every error (and the warnings).
pub type Checked = Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>>;

/// Reads and checks a whole configuration.
pub fn check(text: &str, world: &dyn World) -> Checked {
    let _ = (text, world);
    todo!("config helper")
}
