//! Trouble that is not the pool's: one client's, our own, or none at all. Nothing moves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::rig::load::{Plan, Sample};
use crate::rig::proxy::FRONT;
use crate::rig::{At, Fault, Pool};
use crate::trial::{Ended, SOME, Trial};

#[test]
fn one_uri_that_answers_500_to_one_client_moves_nothing_and_raises_no_doubt() {
    let mut trial = Trial::begin();
    trial.join(Plan::bad(FRONT));
    let looks = (0..100).map(|_| {
        trial.carry_on(SOME / 50);
        doubted(&trial)
    });
    // An endpoint may be silent for a moment on a busy machine; the errors never pause.
    let doubts: Vec<String> = looks.flatten().collect();
    assert!(doubts.len() <= 5, "{doubts:?}");
    let ended = trial.end();
    ended.assert_nothing_moved();
    ended.assert_nothing_lost();
    assert_stays_at_hot(&ended);
    let bad = ended.reports[1].all();
    assert_eq!(bad.why.get("500"), Some(&bad.requests), "passed on as it is");
    assert_eq!(ended.reports[1].deliveries.len(), bad.requests, "and never sent again");
}

/// Hot answers the trial's own requests. One in a hundred may have met a moment's silence, which a
/// busy machine has; what leaks by a rule leaks far more.
fn assert_stays_at_hot(ended: &Ended) {
    let all = ended.all();
    assert!(all.by_standby <= all.requests / 100, "{} of {}", all.by_standby, all.requests);
}

fn doubted(trial: &Trial) -> Vec<String> {
    let service = trial.service();
    let pools = service["pools"].as_array().unwrap().iter();
    let endpoints = pools.flat_map(|pool| pool["endpoints"].as_array().unwrap());
    let doubted = endpoints.filter(|endpoint| endpoint["doubted"] == true);
    doubted.map(|endpoint| endpoint["name"].to_string()).collect()
}

#[test]
fn one_uri_that_answers_503_everywhere_to_one_client_moves_nothing_and_costs_nobody_else() {
    let mut trial = Trial::begin();
    trial.join(Plan { path: "/busy/", ..Plan::bad(FRONT) });
    trial.carry_on(2 * SOME);
    let ended = trial.end();
    ended.assert_nothing_moved();
    ended.assert_nothing_lost();
    assert_stays_at_hot(&ended);
    let bad = ended.reports[1].all();
    assert_eq!(bad.why.get("503"), Some(&bad.requests));
}

#[test]
fn proxy_that_was_paused_blames_nobody() {
    let trial = Trial::begin();
    trial.proxy.pause();
    trial.rig.run_for(Duration::from_secs(3));
    trial.proxy.resume();
    trial.carry_on(4 * SOME);
    let ended = trial.end();
    ended.assert_nothing_moved();
    ended.assert_nothing_lost();
    assert_stays_at_hot(&ended);
}

#[test]
fn proxy_that_is_cut_off_from_everything_moves_nothing_and_loses_nothing() {
    let mut trial = Trial::begin();
    trial.rig.isolate(true);
    trial.rig.run_for(Duration::from_secs(2));
    trial.rig.isolate(false);
    trial.wait_pool(Pool::Hot, "all are up", |pool| pool["up"] == 3);
    trial.carry_on(2 * SOME);
    let ended = trial.end();
    assert_eq!(ended.moves(), [""; 0]);
    ended.assert_nothing_lost();
}

#[test]
fn proxy_without_cpu_blames_nobody() {
    let trial = Trial::begin();
    let enough = AtomicBool::new(false);
    let cpus = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..4 * cpus {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        trial.rig.run_for(Duration::from_secs(4));
        enough.store(true, Ordering::Relaxed);
    });
    trial.carry_on(SOME);
    let ended = trial.end();
    ended.assert_nothing_moved();
    ended.assert_nothing_lost();
}

#[test]
fn slow_hot_is_not_dead() {
    let mut trial = Trial::begin();
    trial.strike(Fault::Slow(Duration::from_millis(100)), At::Hot);
    trial.carry_on(3 * SOME);
    let ended = trial.end();
    ended.assert_nothing_moved();
    ended.assert_nothing_lost();
    let all = ended.all();
    assert!(all.twice_get <= all.requests / 20, "{} GET delivered twice", all.twice_get);
}

#[test]
fn proxy_without_descriptors_blames_nobody() {
    let trial = Trial::begin();
    let pid = trial.proxy.pid();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    // What is open stays open; nothing can be added. The greatest limit is inherited from us.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let none = Rlimit { current: Some(open), maximum };
    let pid = Pid::from_raw(pid as i32);
    let before = prlimit(pid, Resource::Nofile, none).unwrap();
    trial.rig.run_for(Duration::from_secs(2));
    prlimit(pid, Resource::Nofile, before).unwrap();
    trial.carry_on(SOME);
    let ended = trial.end();
    ended.assert_nothing_moved();
    // New clients were accepted late, and all were served in the end.
    let late = |sample: &&Sample| sample.latency > Duration::from_millis(100);
    let late = ended.report().samples.iter().filter(late).count();
    assert!(late > 0, "there were descriptors enough");
    ended.assert_nothing_lost();
}
