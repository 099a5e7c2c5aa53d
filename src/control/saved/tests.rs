//! What is saved comes back, and what was not saved by us does not.

use proptest::prelude::*;

use super::*;
use crate::config::WhenNone;
use crate::failover::record::Times;
use crate::observe::fixture;
use crate::table::build;
use crate::table::fixture::{config, pool, service_of};

const HOT: [&str; 2] = ["10.0.1.1:80", "10.0.1.2:80"];
const STANDBY: [&str; 1] = ["10.0.2.1:80"];
const NOW: Stamp = Stamp(1_700_000_000_000_000);

fn table() -> Table {
    let pools = vec![pool("hot", &HOT), pool("standby", &STANDBY)];
    let service = service_of("app", WhenNone::TryAll, pools);
    build::first(config(Vec::new(), vec![service]), 1, Duration::ZERO)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Hot is dead and was left ten seconds ago.
fn left() -> (Table, failover::State, health::State) {
    let mut state = failover::State::start(2, Duration::ZERO);
    (state.serving, state.cause, state.since) = (1, Cause::Health, seconds(990));
    state.penalties[0] = Penalty::default().raised(seconds(990)).raised(seconds(990));
    state.returns = vec![seconds(500)];
    (state.held, state.stands) = (true, true);
    let dead = health::State {
        verdict: Verdict::Down,
        since: seconds(990),
        wary: true,
        bars: 2,
        barred_until: Some(seconds(1010)),
        ..health::State::default()
    };
    (table(), state, dead)
}

fn saved() -> Saved {
    let (table, state, dead) = left();
    let hot = table.services[0].pools[0].endpoints[0].id;
    let health = |id| if id == hot { dead } else { health::State::default() };
    let (failovers, next) = ([state], |_: &Service| 8);
    let remembered = Remembered { health: &health, failovers: &failovers, next_record: &next };
    Saved::of(&table, &remembered, seconds(1000))
}

fn clock() -> Clock {
    Clock { now: seconds(5000), unix: Duration::from_micros(NOW.0) }
}

#[test]
fn who_serves_and_why_who_is_dead_and_what_it_counts_survive_a_restart() {
    let file = encode(&saved(), Stamp(NOW.0 - 5_000_000)).unwrap();
    let (read, age) = decode(&file, NOW).unwrap();
    assert_eq!((&read, age), (&saved(), seconds(5)));
    let restored = read.restore(&table().config, age, clock());
    let service = restored.services[0].as_ref().unwrap();
    let state = &service.failover;
    assert_eq!((state.serving, state.cause), (1, Cause::Health));
    assert_eq!(state.since, seconds(5000 - 15));
    assert_eq!(state.returns, [seconds(5000 - 505)]);
    assert!(state.held && state.stands && !state.none_available);
    assert!(state.penalties[0].is_suppressed(seconds(5000)));
    let value = state.penalties[0].value(seconds(5000));
    assert!((1960.0..2000.0).contains(&value), "{value}");
    let dead = &service.endpoints[0][0].state;
    assert_eq!((dead.verdict, dead.since), (Verdict::Down, seconds(5000 - 15)));
    assert_eq!((dead.bars, dead.barred_until), (2, Some(seconds(5005))));
    assert!(dead.wary);
    assert_eq!(service.endpoints[0][1], RestoredEndpoint::default());
    assert_eq!(service.next_record, 8);
}

#[test]
fn up_is_not_believed_and_names_nobody_knows_are_passed_over() {
    let mut saved = saved();
    let service = saved.services.get_mut("app").unwrap();
    service.pools.get_mut("hot").unwrap().endpoints.clear();
    service.serving = "gone".to_owned();
    let other = service.clone();
    saved.services.insert("other".to_owned(), other);
    let restored = saved.restore(&table().config, seconds(1), clock());
    assert_eq!(restored.services.len(), 1);
    let service = restored.services[0].as_ref().unwrap();
    let (serving, cause) = (service.failover.serving, service.failover.cause);
    assert_eq!((serving, cause), (0, Cause::Start));
    assert!(!service.failover.held, "it held another pool");
    let known = service.endpoints.iter().flatten().all(|e| e.state.verdict == Verdict::Unknown);
    assert!(known);
}

#[test]
fn modes_and_records_survive_and_a_record_nobody_will_complete_is_complete() {
    let times = Times { published: Stamp(NOW.0 - 10_000_000), ..Times::default() };
    let record = Record { times, complete: false, ..fixture::record(7) };
    let mut saved = saved();
    let service = saved.services.get_mut("app").unwrap();
    service.records = vec![Arc::new(record.clone())];
    let endpoints = &mut service.pools.get_mut("standby").unwrap().endpoints;
    let drained = SavedEndpoint { mode: Some("drain".to_owned()), ..SavedEndpoint::default() };
    endpoints.insert(STANDBY[0].to_owned(), drained);
    let file = encode(&saved, NOW).unwrap();
    let (read, age) = decode(&file, NOW).unwrap();
    let restored = read.restore(&table().config, age, clock());
    let service = restored.services[0].as_ref().unwrap();
    assert_eq!(service.endpoints[1][0].mode, Mode::Drain);
    assert_eq!(*service.history.records[0], Record { complete: true, ..record });
    let last = service.history.last.as_ref().unwrap();
    assert_eq!((&*last.to, last.published), ("standby", seconds(4990)));
}

#[test]
fn a_file_too_old_from_the_future_or_of_another_version_says_so() {
    let file = encode(&saved(), NOW).unwrap();
    let later = |seconds: u64| Stamp(NOW.0 + seconds * 1_000_000);
    assert!(decode(&file, later(3600)).is_ok());
    assert_eq!(decode(&file, later(3601)), Err(Unusable::Old(seconds(3601))));
    assert!(decode(&file, Stamp(NOW.0 - 60_000_000)).is_ok(), "the clock was set back a little");
    assert_eq!(decode(&file, Stamp(NOW.0 - 61_000_000)), Err(Unusable::Future(seconds(61))));
    let body = br#""version":2,"strange":[]}"#;
    let file = format!("{{\"checksum\":\"{:016x}\",", checksum(body));
    let file = [file.as_bytes(), body].concat();
    assert_eq!(decode(&file, NOW), Err(Unusable::Version(2)));
    for foreign in [&b""[..], b"{}", b"null", b"{\"checksum\":\"", &[0; 4096], b"\xff\xfe"] {
        assert_eq!(decode(foreign, NOW), Err(Unusable::Damaged));
    }
}

#[test]
fn no_single_damaged_byte_and_no_missing_end_is_believed() {
    let file = encode(&saved(), NOW).unwrap();
    let whole = file.len() - 1;
    for at in 0..whole {
        for change in [1, 0x20, 0x80] {
            let mut damaged = file.clone();
            damaged[at] ^= change;
            assert_eq!(decode(&damaged, NOW), Err(Unusable::Damaged), "byte {at}");
        }
        assert_eq!(decode(&file[..at], NOW), Err(Unusable::Damaged), "cut at {at}");
    }
}

/// A file that is whole and yet says what no process of ours would.
fn sealed(body: &str) -> Vec<u8> {
    let rest = format!("\"version\":1,\"written_at\":{},\"state\":{body}}}", NOW.0);
    format!("{{\"checksum\":\"{:016x}\",{rest}", checksum(rest.as_bytes())).into_bytes()
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, text: String) {
        let _ = decode(&bytes, NOW);
        let _ = decode(&sealed(&text), NOW);
    }

    #[test]
    fn no_numbers_make_it_panic_and_a_state_is_always_sane(
        ages: [u64; 4],
        bars: u32,
        flags: [bool; 4],
        age: u64,
        now in 0u64..1 << 40,
    ) {
        let mut saved = saved();
        let service = saved.services.get_mut("app").unwrap();
        (service.since, service.returns, service.next_record) = (ages[0], vec![ages[1]; 9], ages[2]);
        let hot = service.pools.get_mut("hot").unwrap();
        (hot.penalty, hot.suppressed) = (ages[3], flags[0]);
        for saved in hot.endpoints.values_mut() {
            saved.down = flags[1].then_some(ages[2]);
            (saved.bars, saved.barred) = (bars, ages[1]);
        }
        let (read, _) = decode(&encode(&saved, NOW).unwrap(), NOW).unwrap();
        prop_assert_eq!(&read, &saved);
        let clock = Clock { now: Duration::from_micros(now), unix: Duration::from_micros(now) };
        let restored = read.restore(&table().config, Duration::from_micros(age), clock);
        let state = &restored.services[0].as_ref().unwrap().failover;
        prop_assert!(state.serving < 2 && state.since <= clock.now);
        prop_assert!(state.penalties[0].value(clock.now).is_finite());
        let dead = &restored.services[0].as_ref().unwrap().endpoints[0][0].state;
        prop_assert!(dead.barred_until.is_none_or(|until| until <= clock.now + seconds(300)));
        prop_assert_eq!(dead.verdict == Verdict::Down, flags[1]);
    }
}
