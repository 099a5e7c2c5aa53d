//! Recorded observations decide as they did live.

use proptest::prelude::*;

use super::*;
use crate::config::{self, Failback, Failover, HealthCheck, Pool, WhenNone};
use crate::control::probe_history::{Runs, Seen, parse};
use crate::failover::record::Source;
use crate::health::Failure;
use crate::table::fixture::{self, pool, service_of};

const HOT: [&str; 2] = ["10.0.1.1:80", "10.0.1.2:80"];
const STANDBY: [&str; 2] = ["10.0.2.1:80", "10.0.2.2:80"];
/// A night in November 2023.
const NIGHT: u64 = 1_700_000_000_000_000;

fn with(unhealthy_threshold: u32, stable_for: u64) -> Arc<Config> {
    let strict = |pool: Arc<Pool>| {
        let check = pool.health_check.clone().unwrap();
        let check = HealthCheck { unhealthy_threshold, ..check };
        Arc::new(Pool { health_check: Some(check), ..(*pool).clone() })
    };
    let pools = vec![strict(pool("hot", &HOT)), strict(pool("standby", &STANDBY))];
    let service = service_of("app", WhenNone::TryAll, pools);
    let failback =
        Failback::Auto { stable_for: Duration::from_secs(stable_for), ramp: Duration::ZERO };
    let failover = Failover { failback, ..service.failover.clone() };
    let service = config::Service { failover, ..(*service).clone() };
    fixture::config(Vec::new(), vec![Arc::new(service)])
}

fn seen(pool: &str, endpoint: &str, observation: Observation, at_millis: u64) -> Seen {
    let at = Stamp(NIGHT + at_millis * 1000);
    Seen {
        service: "app".into(),
        pool: pool.into(),
        endpoint: endpoint.into(),
        source: Source::Probe,
        observation,
        detail: "as seen".to_owned(),
        began: Stamp(at.0 - 500),
        at,
    }
}

fn lines(all: &[Seen]) -> Vec<Line> {
    let mut runs = Runs::default();
    let mut lines: Vec<_> = all.iter().flat_map(|seen| runs.note(seen.clone())).collect();
    lines.extend(runs.rest());
    let text: Vec<_> = lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
    parse(&text.join("\n")).0
}

/// Every endpoint is asked each second; hot refuses from second 100 to second 100 + `dark`.
fn outage(dark: u64, end: u64) -> Vec<Seen> {
    let mut all = Vec::new();
    for second in 1..=end {
        let hot = match second {
            second if (100..100 + dark).contains(&second) => Observation::Failure(Failure::Refused),
            _ => Observation::Success,
        };
        for (offset, endpoint) in HOT.iter().enumerate() {
            all.push(seen("hot", endpoint, hot, second * 1000 + offset as u64));
        }
        for (offset, endpoint) in STANDBY.iter().enumerate() {
            let at = second * 1000 + 500 + offset as u64;
            all.push(seen("standby", endpoint, Observation::Success, at));
        }
    }
    all
}

fn moves(backtest: &Backtest) -> Vec<(String, Cause, u64)> {
    let seconds = |at: Stamp| at.since(Stamp(NIGHT)).as_secs();
    backtest.moves.iter().map(|made| (made.to.clone(), made.cause, seconds(made.at))).collect()
}

#[test]
fn other_thresholds_would_have_moved_sooner_later_or_never() {
    let lines = lines(&outage(5, 600));
    let three = replay(with(3, 300), &lines);
    let standby = |at| ("standby".to_owned(), Cause::Health, at);
    let hot = |at| ("hot".to_owned(), Cause::Failback, at);
    // Two good seconds in a row make hot available again at second 106.
    assert_eq!(moves(&three), [standby(102), hot(406)]);
    assert_eq!(moves(&replay(with(2, 100), &lines)), [standby(101), hot(206)]);
    assert_eq!(moves(&replay(with(6, 300), &lines)), []);
    let app = &three.services["app"];
    assert_eq!((app.moves, app.recorded_moves), (2, 0));
    assert!((303.0..305.0).contains(&app.on_standby_seconds), "{app:?}");
    assert!((2.0..2.1).contains(&app.detection_mean_seconds.unwrap()), "{app:?}");
    assert_eq!(three.moves[0].reason, "0 of 2 endpoints up, needs 1");
    assert_eq!(three.moves[0].evidence[0], "10.0.1.1:80 as seen, 3 times");
}

