//! ● Each in turn, by weight.

use super::{Candidates, DRAWS, Moment};

/// An unusable member's turn is used up by whoever comes next in the sequence, and the sequence
/// goes on after that one: no neighbour gets two turns for it.
pub(super) fn pick(candidates: &Candidates, moment: &mut impl Moment) -> Option<u32> {
    let places = candidates.places();
    let mut index = 0;
    for _ in 0..places.min(DRAWS) {
        index = candidates.at((moment.position() % places as u64) as usize);
        let endpoint = candidates.members[index].endpoint;
        if moment.usable(endpoint) {
            return Some(endpoint);
        }
    }
    candidates.walk(index, None, moment).map(|member| member.endpoint)
}
