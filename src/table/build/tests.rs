use super::*;
use crate::failover::Cause;
use crate::table::fixture::{config, endpoint, listener, pool, service_of};
use crate::table::history::Moved;
use crate::table::{Listener, ListenerId};

const HOT: &str = "10.0.1.1:80";
const HOT2: &str = "10.0.1.2:80";
const STANDBY: &str = "10.0.2.1:80";

fn two_pools(when_none: WhenNone) -> Arc<Config> {
    let pools = vec![pool("hot", &[HOT, HOT2]), pool("standby", &[STANDBY])];
    config(vec![listener("web", "0.0.0.0:80", &[0])], vec![service_of("app", when_none, pools)])
}

fn reloaded(config: Arc<Config>, previous: &Table) -> Table {
    let states: Vec<_> = config
        .services
        .iter()
        .map(|service| failover::State::start(service.pools.len(), Duration::ZERO))
        .collect();
    let (endpoints, identities) = endpoints(&config, previous);
    reload(config, previous, endpoints, identities, &states, Duration::ZERO, &|_| {
        Standing::default()
    })
}

fn ids(table: &Table) -> Vec<(String, EndpointId)> {
    table.endpoints().map(|(e, _)| (e.config.name.to_string(), e.id)).collect()
}

/// The only service of `table`, where `down` are down and the others up.
fn renewed(table: &Table, down: &[&str], state: &failover::State) -> Service {
    let down: Vec<_> = ids(table)
        .into_iter()
        .filter(|(name, _)| down.contains(&&**name))
        .map(|(_, id)| id)
        .collect();
    let standing = |id: EndpointId| {
        let verdict = if down.contains(&id) { Verdict::Down } else { Verdict::Up };
        Standing { verdict, ..Standing::default() }
    };
    service(&table.services[0], state, None, Arc::clone(&table.services[0].history), &standing)
}

fn start(config: Arc<Config>) -> Table {
    first(config, 2, Duration::from_secs(1))
}

#[test]
fn at_the_start_the_first_pool_serves_and_every_unknown_endpoint_may_be_picked() {
    let table = start(two_pools(WhenNone::TryAll));
    let app = table.service("app").unwrap();
    assert_eq!((table.generation, table.version), (1, 1));
    assert_eq!((app.serving, app.cause, &*app.order), (0, Cause::Start, &[0, 1][..]));
    assert!(app.pools.iter().all(|pool| !pool.available && !pool.candidates.is_empty()));
    assert_eq!(app.counters.workers.iter().count(), 2);
}

#[test]
fn what_a_reload_keeps_keeps_its_identity_and_counters() {
    let table = start(two_pools(WhenNone::TryAll));
    let web = &table.listeners[0];
    table.services[0].counters.workers.of(0).retries.increment();
    web.targets[0].counters.workers.of(1).codes.increment(200);
    let busy = &table.services[0].pools[0].endpoints[0];
    busy.enter();
    // The service comes second now, one endpoint is gone, one new, one has another weight.
    let hot = config::Pool {
        endpoints: vec![endpoint("10.0.1.9:80", 1), endpoint(HOT, 7)],
        ..(*pool("hot", &[HOT])).clone()
    };
    let app = service_of("app", WhenNone::TryAll, vec![Arc::new(hot), pool("standby", &[STANDBY])]);
    let other = service_of("other", WhenNone::TryAll, vec![pool("hot", &[HOT])]);
    let next = config(vec![listener("web", "0.0.0.0:80", &[1, 0, 1])], vec![other, app]);
    let next = reloaded(next, &table);

    assert_eq!((next.generation, next.version), (2, 2));
    let app = next.service("app").unwrap();
    assert!(Arc::ptr_eq(&app.counters, &table.services[0].counters));
    let kept = &app.pools[0].endpoints[1];
    assert!(Arc::ptr_eq(kept, busy) && kept.in_flight() == 1);
    let counters: Vec<_> = next.listeners[0].targets.iter().map(|t| t.service).collect();
    assert_eq!(counters, [1, 0]);
    assert!(Arc::ptr_eq(&next.listeners[0].targets[0].counters, &web.targets[0].counters));
    assert!(!Arc::ptr_eq(&next.listeners[0].targets[1].counters, &web.targets[0].counters));
}

