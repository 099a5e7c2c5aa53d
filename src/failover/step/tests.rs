use proptest::prelude::*;

use super::*;
use crate::health::{self, Verdict};

const STABLE_FOR: Duration = Duration::from_secs(300);
const AUTO: Settings =
    Settings { failback: Failback::Auto { stable_for: STABLE_FOR, ramp: Duration::ZERO } };
const RAMPED: Settings =
    Settings { failback: Failback::Auto { stable_for: STABLE_FOR, ramp: Duration::from_secs(60) } };
const MANUAL: Settings = Settings { failback: Failback::Manual };

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Lost pools since second 1, available ones proved ever since.
fn view(up: u32, unknown: u32, down: u32) -> PoolView {
    let first_failure = (up + unknown == 0).then_some(secs(1));
    let proved = (up > 0).then_some(secs(1_000_000));
    let failed_anew = (down > 0).then_some(secs(1));
    let unbroken = (up > 0).then_some(secs(0));
    PoolView {
        up,
        unknown,
        down,
        min_healthy: 1,
        first_failure,
        failed_anew,
        unbroken,
        proved,
        ..PoolView::default()
    }
}

fn lost_since(first_failure: u64, failed_anew: u64) -> PoolView {
    PoolView {
        first_failure: Some(secs(first_failure)),
        failed_anew: Some(secs(failed_anew)),
        ..DOWN()
    }
}

fn proved_at(second: u64) -> PoolView {
    PoolView { proved: Some(secs(second)), ..UP() }
}

fn to(pool: usize) -> Order {
    Order { to: pool, hold: false, force: false, cause: Cause::Manual }
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
    let moved = Move {
        from: 0,
        to: 1,
        cause: Cause::Health,
        first_evidence: secs(1),
        first_failure: secs(1),
        decided: secs(2),
    };
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
    let late = lost_since(9, 9);
    let both = State::start(2, secs(0)).step(&[DOWN(), late], AUTO, secs(10));
    assert!(both.state.none_available && both.moved.is_none());
    let standby = both.state.step(&[DOWN(), UP()], AUTO, secs(13));
    assert_eq!((standby.state.serving, standby.state.none_available), (1, false));
    let hot = both.state.step(&[UP(), DOWN()], AUTO, secs(13));
    assert_eq!((hot.state.serving, hot.state.none_available, hot.moved), (0, false, None));
}

#[test]
fn an_operators_move_stands_until_health_forces_another() {
    let start = State::start(2, secs(0));
    let (state, moved) = start.switch(to(1), &[UP(), UP()], secs(5)).unwrap();
    assert_eq!(moved.map(|m| (m.to, m.cause)), Some((1, Cause::Manual)));
    let much_later = state.step(&[UP(), UP()], AUTO, secs(100_000));
    assert_eq!((much_later.moved, much_later.wake), (None, None));
    let forced = much_later.state.step(&[UP(), DOWN()], AUTO, secs(100_001)).state;
    assert_eq!((forced.serving, forced.cause, forced.stands), (0, Cause::Health, false));
}

#[test]
fn an_order_to_a_pool_that_is_not_available_is_refused_with_the_numbers() {
    let refusal = State::start(2, secs(0)).switch(to(1), &[UP(), DOWN()], secs(5)).unwrap_err();
    assert_eq!(refusal.to_string(), "the pool is not available: 0 of 2 endpoints up, needs 1");
    assert!(State::start(2, secs(0)).switch(to(1), &[UP(), UNKNOWN()], secs(5)).is_err());
    let nowhere = State::start(2, secs(0)).switch(to(2), &[UP(), UP()], secs(5));
    assert_eq!(nowhere.unwrap_err(), Refusal::NoSuchPool);
}

