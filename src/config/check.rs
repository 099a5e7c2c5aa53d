//! ● Text → [`Config`], or every error at once.

mod admin;
mod cross;
mod health;
mod listeners;
mod passing;
mod pools;
mod reader;
mod services;
mod tls;
mod writes;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::file::{self, Item};
use super::parse::{self, Value};
use super::report::Report;
use super::{Config, Secret};
use reader::Reader;

/// What the configuration must ask of the world. Implemented by `cli::load` with real files.
pub trait World {
    /// Paths are relative to the working directory, like a shell's.
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// What lies at a path the process is to write to. Errors: nothing does, or it cannot be seen.
    fn look_at(&self, path: &Path) -> io::Result<Spot>;
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

/// A file or a folder, seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    pub is_folder: bool,
    /// A device, a pipe or a socket.
    pub is_special: bool,
    /// As far as can be told without trying: into the file, or new files into the folder.
    pub is_writable: bool,
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

/// One line: for logs.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {} ({})", self.line, self.message, self.remedy)
    }
}

/// A configuration with its warnings, or every error (and the warnings).
pub type Checked = Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>>;

/// Reads and checks a whole configuration.
///
/// Relations between parts are looked at even where a part is wrong, so that all errors come in
/// one answer; what is derived from a wrong value stays silent.
pub fn check(text: &str, world: &dyn World) -> Checked {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let report = Report::new(text);
    let (root, faults) = parse::parse(text);
    for fault in faults {
        report.push(Severity::Error, &fault.path, fault.at, fault.message, fault.remedy);
    }
    let config = root.and_then(|mut root| {
        let reader = Reader::new(text, world, &report);
        reader.expand(&mut root);
        whole(&reader, &Item::root(&root, &report), matches!(root.value, Value::Null))
    });
    let failed = report.has_errors();
    let found = report.finish();
    match config {
        Some(config) if !failed => Ok((config, found)),
        _ => Err(found),
    }
}

fn whole(reader: &Reader<'_>, root: &Item<'_>, empty: bool) -> Option<Config> {
    if empty {
        let remedy = "write at least `listeners` and `services`, as in config/standfast.yaml";
        root.error("the configuration is empty", remedy);
        return None;
    }
    let top = root.table(&file::TOP)?;
    if let Some(version) = top.get("version") {
        version.choice(&[("1", ())], &[]);
    }
    let admin = admin::admin(reader, top.get("admin"));
    let process = admin::process(reader, top.get("process"));
    let logging = admin::logging(reader, top.get("logging"));
    let services = services::services(reader, &top);
    let listeners = listeners::listeners(reader, &top, &services);
    cross::binds(&listeners, &admin, top.get("admin"));
    cross::redirects(&listeners);
    passing::services(&listeners, &services);
    cross::unused_services(&services);
    let workers = process.workers.map_or_else(|| reader.world.cores(), usize::from);
    cross::descriptors(&listeners, &services, workers, reader.world.descriptor_limit());
    Some(Config {
        admin,
        process,
        logging,
        listeners: listeners.into_iter().map(|read| read.listener).collect(),
        services: services.into_iter().filter_map(|read| read.service).collect(),
        digest: reader.digest(),
    })
}
