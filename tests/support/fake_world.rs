//! A world for configurations under test: files and variables from maps, certificates that are
//! plain text, and a clock that stands still.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use standfast::config::Secret;
use standfast::config::check::{CertificateFacts, Problem, World};

pub(crate) const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

/// A file `NAME.crt` holds `names not_before_in_days not_after_in_days`; its key holds `key`.
pub(crate) struct FakeWorld {
    pub(crate) files: HashMap<PathBuf, Vec<u8>>,
    pub(crate) env: HashMap<String, String>,
    pub(crate) hosts: HashMap<String, Vec<&'static str>>,
    pub(crate) limit: u64,
}

impl Default for FakeWorld {
    fn default() -> Self {
        let mut world = Self {
            files: HashMap::new(),
            env: HashMap::new(),
            hosts: HashMap::new(),
            limit: 1 << 20,
        };
        world.file("a.crt", "a.example.com,*.b.example.com -1 100");
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

    fn env(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }

    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let unknown = || io::Error::other("name not known");
        let addresses = self.hosts.get(host).ok_or_else(unknown)?;
        Ok(addresses
            .iter()
            .map(|ip| (ip.parse::<std::net::IpAddr>().unwrap(), port).into())
            .collect())
    }

    fn inspect_certificate(
        &self,
        chain_pem: &[u8],
        key_pem: &Secret,
    ) -> Result<CertificateFacts, Problem> {
        let problem = |in_key, message: &str| Problem {
            in_key,
            message: message.into(),
            remedy: "write another file".into(),
        };
        if key_pem.0 != b"key" {
            return Err(problem(true, "the key does not match the certificate"));
        }
        let text = String::from_utf8_lossy(chain_pem);
        let [names, from, to] = text.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(problem(false, "no certificate in this file"));
        };
        let day = |days: &str| NOW + days.parse::<i64>().unwrap() * DAY;
        let names = names.split(',').filter(|name| *name != "-").map(str::to_owned).collect();
        Ok(CertificateFacts { names, not_before: day(from), not_after: day(to) })
    }

    fn inspect_ca(&self, pem: &[u8]) -> Result<(), Problem> {
        if pem == b"ca" {
            return Ok(());
        }
        Err(Problem {
            in_key: false,
            message: "no CA certificate in this file".into(),
            remedy: "write another file".into(),
        })
    }

    fn descriptor_limit(&self) -> u64 {
        self.limit
    }

    fn unix_now(&self) -> i64 {
        NOW
    }

    fn cores(&self) -> usize {
        4
    }
}
