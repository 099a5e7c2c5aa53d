//! ● The less loaded of two distinct random members ("power of two choices", Mitzenmacher 2001).
//!
//! Load is requests in flight by weight; between equals the first draw, which follows the weights,
//! decides. Two choices are nearly as even as asking everybody, and do not send all workers to the
//! same idle endpoint at once.

use super::{Candidates, DRAWS, Member, Moment, random};

pub(super) fn pick(candidates: &Candidates, moment: &mut impl Moment) -> Option<u32> {
    let one = random::pick(candidates, moment)?;
    let Some(other) = another(candidates, one, moment) else { return Some(one.endpoint) };
    // load / weight, multiplied crosswise instead of divided.
    let cost = |of: Member, weight: u16| u64::from(moment.load(of.endpoint)) * u64::from(weight);
    let other_is_less = cost(other, one.weight) < cost(one, other.weight);
    Some(if other_is_less { other.endpoint } else { one.endpoint })
}

/// A random usable member other than `one`.
fn another(candidates: &Candidates, one: Member, moment: &mut impl Moment) -> Option<Member> {
    let mut index = 0;
    // Of two members there is nothing to draw.
    let draws = if candidates.members.len() > 2 { DRAWS } else { 0 };
    for _ in 0..draws {
        index = candidates.draw(moment);
        let member = candidates.members[index];
        if member.endpoint != one.endpoint && moment.usable(member.endpoint) {
            return Some(member);
        }
    }
    candidates.walk(index, Some(one.endpoint), moment)
}