#[test]
fn what_is_not_in_the_configuration_is_named_and_what_was_done_then_stands_beside_it() {
    let mut all = outage(5, 200);
    all.push(seen("hot", "10.9.9.9:80", Observation::Success, 5_000));
    let mut lines = lines(&all);
    let at = |second: u64| Stamp(NIGHT + second * 1_000_000);
    for (id, from, to, cause, second) in [
        ("app-1", "hot", "standby", Cause::Health, 110),
        ("app-2", "standby", "hot", Cause::Failback, 150),
    ] {
        lines.push(Line::Moved(Moved {
            id: id.to_owned(),
            moved: "app".to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            cause,
            first_evidence: at(100),
            at: at(second),
        }));
    }
    let backtest = replay(with(3, 300), &lines);
    assert_eq!(backtest.unknown, ["app/hot/10.9.9.9:80"]);
    assert_eq!(backtest.recorded.len(), 2);
    let app = &backtest.services["app"];
    assert_eq!(app.recorded_on_standby_seconds, 40.0);
    assert_eq!(app.recorded_detection_mean_seconds, Some(10.0));
    assert!((97.0..99.0).contains(&app.on_standby_seconds), "{app:?}");
}

#[test]
fn an_empty_history_decides_nothing() {
    let backtest = replay(with(3, 300), &[]);
    assert_eq!((backtest.observations, backtest.moves.len()), (0, 0));
    assert_eq!(backtest.services["app"], Summary::default());
}

/// The machines as control drives them, at the times at which things were seen.
fn live(config: Arc<Config>, all: &[Seen]) -> Vec<(usize, usize, Cause, Duration)> {
    let start = all.first().map(|first| since(first.began)).unwrap_or_default();
    let table = build::first(config, 1, start);
    let mut memory = Memory::new(&table);
    let mut moves = Vec::new();
    let mut look = |memory: &mut Memory, now| {
        let moved = memory.look(&table.config, 0, now).moved;
        moves.extend(moved.map(|moved| (moved.from, moved.to, moved.cause, moved.decided)));
    };
    for seen in all {
        while let Some(at) = memory.next_look().filter(|at| *at <= since(seen.at)) {
            look(&mut memory, at);
        }
        let names = (&seen.pool, &seen.endpoint);
        let mut known = table.endpoints().map(|(known, _)| known);
        let known = known.find(|known| (&known.pool, &known.config.name) == names).unwrap();
        let observed = Observed {
            id: known.id,
            observation: seen.observation,
            detail: &seen.detail,
            began: since(seen.began),
        };
        if memory.hear(&table.config, observed, since(seen.at)).unwrap().due {
            look(&mut memory, since(seen.at));
        }
    }
    moves
}

proptest! {
    #[test]
    fn a_replay_of_what_was_recorded_decides_what_was_decided(
        phases in proptest::collection::vec((0usize..6, 0usize..6, 1u64..40), 1..25),
    ) {
        // Phases of one kind for each pool, some seconds each, asked once a second.
        const KINDS: [Observation; 6] = [
            Observation::Success,
            Observation::Success,
            Observation::Failure(Failure::Refused),
            Observation::Failure(Failure::Timeout),
            Observation::SelfFault,
            Observation::Errors,
        ];
        let (mut all, mut second) = (Vec::new(), 1);
        for (hot, standby, length) in phases {
            for _ in 0..length {
                for (offset, endpoint) in HOT.iter().enumerate() {
                    let at = second * 1000 + offset as u64;
                    all.push(seen("hot", endpoint, KINDS[hot], at));
                }
                for (offset, endpoint) in STANDBY.iter().enumerate() {
                    let at = second * 1000 + 500 + offset as u64;
                    all.push(seen("standby", endpoint, KINDS[standby], at));
                }
                second += 1;
            }
        }
        let backtest = replay(with(3, 20), &lines(&all));
        let name = |pool: &usize| ["hot", "standby"][*pool].to_owned();
        let decided: Vec<_> = live(with(3, 20), &all)
            .iter()
            .map(|(from, to, cause, at)| (name(from), name(to), *cause, stamp(*at)))
            .collect();
        let replayed: Vec<_> = backtest
            .moves
            .iter()
            .map(|made| (made.from.clone(), made.to.clone(), made.cause, made.at))
            .collect();
        prop_assert_eq!(replayed, decided);
    }
}
