//! ● Path prefixes of each host, matched on segment borders.

use super::host::HostId;
use super::index::{Index, hash};

#[derive(Debug, Default)]
pub(super) struct Paths {
    prefixes: Vec<Prefix>,
    index: Index,
    /// By host.
    hosts: Vec<Host>,
}

#[derive(Debug)]
struct Prefix {
    host: HostId,
    /// Without a trailing slash, never empty.
    text: Box<[u8]>,
    target: u32,
}

#[derive(Debug, Default)]
struct Host {
    /// The target of `/`, which matches every path.
    root: Option<u32>,
    /// The lengths its other prefixes have, the longest first: a path is cut nowhere else.
    lengths: Vec<usize>,
}

impl Paths {
    /// Adds a prefix of `host`, unless it has it already.
    pub(super) fn insert(&mut self, host: HostId, prefix: &[u8], target: u32) {
        let count = self.hosts.len().max(host as usize + 1);
        self.hosts.resize_with(count, Host::default);
        let text = without_slash(prefix);
        let entry = &mut self.hosts[host as usize];
        if text.is_empty() {
            entry.root.get_or_insert(target);
            return;
        }
        if let Err(place) = entry.lengths.binary_search_by(|length| text.len().cmp(length)) {
            entry.lengths.insert(place, text.len());
        }
        if self.get(host, text).is_none() {
            self.index.insert(hash(host.into(), text), self.prefixes.len() as u32);
            self.prefixes.push(Prefix { host, text: text.into(), target });
        }
    }

    /// The target of the longest prefix of `host` that matches `path`.
    pub(super) fn longest(&self, host: HostId, path: &[u8]) -> Option<u32> {
        let entry = self.hosts.get(host as usize)?;
        let on_border = |length: usize| match path.get(length) {
            Some(next) => *next == b'/',
            None => path.len() == length,
        };
        let cuts = entry.lengths.iter().filter(|length| on_border(**length));
        cuts.filter_map(|length| self.get(host, &path[..*length])).next().or(entry.root)
    }

    fn get(&self, host: HostId, text: &[u8]) -> Option<u32> {
        let entry = self.index.get(hash(host.into(), text), |entry| {
            let prefix = &self.prefixes[entry as usize];
            prefix.host == host && *prefix.text == *text
        })?;
        Some(self.prefixes[entry as usize].target)
    }
}

/// `/` and what a caller left at the end by mistake.
fn without_slash(prefix: &[u8]) -> &[u8] {
    let end = prefix.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    &prefix[..end]
}