#[test]
fn a_free_slot_is_used_again_with_a_serial_that_never_was() {
    let table = start(two_pools(WhenNone::TryAll));
    let of = |names: &[&str]| {
        config(Vec::new(), vec![service_of("app", WhenNone::TryAll, vec![pool("hot", names)])])
    };
    let without = reloaded(of(&[HOT2]), &table);
    let again = reloaded(of(&[HOT, "10.0.1.3:80", "10.0.1.4:80", HOT2]), &without);
    let serials: Vec<_> = ids(&again).into_iter().map(|(_, id)| (id.slot, id.serial)).collect();
    assert_eq!(serials, [(0, 4), (2, 5), (3, 6), (1, 2)]);
}

#[test]
fn the_same_address_under_another_service_pool_or_scheme_is_another_endpoint() {
    let table = start(two_pools(WhenNone::TryAll));
    let https = config::Endpoint { scheme: Scheme::Https, ..(*endpoint(HOT, 1)).clone() };
    let https = config::Pool { endpoints: vec![Arc::new(https)], ..(*pool("hot", &[])).clone() };
    let app = vec![Arc::new(https), pool("standby", &[HOT])];
    let services = vec![
        service_of("app", WhenNone::TryAll, app),
        service_of("new", WhenNone::TryAll, vec![pool("hot", &[HOT])]),
    ];
    let next = reloaded(config(Vec::new(), services), &table);
    let old: Vec<_> = ids(&table).into_iter().map(|(_, id)| id).collect();
    assert!(ids(&next).iter().all(|(_, id)| old.iter().all(|o| o.serial != id.serial)));
}

fn listener_ids(table: &Table) -> Vec<(&str, u32)> {
    table
        .listeners
        .iter()
        .map(|listener: &Arc<Listener>| (&*listener.config.name, listener.id.0))
        .collect()
}

#[test]
fn a_listener_is_known_by_its_bind() {
    let with = |listeners| config(listeners, two_pools(WhenNone::TryAll).services.clone());
    let table = start(with(vec![
        listener("a", "0.0.0.0:80", &[0]),
        listener("b", "0.0.0.0:81", &[0]),
        listener("c", "0.0.0.0:0", &[0]),
        listener("d", "0.0.0.0:0", &[0]),
    ]));
    let next = reloaded(
        with(vec![
            listener("d", "0.0.0.0:0", &[0]),
            listener("e", "0.0.0.0:0", &[0]),
            listener("renamed", "0.0.0.0:81", &[0]),
            listener("a", "0.0.0.0:8080", &[0]),
        ]),
        &table,
    );
    assert_eq!(listener_ids(&next), [("d", 4), ("e", 5), ("renamed", 2), ("a", 6)]);
    assert!(table.listener(ListenerId(2)).is_some() && next.listener(ListenerId(1)).is_none());
}

#[test]
fn a_down_endpoint_is_not_picked_and_only_its_pool_is_built_anew() {
    let table = start(two_pools(WhenNone::TryAll));
    let state = failover::State::start(2, Duration::ZERO);
    let table = with_services(&table, [(0, renewed(&table, &[], &state))]);
    let next = with_services(&table, [(0, renewed(&table, &[HOT, HOT2], &state))]);
    assert_eq!((next.generation, next.version), (1, 3));
    let (before, after) = (&table.services[0], &next.services[0]);
    assert!(before.pools[0].available && !after.pools[0].available);
    assert!(after.pools[0].candidates.is_empty() && !before.pools[0].candidates.is_empty());
    assert!(Arc::ptr_eq(&before.pools[1], &after.pools[1]));
    assert!(Arc::ptr_eq(&table.listeners, &next.listeners));
}

