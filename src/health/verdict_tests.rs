use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const REFUSED: Observation = Observation::Failure(Failure::Refused);
const GOOD: Observation = Observation::Success;

fn thresholds() -> impl Strategy<Value = Thresholds> {
    (1..=6u32, 1..=7u32).prop_map(|(unhealthy, healthy)| Thresholds { unhealthy, healthy })
}

fn observation() -> impl Strategy<Value = Observation> {
    prop_oneof![
        4 => Just(GOOD),
        3 => Just(REFUSED),
        1 => Just(Observation::Failure(Failure::Timeout)),
        1 => Just(Observation::Errors),
        1 => Just(Observation::SelfFault),
    ]
}

fn at(second: usize) -> Duration {
    Duration::from_secs(second as u64)
}

/// One observation a second, from second `start` on.
fn run(mut state: State, start: usize, seen: &[Observation], thresholds: Thresholds) -> State {
    for (second, observation) in (start..).zip(seen) {
        (state, _) = state.step(*observation, at(second), at(second), thresholds);
    }
    state
}

/// `S` success, `F` failure.
fn story(text: &str) -> Vec<Observation> {
    text.chars().map(|c| if c == 'S' { GOOD } else { REFUSED }).collect()
}

/// At which observation of the story, from 1, the endpoint first went down.
fn down_at(text: &str, thresholds: Thresholds) -> Option<usize> {
    let mut state = run(State::default(), 0, &[GOOD], thresholds);
    story(text).iter().enumerate().find_map(|(index, seen)| {
        (state, _) = state.step(*seen, at(index + 1), at(index + 1), thresholds);
        (state.verdict == Verdict::Down).then_some(index + 1)
    })
}

const USUAL: Thresholds = Thresholds { unhealthy: 3, healthy: 2 };

#[test]
fn failures_begin_with_the_probe_that_failed_first_and_are_known_when_its_patience_is_over() {
    let silent = Observation::Failure(Failure::Timeout);
    let up = run(State::default(), 0, &[GOOD], USUAL);
    let (doubted, _) = up.step(silent, at(10), at(14), USUAL);
    assert_eq!((doubted.first_began, doubted.first_failure), (Some(at(10)), Some(at(14))));
    // A probe that began before may fail later: with more patience.
    let (doubted, _) = doubted.step(silent, at(9), at(15), USUAL);
    assert_eq!((doubted.first_began, doubted.first_failure), (Some(at(9)), Some(at(14))));
    let calm = run(doubted, 16, &[GOOD; CALM as usize], USUAL);
    assert_eq!((calm.first_began, calm.first_failure), (None, None));
    let (barred, _) = calm.step(Observation::Errors, at(30), at(31), USUAL);
    assert_eq!((barred.first_began, barred.first_failure), (Some(at(30)), Some(at(31))));
}

#[test]
fn failure_now_and_then_is_found_as_well_as_failures_in_a_row() {
    assert_eq!(down_at("FFF", USUAL), Some(3));
    assert_eq!(down_at("FSSFSSF", USUAL), Some(7), "every third probe");
    assert_eq!(down_at("FSFSF", USUAL), Some(5), "every second probe");
    assert_eq!(down_at("FSSSSFSSSSF", USUAL), Some(11), "every fifth probe");
    assert_eq!(down_at(&"FSSSSS".repeat(50), USUAL), None, "rarer than that is noise");
}

#[test]
fn endpoint_that_failed_now_and_then_must_be_calm_before_it_is_up_again() {
    let down = run(State::default(), 0, &story("SFSFSF"), USUAL);
    assert_eq!(down.verdict, Verdict::Down);
    assert_eq!(run(down, 9, &story("SSSS"), USUAL).verdict, Verdict::Down);
    assert_eq!(run(down, 9, &story("SSSSS"), USUAL).verdict, Verdict::Up);
    let down = run(State::default(), 0, &story("SFFF"), USUAL);
    assert_eq!(run(down, 9, &story("SS"), USUAL).verdict, Verdict::Up, "a plain run of failures");
}

#[test]
fn barred_endpoint_is_down_however_well_its_probes_do_until_the_bar_is_over() {
    let up = run(State::default(), 0, &[GOOD], USUAL);
    let (mut state, flip) = up.step(Observation::Errors, at(10), at(10), USUAL);
    assert_eq!(flip.map(|flip| flip.to), Some(Verdict::Down));
    for second in 11..20 {
        (state, _) = state.step(GOOD, at(second), at(second), USUAL);
        assert_eq!((state.verdict, state.successes), (Verdict::Down, 0), "second {second}");
    }
    state = run(state, 20, &story("SSSSS"), USUAL);
    assert_eq!(state.verdict, Verdict::Up);
    let (again, _) = state.step(Observation::Errors, at(30), at(30), USUAL);
    assert_eq!(again.barred_until, Some(at(50)), "the second bar is twice as long");
    let later = at(30) + BAR_MOST * 3;
    let (quiet, _) = state.step(Observation::Errors, later, later, USUAL);
    assert_eq!(quiet.barred_until, Some(later + BAR), "quiet time forgives");
}

#[test]
fn endpoint_that_is_down_is_not_barred_as_well() {
    let down = run(State::default(), 0, &story("SFFF"), USUAL);
    assert_eq!(down.step(Observation::Errors, at(9), at(9), USUAL), (down, None));
}

