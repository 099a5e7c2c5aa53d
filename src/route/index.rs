//! ● A hash index made once and probed ever after.
//!
//! Unseeded on purpose: keys come from the configuration alone. What peers send is only looked up,
//! and a lookup walks no further than the longest run of occupied slots, which with half of the
//! slots free is short and does not depend on the peer.

/// Spreads bits by multiplication: the golden ratio, as Fibonacci hashing has it.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The bit in which letters of either case differ. Some other bytes become equal by it too, which
/// a hash may do.
const CASE: u64 = 0x2020_2020_2020_2020;

/// Hash of `bytes` under `seed`, eight at a time.
pub(super) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    words(seed, bytes, 0)
}

/// The same for bytes that differ in the case of letters.
pub(super) fn hash_of_any_case(seed: u64, bytes: &[u8]) -> u64 {
    words(seed, bytes, CASE)
}

fn words(seed: u64, bytes: &[u8], fold: u64) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<8>();
    let start = (seed ^ (bytes.len() as u64).rotate_left(32)).wrapping_mul(SPREAD);
    let mixed =
        chunks.iter().fold(start, |hash, chunk| mix(hash, u64::from_le_bytes(*chunk) | fold));
    let rest = rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let all = mix(mixed, rest | fold);
    (all ^ (all >> 32)).wrapping_mul(SPREAD)
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(23) ^ word).wrapping_mul(SPREAD)
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
    pub(super) fn get(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.start(hash);
        while let Some(slot) = self.slots[at] {
            if slot.hash == hash && is(slot.entry) {
                return Some(slot.entry);
            }
            at = self.after(at);
        }
        None
    }

    /// Adds an entry whose key is not in the index yet.
    pub(super) fn insert(&mut self, hash: u64, entry: u32) {
        if self.slots.len() < (self.occupied + 1) * 2 {
            self.grow();
        }
        self.place(Slot { hash, entry });
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

    fn start(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.slots.len() - 1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }
}
