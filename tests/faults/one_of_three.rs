//! One hot endpoint of three is lost: the other two carry on, and the service stays.

use std::time::Duration;

use crate::rig::{At, Fault, Pool, pool_of};
use crate::trial::{Ended, SOME, Trial};

const STRUCK: At = At::One(1);

/// Goes on until the endpoint is known to be down, and for a while.
fn lose_one(fault: Fault) -> (Ended, Duration) {
    let mut trial = Trial::begin();
    let struck = trial.strike(fault, STRUCK);
    trial.wait_pool(Pool::Hot, "one is down", |pool| pool["down"] == 1);
    let known = trial.rig.now();
    trial.carry_on(SOME);
    let ended = trial.end();
    let all = ended.all();
    assert_eq!(all.lost_get, 0, "{:?}", all.why);
    assert_eq!(ended.moves(), [""; 0]);
    assert_eq!(all.by_standby, 0, "two endpoints of hot are enough");
    let late = ended.report().deliveries.iter();
    let late = late
        .filter(|delivery| delivery.endpoint == 1 && delivery.at > known + Duration::from_secs(1));
    assert_eq!(late.count(), 0, "requests to an endpoint that is down");
    (ended, struck)
}

#[test]
fn killed_one_costs_nothing_and_moves_nothing() {
    let (ended, _) = lose_one(Fault::Kill);
    assert!(ended.all().lost_post <= 2, "{:?}", ended.lost_posts());
}

#[test]
fn black_holed_one_costs_nothing_and_moves_nothing() {
    let (ended, _) = lose_one(Fault::Drop);
    assert!(ended.all().lost_post <= 3, "{:?}", ended.lost_posts());
}

#[test]
fn one_that_answers_503_to_users_is_barred_although_its_probes_pass() {
    let (ended, struck) = lose_one(Fault::RefuseUsers);
    assert!(ended.all().lost_post <= 2, "{:?}", ended.lost_posts());
    let by_others = ended.report().samples.iter().filter(|sample| sample.due > struck);
    let by_others = by_others.filter_map(|sample| sample.endpoint());
    assert!(by_others.map(|e| (e, pool_of(e))).all(|(e, pool)| e != 1 && pool == Pool::Hot));
}