#[test]
fn an_order_to_the_pool_that_serves_changes_nothing() {
    let (state, moved) = State::start(2, secs(0)).switch(to(0), &[DOWN(), UP()], secs(5)).unwrap();
    assert_eq!((state.serving, state.since, moved), (0, secs(0), None));
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
fn neither_a_hold_nor_a_return_outlives_the_configuration_it_was_for() {
    let hold = Order { hold: true, ..to(1) };
    let (held, _) = State::start(2, secs(0)).switch(hold, &[UP(), UP()], secs(5)).unwrap();
    let gone = held.carried(&[Some(0)], &[UP()], secs(9));
    assert_eq!((gone.serving, gone.held, gone.stands), (0, false, false));
    let ramp = Some(Ramp { to: 0, began: secs(5), length: secs(60) });
    let returning = State { serving: 1, ramp, ..State::start(2, secs(0)) };
    assert_eq!(returning.carried(&[Some(0), Some(1)], &[UP(), UP()], secs(9)).ramp, ramp);
    let swapped = returning.carried(&[Some(1), Some(0)], &[UP(), UP()], secs(9));
    assert_eq!((swapped.serving, swapped.ramp), (0, None), "it would lead downwards");
}

#[test]
fn returns_are_remembered_for_a_day() {
    let state = State { returns: vec![secs(10), secs(7_200)], ..State::start(2, secs(0)) };
    let step = state.step(&[UP(), UP()], AUTO, secs(86_400 + 100));
    assert_eq!(step.state.returns, [secs(7_200)]);
}

#[test]
fn availability_counted_before_a_reload_counts_after_it() {
    let moved = State::start(2, secs(0)).step(&[DOWN(), UP()], AUTO, secs(2)).state;
    let back = moved.step(&[UP(), UP()], AUTO, secs(10)).state;
    let carried = back.carried(&[Some(0), Some(1)], &[UP(), UP()], secs(250));
    assert_eq!(carried.step(&[UP(), UP()], AUTO, secs(250)).wake, Some(secs(60)));
}

#[test]
fn lost_pool_is_left_only_for_one_that_succeeded_after_the_evidence_began() {
    let start = State::start(2, secs(0));
    let waiting = start.step(&[lost_since(100, 101), proved_at(100)], AUTO, secs(102));
    assert_eq!(waiting.moved, None);
    assert_eq!(waiting.state.trouble, Some(Trouble::Unproved { to: 1 }));
    assert!(waiting.state.is_anxious() && !waiting.state.none_available);
    let proved = waiting.state.step(&[lost_since(100, 101), proved_at(101)], AUTO, secs(102));
    assert_eq!(proved.state.serving, 1);
    let third = [lost_since(100, 101), proved_at(99), proved_at(101)];
    let step = State::start(3, secs(0)).step(&third, AUTO, secs(102));
    assert_eq!(step.state.serving, 2, "one that has proved itself goes before one that has not");
}

#[test]
fn after_darkness_nothing_moves_until_the_serving_pool_fails_in_the_light() {
    let start = State::start(2, secs(0));
    let dark = start.step(&[lost_since(100, 103), lost_since(101, 103)], AUTO, secs(103));
    assert!(dark.state.none_available);
    let standby = PoolView { unbroken: Some(secs(110)), ..proved_at(110) };
    let light = dark.state.step(&[lost_since(100, 103), standby], AUTO, secs(110));
    assert_eq!((light.moved, light.state.trouble), (None, Some(Trouble::Unsure)));
    assert!(light.state.is_anxious());
    let back = light.state.step(&[UP(), standby], AUTO, secs(111));
    assert_eq!((back.state.serving, back.state.trouble), (0, None), "it was us who heard nothing");
    let anew = light.state.step(&[lost_since(100, 111), standby], AUTO, secs(111));
    assert_eq!(anew.state.serving, 1, "it is dead indeed");
}

/// A pool of one endpoint, of what its probes saw: `(began, heard, success)`, in milliseconds.
fn pool_that_saw(seen: &[(u64, u64, bool)]) -> PoolView {
    let thresholds = health::Thresholds { unhealthy: 3, healthy: 2 };
    let state = seen.iter().fold(health::State::default(), |state, (began, heard, success)| {
        let observation = match success {
            true => health::Observation::Success,
            false => health::Observation::Failure(health::Failure::Timeout),
        };
        let at = |millis: u64| Duration::from_millis(millis);
        state.step(observation, at(*began), at(*heard), thresholds).0
    });
    PoolView::of(1, secs(2), [(&state, true)])
}

#[test]
fn silence_too_short_for_every_verdict_moves_nothing_if_the_others_were_silent_as_well() {
    let up = (1, 2, true);
    let hot_failed = [up, (5000, 5100, false), (5020, 5120, false), (5040, 5140, false)];
    let standby_stumbled = [up, (5000, 5100, false), (5110, 5111, true)];
    let start = State::start(2, secs(0));
    let views = [pool_that_saw(&hot_failed), pool_that_saw(&standby_stumbled)];
    let step = start.step(&views, AUTO, Duration::from_millis(5140));
    assert_eq!((step.moved, step.state.trouble), (None, Some(Trouble::Unsure)));
    // It fails still after the other is heard again: then it is not us.
    let anew = [&hot_failed[..], &[(5150, 5250, false)]].concat();
    let views = [pool_that_saw(&anew), pool_that_saw(&standby_stumbled)];
    assert_eq!(step.state.step(&views, AUTO, Duration::from_millis(5250)).state.serving, 1);
    // One that was heard all the time takes over at once.
    let steady = [up, (5000, 5001, true), (5110, 5111, true)];
    let views = [pool_that_saw(&hot_failed), pool_that_saw(&steady)];
    assert_eq!(start.step(&views, AUTO, Duration::from_millis(5140)).state.serving, 1);
}

#[test]
fn barred_endpoint_need_not_fail_its_probes_for_the_service_to_leave_it() {
    let usual = health::Thresholds { unhealthy: 3, healthy: 2 };
    let seen =
        |state: health::State, what, second| state.step(what, secs(second), secs(second), usual).0;
    let up = seen(health::State::default(), health::Observation::Success, 1);
    let barred = seen(up, health::Observation::Errors, 100);
    let refused = health::Observation::Failure(health::Failure::Refused);
    let dead = (0..3).fold(up, |state, _| seen(state, refused, 101));
    let view = |state: &health::State| PoolView::of(1, secs(2), [(state, true)]);
    let start = State::start(2, secs(0));
    let dark = start.step(&[view(&barred), view(&dead)], AUTO, secs(101)).state;
    let back = (102..104).fold(dead, |state, at| seen(state, health::Observation::Success, at));
    let hot = seen(barred, health::Observation::Success, 104);
    let light = dark.step(&[view(&barred), view(&back)], AUTO, secs(103)).state;
    let step = light.step(&[view(&hot), view(&back)], AUTO, secs(104));
    assert_eq!(step.state.serving, 1, "{:?}", step.state.trouble);
}

#[test]
fn return_under_way_ends_when_returns_become_manual_and_counts_against_nobody() {
    let moved = State::start(2, secs(0)).step(&[DOWN(), UP()], RAMPED, secs(2)).state;
    let back = moved.step(&[UP(), UP()], RAMPED, secs(10)).state;
    let begun = back.step(&[UP(), UP()], RAMPED, secs(310)).state;
    assert!(begun.ramp.is_some());
    let manual = begun.step(&[UP(), UP()], MANUAL, secs(9_000));
    assert_eq!((manual.moved, manual.state.ramp, manual.state.serving), (None, None, 1));
    assert_eq!(manual.state.penalties, begun.penalties);
}

#[test]
fn hold_keeps_the_service_even_on_a_lost_pool_until_it_is_released() {
    let order = Order { hold: true, ..to(1) };
    let (held, _) = State::start(2, secs(0)).switch(order, &[UP(), UP()], secs(5)).unwrap();
    let lost = held.step(&[UP(), DOWN()], AUTO, secs(10));
    assert_eq!((lost.moved, lost.state.trouble), (None, Some(Trouble::Held)));
    let released = lost.state.released().step(&[UP(), DOWN()], AUTO, secs(11));
    assert_eq!(released.state.serving, 0);
    let kept = held.step(&[UP(), UP()], AUTO, secs(9_000));
    assert_eq!((kept.moved, kept.wake), (None, None));
    let free = kept.state.released().step(&[UP(), UP()], AUTO, secs(9_001));
    assert_eq!(free.state.serving, 0, "failback decides again");
}

#[test]
fn order_to_a_worse_pool_is_refused_unless_forced() {
    let start = State::start(2, secs(0));
    let worse = PoolView { up: 1, down: 1, ..UP() };
    let refusal = start.switch(to(1), &[UP(), worse], secs(5)).unwrap_err();
    let said = "that would be worse: 1 of 2 endpoints up there, 2 of 2 where it is";
    assert_eq!(refusal.to_string(), said);
    for target in [worse, DOWN()] {
        let forced = Order { force: true, ..to(1) };
        let (state, _) = start.switch(forced, &[UP(), target], secs(5)).unwrap();
        // What is not available would be left at once.
        assert_eq!((state.serving, state.held), (1, !target.available()));
        assert_eq!(state.step(&[UP(), target], AUTO, secs(6)).state.serving, 1);
    }
    assert!(start.switch(to(1), &[DOWN(), worse], secs(5)).is_ok(), "better than nothing");
}

#[test]
fn return_by_degrees_ends_in_a_move_and_is_broken_off_when_the_pool_fails() {
    let moved = State::start(2, secs(0)).step(&[DOWN(), UP()], RAMPED, secs(2)).state;
    let back = moved.step(&[UP(), UP()], RAMPED, secs(10)).state;
    let begun = back.step(&[UP(), UP()], RAMPED, secs(310));
    assert_eq!((begun.moved, begun.state.share(secs(310))), (None, Some((0, 10))));
    assert_eq!(begun.wake, Some(secs(15)));
    let half = begun.state.step(&[UP(), UP()], RAMPED, secs(355));
    assert_eq!((half.state.serving, half.state.share(secs(355))), (1, Some((0, 500))));
    let done = half.state.step(&[UP(), UP()], RAMPED, secs(370));
    assert_eq!((done.state.serving, done.state.cause), (0, Cause::Failback));
    assert_eq!(done.state.share(secs(370)), None);
    let failed = half.state.step(&[DOWN(), UP()], RAMPED, secs(356));
    assert_eq!((failed.state.serving, failed.state.ramp), (1, None));
    let later = failed.state.step(&[UP(), UP()], RAMPED, secs(360));
    assert_eq!(later.wake, Some(STABLE_FOR), "its stability begins anew");
    // What the tally says counts likewise.
    let broken = half.state.broken_off(secs(356)).step(&[UP(), UP()], RAMPED, secs(356));
    assert_eq!((broken.state.ramp, broken.wake), (None, Some(STABLE_FOR)));
    assert!(broken.state.penalties[0].value(secs(356)) > 1000.0);
}

#[test]
fn loss_of_the_serving_pool_during_a_return_moves_to_the_returning_one() {
    let moved = State::start(2, secs(0)).step(&[DOWN(), UP()], RAMPED, secs(2)).state;
    let back = moved.step(&[UP(), UP()], RAMPED, secs(10)).state;
    let begun = back.step(&[UP(), UP()], RAMPED, secs(310)).state;
    let lost = begun.step(&[UP(), DOWN()], RAMPED, secs(311));
    assert_eq!((lost.state.serving, lost.state.cause), (0, Cause::Health));
    assert_eq!(lost.state.ramp, None);
    let unproved = begun.step(&[proved_at(300), lost_since(311, 311)], RAMPED, secs(311)).state;
    assert_eq!((unproved.serving, unproved.share(secs(311))), (1, None), "all or nothing");
}

/// A pool that is up and down in turns for four hours: how often the service moves.
fn moves_in_four_hours(up: u64, down: u64) -> (usize, usize) {
    let (mut state, mut forced, mut returned) = (State::start(2, secs(0)), 0, 0);
    for second in 0..4 * 3600 {
        let hot = if second % (up + down) < up { UP() } else { lost_since(second, second) };
        let step = state.step(&[hot, UP()], AUTO, secs(second));
        match step.moved.as_ref().map(|moved| moved.cause) {
            Some(Cause::Health) => forced += 1,
            Some(_) => returned += 1,
            None => {}
        }
        state = step.state;
    }
    (forced, returned)
}

#[test]
fn flapping_pool_is_returned_to_seldom_and_left_whenever_it_fails() {
    assert_eq!(moves_in_four_hours(5, 5), (1, 0));
    assert_eq!(moves_in_four_hours(60, 60), (1, 0));
    assert_eq!(moves_in_four_hours(45, 5), (1, 0));
    let (forced, returned) = moves_in_four_hours(400, 20);
    assert!(returned <= 4 && forced == returned + 1, "{forced} {returned}");
    let (forced, returned) = moves_in_four_hours(900, 30);
    assert!(returned <= 4 && forced == returned + 1, "{forced} {returned}");
}

#[test]
fn endpoints_turned_off_by_an_operator_move_the_service_by_his_order() {
    let off = PoolView { up: 0, off: 2, proved: None, ..UP() };
    let step = State::start(2, secs(0)).step(&[off, UP()], AUTO, secs(9));
    assert_eq!((step.state.serving, step.state.cause), (1, Cause::Manual));
    assert_eq!(step.moved.unwrap().first_evidence, secs(9));
    assert_eq!(off.shortage(), "0 of 2 endpoints up (2 drained or off), needs 1");
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
    // I24 and Live1: a lost pool is left in the same step, or it is said why not.
    assert_eq!(state.none_available, lost_before && !someone, "{}", context());
    assert_eq!(views[state.serving].lost(), state.trouble.is_some(), "{}", context());
    let evidence = views[before.serving].first_failure;
    let proved = |v: &PoolView| v.available() && v.proved_since(evidence);
    // A pool that was silent when the serving one failed, which has not failed since.
    let unsure = |v: &PoolView| {
        let heard = v.unbroken.unwrap_or(Duration::MAX);
        evidence.is_some() && views[before.serving].failed_anew.is_none_or(|at| at < heard)
    };
    let sure = |v: &PoolView| proved(v) && !unsure(v);
    let must = lost_before && !before.held;
    assert!(!must || !views.iter().any(sure) || moved.is_some(), "{}", context());
    // I18: held, nothing moves by itself.
    assert!(!before.held || moved.is_none(), "{}", context());
    if let Some(moved) = moved {
        assert_eq!((moved.from, moved.to), (before.serving, state.serving), "{}", context());
        assert_eq!((state.cause, state.since), (moved.cause, now), "{}", context());
        assert!(views[moved.to].available(), "{}", context());
        assert!(moved.first_evidence <= moved.decided, "{}", context());
        match moved.cause {
            // I2 and I7: forced only away from a pool that evidence says is lost.
            // I26: the target proved itself after the evidence began.
            Cause::Health | Cause::Manual => {
                // I6: darkness, and the first light after it, moves nothing.
                assert!(lost_before && sure(&views[moved.to]), "{}", context());
            }
            Cause::Failback => {
                assert!(!lost_before && moved.to < moved.from, "{}", context());
                assert!(settings.failback != Failback::Manual, "{}", context());
                assert!(!before.stands && !before.held, "{}", context());
                // I3: no return soon after another move, and not more than four a day.
                assert!(before.since + secs(60) <= now, "{}", context());
                assert!(state.returns.len() <= 4, "{}", context());
            }
            _ => panic!("a step has no other causes\n{}", context()),
        }
    } else {
        assert_eq!((state.cause, state.since), (before.cause, before.since), "{}", context());
    }
    // Asking again at the wake, with nothing changed, moves; asking before it does not.
    if let Some(wake) = *wake {
        let due = state.step(views, settings, now + wake);
        let goes_on = due.moved.is_some_and(|m| m.cause == Cause::Failback)
            || due.state.share(now + wake) != state.share(now);
        assert!(goes_on, "{}", context());
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

/// Everything that is remembered, in the values that make a difference at second 1000.
fn small_states() -> Vec<State> {
    let mut states = Vec::new();
    let times = [None, Some(secs(990)), Some(secs(600))];
    for since in times {
        for (held, stands, serving) in [
            (false, false, 0),
            (false, false, 1),
            (false, true, 1),
            (true, true, 0),
            (true, false, 1),
        ] {
            states.push(State {
                serving,
                held,
                stands,
                available_since: vec![since, Some(secs(1))],
                ..State::start(2, secs(2))
            });
        }
    }
    states
}

/// 1.8 million combinations of what is seen, remembered and configured.
#[test]
fn every_small_combination_is_decided_soundly() {
    let (views, states) = (small_views(), small_states());
    let now = secs(1_000);
    let mut checked: u64 = 0;
    for (first, second) in views.iter().flat_map(|a| views.iter().map(move |b| (*a, *b))) {
        for before in &states {
            for settings in [AUTO, RAMPED, MANUAL] {
                for (proved, unbroken) in [(0, 0), (0, 9), (9, 0), (9, 9), (9, 1), (1, 1)] {
                    let mut pair = [first, second];
                    let target = &mut pair[1 - before.serving];
                    target.proved = target.proved.map(|_| secs(proved));
                    target.unbroken = target.unbroken.map(|_| secs(unbroken));
                    assert_sound(before, &pair, settings, now);
                    checked += 1;
                }
            }
        }
    }
    assert_eq!(checked, (views.len() * views.len() * states.len() * 18) as u64);
    assert!(checked > 1_000_000, "{checked}");
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
        kind in 0..3usize,
        story in prop::collection::vec(happening(), 400),
    ) {
        let settings = [AUTO, RAMPED, MANUAL][kind];
        let mut endpoints = [[health::State::default(); 3]; 3];
        // Kept apart from the machine: since when each pool has been available.
        let mut available_since = [None; 3];
        let mut now = secs(0);
        let mut state = State::start(3, now);
        for happening in story {
            let mut set = |pool: usize, endpoint: usize, verdict| {
                let down = verdict == Verdict::Down;
                endpoints[pool][endpoint] = health::State {
                    verdict,
                    first_failure: down.then_some(now),
                    last_failure: down.then_some((now, health::Failure::Refused)),
                    last_success: (!down).then_some(now),
                    first_success: (!down).then_some(now),
                    since: now,
                    ..Default::default()
                };
            };
            match happening {
                Happening::Verdict { pool, endpoint, verdict } => set(pool, endpoint, verdict),
                Happening::Whole { pool, verdict } => (0..3).for_each(|e| set(pool, e, verdict)),
                Happening::Order { .. } => {}
                Happening::Time(seconds) => now += secs(seconds),
            }
            let views: [PoolView; 3] = std::array::from_fn(|p| {
                let endpoints = endpoints[p].iter().map(|state| (state, true));
                PoolView::of(min_healthy[p], secs(2), endpoints)
            });
            for (since, view) in available_since.iter_mut().zip(&views) {
                *since = view.available().then(|| since.unwrap_or(now));
            }
            if let Happening::Order { pool } = happening
                && let Ok((ordered, moved)) = state.switch(to(pool), &views, now)
            {
                prop_assert!(moved.is_none() || views[pool].available());
                prop_assert_eq!(ordered.serving, pool);
                state = ordered;
            }
            let step = assert_sound(&state, &views, settings, now);
            if let Some(Move { to, cause: Cause::Failback, .. }) = step.moved {
                prop_assert!(available_since[to].unwrap() + STABLE_FOR <= now, "not stable");
            }
            state = step.state;
        }
    }
}
