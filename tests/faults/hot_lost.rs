//! The whole hot pool is lost, in every way: the requests find the standby, and the service follows.

use std::time::Duration;

use serde_json::Value;

use crate::certs::Authority;
use crate::rig::load::Sample;
use crate::rig::{At, Fault, Pool, pool_of};
use crate::trial::{Ended, SOME, Trial};

/// Probes that go round once a second need that long to fail three times.
const THREE_ORDINARY_PROBES: Duration = Duration::from_secs(2);

/// Strikes all of hot and goes on for a while after the move; and when the fault had taken effect.
/// `cause` is what the record must say the probes met.
fn lose(mut trial: Trial, fault: Fault, cause: &str) -> (Ended, Duration, Duration) {
    let struck = trial.strike(fault, At::Hot);
    let done = trial.rig.now();
    moved(trial, struck, done, cause)
}

fn moved(
    mut trial: Trial,
    struck: Duration,
    done: Duration,
    cause: &str,
) -> (Ended, Duration, Duration) {
    trial.wait_serving(Pool::Standby);
    trial.carry_on(SOME);
    trial.whole_records = true;
    let ended = trial.end();
    assert_lost_well(&ended, struck);
    assert_told(&ended, cause);
    (ended, struck, done)
}

/// What must be so however hot was lost.
fn assert_lost_well(ended: &Ended, struck: Duration) {
    let (report, all) = (ended.report(), ended.all());
    assert_eq!(all.lost_get, 0, "{:?}", all.why);
    assert_eq!(ended.moves(), ["standby"]);
    let early = report.samples.iter().filter(|sample| sample.done() < struck);
    let early: Vec<_> = early.filter_map(Sample::endpoint).map(pool_of).collect();
    let elsewhere = early.iter().filter(|pool| **pool != Pool::Hot).count();
    // Where a busy machine lets hot be silent for a moment, some are answered by the standby.
    assert!(elsewhere * 20 <= early.len(), "{elsewhere} of {} before the fault", early.len());
    // Requests may be on their way at the move; a second later none is.
    let late = ended.moved_at() + Duration::from_secs(1);
    assert_eq!(report.delivered_to(Pool::Hot, late), 0, "after the move");
    let late: Vec<_> =
        ended.lost_posts().into_iter().filter(|post| post.due > ended.moved_at()).collect();
    assert!(late.is_empty(), "lost after the move: {late:?}");
}

/// The record alone tells what happened and what it cost.
fn assert_told(ended: &Ended, cause: &str) {
    let record = &ended.records[0];
    let reason = record["reason"].as_str().unwrap();
    let named: Vec<_> = CAUSES.into_iter().filter(|known| reason.contains(known)).collect();
    assert_eq!(named, [cause], "{record:#}");
    // For people it is broken into lines.
    let told = ended.told.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains(&format!("because hot failed: {reason}")), "{reason}: {told}");
    let all = record["evidence"].as_array().unwrap().iter();
    let told = |evidence: &Value| {
        let result = evidence["result"].as_str().unwrap();
        evidence["pool"] == "hot" && evidence["success"] == false && result.contains(cause)
    };
    assert!(all.clone().any(told), "{cause}: {record:#}");
    assert!(all.clone().any(|e| e["pool"] == "standby" && e["success"] == true), "{record:#}");
    assert_eq!((&record["cause"], &record["to"]), (&"health".into(), &"standby".into()));
    let at = |what: &str| record["times"][what].as_u64().unwrap();
    let order = ["first_evidence", "first_failure", "decided", "published", "completed"].map(at);
    assert!(order.is_sorted() && at("first_evidence") <= at("first_success"), "{record:#}");
    assert_eq!((&record["complete"], &record["waiting"]), (&true.into(), &Value::Null));
    let sum = |what: &str| -> u64 {
        record["cost"][what].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
    };
    let off = ended.all().requests as u64 / 1000;
    let rescued = ended.grown("standfast_requests_rescued_total");
    assert!(sum("rescued").abs_diff(rescued) <= off, "{rescued} rescued: {record:#}");
    let held = ended.grown("standfast_requests_held_total");
    assert!(record["cost"]["held"].as_u64().unwrap().abs_diff(held) <= off, "{held}: {record:#}");
    let lost = ended.report().lost().len() as u64;
    assert!(sum("lost").abs_diff(lost) <= off, "{lost} lost: {record:#}");
}

/// What hot can be lost by, as a record names it.
const CAUSES: [&str; 7] = [
    "connection refused",
    "no connection within",
    "no answer within",
    "503",
    "x-cluster-id",
    "expired",
    "UnknownIssuer",
];

