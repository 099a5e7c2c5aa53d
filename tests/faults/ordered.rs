//! What an operator orders, under load.

use std::time::Duration;

use crate::rig::{At, Fault, Pool};
use crate::trial::{Ended, SOME, Trial};

/// An order is no reason to send anything twice. On a busy machine an endpoint may be silent for so
/// long that its GETs are moved all the same, a few at a time.
fn assert_not_sent_again(ended: &Ended) {
    let twice = ended.twice();
    assert!(twice.len() <= 20, "{twice:?}");
}

/// Whenever something is ordered, a dozen requests of both methods wait for their answers.
fn with_requests_in_flight() -> Trial {
    let mut trial = Trial::begin();
    trial.strike(Fault::Slow(Duration::from_millis(30)), At::Both);
    trial.carry_on(SOME);
    trial
}

#[test]
fn planned_switch_and_return_fail_no_request_of_any_method() {
    let trial = with_requests_in_flight();
    for to in [Pool::Standby, Pool::Hot] {
        trial.order(&["switch", "app", "--to", to.name(), "--reason", "maintenance"]);
        trial.wait_serving(to);
        trial.carry_on(SOME);
    }
    let ended = trial.end();
    assert_eq!(ended.moves(), ["standby", "hot"]);
    ended.assert_nothing_lost();
    assert_not_sent_again(&ended);
    assert!(ended.all().by_standby > 0);
    // A second after the return nobody asks the standby any more.
    let returned = ended.served[2].at + Duration::from_secs(1);
    assert_eq!(ended.report().delivered_to(Pool::Standby, returned), 0);
}

#[test]
fn held_service_stays_whatever_dies_and_its_requests_are_answered() {
    for (held, at) in [(Pool::Hot, At::Hot), (Pool::Standby, At::Standby)] {
        let other = if held == Pool::Hot { Pool::Standby } else { Pool::Hot };
        let mut trial = Trial::begin();
        trial.order(&["switch", "app", "--to", held.name(), "--hold", "--reason", "a test"]);
        trial.wait_serving(held);
        let moves = usize::from(held == Pool::Standby);
        trial.strike(Fault::Kill, at);
        trial.wait_pool(held, "all are down", |pool| pool["down"] == 3);
        trial.carry_on(2 * SOME);
        assert_eq!(trial.service()["serving"], held.name(), "held");
        trial.order(&["release", "app"]);
        let released = trial.wait_serving(other);
        trial.carry_on(SOME);
        let ended = trial.end();
        assert_eq!(ended.moves().len(), moves + 1);
        assert_eq!(ended.served.last().unwrap().at, released);
        let all = ended.all();
        assert_eq!(all.lost_get, 0, "{:?}", all.why);
    }
}

#[test]
fn hundred_reloads_while_hot_is_dead_lose_nothing() {
    let mut trial = Trial::begin();
    trial.strike(Fault::Kill, At::Hot);
    trial.wait_serving(Pool::Standby);
    trial.carry_on(SOME);
    let from = trial.rig.now();
    for _ in 0..100 {
        trial.order(&["reload"]);
    }
    trial.carry_on(SOME);
    let ended = trial.end();
    assert_eq!(ended.grown("standfast_config_reloads_total"), 100);
    assert_eq!(ended.moves(), ["standby"]);
    let figures = ended.report().between(from, Duration::MAX);
    assert_eq!((figures.lost_get, figures.lost_post), (0, 0), "{:?}", figures.why);
    assert_eq!(figures.by_standby, figures.requests);
    assert_eq!(ended.all().lost_get, 0);
}

#[test]
fn endpoint_taken_out_and_back_under_load_loses_nothing() {
    let trial = with_requests_in_flight();
    let name = trial.service()["pools"][0]["endpoints"][1]["name"].as_str().unwrap().to_owned();
    let path = format!("app/hot/{name}");
    let mut out = Vec::new();
    for mode in ["drain", "off"] {
        trial.order(&["mode", &path, mode, "--reason", "a test"]);
        // A request that was on its way to the endpoint has arrived by then.
        trial.carry_on(SOME / 2);
        let since = trial.rig.now();
        trial.carry_on(SOME / 2);
        out.push(since..trial.rig.now());
        trial.order(&["mode", &path, "active", "--reason", "a test"]);
        trial.carry_on(SOME / 2);
    }
    let back = trial.rig.now();
    trial.carry_on(SOME);
    let ended = trial.end();
    assert_eq!(ended.moves(), [""; 0]);
    ended.assert_nothing_lost();
    assert_not_sent_again(&ended);
    assert_eq!(ended.all().by_standby, 0);
    let there = ended.report().deliveries.iter().filter(|delivery| delivery.endpoint == 1);
    let there: Vec<Duration> = there.map(|delivery| delivery.at).collect();
    for out in out {
        assert!(!there.iter().any(|at| out.contains(at)), "requests while it was out");
    }
    assert!(there.iter().any(|at| *at > back), "requests once it is back");
}