#[test]
fn doubt_lasts_from_the_first_contradiction_until_it_is_settled() {
    let steps = [
        (GOOD, Verdict::Up, false),
        (REFUSED, Verdict::Up, true),
        (REFUSED, Verdict::Up, true),
        (REFUSED, Verdict::Down, false),
        (GOOD, Verdict::Down, true),
        (REFUSED, Verdict::Down, false),
        (GOOD, Verdict::Down, true),
        (GOOD, Verdict::Up, false),
    ];
    let mut state = State::default();
    assert!(state.in_doubt());
    for (second, (observation, verdict, doubt)) in (1..).zip(steps) {
        (state, _) = state.step(observation, at(second), at(second), USUAL);
        assert_eq!((state.verdict, state.in_doubt()), (verdict, doubt), "second {second}");
    }
}

/// What of a state decides its future.
fn essence(state: State, t: Thresholds) -> (Verdict, u32, u32, bool, bool) {
    let (successes, failures) = (state.successes.min(t.healthy.max(CALM)), state.failures);
    (state.verdict, successes, failures.min(t.unhealthy), state.failing, state.wary)
}

#[test]
fn every_reachable_state_keeps_the_rules() {
    for (unhealthy, healthy) in (1..=5).flat_map(|u| (1..=6).map(move |h| (u, h))) {
        let thresholds = Thresholds { unhealthy, healthy };
        let mut seen = HashSet::new();
        let mut open = vec![State::default()];
        while let Some(state) = open.pop() {
            if !seen.insert(essence(state, thresholds)) {
                continue;
            }
            assert_eq!(state.first_success.is_some(), state.successes > 0, "{state:?}");
            assert!(state.verdict == Verdict::Down || state.failures < unhealthy, "{state:?}");
            let enough = if state.wary { healthy.max(CALM) } else { healthy };
            assert!(state.verdict != Verdict::Down || state.successes < enough, "{state:?}");
            assert!(state.failures == 0 || state.first_failure.is_some(), "{state:?}");
            for seen in [GOOD, REFUSED, Observation::SelfFault] {
                let (next, flip) = state.step(seen, at(1), at(1), thresholds);
                assert_eq!(flip.is_some(), next.verdict != state.verdict);
                assert!(next.verdict != Verdict::Unknown || state.verdict == Verdict::Unknown);
                open.push(next);
            }
            let failures = vec![REFUSED; unhealthy as usize];
            assert_eq!(run(state, 1, &failures, thresholds).verdict, Verdict::Down, "{state:?}");
            let successes = vec![GOOD; healthy.max(CALM) as usize];
            assert_eq!(run(state, 1, &successes, thresholds).verdict, Verdict::Up, "{state:?}");
        }
    }
}

#[test]
fn overlapping_probes_may_end_in_any_order_and_the_newest_counts() {
    let up = run(State::default(), 0, &[GOOD], USUAL);
    let (state, _) = up.step(GOOD, at(7), at(7), USUAL);
    let (state, _) = state.step(GOOD, at(5), at(8), USUAL);
    assert_eq!(state.last_success, Some(at(7)), "a proof is not taken back");
    let (state, _) = state.step(REFUSED, at(11), at(11), USUAL);
    let (state, _) = state.step(Observation::Failure(Failure::Timeout), at(9), at(12), USUAL);
    assert_eq!(state.last_failure, Some((at(11), Failure::Refused)));
}

proptest! {
    /// The rule said once more over the whole past: a flip down needs `unhealthy` failures without
    /// [`CALM`] successes in a row between them, and comes as soon as there are so many.
    #[test]
    fn verdict_goes_down_exactly_when_the_rule_says(
        thresholds in thresholds(),
        past in prop::collection::vec(prop_oneof![Just(GOOD), Just(REFUSED)], 0..200),
    ) {
        let mut state = State::default();
        let (mut leak, mut row) = (0, 0);
        for (second, observation) in past.into_iter().enumerate() {
            let before = state.verdict;
            (state, _) = state.step(observation, at(second), at(second), thresholds);
            if observation == GOOD {
                row += 1;
                if row >= CALM { leak = 0; }
            } else {
                (leak, row) = (leak + 1, 0);
            }
            if before != Verdict::Down {
                let down = leak >= thresholds.unhealthy;
                prop_assert_eq!(state.verdict == Verdict::Down, down, "second {}", second);
            }
            if before == Verdict::Down && state.verdict == Verdict::Up {
                prop_assert!(row >= thresholds.healthy);
                leak = 0;
            }
        }
    }

    #[test]
    fn our_own_fault_changes_nothing(
        thresholds in thresholds(),
        past in prop::collection::vec(observation(), 0..40),
    ) {
        let state = run(State::default(), 0, &past, thresholds);
        let after = state.step(Observation::SelfFault, at(99), at(99), thresholds);
        prop_assert_eq!(after, (state, None));
    }

    #[test]
    fn proof_is_when_the_newest_successful_probe_began(
        thresholds in thresholds(),
        past in prop::collection::vec(observation(), 0..40),
    ) {
        let state = run(State::default(), 0, &past, thresholds);
        let newest = past.iter().rposition(|seen| *seen == GOOD).map(at);
        prop_assert_eq!(state.last_success, newest);
    }
}
