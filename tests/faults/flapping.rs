//! Hot comes and goes. The service leaves it once and stays away.

use std::time::Duration;

use crate::rig::{At, Fault, Pool};
use crate::trial::{SOME, Trial};

fn flap(times: usize, down: u64, up: u64) {
    let mut trial = Trial::begin();
    for _ in 0..times {
        trial.strike(Fault::Kill, At::Hot);
        trial.rig.run_for(Duration::from_millis(down));
        trial.lift(Fault::Kill, At::Hot);
        trial.rig.run_for(Duration::from_millis(up));
    }
    trial.wait_serving(Pool::Standby);
    trial.carry_on(SOME);
    let ended = trial.end();
    assert_eq!(ended.moves(), ["standby"], "one failover, no failback");
    let all = ended.all();
    assert_eq!(all.lost_get, 0, "{:?}", all.why);
    let late = ended.moved_at() + Duration::from_secs(1);
    assert_eq!(ended.report().delivered_to(Pool::Hot, late), 0, "after the move");
    let posts = ended.lost_posts();
    assert!(posts.iter().all(|post| post.due < ended.moved_at()), "{posts:?}");
}

#[test]
fn hot_that_flaps_quickly_is_left_once() {
    flap(6, 150, 150);
}

#[test]
fn hot_that_flaps_within_the_interval_of_probes_is_left_once() {
    flap(4, 400, 400);
}

#[test]
fn hot_that_is_mostly_down_is_left_once() {
    flap(2, 1500, 300);
}

#[test]
fn hot_that_is_mostly_up_is_left_once() {
    flap(3, 300, 1200);
}
