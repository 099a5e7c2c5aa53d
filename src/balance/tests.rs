use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::config::Balance;

/// A moment with fixed answers and a counted amount of work.
#[derive(Default)]
struct Fixed {
    unusable: HashSet<u32>,
    loads: Vec<u32>,
    random: u64,
    position: u64,
    asked: std::cell::Cell<usize>,
}

impl Moment for Fixed {
    fn usable(&self, endpoint: u32) -> bool {
        self.asked.set(self.asked.get() + 1);
        !self.unusable.contains(&endpoint)
    }

    fn load(&self, endpoint: u32) -> u32 {
        self.loads.get(endpoint as usize).copied().unwrap_or(0)
    }

    fn random(&mut self) -> u64 {
        // splitmix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn position(&mut self) -> u64 {
        self.position += 1;
        self.position - 1
    }
}

fn candidates(weights: &[u16]) -> Candidates {
    let members = (0..).zip(weights);
    Candidates::new(
        members.map(|(endpoint, weight)| Member { endpoint, weight: *weight }).collect(),
    )
}

fn counts(weights: &[u16], policy: Balance, picks: usize, moment: &mut Fixed) -> Vec<usize> {
    let candidates = candidates(weights);
    let mut counts = vec![0; weights.len()];
    for _ in 0..picks {
        counts[candidates.pick(policy, moment).unwrap() as usize] += 1;
    }
    counts
}

const POLICIES: [Balance; 3] = [Balance::RoundRobin, Balance::LeastRequests, Balance::Random];

#[test]
fn nothing_is_picked_from_nothing() {
    for policy in POLICIES {
        assert_eq!(candidates(&[]).pick(policy, &mut Fixed::default()), None);
    }
}

#[test]
fn the_turn_of_an_unusable_member_is_shared_by_all_the_others() {
    let mut moment = Fixed { unusable: HashSet::from([1]), ..Fixed::default() };
    assert_eq!(counts(&[1, 1, 1, 1], Balance::RoundRobin, 300, &mut moment), [100, 0, 100, 100]);
}

#[test]
fn random_and_idle_least_requests_follow_the_weights() {
    for policy in [Balance::Random, Balance::LeastRequests] {
        let shares = counts(&[1, 2, 7], policy, 10_000, &mut Fixed::default());
        for (count, share) in shares.iter().zip([1_000, 2_000, 7_000]) {
            assert!(count.abs_diff(share) < 200, "{policy:?} {shares:?}");
        }
    }
}

#[test]
fn work_is_bounded_where_nothing_of_ten_thousand_is_usable() {
    let candidates = candidates(&(0..10_000).map(|n| n % 1000 + 1).collect::<Vec<_>>());
    for policy in POLICIES {
        let unusable = (0..10_000).collect();
        let mut moment = Fixed { unusable, ..Fixed::default() };
        assert_eq!(candidates.pick(policy, &mut moment), None);
        assert!(moment.asked.get() <= 10_000 + 2 * DRAWS, "{policy:?}: {}", moment.asked.get());
    }
}

fn weights() -> impl Strategy<Value = Vec<u16>> {
    proptest::collection::vec(1..=20u16, 1..12)
}

proptest! {
    #[test]
    fn one_period_of_the_round_robin_is_exact(
        weights in weights(), factor in 1..50u16, start in 0..1_000_000u64,
    ) {
        let divisor = weights.iter().fold(0, |a, b| gcd(a, *b));
        let period: usize = weights.iter().map(|weight| usize::from(weight / divisor)).sum();
        let multiplied: Vec<u16> = weights.iter().map(|weight| weight * factor).collect();
        let mut moment = Fixed { position: start, ..Fixed::default() };
        let counts = counts(&multiplied, Balance::RoundRobin, period, &mut moment);
        let exact: Vec<usize> = weights.iter().map(|w| usize::from(w / divisor)).collect();
        prop_assert_eq!(counts, exact);
    }

    #[test]
    fn an_unusable_one_is_never_picked_and_a_usable_one_always_found(
        weights in weights(), unusable in proptest::collection::hash_set(0..12u32, 0..12),
        random: u64, start in 0..1000u64,
    ) {
        let candidates = candidates(&weights);
        let some = (0..weights.len() as u32).any(|endpoint| !unusable.contains(&endpoint));
        for policy in POLICIES {
            let mut moment =
                Fixed { unusable: unusable.clone(), random, position: start, ..Fixed::default() };
            let picked = candidates.pick(policy, &mut moment);
            prop_assert_eq!(picked.is_some(), some);
            if let Some(picked) = picked {
                prop_assert!((picked as usize) < weights.len() && !unusable.contains(&picked));
            }
        }
    }

    #[test]
    fn of_two_usable_ones_the_less_loaded_by_weight_is_always_picked(
        weights in proptest::collection::vec(1..=1000u16, 2..20),
        loads in proptest::collection::vec(0..100u32, 20),
        one: prop::sample::Index, other: prop::sample::Index, random: u64,
    ) {
        let (one, other) = (one.index(weights.len()), other.index(weights.len()));
        prop_assume!(one != other);
        let unusable =
            (0..weights.len() as u32).filter(|e| ![one, other].contains(&(*e as usize))).collect();
        let cost = |of: usize, by: usize| loads[of] * u32::from(weights[by]);
        let less = match cost(one, other).cmp(&cost(other, one)) {
            std::cmp::Ordering::Less => Some(one),
            std::cmp::Ordering::Greater => Some(other),
            std::cmp::Ordering::Equal => None,
        };
        let mut moment = Fixed { unusable, loads: loads.clone(), random, ..Fixed::default() };
        let picked = candidates(&weights).pick(Balance::LeastRequests, &mut moment).unwrap() as usize;
        prop_assert_eq!(less.unwrap_or(picked), picked);
    }
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}
