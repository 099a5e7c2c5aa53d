use proptest::prelude::*;

use super::*;
use crate::health::{self, Verdict};

const STABLE_FOR: Duration = Duration::from_secs(300);
const AUTO: Settings = Settings { failback_after: Some(STABLE_FOR) };
const MANUAL: Settings = Settings { failback_after: None };

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn view(up: u32, unknown: u32, down: u32) -> PoolView {
    let first_failure = (up + unknown == 0).then_some(secs(1));
    PoolView { up, unknown, down, min_healthy: 1, first_failure }
}

const UP: fn() -> PoolView = || view(2, 0, 0);
const UNKNOWN: fn() -> PoolView = || view(0, 2, 0);
const DOWN: fn() -> PoolView = || view(0, 0, 2);

#[test]
fn the_first_pool_serves_while_nothing_is_known_even_beside_a_pool_that_is_up() {
    let step = State::start(2, secs(0)).step(&[UNKNOWN(), UP()], AUTO, secs(1));
    assert_eq!((step.state.serving, step.moved, step.wake), (0, None, None));
    assert!(!step.state.none_available);
}

#[test]
fn a_dead_pool_is_left_at_once_and_the_move_names_the_first_evidence() {
    let step = State::start(2, secs(0)).step(&[DOWN(), UP()], AUTO, secs(2));
    let moved =
        Move { from: 0, to: 1, cause: Cause::Health, first_evidence: secs(1), decided: secs(2) };
    assert_eq!(step.moved, Some(moved));
    assert_eq!((step.state.serving, step.state.since), (1, secs(2)));
}

#[test]
fn failback_waits_until_the_first_pool_was_available_without_a_break() {
    let moved = State::start(2, secs(0)).step(&[DOWN(), UP()], AUTO, secs(2)).state;
    let back = moved.step(&[UP(), UP()], AUTO, secs(10));
    assert_eq!((back.moved, back.wake), (None, Some(STABLE_FOR)));
    let flapped = back.state.step(&[DOWN(), UP()], AUTO, secs(200)).state;
    let again = flapped.step(&[UP(), UP()], AUTO, secs(210)).state;
    let early = again.step(&[UP(), UP()], AUTO, secs(509));
    assert_eq!((early.moved, early.wake), (None, Some(secs(1))));
    let due = early.state.step(&[UP(), UP()], AUTO, secs(510));
    assert_eq!(due.moved.map(|m| (m.from, m.to, m.cause)), Some((1, 0, Cause::Failback)));
    assert_eq!(due.wake, None);
}

#[test]
fn of_two_pools_due_the_one_of_higher_priority_takes_over() {
    let views = [UP(), UP(), UP()];
    let state = State {
        serving: 2,
        cause: Cause::Health,
        available_since: vec![Some(secs(20)), Some(secs(10)), Some(secs(0))],
        ..State::start(3, secs(0))
    };
    assert_eq!(state.step(&views, AUTO, secs(305)).wake, Some(secs(5)));
    assert_eq!(state.step(&views, AUTO, secs(312)).state.serving, 1);
    assert_eq!(state.step(&views, AUTO, secs(330)).state.serving, 0);
}

#[test]
fn with_both_dead_the_service_stays_and_the_first_to_return_takes_over() {
    let both = State::start(2, secs(0)).step(&[DOWN(), DOWN()], AUTO, secs(2));
    assert!(both.state.none_available && both.moved.is_none());
    let standby = both.state.step(&[DOWN(), UP()], AUTO, secs(3));
    assert_eq!((standby.state.serving, standby.state.none_available), (1, false));
    let hot = both.state.step(&[UP(), DOWN()], AUTO, secs(3));
    assert_eq!((hot.state.serving, hot.state.none_available, hot.moved), (0, false, None));
}

#[test]
fn an_operators_move_stands_until_health_forces_another() {
    let start = State::start(2, secs(0));
    let (state, moved) = start.switch(1, &[UP(), UP()], secs(5)).unwrap();
    assert_eq!(moved.map(|m| (m.to, m.cause)), Some((1, Cause::Manual)));
    let much_later = state.step(&[UP(), UP()], AUTO, secs(100_000));
    assert_eq!((much_later.moved, much_later.wake), (None, None));
    let forced = much_later.state.step(&[UP(), DOWN()], AUTO, secs(100_001)).state;
    assert_eq!((forced.serving, forced.cause), (0, Cause::Health));
}

