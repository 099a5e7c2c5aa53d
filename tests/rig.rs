//! The failover rig itself: do its faults strike, are they lifted, does it count right? What it says of
//! a proxy is worth no more than this. No proxy takes part; the client asks an endpoint directly.
//! Needs root.

#[path = "support/rig/mod.rs"]
mod rig;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use rig::load::{Outcome, Plan};
use rig::{At, Fault, Pool, Rig};

/// The endpoint that is struck, and one of its pool that is not.
const STRUCK: At = At::One(1);

fn endpoint(rig: &Rig, index: usize) -> SocketAddr {
    rig.addresses(Pool::Hot)[index]
}

/// The status, or why there is none.
fn ask(rig: &Rig, index: usize, path: &str) -> Result<u16, ErrorKind> {
    match rig.get(endpoint(rig, index), path) {
        Ok((status, _)) => Ok(status),
        // What a read that timed out is called on Linux.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut),
        Err(error) => Err(error.kind()),
    }
}

#[test]
fn every_fault_strikes_where_it_should_and_is_lifted() {
    let faults = [
        (Fault::Kill, Err(ErrorKind::ConnectionRefused)),
        (Fault::Drop, Err(ErrorKind::TimedOut)),
        (Fault::LinkDown, Err(ErrorKind::TimedOut)),
        (Fault::Stop, Err(ErrorKind::TimedOut)),
        (Fault::Reject, Err(ErrorKind::ConnectionRefused)),
        (Fault::Reset, Err(ErrorKind::ConnectionRefused)),
        (Fault::Refuse, Ok(503)),
    ];
    let mut rig = Rig::new();
    for (fault, expected) in faults {
        rig.inject(fault, STRUCK);
        assert_eq!(ask(&rig, 1, "/healthz"), expected, "{fault:?}");
        assert_eq!(ask(&rig, 2, "/healthz"), Ok(200), "{fault:?} at another endpoint");
        rig.lift(fault, STRUCK);
        assert_eq!(ask(&rig, 1, "/healthz"), Ok(200), "{fault:?} lifted");
    }
    rig.inject(Fault::RefuseUsers, STRUCK);
    assert_eq!(ask(&rig, 1, "/r/1"), Ok(503), "users");
    assert_eq!(ask(&rig, 1, "/healthz"), Ok(200), "probes");
    rig.lift(Fault::RefuseUsers, STRUCK);
    rig.isolate(true);
    assert_eq!(ask(&rig, 1, "/healthz"), Err(ErrorKind::TimedOut), "isolated");
    rig.isolate(false);
    assert_eq!(ask(&rig, 1, "/healthz"), Ok(200), "not isolated");
    assert_eq!(ask(&rig, 1, "/bad/2"), Ok(500), "the bad URI");
}

#[test]
fn every_request_is_counted_once_and_with_its_endpoint() {
    let rig = Rig::new();
    let plan = Plan { rate: 200, ..Plan::new(endpoint(&rig, 1)) };
    let load = rig.load(plan);
    rig::wait("500 requests are done", || (load.done() >= 500).then_some(()));
    let report = rig.finish(load);
    let all = report.all();
    assert_eq!(all.lost_get + all.lost_post, 0, "{:?}", all.why);
    assert_eq!(all.by_hot, all.requests);
    assert_eq!(report.deliveries.len(), all.requests, "delivered once each");
    assert!(report.deliveries.iter().all(|delivery| delivery.endpoint == 1));
    let posts = report.samples.iter().filter(|sample| sample.post).count();
    assert_eq!(posts, all.requests / 5);
    let numbers: Vec<u64> = report.samples.iter().map(|sample| sample.number).collect();
    assert_eq!(numbers, (1..=all.requests as u64).collect::<Vec<_>>());
}

#[test]
fn what_is_lost_is_told_by_its_reason() {
    let mut rig = Rig::new();
    let timeout = Duration::from_secs(2);
    let plan = |first| Plan { rate: 200, timeout, first, ..Plan::new(endpoint(&rig, 1)) };
    let (one, two, three) = (plan(1), plan(100_000), plan(200_000));
    let during = |rig: &mut Rig, fault, plan| {
        let load = rig.load(plan);
        rig::wait("some are answered", || (load.done() >= 50).then_some(()));
        let struck = rig.inject(fault, STRUCK);
        rig.run_for(Duration::from_millis(500));
        let report = rig.finish(load);
        rig.lift(fault, STRUCK);
        (report, struck)
    };
    // The 64 kept connections end with the ingress; what is asked on them just then is stale.
    let (killed, struck) = during(&mut rig, Fault::Kill, one);
    let late = killed.samples.iter().filter(|s| s.due > struck.at);
    let outcomes: Vec<Outcome> = late.map(|sample| sample.outcome).collect();
    let refused = outcomes.iter().filter(|outcome| **outcome == Outcome::Refused).count();
    assert!(refused > 50, "{outcomes:?}");
    assert!(killed.lost().len() >= outcomes.len(), "{outcomes:?}");

    let (dropped, struck) = during(&mut rig, Fault::Drop, two);
    let late = dropped.samples.iter().filter(|s| s.due > struck.at + struck.took);
    let outcomes: Vec<Outcome> = late.map(|sample| sample.outcome).collect();
    assert!(outcomes.len() > 50 && outcomes.iter().all(|o| *o == Outcome::Timeout), "{outcomes:?}");

    let (refused, struck) = during(&mut rig, Fault::Refuse, three);
    let late = refused.between(struck.at + struck.took, Duration::MAX);
    assert_eq!(late.why.get("503"), Some(&late.requests));
    assert_eq!(late.lost_get + late.lost_post, late.requests);
}

#[test]
fn a_delivery_that_came_twice_is_counted() {
    let rig = Rig::new();
    let load = rig.load(Plan { rate: 100, ..Plan::new(endpoint(&rig, 1)) });
    rig::wait("ten are done", || (load.done() >= 10).then_some(()));
    assert_eq!(ask(&rig, 2, "/r/3"), Ok(200));
    let all = rig.finish(load).all();
    assert_eq!((all.twice_get, all.twice_post), (1, 0));
}

#[test]
fn nothing_is_left_of_a_rig() {
    let rig = Rig::new();
    let dir = rig.dir().to_owned();
    let named = |process: std::fs::DirEntry| {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&*dir.to_string_lossy())
    };
    let count = || std::fs::read_dir("/proc").unwrap().flatten().map(named);
    assert!(count().any(|named| named), "the rig's processes are found while it runs");
    drop(rig);
    assert!(!count().any(|named| named), "a process was left");
    assert!(!dir.exists(), "the directory was left");
}
