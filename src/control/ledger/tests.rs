//! Records and their cost, told by hand.

use super::*;
use crate::config::WhenNone;
use crate::failover::record::Stamp;
use crate::table::build;
use crate::table::counters::{Loss, Proof, UpstreamError};
use crate::table::fixture::{config, listener, pool, service_of};

const HOT: [&str; 2] = ["10.0.1.1:80", "10.0.1.2:80"];

fn table() -> Table {
    let pools = vec![pool("hot", &HOT), pool("standby", &["10.0.2.1:80"])];
    let service = service_of("app", WhenNone::TryAll, pools);
    let config = config(vec![listener("web", "0.0.0.0:80", &[0])], vec![service]);
    build::first(config, 2, Duration::ZERO)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A ledger that has seen some calm seconds of `table`, up to and with second 10.
fn settled(table: &Table) -> Ledger {
    let mut ledger = Ledger::default();
    for second in 0..=10 {
        assert_eq!(ledger.tick(table, Duration::from_secs(second)), []);
    }
    ledger
}

fn told(table: &Table, began: u64, decided: u64) -> Told<'static> {
    let service = &table.services[0];
    Told {
        service: 0,
        from: Arc::clone(&service.pools[0]),
        to: Arc::clone(&service.pools[1]),
        cause: Cause::Health,
        reason: "0 of 2 endpoints up, needs 1",
        forced: false,
        held: false,
        aborted: None,
        began: millis(began),
        first_failure: millis(began),
        decided: millis(decided),
        published: millis(decided) + Duration::from_micros(50),
        clock: Clock { now: millis(decided), unix: Duration::from_secs(1_000_000) },
    }
}

fn failed(at: u64, source: Source, result: &str) -> Noted {
    let (began, at) = (millis(at), millis(at));
    Noted { source, success: false, result: result.into(), phases: None, began, at }
}

/// What workers count of one request that was rescued, and of one that was lost.
fn rescue(table: &Table, wait_micros: u64) {
    let worker = table.services[0].counters.workers.of(0);
    worker.rescued[Proof::NotSent as usize].increment();
    worker.rescue_wait_micros.add(wait_micros);
    worker.rescue_wait_most_micros.fetch_max(wait_micros, Ordering::Relaxed);
    table.listeners[0].targets[0].counters.workers.of(0).codes.increment(200);
    table.services[0].pools[1].endpoints[0].counters.workers.of(0).responses[1].increment();
}

fn lose(table: &Table) {
    table.services[0].counters.workers.of(1).lost[Loss::NotIdempotent as usize].increment();
    table.listeners[0].targets[0].counters.workers.of(1).codes.increment(502);
}

fn ids(records: &[Arc<Record>]) -> Vec<(&str, bool)> {
    records.iter().map(|record| (&*record.id, record.complete)).collect()
}

