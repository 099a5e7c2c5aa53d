//! ● A sequence in which each member appears as often as its weight says, evenly spread.

use super::Member;

/// Places a sequence may have, or four a member where that is more. Sixteen members of any weights
/// fit exactly; beyond that weights are scaled down, at least to 1.
const MOST_PLACES: u64 = 16_384;

/// `None` where all weights are equal: then the members themselves are the sequence.
pub(super) fn of(members: &[Member]) -> Option<Box<[u32]>> {
    let first = members.first()?.weight;
    if members.iter().all(|member| member.weight == first) {
        return None;
    }
    let weights = shares(members);
    let mut places: Vec<(u64, u32)> = Vec::with_capacity(weights.iter().sum::<u64>() as usize);
    let count = members.len() as u64;
    for (member, weight) in (0u32..).zip(&weights) {
        // The n-th of w appearances falls into the n-th of w equal parts of the way. Each member
        // has a phase of its own inside its parts, or members of one weight would come in a clump.
        let phase = 2 * u64::from(member) + 1;
        let place = |n: u64| ((2 * count * n + phase) << 24) / (2 * count * weight);
        places.extend((0..*weight).map(|n| (place(n), member)));
    }
    places.sort_unstable();
    Some(places.into_iter().map(|(_, member)| member).collect())
}

/// How often each member appears: its weight by the greatest common divisor, or scaled.
fn shares(members: &[Member]) -> Vec<u64> {
    let weight = |member: &Member| u64::from(member.weight.max(1));
    let divisor = members.iter().map(weight).fold(0, gcd);
    let sum: u64 = members.iter().map(|member| weight(member) / divisor).sum();
    let most = MOST_PLACES.max(members.len() as u64 * 4);
    if sum <= most {
        return members.iter().map(|member| weight(member) / divisor).collect();
    }
    members.iter().map(|member| (weight(member) / divisor * most / sum).max(1)).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(weights: &[u16]) -> Vec<Member> {
        (0..).zip(weights).map(|(endpoint, weight)| Member { endpoint, weight: *weight }).collect()
    }

    #[test]
    fn equal_weights_need_no_sequence() {
        assert_eq!(of(&members(&[7, 7, 7])), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn appearances_are_spread_evenly() {
        assert_eq!(of(&members(&[4, 2])).as_deref(), Some(&[0, 0, 1][..]));
        assert_eq!(of(&members(&[5, 1, 1])).as_deref(), Some(&[0, 0, 0, 1, 0, 0, 2][..]));
        let four_and_four_of_one = of(&members(&[4, 1, 1, 1, 1]));
        assert_eq!(four_and_four_of_one.as_deref(), Some(&[0, 0, 1, 2, 0, 3, 0, 4][..]));
    }

    #[test]
    fn a_large_sequence_is_bounded_and_nobody_is_left_out() {
        let weights: Vec<u16> = (0..10_000).map(|n| if n % 2 == 0 { 999 } else { 1 }).collect();
        let sequence = of(&members(&weights)).unwrap();
        assert!(sequence.len() <= 50_000, "{}", sequence.len());
        let mut seen = vec![0; 10_000];
        sequence.iter().for_each(|member| seen[*member as usize] += 1);
        assert!(seen.iter().all(|count| *count > 0));
        assert!(seen[0] >= 7 * seen[1]);
    }
}
