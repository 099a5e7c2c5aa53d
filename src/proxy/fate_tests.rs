use std::sync::Arc;

use super::*;
use crate::balance::Candidates;
use crate::config::WhenNone;
use crate::failover::State;
use crate::health::Verdict;
use crate::table::Share;
use crate::table::build::{self, Standing};
use crate::table::fixture::{config, pool, service_of};

const HOT: &str = "10.0.1.1:80";
const STANDBY: &str = "10.0.2.1:80";
const SESSIONS: Sessions =
    Sessions { close_after: Duration::from_secs(30), spread: Duration::from_secs(10) };

fn configured(pools: &[(&str, &str)]) -> Arc<crate::config::Config> {
    let pools = pools.iter().map(|(name, endpoint)| pool(name, &[endpoint])).collect();
    config(vec![], vec![service_of("app", WhenNone::TryAll, pools)])
}

/// Hot serves, both pools are up.
fn start() -> Table {
    let table = build::first(configured(&[("hot", HOT), ("standby", STANDBY)]), 1, Duration::ZERO);
    then(&table, 0, Cause::Start, &[])
}

/// The next table: pool `serving` serves, `down` are down.
fn then(table: &Table, serving: usize, cause: Cause, down: &[&str]) -> Table {
    let service = &table.services[0];
    let state = State { serving, cause, ..State::start(2, Duration::ZERO) };
    let down: Vec<_> = down.iter().map(|name| id(table, name)).collect();
    let standing = |id| Standing {
        verdict: if down.contains(&id) { Verdict::Down } else { Verdict::Up },
        ..Standing::default()
    };
    let service = build::service(service, &state, None, Arc::clone(&service.history), &standing);
    build::with_services(table, [(0, service)])
}

fn id(table: &Table, name: &str) -> EndpointId {
    table.endpoints().find(|(endpoint, _)| &*endpoint.config.name == name).unwrap().0.id
}

/// What becomes of sessions on hot and on standby.
fn both(before: &Table, now: &Table) -> [Option<Fate>; 2] {
    let fates = fates(before, now);
    [HOT, STANDBY].map(|name| fates.get(&id(before, name)).copied())
}

fn closing(why: SessionEnd, tunnels_after: Duration) -> Option<Fate> {
    let window = Window { after: SESSIONS.close_after, spread: SESSIONS.spread };
    let tunnels = Window { after: tunnels_after, ..window };
    let passing = Some(tunnels);
    Some(Fate::Closes(Closing { why, tunnels, passing, downloads: Some(window) }))
}

#[test]
fn a_forced_move_closes_tunnels_at_once_and_downloads_after_the_usual_time() {
    let (before, now) = (start(), then(&start(), 1, Cause::Health, &[HOT]));
    let hot = closing(SessionEnd::Failover, Duration::ZERO);
    assert_eq!(both(&before, &now), [hot, Some(Fate::Stays)]);
}

#[test]
fn any_other_move_gives_them_all_close_after() {
    let planned = closing(SessionEnd::Planned, SESSIONS.close_after);
    for cause in [Cause::Manual, Cause::Failback] {
        let (before, now) = (start(), then(&start(), 1, cause, &[]));
        assert_eq!(both(&before, &now), [planned, Some(Fate::Stays)]);
        assert_eq!(both(&now, &before), [Some(Fate::Stays), planned]);
    }
}

#[test]
fn a_verdict_alone_closes_nothing() {
    let (before, now) = (start(), then(&start(), 0, Cause::Start, &[HOT]));
    assert_eq!(both(&before, &now), [None, None]);
    assert_eq!(both(&now, &before), [None, None]);
}

#[test]
fn an_endpoint_switched_off_closes_its_sessions_at_once_and_no_others() {
    let before = start();
    let with_mode = |mode| {
        let table = then(&before, 0, Cause::Start, &[]);
        let service = &table.services[0];
        let hot = &service.pools[0];
        let off = Pool {
            config: Arc::clone(&hot.config),
            endpoints: hot.endpoints.clone(),
            verdicts: hot.verdicts.clone(),
            details: hot.details.clone(),
            modes: [mode].into(),
            candidates: Candidates::new(Vec::new()),
            available: hot.available,
        };
        replaced(&table, |service| service.pools[0] = Arc::new(off))
    };
    assert_eq!(both(&before, &with_mode(Mode::Drain)), [None, None]);
    let off = with_mode(Mode::Off);
    assert_eq!(both(&before, &off), [Some(Fate::Closes(Closing::OFF)), None]);
    assert_eq!(both(&off, &with_mode(Mode::Off)), [None, None], "they are closing already");
}

/// The same table with its service changed.
fn replaced(table: &Table, change: impl FnOnce(&mut Service)) -> Table {
    let state = State { serving: table.services[0].serving, ..State::start(2, Duration::ZERO) };
    let service = &table.services[0];
    let up = |_| Standing { verdict: Verdict::Up, ..Standing::default() };
    let mut service = build::service(service, &state, None, Arc::clone(&service.history), &up);
    change(&mut service);
    build::with_services(table, [(0, service)])
}

#[test]
fn a_share_that_ends_takes_its_sessions_along() {
    let plain = start();
    let shared = replaced(&plain, |service| service.share = Some(Share { pool: 1, permille: 50 }));
    assert_eq!(both(&plain, &shared), [None, Some(Fate::Stays)]);
    let planned = closing(SessionEnd::Planned, SESSIONS.close_after);
    assert_eq!(both(&shared, &plain), [None, planned]);
    let lost = then(&plain, 0, Cause::Start, &[STANDBY]);
    assert_eq!(both(&shared, &lost), [None, closing(SessionEnd::Failover, Duration::ZERO)]);
    let moved = then(&plain, 1, Cause::Manual, &[]);
    assert_eq!(both(&shared, &moved), [planned, Some(Fate::Stays)], "a ramp that arrived");
}

#[test]
fn what_a_reload_takes_out_closes_as_planned_and_what_it_keeps_stays() {
    let before = start();
    let reloaded = |pools: &[(&str, &str)]| {
        let config = configured(pools);
        let (endpoints, identities) = build::endpoints(&config, &before);
        let states = [State::start(pools.len(), Duration::ZERO)];
        let unknown = |_| <_>::default();
        let now = Duration::ZERO;
        build::reload(config, &before, endpoints, identities, &states, now, &unknown)
    };
    let removed = closing(SessionEnd::Removed, SESSIONS.close_after);
    let one = reloaded(&[("hot", HOT)]);
    assert_eq!(both(&before, &one), [None, removed]);
    let same = reloaded(&[("hot", HOT), ("standby", STANDBY)]);
    assert_eq!(both(&before, &same), [None, None]);
    let none = Table { services: Vec::new(), ..start() };
    assert_eq!(both(&before, &none), [removed, removed]);
}

#[test]
fn before_the_process_ends_every_tunnel_is_told_in_time() {
    let table = start();
    let fates = drained(&table, Duration::from_secs(8));
    let spread = Duration::from_secs(4);
    let tunnels = Window { after: Duration::ZERO, spread };
    let passing = Some(Window { after: spread, spread });
    let why = SessionEnd::Drain;
    let expected = Fate::Closes(Closing { why, tunnels, passing, downloads: None });
    assert_eq!(fates.len(), 2);
    assert!(fates.values().all(|fate| *fate == expected));
}