#[test]
fn a_move_is_recorded_with_evidence_rules_and_times_and_completed_when_all_is_quiet() {
    let table = table();
    let mut ledger = settled(&table);
    let (hot, standby) = (&table.services[0].pools[0], &table.services[0].pools[1]);
    hot.endpoints[0].enter();
    hot.endpoints[0].counters.workers.of(1).errors[UpstreamError::Refused as usize].add(3);
    ledger.observed(hot.endpoints[0].id, failed(10_400, Source::Live, "connection refused"));
    ledger.observed(hot.endpoints[0].id, failed(10_401, Source::Live, "connection refused"));
    for at in 10_410..10_420 {
        ledger.observed(hot.endpoints[0].id, failed(at, Source::Confirm, "connection refused"));
    }
    let proof = Noted { success: true, ..failed(10_415, Source::Confirm, "200") };
    ledger.observed(standby.endpoints[0].id, proof);
    rescue(&table, 900);
    let elsewhere = millis(10_403).as_nanos() as u64 + 1;
    table.services[0].counters.first_elsewhere.store(elsewhere, Ordering::Relaxed);

    hot.endpoints[0].counters.workers.of(1).failed_at(UpstreamError::Refused, millis(10_407));

    let records = ledger.moved(&table, &told(&table, 10_400, 10_420));
    assert_eq!(ids(&records), [("app-1", false)]);
    let record = &records[0];
    assert_eq!((&*record.from, &*record.to), ("hot", "standby"));
    let times = record.times;
    let since = |stamp: Stamp| times.decided.since(stamp).as_millis();
    assert_eq!(since(times.first_evidence), 20, "the first refused request, not the first probe");
    assert_eq!(since(times.first_success.unwrap()), 17);
    assert_eq!(since(times.first_failure.unwrap()), 20);
    assert_eq!(record.rules["unhealthy_threshold"], "3");
    assert_eq!(record.rules["interval"], "1s");
    assert_eq!(record.rules["timeout"], "800ms");
    assert_eq!(record.config.generation, 1);
    assert_eq!((record.cost.in_flight, record.cost.rescued["not_sent"]), (1, 1));
    let told: Vec<_> = record.evidence.iter().map(|e| (&*e.pool, e.source, e.count)).collect();
    let confirm = ("hot", Source::Confirm, 1);
    let proof = ("standby", Source::Confirm, 1);
    assert_eq!(told, [proof, confirm, confirm, confirm, ("hot", Source::Live, 3)]);
    assert_eq!(since(record.evidence[4].at), 13, "when the last request failed");

    // It goes on for a while: a request at hot is lost, another one is rescued late.
    assert_eq!(ledger.tick(&table, millis(11_000)), [], "nothing new");
    lose(&table);
    rescue(&table, 2_100);
    hot.endpoints[0].leave();
    let known = ledger.tick(&table, millis(12_000));
    assert_eq!((known[0].1.complete, known[0].1.cost.lost_total()), (false, 1));
    let known = ledger.tick(&table, millis(13_000));
    assert_eq!(known.len(), 1);
    let record = &known[0].1;
    assert!(record.complete && record.times.completed.is_some());
    let cost = &record.cost;
    assert_eq!((cost.requests, cost.rescued_total(), cost.lost_total()), (3, 2, 1));
    assert_eq!((cost.added_latency_mean_micros, cost.added_latency_most_micros), (1500, 2100));
    assert_eq!(ledger.tick(&table, millis(14_000)), [], "it changes no more");
}

#[test]
fn a_record_says_what_still_waits_and_is_complete_when_that_ended_or_was_cut() {
    let table = table();
    let mut ledger = settled(&table);
    let hanging = &table.services[0].pools[0].endpoints[1];
    (0..3).for_each(|_| hanging.enter());
    let records = ledger.moved(&table, &told(&table, 10_500, 10_500));
    let waiting = records[0].waiting.unwrap();
    let after = waiting.until.since(records[0].times.published);
    assert_eq!(
        (waiting.requests, after),
        (3, Duration::from_secs(45)),
        "close_after, spread and 5 s"
    );
    assert_eq!(ledger.tick(&table, millis(11_000)), []);
    hanging.leave();
    lose(&table);
    let known = ledger.tick(&table, millis(12_000));
    assert_eq!(known[0].1.waiting.unwrap().requests, 2);
    assert_eq!((known[0].1.cost.lost_total(), known[0].1.complete), (1, false));
    let mut ticks = (13..60).map(|second| (second, ledger.tick(&table, millis(second * 1000))));
    let (second, known) = ticks.find(|(_, known)| !known.is_empty()).unwrap();
    assert_eq!(second, 56);
    assert!(known[0].1.complete && known[0].1.waiting.is_none());
}

#[test]
fn the_first_evidence_is_what_requests_met_before_any_probe_could_tell() {
    let table = table();
    let mut ledger = settled(&table);
    let hot = &table.services[0].pools[0];
    let moved = Move {
        from: 0,
        to: 1,
        cause: Cause::Health,
        first_evidence: millis(10_450),
        first_failure: millis(10_850),
        decided: millis(10_900),
    };
    let first = |ledger: &Ledger| ledger.first_evidence(hot, &moved).as_millis();
    assert_eq!(first(&ledger), 10_450, "the probe that failed first");
    // Silent for a moment long ago, and dead since before: neither is of this event.
    ledger.sighted(hot.endpoints[0].id, SILENCE, millis(7_000));
    assert_eq!(first(&ledger), 10_450);
    let well = |began: u64| Noted {
        success: true,
        began: millis(began),
        at: millis(began + 2),
        ..failed(0, Source::Probe, "200")
    };
    ledger.observed(hot.endpoints[0].id, well(7_500));
    ledger.sighted(hot.endpoints[0].id, SILENCE, millis(10_430));
    ledger.sighted(hot.endpoints[0].id, SILENCE, millis(10_600));
    ledger.observed(hot.endpoints[0].id, well(10_429));
    assert_eq!(first(&ledger), 10_430, "a probe that began before it says nothing of it");
    let records = ledger.moved(&table, &told(&table, 10_430, 10_900));
    let silence = &records[0].evidence[0];
    assert_eq!((&*silence.result, silence.at), (SILENCE, records[0].times.first_evidence));
    ledger.observed(hot.endpoints[0].id, well(10_601));
    assert_eq!(first(&ledger), 10_450, "it answered");
}

