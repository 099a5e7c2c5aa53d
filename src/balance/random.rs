//! ● Any usable member, in proportion to the weights.

use super::{Candidates, DRAWS, Member, Moment};

pub(super) fn pick(candidates: &Candidates, moment: &mut impl Moment) -> Option<Member> {
    let mut index = 0;
    for _ in 0..DRAWS {
        index = candidates.draw(moment);
        let member = candidates.members[index];
        if moment.usable(member.endpoint) {
            return Some(member);
        }
    }
    candidates.walk(index, None, moment)
}
