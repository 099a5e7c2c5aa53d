//! A world for configurations under test: files and variables from maps, certificates that are
//! plain text, and a clock that stands still.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use standfast::config::Secret;
use standfast::config::check::{CertificateFacts, Problem, Spot, World};

/// 2027-01-15.
const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

/// The file of a certificate holds `NAME,NAME DAYS_SINCE_VALID DAYS_LEFT`, that of a key `key`, that
/// of a CA `ca`.
pub(crate) struct FakeWorld {
    pub(crate) files: HashMap<PathBuf, Vec<u8>>,
    /// Folders in which files can be made.
    pub(crate) folders: HashSet<PathBuf>,
    /// Files among them that are devices.
    pub(crate) devices: HashSet<PathBuf>,
    /// Files and folders among them that are read-only.
    pub(crate) sealed: HashSet<PathBuf>,
    pub(crate) env: HashMap<String, String>,
    pub(crate) hosts: HashMap<String, Vec<IpAddr>>,
    pub(crate) descriptors: u64,
}

impl Default for FakeWorld {
    fn default() -> Self {
        let mut world = Self {
            files: HashMap::new(),
            folders: [".", "/tmp", "/var/log", "/var/lib/standfast", "/run/standfast"]
                .map(PathBuf::from)
                .into(),
            devices: HashSet::new(),
            sealed: HashSet::new(),
            env: HashMap::new(),
            hosts: HashMap::new(),
            descriptors: 1 << 20,
        };
        world.file("a.crt", "a.example.com,*.b.example.com 1 100");
        world.file("a.key", "key");
        world.file("ca.crt", "ca");
        world.file("token", "s3cret-token\n");
        world
    }
}

impl FakeWorld {
    pub(crate) fn file(&mut self, path: &str, content: &str) {
        self.files.insert(path.into(), content.into());
    }
}

impl World for FakeWorld {
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        self.files.get(path).cloned().ok_or_else(missing)
    }

    fn look_at(&self, path: &Path) -> io::Result<Spot> {
        let is_folder = self.folders.contains(path);
        if !is_folder {
            self.read_file(path)?;
        }
        let is_special = self.devices.contains(path);
        Ok(Spot { is_folder, is_special, is_writable: !self.sealed.contains(path) })
    }

    fn env(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }

    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let addresses = self.hosts.get(host).ok_or_else(|| io::Error::other("name not known"))?;
        Ok(addresses.iter().map(|ip| (*ip, port).into()).collect())
    }

    fn inspect_certificate(&self, chain: &[u8], key: &Secret) -> Result<CertificateFacts, Problem> {
        let text = String::from_utf8_lossy(chain);
        let [names, since, left] = text.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(problem(false, "no certificate in this file"));
        };
        if key.0 != b"key" {
            return Err(problem(true, "the key does not match the certificate"));
        }
        let days = |days: &str| days.parse::<i64>().unwrap_or_default() * DAY;
        let names = names.split(',').filter(|name| *name != "-").map(str::to_owned).collect();
        Ok(CertificateFacts { names, not_before: NOW - days(since), not_after: NOW + days(left) })
    }

    fn inspect_ca(&self, pem: &[u8]) -> Result<(), Problem> {
        if pem == b"ca" { Ok(()) } else { Err(problem(false, "no CA certificate in this file")) }
    }

    fn descriptor_limit(&self) -> u64 {
        self.descriptors
    }

    fn unix_now(&self) -> i64 {
        NOW
    }

    fn cores(&self) -> usize {
        4
    }
}

fn problem(in_key: bool, message: &str) -> Problem {
    Problem { in_key, message: message.into(), remedy: "write another file".into() }
}
