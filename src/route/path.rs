//! ● Path prefixes of each host, matched on segment borders.

use super::host::HostId;
use super::index::{Hash, Index};

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

#[derive(Debug, Clone, Copy, Default)]
struct Host {
    /// The target of `/`, which matches every path.
    root: Option<u32>,
    /// Bytes of its longest prefix other than `/`: a path is not looked at any further.
    longest: usize,
}

impl Paths {
    /// Adds a prefix of `host`, unless it has it already.
    pub(super) fn insert(&mut self, host: HostId, prefix: &[u8], target: u32) {
        let count = self.hosts.len().max(host as usize + 1);
        self.hosts.resize(count, Host::default());
        let text = without_slash(prefix);
        let entry = &mut self.hosts[host as usize];
        if text.is_empty() {
            entry.root.get_or_insert(target);
            return;
        }
        entry.longest = entry.longest.max(text.len());
        let hash = Hash::new(host).and(text.iter().copied());
        if self.get(hash, host, text).is_none() {
            self.index.insert(hash, self.prefixes.len() as u32);
            self.prefixes.push(Prefix { host, text: text.into(), target });
        }
    }

    /// The target of the longest prefix of `host` that matches `path`.
    pub(super) fn longest(&self, host: HostId, path: &[u8]) -> Option<u32> {
        let entry = self.hosts.get(host as usize).copied().unwrap_or_default();
        let mut found = entry.root;
        let mut hash = Hash::new(host);
        let reach = path.len().min(entry.longest);
        for end in 1..=reach {
            hash = hash.byte(path[end - 1]);
            if path.get(end).is_none_or(|next| *next == b'/') {
                found = self.get(hash, host, &path[..end]).or(found);
            }
        }
        found
    }

    fn get(&self, hash: Hash, host: HostId, text: &[u8]) -> Option<u32> {
        let entry = self.index.get(hash, |entry| {
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
