//! What a reload keeps and changes.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_health_sockets_and_the_rhythm_of_probes() {
    let rig = settled().await;
    rig.sim.let_be(HOT, Life::Refusing);
    rig.until(|table| serving(table) == 1).await;
    let since = rig.app().since;
    let asked = rig.sim.asked(STANDBY);
    let fresh = "10.0.2.2:80";
    let new = config(
        vec![listener("renamed", "0.0.0.0:80", &[0]), listener("more", "0.0.0.0:81", &[0])],
        vec![app(&[HOT], &[STANDBY, fresh])],
    );
    let reloaded = rig.reload_to(&new, false).await.unwrap();
    assert_eq!((reloaded.generation, &*reloaded.changes), (2, &["1 services become 1".into()][..]));
    let app = rig.app();
    assert_eq!((app.serving, app.since, app.cause), (1, since, Cause::Health));
    assert_eq!((rig.verdict(HOT), rig.verdict(STANDBY)), (Verdict::Down, Verdict::Up));
    assert_eq!(rig.verdict(fresh), Verdict::Unknown);
    assert_eq!(rig.sim.done(), ["bind 81", "replace 2", "listen 2 81"]);
    assert_eq!(rig.sim.asked(STANDBY), asked, "a known endpoint is not asked anew");
    let took = rig.until(|table| table.endpoints().all(|(_, v)| v != Verdict::Unknown)).await;
    assert!(took < Duration::from_millis(10), "a new one at once: {took:?}");
    assert_eq!(rig.counters.applied.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_fails_changes_nothing() {
    let rig = settled().await;
    let table = rig.table();
    let more = vec![listener("web", "0.0.0.0:80", &[0]), listener("a", "0.0.0.0:81", &[0])];
    let taken = [more.clone(), vec![listener("b", "0.0.0.0:666", &[0])]].concat();
    let good = config(more, vec![app(&[HOT], &[STANDBY])]);

    *rig.file.lock().unwrap() = Err(vec![problem("unknown key `pols`")]);
    assert_eq!(rig.reload(false).await.unwrap_err()[0].message, "unknown key `pols`");

    rig.sim.bad_certificate.store(true, Ordering::Relaxed);
    let errors = rig.reload_to(&good, false).await.unwrap_err();
    assert_eq!(errors[0].message, "web.key does not match web.crt");
    rig.sim.bad_certificate.store(false, Ordering::Relaxed);
    assert_eq!(rig.sim.done(), [""; 0]);

    let errors = rig.reload_to(&config(taken, good.services.clone()), false).await.unwrap_err();
    assert!(errors[0].message.starts_with("cannot bind 0.0.0.0:666"), "{errors:?}");
    assert_eq!(errors[0].path, "listeners[2].bind");
    assert_eq!(rig.sim.done(), ["bind 81"], "bound and dropped, nothing else");

    let collapse = config(good.listeners.clone(), vec![app(&["10.9.9.9:80"], &["10.9.9.8:80"])]);
    assert!(rig.reload_to(&collapse, false).await.is_err());

    assert!(Arc::ptr_eq(&table, &rig.table()));
    assert_eq!(rig.counters.refused.load(Ordering::Relaxed), 4);
    assert!(!rig.counters.last_successful.load(Ordering::Relaxed));
    assert!(rig.reload_to(&collapse, true).await.is_ok(), "force allows it");
    assert!(rig.counters.last_successful.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_reload_without_the_serving_pool_hands_over_and_closes_what_is_gone() {
    let rig = settled().await;
    let standby = service_of("app", WhenNone::TryAll, vec![pool("standby", &[STANDBY])]);
    let new = config(vec![listener("web", "0.0.0.0:8080", &[0])], vec![standby]);
    rig.reload_to(&new, false).await.unwrap();
    let app = rig.app();
    assert_eq!((app.serving, app.cause), (0, Cause::Removed));
    let last = app.history.last.clone().unwrap();
    assert_eq!((&*last.from, &*last.to, last.cause), ("hot", "standby", Cause::Removed));
    assert_eq!(rig.sim.done(), ["bind 8080", "replace 1", "listen 2 8080", "unlisten 1"]);
    let asked = rig.sim.asked(HOT);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.sim.asked(HOT), asked, "what is gone is not asked any more");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_no_longer_checked_is_unknown_and_may_be_picked() {
    let rig = settled().await;
    rig.sim.let_be(HOT, Life::Refusing);
    rig.until(|table| serving(table) == 1).await;
    let unchecked = |pool: &Arc<config::Pool>| {
        Arc::new(config::Pool { health_check: None, ..(**pool).clone() })
    };
    let pools = app(&[HOT], &[STANDBY]).pools.iter().map(unchecked).collect();
    let new =
        config(two_pools().listeners.clone(), vec![service_of("app", WhenNone::TryAll, pools)]);
    rig.reload_to(&new, false).await.unwrap();
    assert_eq!(rig.verdict(HOT), Verdict::Unknown);
    assert_eq!(serving(&rig.table()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_changed_is_in_force_at_once() {
    let rig = settled().await;
    let mut pools = app(&[HOT], &[STANDBY]).pools.clone();
    for pool in &mut pools {
        let check = pool.health_check.as_ref().map(|check| config::HealthCheck {
            interval: Duration::from_secs(60),
            unhealthy_threshold: 1,
            ..check.clone()
        });
        *pool = Arc::new(config::Pool { health_check: check, ..(**pool).clone() });
    }
    let new =
        config(two_pools().listeners.clone(), vec![service_of("app", WhenNone::TryAll, pools)]);
    rig.reload_to(&new, false).await.unwrap();
    let version = rig.table().version;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.table().version, version, "a look that changes nothing is not published");
    let by = rig.sim.asked.lock().unwrap().last().unwrap().2;
    assert_eq!(by, Duration::from_secs(60));
    let asked = rig.sim.asked(HOT);
    rig.sim.let_be(HOT, Life::Refusing);
    let took = rig.until(|table| serving(table) == 1).await;
    assert!(between(took, 50_000, 66_100), "{took:?}");
    assert_eq!(rig.sim.asked(HOT), asked + 2, "one in its turn, and a burst of one");
}

#[tokio::test(start_paused = true)]
async fn a_reload_does_not_put_off_a_failback() {
    let rig = settled().await;
    rig.sim.let_be(HOT, Life::Refusing);
    rig.until(|table| serving(table) == 1).await;
    rig.sim.let_be(HOT, Life::Well);
    rig.until(|table| table.services[0].pools[0].available).await;
    sleep(Duration::from_secs(200)).await;
    rig.reload(false).await.unwrap();
    let took = rig.until(|table| serving(table) == 0).await;
    assert!(between(took, 99_900, 100_010), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stricter_min_healthy_moves_nothing_until_the_next_observation() {
    let other = "10.0.1.2:80";
    let rig = rig(config(two_pools().listeners.clone(), vec![app(&[HOT, other], &[STANDBY])]));
    rig.sim.let_be(other, Life::Refusing);
    rig.until(|table| table.endpoints().all(|(_, verdict)| verdict != Verdict::Unknown)).await;
    let mut pools = app(&[HOT, other], &[STANDBY]).pools.clone();
    pools[0] = Arc::new(config::Pool { min_healthy: 2, ..(*pools[0]).clone() });
    let new =
        config(two_pools().listeners.clone(), vec![service_of("app", WhenNone::TryAll, pools)]);
    rig.reload_to(&new, false).await.unwrap();
    assert_eq!((serving(&rig.table()), rig.app().cause), (0, Cause::Start));
    let took = rig.until(|table| serving(table) == 1).await;
    assert!(took < Duration::from_millis(1_102), "{took:?}");
}

/// The file's reader waits for `gate`, so that requests can come while a reload runs.
#[tokio::test(start_paused = true)]
async fn two_hundred_requests_while_a_reload_runs_share_one() {
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&loads);
    let template = rig(two_pools());
    let rig = rig_with(two_pools(), Arc::clone(&template.sim), template.file.clone(), move || {
        counted.fetch_add(1, Ordering::Relaxed);
        // Ends with an error once the gate is gone, which opens it for good.
        let _ = gate.lock().unwrap().recv();
        Ok(((*two_pools()).clone(), Vec::new()))
    });
    let mut answers = Vec::new();
    for _ in 0..201 {
        let (reply, answer) = oneshot::channel();
        rig.events.send(Event::Reload { force: false, reply: Some(reply) }).await.unwrap();
        answers.push(answer);
    }
    while rig.events.capacity() < QUEUE {
        tokio::task::yield_now().await;
    }
    drop(open);
    let mut generations = Vec::new();
    for answer in answers {
        let answer = tokio::time::timeout(Duration::from_secs(60), answer).await;
        generations.push(answer.expect("it is answered").unwrap().unwrap().generation);
    }
    // The first was read before the others were asked for.
    assert_eq!(loads.load(Ordering::Relaxed), 2);
    assert_eq!((generations[0], generations[1], generations[200]), (2, 3, 3));
}

#[test]
fn a_problem_of_the_world_is_an_error_without_a_snippet() {
    let problem = problem("x");
    assert_eq!((problem.severity, &*problem.snippet), (Severity::Error, ""));
}

#[tokio::test(start_paused = true)]
async fn a_reload_does_not_put_off_the_questions_a_move_hangs_on() {
    let seldom = |pool: Arc<config::Pool>| {
        let interval = Duration::from_secs(60);
        let check = config::HealthCheck { interval, ..crate::table::fixture::check() };
        Arc::new(config::Pool { health_check: Some(check), ..(*pool).clone() })
    };
    let pools = vec![seldom(pool("hot", &[HOT])), seldom(pool("standby", &[STANDBY]))];
    let service = service_of("app", WhenNone::TryAll, pools);
    let rig = rig(config(two_pools().listeners.clone(), vec![service]));
    rig.until(|table| table.endpoints().all(|(_, v)| v == Verdict::Up)).await;
    let hot = rig.app().pools[0].endpoints[0].id;
    rig.sim.let_be(HOT, Life::Refusing);
    rig.sim.let_be(STANDBY, Life::OurFault);
    rig.sightings.send(saw(hot, Seen::Refused)).await.unwrap();
    rig.until(|table| table.services[0].failover.trouble.is_some()).await;
    // Between two rounds of questions.
    sleep(Duration::from_millis(50)).await;
    rig.sim.let_be(STANDBY, Life::Well);
    rig.reload(false).await.unwrap();
    let took = rig.until(|table| serving(table) == 1).await;
    assert!(took <= Duration::from_millis(150), "{took:?}");
}
