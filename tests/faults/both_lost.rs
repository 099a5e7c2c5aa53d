//! Nobody is left for a while, and then the standby is.

use std::time::Duration;

use crate::rig::{At, Fault, Pool};
use crate::trial::{Ended, SOME, Trial};

/// Kills in this order, each once the one before is known; the standby comes back.
fn lose_both(order: &[At]) -> (Ended, Duration) {
    let mut trial = Trial::begin();
    for &at in order {
        trial.strike(Fault::Kill, at);
        for (pool, struck) in [(Pool::Hot, At::Hot), (Pool::Standby, At::Standby)] {
            if at == struck || at == At::Both {
                trial.wait_pool(pool, "all are down", |pool| pool["down"] == 3);
            }
        }
    }
    let status = trial.service();
    assert_eq!(status["none_available"], true, "{status}");
    assert!(trial.logged(&["ERROR", "no pool is available"]), "said loudly");
    let back = trial.lift(Fault::Kill, At::Standby);
    trial.wait_serving(Pool::Standby);
    trial.wait_answer(back, Pool::Standby);
    let well = trial.rig.now();
    trial.carry_on(SOME);
    let ended = trial.end();
    assert_eq!(ended.moves(), ["standby"]);
    let late = ended.report().between(well, Duration::MAX);
    assert_eq!((late.lost_get, late.lost_post), (0, 0), "once it is back: {:?}", late.why);
    let first = ended.report().first_answer(back, Pool::Standby).unwrap();
    assert!(first < Duration::from_secs(1), "before an ordinary probe could tell: {first:?}");
    (ended, back)
}

#[test]
fn standby_serves_as_soon_as_it_is_back_where_hot_died_first() {
    lose_both(&[At::Hot, At::Standby]);
}

#[test]
fn standby_serves_as_soon_as_it_is_back_where_it_had_died_before_hot() {
    lose_both(&[At::Standby, At::Hot]);
}

#[test]
fn standby_serves_as_soon_as_it_is_back_where_both_died_at_once() {
    lose_both(&[At::Both]);
}

#[test]
fn standby_that_is_not_ready_is_not_moved_to_but_answers_what_hot_cannot() {
    let mut trial = Trial::begin();
    trial.strike(Fault::RefuseProbes, At::Standby);
    trial.wait_pool(Pool::Standby, "not available", |pool| pool["available"] == false);
    let metrics = trial.metrics();
    assert_eq!(metrics.sum("standfast_pool_ready", &[("pool", "standby")]), 0.0, "an alert");
    trial.strike(Fault::Kill, At::Hot);
    trial.wait_pool(Pool::Hot, "all are down", |pool| pool["down"] == 3);
    trial.carry_on(SOME);
    let status = trial.service();
    assert_eq!(status["none_available"], true, "{status}");
    assert!(trial.logged(&["ERROR", "no pool is available"]), "said loudly");
    let back = trial.lift(Fault::Kill, At::Hot);
    trial.wait_pool(Pool::Hot, "available again", |pool| pool["available"] == true);
    trial.wait_answer(back, Pool::Hot);
    trial.carry_on(SOME);
    let ended = trial.end();
    assert_eq!(ended.moves(), [""; 0]);
    let all = ended.all();
    assert_eq!(all.lost_get, 0, "{:?}", all.why);
    assert!(all.by_standby > 0, "tried although it is not known to be well");
}
