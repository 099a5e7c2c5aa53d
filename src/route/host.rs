//! ● Host patterns: exact names, wildcards by their suffix, every host.

use super::index::{Hash, Index};
use crate::config::HostPattern;

/// Number of a pattern; [`EVERY`] is the one that matches every host.
pub(super) type HostId = u32;

pub(super) const EVERY: HostId = 0;

/// The longest name there is (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 255;

#[derive(Debug)]
pub(super) struct Hosts {
    patterns: Vec<Pattern>,
    index: Index,
}

#[derive(Debug)]
struct Pattern {
    kind: Kind,
    /// Lower case; for a wildcard the part after `*.`.
    name: Box<[u8]>,
    /// The next less specific pattern that matches whatever this one matches.
    parent: Option<HostId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exact,
    Wildcard,
}

impl Default for Hosts {
    fn default() -> Self {
        let every = Pattern { kind: Kind::Wildcard, name: Box::default(), parent: None };
        Self { patterns: vec![every], index: Index::default() }
    }
}

impl Hosts {
    /// The number of `pattern`, which is added if it is new.
    pub(super) fn insert(&mut self, pattern: Option<&HostPattern>) -> HostId {
        let (kind, name) = match pattern {
            None => return EVERY,
            Some(HostPattern::Exact(name)) => (Kind::Exact, name),
            Some(HostPattern::Wildcard(suffix)) => (Kind::Wildcard, suffix),
        };
        let name = name.as_bytes();
        let hash = name.iter().rev().fold(Hash::new(0), |hash, byte| lower(hash, *byte));
        if let Some(known) = self.get(hash, kind, name) {
            return known;
        }
        let id = self.patterns.len() as HostId;
        let name = name.to_ascii_lowercase().into();
        self.patterns.push(Pattern { kind, name, parent: Some(EVERY) });
        self.index.insert(of_kind(hash, kind), id);
        id
    }

    /// Finds each pattern's next less specific one; to be called once all are known.
    pub(super) fn link(&mut self) {
        for id in 1..self.patterns.len() {
            let parent = self.wildcard(&self.patterns[id].name).0;
            self.patterns[id].parent = Some(parent);
        }
    }

    /// The most specific pattern that matches `host`.
    pub(super) fn most_specific(&self, host: &[u8]) -> HostId {
        let host = host.strip_suffix(b".").unwrap_or(host);
        if self.patterns.len() == 1 || host.len() > LONGEST_NAME {
            return EVERY;
        }
        let (wildcard, hash) = self.wildcard(host);
        self.get(hash, Kind::Exact, host).unwrap_or(wildcard)
    }

    pub(super) fn less_specific(&self, id: HostId) -> Option<HostId> {
        self.patterns[id as usize].parent
    }

    /// The wildcard with the longest suffix that matches `name`, and the hash of the whole name.
    /// Names are hashed from the end, so that one pass meets every suffix.
    fn wildcard(&self, name: &[u8]) -> (HostId, Hash) {
        let mut found = EVERY;
        let mut hash = Hash::new(0);
        for (at, byte) in name.iter().enumerate().rev() {
            // A suffix needs a label before it: `.example.com` has none.
            if *byte == b'.' && at > 0 {
                found = self.get(hash, Kind::Wildcard, &name[at + 1..]).unwrap_or(found);
            }
            hash = lower(hash, *byte);
        }
        (found, hash)
    }

    fn get(&self, hash: Hash, kind: Kind, name: &[u8]) -> Option<HostId> {
        self.index.get(of_kind(hash, kind), |id| {
            let pattern = &self.patterns[id as usize];
            pattern.kind == kind && pattern.name.eq_ignore_ascii_case(name)
        })
    }
}

fn lower(hash: Hash, byte: u8) -> Hash {
    hash.byte(byte.to_ascii_lowercase())
}

fn of_kind(hash: Hash, kind: Kind) -> Hash {
    hash.byte(kind as u8)
}
