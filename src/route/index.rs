//! ● A hash index made once and probed ever after.
//!
//! Keys are hashed as they are walked (FNV-1a), so one pass over a path asks at each of its
//! borders. Unseeded on purpose: keys come from the configuration alone. What peers send is only
//! looked up, and a lookup walks no further than the longest run of occupied slots, which with half
//! of the slots free is short and does not depend on the peer.

/// FNV-1a, one byte at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hash(u64);

impl Hash {
    pub(super) fn new(seed: u32) -> Self {
        Self(0xcbf2_9ce4_8422_2325).and(seed.to_le_bytes())
    }

    pub(super) fn and(self, bytes: impl IntoIterator<Item = u8>) -> Self {
        bytes.into_iter().fold(self, Self::byte)
    }

    pub(super) fn byte(self, byte: u8) -> Self {
        Self((self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }

    /// FNV's low bits are weak for short keys; folding and one more multiplication spreads them.
    fn finish(self) -> u64 {
        (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Hash → number of an entry; the entries and their keys are the owner's.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// A power of two of them, or none.
    slots: Vec<Option<Slot>>,
    occupied: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The whole hash: unequal keys are told apart without looking at them.
    hash: u64,
    entry: u32,
}

impl Index {
    /// The entry with this hash whose key `is` the one looked for.
    pub(super) fn get(&self, hash: Hash, is: impl Fn(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let finished = hash.finish();
        let mut at = self.start(finished);
        while let Some(slot) = self.slots[at] {
            if slot.hash == finished && is(slot.entry) {
                return Some(slot.entry);
            }
            at = self.after(at);
        }
        None
    }

    /// Adds an entry whose key is not in the index yet.
    pub(super) fn insert(&mut self, hash: Hash, entry: u32) {
        if self.slots.len() < (self.occupied + 1) * 2 {
            self.grow();
        }
        self.place(Slot { hash: hash.finish(), entry });
        self.occupied += 1;
    }

    fn grow(&mut self) {
        let larger = (self.slots.len() * 2).max(8);
        let old = std::mem::replace(&mut self.slots, vec![None; larger]);
        for slot in old.into_iter().flatten() {
            self.place(slot);
        }
    }

    fn place(&mut self, slot: Slot) {
        let mut at = self.start(slot.hash);
        while self.slots[at].is_some() {
            at = self.after(at);
        }
        self.slots[at] = Some(slot);
    }

    fn start(&self, finished: u64) -> usize {
        (finished >> 32) as usize & (self.slots.len() - 1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }
}
