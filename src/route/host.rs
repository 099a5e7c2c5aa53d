//! ● Host patterns: exact names, wildcards by their suffix, every host.

use super::index::{Index, hash_of_any_case};
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
    /// Bytes of the longest suffix of a wildcard; longer suffixes of a name are not looked up.
    longest_suffix: usize,
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
        Self { patterns: vec![every], index: Index::default(), longest_suffix: 0 }
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
        if let Some(known) = self.get(kind, name) {
            return known;
        }
        if kind == Kind::Wildcard {
            self.longest_suffix = self.longest_suffix.max(name.len());
        }
        let id = self.patterns.len() as HostId;
        self.index.insert(hash_of_any_case(kind as u64, name), id);
        let name = name.to_ascii_lowercase().into();
        self.patterns.push(Pattern { kind, name, parent: Some(EVERY) });
        id
    }

    /// Finds each pattern's next less specific one; to be called once all are known.
    pub(super) fn link(&mut self) {
        for id in 1..self.patterns.len() {
            let parent = self.wildcard(&self.patterns[id].name);
            self.patterns[id].parent = Some(parent);
        }
    }

    /// The most specific pattern that matches `host`.
    pub(super) fn most_specific(&self, host: &[u8]) -> HostId {
        let host = host.strip_suffix(b".").unwrap_or(host);
        if self.patterns.len() == 1 || host.len() > LONGEST_NAME {
            return EVERY;
        }
        self.get(Kind::Exact, host).unwrap_or_else(|| self.wildcard(host))
    }

    pub(super) fn less_specific(&self, id: HostId) -> Option<HostId> {
        self.patterns[id as usize].parent
    }

    /// The wildcard with the longest suffix that matches `name`.
    fn wildcard(&self, name: &[u8]) -> HostId {
        // A suffix needs a label before it: `.example.com` has none.
        let first = name.len().saturating_sub(self.longest_suffix + 1).max(1);
        let dots = (first..name.len()).filter(|at| name[*at] == b'.');
        dots.filter_map(|dot| self.get(Kind::Wildcard, &name[dot + 1..])).next().unwrap_or(EVERY)
    }

    fn get(&self, kind: Kind, name: &[u8]) -> Option<HostId> {
        self.index.get(hash_of_any_case(kind as u64, name), |id| {
            let pattern = &self.patterns[id as usize];
            pattern.kind == kind && pattern.name.eq_ignore_ascii_case(name)
        })
    }
}