#[test]
fn an_order_to_a_pool_that_is_not_available_is_refused_with_the_numbers() {
    let refusal = State::start(2, secs(0)).switch(1, &[UP(), DOWN()], secs(5)).unwrap_err();
    assert_eq!(refusal.to_string(), "the pool is not available: 0 of 2 endpoints up, needs 1");
    assert!(State::start(2, secs(0)).switch(1, &[UP(), UNKNOWN()], secs(5)).is_err());
    assert_eq!(
        State::start(2, secs(0)).switch(2, &[UP(), UP()], secs(5)),
        Err(Refusal::NoSuchPool)
    );
}

#[test]
fn an_order_to_the_pool_that_serves_changes_nothing() {
    let state = State::start(2, secs(0));
    assert_eq!(state.switch(0, &[DOWN(), UP()], secs(5)), Ok((state.clone(), None)));
}

#[test]
fn a_new_configuration_alone_moves_nothing() {
    let state = State::start(2, secs(0)).step(&[DOWN(), UP()], AUTO, secs(2)).state;
    // The pools swap their priorities, a third one comes, and the serving one is not available.
    let carried = state.carried(&[Some(1), None, Some(0)], &[DOWN(), UP(), UP()], secs(9));
    assert_eq!((carried.serving, carried.since, carried.cause), (0, secs(2), Cause::Health));
    assert_eq!(carried.available_since, [None, Some(secs(9)), Some(secs(9))]);
}

#[test]
fn a_configuration_without_the_serving_pool_hands_over_to_an_available_one() {
    let state = State::start(2, secs(0)).step(&[DOWN(), UP()], AUTO, secs(2)).state;
    let carried = state.carried(&[Some(0), None], &[DOWN(), UP()], secs(9));
    assert_eq!((carried.serving, carried.since, carried.cause), (1, secs(9), Cause::Removed));
    let nobody = state.carried(&[Some(0), None], &[DOWN(), DOWN()], secs(9));
    assert_eq!((nobody.serving, nobody.none_available), (0, true));
    let unknown = state.carried(&[None], &[UNKNOWN()], secs(9));
    assert_eq!((unknown.serving, unknown.none_available), (0, false));
}

#[test]
fn availability_counted_before_a_reload_counts_after_it() {
    let moved = State::start(2, secs(0)).step(&[DOWN(), UP()], AUTO, secs(2)).state;
    let back = moved.step(&[UP(), UP()], AUTO, secs(10)).state;
    let carried = back.carried(&[Some(0), Some(1)], &[UP(), UP()], secs(250));
    assert_eq!(carried.step(&[UP(), UP()], AUTO, secs(250)).wake, Some(secs(60)));
}

/// What must hold after any step, whatever came before it.
fn assert_sound(before: &State, views: &[PoolView], settings: Settings, now: Duration) -> Step {
    let step = before.step(views, settings, now);
    let Step { state, moved, wake } = &step;
    let context = || format!("{before:?}\n{views:?}\n{settings:?} {now:?}\n{step:?}");
    assert!(state.serving < views.len(), "{}", context());
    assert_eq!(moved.is_some(), state.serving != before.serving, "{}", context());
    let someone = views.iter().any(PoolView::available);
    let lost_before = views[before.serving].lost();
    // I24 and Live1: a lost pool is left in the same step, or it is said that nobody can serve.
    assert_eq!(state.none_available, lost_before && !someone, "{}", context());
    assert!(!views[state.serving].lost() || state.none_available, "{}", context());
    if let Some(moved) = moved {
        assert_eq!((moved.from, moved.to), (before.serving, state.serving), "{}", context());
        assert_eq!((state.cause, state.since), (moved.cause, now), "{}", context());
        assert!(views[moved.to].available(), "{}", context());
        assert!(moved.first_evidence <= moved.decided, "{}", context());
        match moved.cause {
            // I2 and I7: forced only away from a pool that evidence says is lost.
            Cause::Health => assert!(lost_before, "{}", context()),
            Cause::Failback => {
                assert!(!lost_before && moved.to < moved.from, "{}", context());
                assert!(settings.failback_after.is_some(), "{}", context());
                assert!(before.cause != Cause::Manual, "{}", context());
            }
            _ => panic!("a step has no other causes\n{}", context()),
        }
    } else {
        assert_eq!((state.cause, state.since), (before.cause, before.since), "{}", context());
    }
    // Asking again at the wake, with nothing changed, moves; asking before it does not.
    if let Some(wake) = *wake {
        let due = state.step(views, settings, now + wake);
        assert_eq!(due.moved.map(|m| m.cause), Some(Cause::Failback), "{}", context());
        let early = state.step(views, settings, now + wake.saturating_sub(secs(1)));
        assert!(wake == Duration::ZERO || early.moved.is_none(), "{}", context());
    } else {
        assert_eq!(state.step(views, settings, secs(1_000_000)).moved, None, "{}", context());
    }
    step
}