#[test]
fn an_answer_from_elsewhere_before_the_evidence_is_not_the_first_after_it() {
    let table = table();
    let mut ledger = settled(&table);
    let early = millis(10_390).as_nanos() as u64 + 1;
    table.services[0].counters.first_elsewhere.store(early, Ordering::Relaxed);
    ledger.moved(&table, &told(&table, 10_400, 10_420));
    rescue(&table, 1);
    ledger.tick(&table, millis(10_431));
    let known = ledger.tick(&table, millis(11_000));
    let times = known[0].1.times;
    assert_eq!(times.first_success.unwrap().since(times.first_evidence), millis(31));
}

#[test]
fn the_next_move_completes_the_record_before_and_counts_nothing_twice() {
    let table = table();
    let mut ledger = settled(&table);
    lose(&table);
    ledger.moved(&table, &told(&table, 10_100, 10_200));
    lose(&table);
    rescue(&table, 10);
    let records = ledger.moved(&table, &told(&table, 10_150, 10_300));
    assert_eq!(ids(&records), [("app-1", true), ("app-2", false)]);
    assert_eq!(records[0].cost.lost_total(), 2);
    assert_eq!(records[1].cost, Cost::default());
    lose(&table);
    let known: Vec<_> = (11..60).flat_map(|s| ledger.tick(&table, millis(s * 1000))).collect();
    let complete: Vec<_> = known.iter().filter(|(_, record)| record.complete).collect();
    assert_eq!((complete.len(), complete[0].1.cost.lost_total()), (1, 1));
}

#[test]
fn an_order_without_evidence_counts_from_the_order_on() {
    let table = table();
    let mut ledger = settled(&table);
    lose(&table);
    let order = Told { cause: Cause::Manual, ..told(&table, 10_700, 10_700) };
    let records = ledger.moved(&table, &order);
    assert_eq!(records[0].cost, Cost::default());
    assert_eq!(records[0].evidence, []);
    assert_eq!(records[0].times.first_evidence, records[0].times.decided);
}

#[test]
fn the_first_answer_is_looked_for_every_ten_milliseconds_and_not_for_ever() {
    let table = table();
    let mut ledger = settled(&table);
    assert_eq!(ledger.wake(millis(10_010)), millis(11_000));
    ledger.moved(&table, &Told { cause: Cause::Manual, ..told(&table, 10_500, 10_500) });
    // Whatever else happens does not put it off.
    assert_eq!(ledger.wake(millis(10_501)).as_millis(), 10_510);
    assert_eq!(ledger.wake(millis(10_509)).as_millis(), 10_510);
    ledger.tick(&table, millis(10_520));
    rescue(&table, 1);
    ledger.tick(&table, millis(10_530));
    assert_eq!(ledger.wake(millis(10_530)), millis(11_000));
    let known: Vec<_> = (11..20).flat_map(|s| ledger.tick(&table, millis(s * 1000))).collect();
    let times = known[0].1.times;
    assert_eq!(times.first_success.unwrap().since(times.decided), millis(30));

    ledger.moved(&table, &Told { cause: Cause::Manual, ..told(&table, 20_500, 20_500) });
    assert_eq!(ledger.wake(millis(30_600)), ledger.sample_at);
}

#[test]
fn calm_forgets_what_was_first_and_longest_and_trouble_does_not() {
    let table = table();
    let mut ledger = settled(&table);
    let counters = &table.services[0].counters;
    let longest = || counters.workers.of(0).rescue_wait_most_micros.load(Ordering::Relaxed);
    rescue(&table, 77);
    counters.first_elsewhere.store(millis(10_500).as_nanos() as u64, Ordering::Relaxed);
    ledger.tick(&table, millis(11_000));
    assert_eq!(longest(), 77);
    ledger.tick(&table, millis(12_000));
    assert_eq!((longest(), counters.first_elsewhere.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn numbers_go_on_where_they_were() {
    let table = table();
    let mut ledger = Ledger::default();
    ledger.resume(&table.services[0].config.name, 41);
    assert_eq!(ledger.next_number(&table.services[0]), 41);
    let records = ledger.moved(&table, &told(&table, 5, 5));
    assert_eq!(records[0].id, "app-41");
    ledger.follow(&table);
    assert_eq!(ledger.next_number(&table.services[0]), 42);
}
