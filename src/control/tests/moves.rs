//! Evidence, verdicts, and the moves that follow.

use super::*;

#[tokio::test(start_paused = true)]
async fn probing_begins_at_once_and_one_success_settles() {
    let rig = rig(two_pools());
    let took = rig.until(|table| table.endpoints().all(|(_, v)| v == Verdict::Up)).await;
    assert!(took < Duration::from_millis(10), "{took:?}");
    assert_eq!(rig.app().cause, Cause::Start);
}

#[tokio::test(start_paused = true)]
async fn three_refusals_move_the_whole_service_in_one_publish() {
    let rig = settled().await;
    let (version, asked) = (rig.table().version, rig.sim.asked(HOT));
    rig.sim.let_be(HOT, Life::Refusing);
    let took = rig.until(|table| serving(table) == 1).await;
    // At most one interval until the first failure, which starts a burst: the second probe of it
    // is the third failure.
    assert!(between(took, 20, 1_100 + 25), "{took:?}");
    assert_eq!(rig.table().version, version + 1);
    assert_eq!(rig.sim.asked(HOT), asked + 3);
    let app = rig.app();
    assert_eq!((app.cause, rig.verdict(HOT)), (Cause::Health, Verdict::Down));
    let last = app.history.last.clone().unwrap();
    assert_eq!((&*last.from, &*last.to), ("hot", "standby"));
    assert_eq!(&*last.reason, "connection refused; 0 of 1 endpoints up, needs 1");
    assert!(between(last.published - last.first_evidence, 20, 25), "{last:?}");
    assert_eq!(app.pools[0].details[0].reason.as_deref(), Some("connection refused"));
    assert_eq!(app.history.detection.count, 1);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_failed_a_request_is_looked_at_at_once() {
    let rig = settled().await;
    let id = rig.app().pools[0].endpoints[0].id;
    let asked = rig.sim.asked(HOT);
    rig.sim.let_be(HOT, Life::Refusing);
    for _ in 0..50 {
        rig.sightings.send(saw(id, Seen::Reset)).await.unwrap();
    }
    let took = rig.until(|table| serving(table) == 1).await;
    // One burst, however many requests failed.
    assert!(between(took, 40, 45), "{took:?}");
    assert_eq!(rig.sim.asked(HOT), asked + 3);
}

#[tokio::test(start_paused = true)]
async fn refused_connections_of_requests_count_like_probes_and_move_at_once_with_proof() {
    let rig = settled().await;
    let id = rig.app().pools[0].endpoints[0].id;
    rig.sim.let_be(HOT, Life::Refusing);
    for _ in 0..3 {
        rig.sightings.send(saw(id, Seen::Refused)).await.unwrap();
    }
    let took = rig.until(|table| serving(table) == 1).await;
    assert!(took <= Duration::from_millis(3), "as soon as standby has answered: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn gateway_errors_of_live_traffic_bar_an_endpoint_and_good_probes_bring_it_back() {
    let rig = settled().await;
    let id = rig.app().pools[0].endpoints[0].id;
    rig.sightings.send(saw(id, Seen::Errors { count: 5, status: 503 })).await.unwrap();
    let took = rig.until(|table| serving(table) == 1).await;
    assert!(took <= Duration::from_millis(3), "{took:?}");
    let back = rig.until(|table| table.services[0].pools[0].available).await;
    assert!(between(back, 10_000, 12_500), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_say_nothing_of_an_endpoint_that_is_not_checked() {
    let hot = config::Pool { health_check: None, ..(*pool("hot", &[HOT])).clone() };
    let services = vec![service_of("app", WhenNone::TryAll, vec![Arc::new(hot)])];
    let rig = rig(config(two_pools().listeners.clone(), services));
    let id = rig.app().pools[0].endpoints[0].id;
    for kind in [Seen::Refused, Seen::Silent, Seen::Errors { count: 5, status: 503 }] {
        for _ in 0..10 {
            rig.sightings.send(saw(id, kind)).await.unwrap();
        }
    }
    sleep(Duration::from_secs(10)).await;
    assert_eq!((rig.verdict(HOT), rig.sim.asked(HOT)), (Verdict::Unknown, 0));
}

#[tokio::test(start_paused = true)]
async fn requests_that_fail_move_nothing_while_probes_succeed() {
    let rig = settled().await;
    let (id, version) = (rig.app().pools[0].endpoints[0].id, rig.table().version);
    let asked = rig.sim.asked(HOT);
    for _ in 0..500 {
        rig.sightings.send(saw(id, Seen::Silent)).await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((serving(&rig.table()), rig.table().version), (0, version));
    // Five seconds of bursts, four in a second, and the ordinary probes.
    assert!(rig.sim.asked(HOT) - asked <= 5 * 4 * 3 + 6, "{}", rig.sim.asked(HOT) - asked);
}

#[tokio::test(start_paused = true)]
async fn silence_moves_the_service_after_one_timeout_and_a_burst_of_less_patience() {
    let rig = settled().await;
    rig.sim.let_be(HOT, Life::Silent);
    let took = rig.until(|table| serving(table) == 1).await;
    assert!(between(took, 800 + 120, 1_100 + 800 + 120 + 5), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_service_returns_once_hot_was_well_for_long_enough() {
    let rig = settled().await;
    rig.sim.let_be(HOT, Life::Refusing);
    rig.until(|table| serving(table) == 1).await;
    rig.sim.let_be(HOT, Life::Well);
    let up = rig.until(|table| table.services[0].pools[0].available).await;
    assert!(up < Duration::from_millis(1_300), "{up:?}");
    let took = rig.until(|table| serving(table) == 0).await;
    assert!(between(took, 300_000, 300_010), "{took:?}");
    let counts: Vec<_> = rig.app().history.counts.iter().map(|c| (c.cause, c.count)).collect();
    assert_eq!(counts, [(Cause::Health, 1), (Cause::Failback, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_flapping_hot_pool_is_left_once_and_not_returned_to() {
    let rig = settled().await;
    for _ in 0..60 {
        rig.sim.let_be(HOT, Life::Refusing);
        sleep(Duration::from_secs(5)).await;
        rig.sim.let_be(HOT, Life::Well);
        sleep(Duration::from_secs(5)).await;
    }
    let moves: u64 = rig.app().history.counts.iter().map(|count| count.count).sum();
    assert_eq!((moves, serving(&rig.table())), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn with_both_down_the_service_tries_all_and_the_first_to_return_serves() {
    let rig = settled().await;
    rig.sim.let_be(HOT, Life::Refusing);
    rig.sim.let_be(STANDBY, Life::Refusing);
    rig.until(|table| table.services[0].none_available).await;
    assert_eq!(rig.app().order.len(), 2);
    let stayed = serving(&rig.table());
    rig.sim.let_be([HOT, STANDBY][1 - stayed], Life::Well);
    rig.until(|table| serving(table) != stayed).await;
    assert!(!rig.app().none_available);
}

#[tokio::test(start_paused = true)]
async fn our_own_faults_never_move_anything() {
    let rig = settled().await;
    let version = rig.table().version;
    rig.sim.let_be(HOT, Life::OurFault);
    sleep(Duration::from_secs(60)).await;
    assert_eq!((rig.table().version, rig.verdict(HOT)), (version, Verdict::Up));
    let table = rig.table();
    let probes = &table.services[0].pools[0].endpoints[0].counters.probes;
    assert!(probes.voids.value() >= 54 && probes.failures.value() == 0, "{probes:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_while_nothing_changes() {
    let rig = settled().await;
    let version = rig.table().version;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(rig.table().version, version);
    // A settled endpoint is asked once in an interval, the standby as often as the hot one.
    for endpoint in [HOT, STANDBY] {
        assert!((3_500..3_750).contains(&rig.sim.asked(endpoint)), "{}", rig.sim.asked(endpoint));
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_evidence_is_the_first_failed_probe_of_any_endpoint_of_the_pool() {
    let hot = [HOT, "10.0.1.2:80"];
    let rig = rig(config(two_pools().listeners.clone(), vec![app(&hot, &[STANDBY])]));
    rig.until(|table| table.endpoints().all(|(_, verdict)| verdict == Verdict::Up)).await;
    sleep(Duration::from_secs(100)).await;
    let killed = rig.sim.start.elapsed();
    hot.iter().for_each(|endpoint| rig.sim.let_be(endpoint, Life::Refusing));
    rig.until(|table| serving(table) == 1).await;
    let asked = rig.sim.asked.lock().unwrap();
    let first =
        asked.iter().find(|(name, at, _)| *at > killed && hot.contains(&&**name)).unwrap().1;
    let last = rig.app().history.last.clone().unwrap();
    assert!(between(first - last.first_evidence, 0, 1), "{first:?} {last:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_evidence_of_silence_is_the_question_nobody_answered() {
    let rig = settled().await;
    let silent = rig.sim.start.elapsed();
    rig.sim.let_be(HOT, Life::Silent);
    rig.until(|table| serving(table) == 1).await;
    let asked = rig.sim.asked.lock().unwrap();
    let first = asked.iter().find(|(name, at, _)| *at > silent && name == HOT).unwrap().1;
    let app = rig.app();
    let last = app.history.last.clone().unwrap();
    assert!(between(first - last.first_evidence, 0, 1), "{first:?} {last:?}");
    let times = app.history.records[0].times;
    let known = times.first_failure.unwrap().since(times.first_evidence);
    assert!(between(known, 800, 802), "patience is over: {known:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_evidence_is_what_a_request_met_where_probes_confirm_it() {
    let rig = settled().await;
    let id = rig.app().pools[0].endpoints[0].id;
    rig.sim.let_be(HOT, Life::Silent);
    let at = rig.sim.start.elapsed() - Duration::from_millis(30);
    rig.sightings.send(Sighting { endpoint: id, kind: Seen::Silent, at }).await.unwrap();
    rig.until(|table| serving(table) == 1).await;
    let app = rig.app();
    let last = app.history.last.clone().unwrap();
    assert_eq!(last.first_evidence, at);
    let seen = &app.history.records[0].evidence;
    assert!(seen.iter().any(|seen| &*seen.result == "silence" && !seen.success), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn what_nothing_is_known_of_is_unknown_since_it_came() {
    let late = Duration::from_secs(48 * 60 * 60);
    let table = build::first(two_pools(), 1, late);
    let memory = Memory::new(&table);
    for (endpoint, _) in table.endpoints() {
        assert_eq!(memory.standing(endpoint.id).detail.since, late);
    }
    assert!(table.services[0].pools.iter().all(|pool| pool.details[0].since == late));
    let rig = settled().await;
    let now = rig.sim.start.elapsed();
    let fresh = app(&[HOT, "10.0.1.9:80"], &[STANDBY]);
    rig.sim.let_be("10.0.1.9:80", Life::Silent);
    let new = config(vec![listener("web", "0.0.0.0:80", &[0])], vec![fresh]);
    rig.reload_to(&new, false).await.unwrap();
    let detail = &rig.app().pools[0].details[1];
    assert!(detail.since >= now, "{detail:?}");
}

#[tokio::test(start_paused = true)]
async fn stop_ends_control_and_its_probes() {
    let rig = settled().await;
    rig.events.send(Event::Stop).await.unwrap();
    rig.task.await.unwrap();
    let asked = rig.sim.asked(HOT);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.sim.asked(HOT), asked);
}

#[tokio::test(start_paused = true)]
async fn from_what_a_request_met_to_the_move_it_takes_one_burst() {
    let cases = [
        (Seen::Refused, Life::Refusing, 20, 25),
        // Two probes 20 ms after each other begin after the first, each patient for 100 ms …
        (Seen::Silent, Life::Silent, 140, 145),
        // … or 400 ms, where connections come about but no answer.
        (Seen::Silent, Life::Slow(60_000), 440, 445),
    ];
    for (kind, life, from, to) in cases {
        let rig = settled().await;
        let id = rig.app().pools[0].endpoints[0].id;
        rig.sim.let_be(HOT, life);
        rig.sightings.send(saw(id, kind)).await.unwrap();
        let took = rig.until(|table| serving(table) == 1).await;
        assert!(between(took, from, to), "{kind:?} {life:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_towards_a_burst_is_void_while_requests_are_answered() {
    let rig = settled().await;
    let endpoint = Arc::clone(&rig.app().pools[0].endpoints[0]);
    rig.sim.let_be(HOT, Life::Slow(600));
    for _ in 0..200 {
        let _ = rig.sightings.try_send(saw(endpoint.id, Seen::Silent));
        endpoint.counters.workers.of(0).responses[1].increment();
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((serving(&rig.table()), rig.verdict(HOT)), (0, Verdict::Up), "slow is not dead");
    assert!(endpoint.counters.probes.voids.value() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_endpoints_that_die_at_once_do_not_take_all_sockets() {
    let names: Vec<_> = (0..1000).map(|i| format!("10.1.{}.{}:80", i / 250, i % 250)).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let rig = rig(config(two_pools().listeners.clone(), vec![app(&names, &[STANDBY])]));
    rig.until(|table| table.endpoints().all(|(_, v)| v == Verdict::Up)).await;
    sleep(Duration::from_secs(5)).await;
    names.iter().for_each(|name| rig.sim.let_be(name, Life::Silent));
    for endpoint in &rig.app().pools[0].endpoints {
        rig.sightings.send(saw(endpoint.id, Seen::Silent)).await.unwrap();
    }
    let before = rig.sim.asked.lock().unwrap().len();
    sleep(Duration::from_millis(50)).await;
    let asked = rig.sim.asked.lock().unwrap().len() - before;
    assert!(asked <= bursts::AT_ONCE + 100, "and the ordinary ones: {asked}");
    let took = rig.until(|table| serving(table) == 1).await;
    assert!(took <= Duration::from_secs(4), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn isolation_too_short_to_darken_everything_moves_nothing() {
    for millis in [90, 105, 125, 135, 150, 300] {
        let rig = settled().await;
        let id = rig.app().pools[0].endpoints[0].id;
        rig.sim.isolated.store(true, Ordering::Relaxed);
        rig.sightings.send(saw(id, Seen::Silent)).await.unwrap();
        sleep(Duration::from_millis(millis)).await;
        rig.sim.isolated.store(false, Ordering::Relaxed);
        sleep(Duration::from_secs(10)).await;
        assert_eq!((serving(&rig.table()), rig.app().history.last.clone()), (0, None), "{millis}");
        assert_eq!(rig.verdict(HOT), Verdict::Up);
    }
}