#[test]
fn killed_hot_loses_no_request_but_posts_in_flight() {
    let (ended, _, done) = lose(Trial::begin(), Fault::Kill, "connection refused");
    for post in ended.lost_posts() {
        assert!(post.due < done, "due after all were dead: {post:?}, {done:?}");
    }
}

#[test]
fn black_holed_hot_is_left_by_requests_first_and_by_the_service_before_three_probes_could_tell() {
    let (ended, struck, _) = lose(Trial::begin(), Fault::Drop, "no connection within");
    assert_left_early(&ended, struck);
}

#[test]
fn hot_behind_a_dead_link_is_left_as_early() {
    let (ended, struck, _) = lose(Trial::begin(), Fault::LinkDown, "no connection within");
    assert_left_early(&ended, struck);
}

fn assert_left_early(ended: &Ended, struck: Duration) {
    let first = struck + ended.report().first_success(struck, Pool::Standby).unwrap();
    let moved = ended.moved_at();
    assert!(first < moved, "first success at {first:?}, moved at {moved:?}");
    assert!(moved < struck + THREE_ORDINARY_PROBES, "struck at {struck:?}, moved at {moved:?}");
}

#[test]
fn stopped_hot_loses_no_idempotent_request_and_few_posts() {
    let (ended, _, _) = lose(Trial::begin(), Fault::Stop, "no answer within");
    let posts = ended.lost_posts().len();
    assert!(posts <= 100, "{posts} POST lost");
}

#[test]
fn hot_behind_a_firewall_that_rejects_is_lost_at_once() {
    let (ended, struck, _) = lose(Trial::begin(), Fault::Reject, "connection refused");
    assert!(ended.moved_at() < struck + THREE_ORDINARY_PROBES);
}

#[test]
fn hot_behind_a_firewall_that_resets_is_lost_at_once() {
    let (ended, struck, _) = lose(Trial::begin(), Fault::Reset, "connection refused");
    assert!(ended.moved_at() < struck + THREE_ORDINARY_PROBES);
}

#[test]
fn hot_that_answers_503_to_all_is_left_with_three_posts_at_most_lost() {
    let (ended, _, _) = lose(Trial::begin(), Fault::Refuse, "503");
    let posts = ended.lost_posts();
    assert!(posts.len() <= 3, "{posts:?}");
}

#[test]
fn hot_that_answers_503_to_users_is_left_although_its_probes_pass() {
    let (ended, _, _) = lose(Trial::begin(), Fault::RefuseUsers, "503");
    let posts = ended.lost_posts();
    assert!(posts.len() <= 5, "{posts:?}");
}

#[test]
fn hot_addresses_that_lead_to_another_cluster_are_left() {
    // Only the hot pool expects to be hot.
    let expect = "health_check: { expect: { header: { x-cluster-id: hot } } }";
    let named =
        |config: &str| config.replace("- name: hot\n", &format!("- name: hot\n        {expect}\n"));
    let (ended, _, _) = lose(Trial::with(named), Fault::Foreign, "x-cluster-id");
    assert_eq!(ended.all().lost_post, 0, "{:?}", ended.all().why);
}

#[test]
fn hot_with_an_expired_certificate_is_left() {
    certified("expired", |ca| ca.issue_expired("late", &["app.test"]));
}

#[test]
fn hot_with_a_certificate_of_a_stranger_is_left() {
    certified("UnknownIssuer", |ca| {
        let dir = ca.ca_file.parent().unwrap();
        Authority::new(dir, "stranger").issue("strange", &["app.test"])
    });
}

/// Both pools with TLS; then hot has another certificate.
fn certified(cause: &str, other: impl FnOnce(&Authority) -> crate::certs::Pair) {
    let mut authority = None;
    let mut trial = Trial::prepared(|rig| {
        let ca = authority.insert(Authority::new(rig.dir(), "ca"));
        let pair = ca.issue("good", &["app.test"]);
        rig.certify(At::Both, &pair.cert_file, &pair.key_file);
        let tls = format!(
            "    upstream: {{ tls: {{ server_name: app.test, ca_file: {} }} }}\n    pools:\n",
            ca.ca_file.display()
        );
        rig.config()
            .replace("http:", "https:")
            .replace(":80,", ",")
            .replace(":80]", "]")
            .replace("    pools:\n", &tls)
    });
    let pair = other(authority.as_ref().unwrap());
    let struck = trial.rig.certify(At::Hot, &pair.cert_file, &pair.key_file);
    let (ended, _, _) = moved(trial, struck.at, struck.at + struck.took, cause);
    let posts = ended.lost_posts();
    assert!(posts.len() <= 3, "{posts:?}");
}