fn small_views() -> Vec<PoolView> {
    let mut views = Vec::new();
    for (up, unknown, down) in
        (0..=2).flat_map(|u| (0..=2).flat_map(move |n| (0..=2).map(move |d| (u, n, d))))
    {
        for min_healthy in 1..=up + unknown + down {
            views.push(PoolView { min_healthy, ..view(up, unknown, down) });
        }
    }
    views
}

#[test]
fn every_small_view_is_decided_soundly() {
    let views = small_views();
    let now = secs(1_000);
    let times = [None, Some(secs(990)), Some(secs(600)), Some(secs(700))];
    let mut checked = 0;
    for (first, second) in views.iter().flat_map(|a| views.iter().map(move |b| (*a, *b))) {
        for serving in 0..2 {
            for (since, cause) in
                times.iter().flat_map(|t| [Cause::Health, Cause::Manual].map(|c| (*t, c)))
            {
                let before = State {
                    serving,
                    cause,
                    available_since: vec![since, Some(secs(1))],
                    ..State::start(2, secs(2))
                };
                for settings in [AUTO, MANUAL] {
                    assert_sound(&before, &[first, second], settings, now);
                    checked += 1;
                }
            }
        }
    }
    assert_eq!(checked, views.len() * views.len() * 32);
}

#[derive(Debug, Clone)]
enum Happening {
    Verdict { pool: usize, endpoint: usize, verdict: Verdict },
    Whole { pool: usize, verdict: Verdict },
    Order { pool: usize },
    Time(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    // An endpoint that has been heard of never becomes unknown again.
    let verdict = prop_oneof![Just(Verdict::Up), Just(Verdict::Down)];
    prop_oneof![
        4 => (0..3usize, 0..3usize, verdict.clone())
            .prop_map(|(pool, endpoint, verdict)| Happening::Verdict { pool, endpoint, verdict }),
        3 => (0..3usize, verdict).prop_map(|(pool, verdict)| Happening::Whole { pool, verdict }),
        1 => (0..3usize).prop_map(|pool| Happening::Order { pool }),
        4 => (0..400u64).prop_map(Happening::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// 300 stories of 400 steps each.
    #[test]
    fn no_story_breaks_the_rules(
        min_healthy in prop::array::uniform3(1..=3u32),
        auto: bool,
        story in prop::collection::vec(happening(), 400),
    ) {
        let settings = if auto { AUTO } else { MANUAL };
        let mut endpoints = [[health::State::default(); 3]; 3];
        // Kept apart from the machine: since when each pool has been available.
        let mut available_since = [None; 3];
        let mut now = secs(0);
        let mut state = State::start(3, now);
        for happening in story {
            let mut set = |pool: usize, endpoint: usize, verdict| {
                let first_failure = (verdict == Verdict::Down).then_some(now);
                endpoints[pool][endpoint] =
                    health::State { verdict, first_failure, since: now, ..Default::default() };
            };
            match happening {
                Happening::Verdict { pool, endpoint, verdict } => set(pool, endpoint, verdict),
                Happening::Whole { pool, verdict } => (0..3).for_each(|e| set(pool, e, verdict)),
                Happening::Order { .. } => {}
                Happening::Time(seconds) => now += secs(seconds),
            }
            let views: [PoolView; 3] =
                std::array::from_fn(|p| PoolView::of(min_healthy[p], secs(2), &endpoints[p]));
            for (since, view) in available_since.iter_mut().zip(&views) {
                *since = view.available().then(|| since.unwrap_or(now));
            }
            if let Happening::Order { pool } = happening
                && let Ok((ordered, moved)) = state.switch(pool, &views, now)
            {
                prop_assert!(moved.is_none() || views[pool].available());
                prop_assert_eq!(ordered.serving, pool);
                state = ordered;
            }
            let step = assert_sound(&state, &views, settings, now);
            if let Some(Move { to, cause: Cause::Failback, .. }) = step.moved {
                prop_assert!(available_since[to].unwrap() + STABLE_FOR <= now);
            }
            state = step.state;
        }
    }
}