#[test]
fn a_request_tries_the_serving_pool_then_the_available_then_those_that_might_answer() {
    let pools = ["a", "b", "c", "d"].map(|name| {
        let index = name.as_bytes()[0] - b'a';
        pool(name, &[&format!("10.0.{index}.1:80"), &format!("10.0.{index}.2:80")])
    });
    let weak = config::Pool { min_healthy: 2, ..(*pools[0]).clone() };
    let pools = vec![Arc::new(weak), pools[1].clone(), pools[2].clone(), pools[3].clone()];
    let table = start(config(Vec::new(), vec![service_of("app", WhenNone::TryAll, pools)]));
    let state = failover::State { serving: 2, ..failover::State::start(4, Duration::ZERO) };
    let app = renewed(&table, &["10.0.0.1:80", "10.0.1.1:80", "10.0.1.2:80"], &state);
    assert_eq!(*app.order, [2, 3, 0], "a is weak, b is down");
}

#[test]
fn with_nobody_available_all_are_tried_or_none_as_configured() {
    let state = failover::State {
        none_available: true,
        serving: 1,
        ..failover::State::start(2, Duration::ZERO)
    };
    let all = [HOT, HOT2, STANDBY];
    let table = start(two_pools(WhenNone::TryAll));
    let app = renewed(&table, &all, &state);
    assert_eq!((&*app.order, app.none_available), (&[1, 0][..], true));
    assert!(app.pools.iter().all(|pool| !pool.candidates.is_empty() && !pool.available));
    // When one comes back, the others are not tried any longer.
    let table = with_services(&table, [(0, app)]);
    let back = failover::State { none_available: false, ..state.clone() };
    let app = renewed(&table, &[HOT, HOT2], &back);
    assert!(app.pools[0].candidates.is_empty() && !app.pools[1].candidates.is_empty());
    assert_eq!(*app.order, [1]);

    let table = start(two_pools(WhenNone::Unavailable));
    let app = renewed(&table, &all, &state);
    assert!(app.order.is_empty() && app.pools.iter().all(|pool| pool.candidates.is_empty()));
}

#[test]
fn an_endpoint_that_is_drained_or_off_is_not_picked_even_where_all_are_tried() {
    for mode in [Mode::Drain, Mode::Off] {
        let table = start(two_pools(WhenNone::TryAll));
        let ordered = [ids(&table)[0].1, ids(&table)[1].1];
        let standing = |verdict| {
            move |id: EndpointId| {
                let mode = if ordered.contains(&id) { mode } else { Mode::Active };
                Standing { verdict, mode, ..Standing::default() }
            }
        };
        let empty = |app: &Service| [0, 1].map(|pool: usize| app.pools[pool].candidates.is_empty());
        let history = || Arc::clone(&table.services[0].history);
        let state = failover::State::start(2, Duration::ZERO);
        let up = service(&table.services[0], &state, None, history(), &standing(Verdict::Up));
        assert_eq!((empty(&up), &*up.pools[0].modes), ([true, false], &[mode, mode][..]));
        assert!(!up.pools[0].available && up.pools[1].available);
        let dark = failover::State { none_available: true, ..state };
        let down = service(&up, &dark, None, history(), &standing(Verdict::Down));
        assert_eq!(empty(&down), [true, false]);
    }
}

#[test]
fn a_services_history_survives_a_reload() {
    let table = start(two_pools(WhenNone::TryAll));
    let mut history = History::default();
    history.record(Moved {
        from: "hot".into(),
        to: "standby".into(),
        cause: Cause::Manual,
        reason: "test".into(),
        first_evidence: Duration::ZERO,
        decided: Duration::ZERO,
        published: Duration::ZERO,
    });
    let state = failover::State::start(2, Duration::ZERO);
    let unknown = |_| Standing::default();
    let app = service(&table.services[0], &state, None, Arc::new(history.clone()), &unknown);
    let next = reloaded(two_pools(WhenNone::TryAll), &with_services(&table, [(0, app)]));
    assert_eq!(*next.services[0].history, history);
}
