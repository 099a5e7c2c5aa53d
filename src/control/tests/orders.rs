//! What an operator orders.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_operator_moves_a_service_and_it_stays_there() {
    let rig = settled().await;
    assert_eq!(rig.switch("standby").await.unwrap(), "app moved from hot to standby");
    assert_eq!((serving(&rig.table()), rig.app().cause), (1, Cause::Manual));
    assert_eq!(&*rig.app().history.last.clone().unwrap().reason, "patch day");
    assert_eq!(rig.switch("standby").await.unwrap(), "app is served by standby already");
    sleep(Duration::from_secs(1_000)).await;
    assert_eq!(serving(&rig.table()), 1);
    rig.sim.let_be(HOT, Life::Refusing);
    rig.until(|table| !table.services[0].pools[0].available).await;
    let refusal = rig.switch("hot").await.unwrap_err();
    let expected =
        "app is not moved to hot: the pool is not available: 0 of 1 endpoints up, needs 1";
    assert_eq!(refusal, expected);
    assert_eq!(rig.switch("cold").await.unwrap_err(), "app has no pool cold");
}

#[tokio::test(start_paused = true)]
async fn a_planned_switch_asks_the_target_first_and_is_refused_if_it_does_not_answer() {
    let rig = settled().await;
    let asked = rig.sim.asked(STANDBY);
    rig.sim.let_be(STANDBY, Life::Refusing);
    // Its verdict is still up: nobody has asked it since.
    let refusal = rig.switch("standby").await.unwrap_err();
    let expected = "standby cannot take over: 0 of 1 endpoints answered a probe just now, needs 1";
    assert_eq!((refusal.as_str(), serving(&rig.table())), (expected, 0));
    assert!(rig.sim.asked(STANDBY) > asked);
    rig.sim.let_be(STANDBY, Life::Silent);
    let begin = Instant::now();
    assert!(rig.switch("standby").await.is_err());
    assert!(begin.elapsed() <= Duration::from_millis(860), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_hold_keeps_the_service_where_it_is_until_it_is_released() {
    let rig = settled().await;
    let said = rig.switch_with("standby", true, false).await.unwrap();
    assert_eq!(said, "app moved from hot to standby, and held there");
    rig.sim.let_be(STANDBY, Life::Refusing);
    rig.until(|table| !table.services[0].pools[1].available).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!((serving(&rig.table()), rig.app().failover.held), (1, true));
    // Neither does a reload end it.
    rig.reload(false).await.unwrap();
    assert!(rig.app().failover.held);
    assert_eq!(rig.release().await.unwrap(), "app is released; it is served by hot");
    assert_eq!(rig.app().cause, Cause::Health);
    assert_eq!(rig.release().await.unwrap(), "app was not held; nothing changed");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_drained_gets_no_requests_and_the_last_one_moves_the_service() {
    let other = "10.0.1.2:80";
    let rig = rig(config(two_pools().listeners.clone(), vec![app(&[HOT, other], &[STANDBY])]));
    rig.until(|table| table.endpoints().all(|(_, v)| v == Verdict::Up)).await;
    assert_eq!(rig.mode("hot", HOT, Mode::Drain, false).await.unwrap(), "10.0.1.1:80 drains");
    assert_eq!((rig.app().pools[0].modes[0], serving(&rig.table())), (Mode::Drain, 0));
    rig.reload(false).await.unwrap();
    assert_eq!(rig.app().pools[0].modes[0], Mode::Drain, "it survives a reload");
    rig.mode("hot", other, Mode::Off, false).await.unwrap();
    let last = rig.app().history.last.clone().unwrap();
    assert_eq!((serving(&rig.table()), last.cause), (1, Cause::Manual));
    assert_eq!(&*last.reason, "0 of 2 endpoints up (2 drained or off), needs 1: patch day");
    let refusal = rig.mode("standby", STANDBY, Mode::Off, false).await.unwrap_err();
    assert!(refusal.starts_with("app would be left without an available pool"), "{refusal}");
    assert!(rig.mode("standby", STANDBY, Mode::Off, true).await.is_ok(), "force allows it");
    assert!(rig.mode("hot", "10.9.9.9:80", Mode::Off, true).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_failure_beside_an_endpoint_drained_long_ago_is_no_order() {
    let other = "10.0.1.2:80";
    let rig = rig(config(two_pools().listeners.clone(), vec![app(&[HOT, other], &[STANDBY])]));
    rig.until(|table| table.endpoints().all(|(_, v)| v == Verdict::Up)).await;
    rig.mode("hot", other, Mode::Drain, false).await.unwrap();
    sleep(Duration::from_secs(3600)).await;
    rig.sim.let_be(HOT, Life::Refusing);
    rig.until(|table| serving(table) == 1).await;
    let app = rig.app();
    let last = app.history.last.clone().unwrap();
    assert_eq!(last.cause, Cause::Health);
    assert!(last.first_evidence < last.decided, "{last:?}");
    assert!(app.failover.penalties[0].value(last.decided) > 999.0);
    // And an order beside an endpoint that failed long ago is one.
    rig.switch_with("hot", false, true).await.unwrap();
    rig.release().await.unwrap();
    rig.until(|table| serving(table) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_forced_on_a_dead_pool_is_held_there_until_it_is_released() {
    let rig = settled().await;
    rig.sim.let_be(STANDBY, Life::Refusing);
    rig.until(|table| !table.services[0].pools[1].available).await;
    let said = rig.switch_with("standby", false, true).await.unwrap();
    let expected = "app moved from hot to standby, and held there until it is released: \
                    standby is not available, 0 of 1 endpoints up, needs 1";
    assert_eq!(said, expected);
    sleep(Duration::from_secs(60)).await;
    let app = rig.app();
    assert_eq!((app.serving, app.failover.held), (1, true), "as it was ordered");
    assert_eq!(app.history.held_because.as_deref(), Some("patch day"));
    let record = app.history.records.back().unwrap();
    assert!(record.forced && record.held, "{record:?}");
    assert_eq!(rig.release().await.unwrap(), "app is released; it is served by hot");
    // A pool that is available is not left at once, so it needs no hold.
    rig.sim.let_be(STANDBY, Life::Well);
    rig.until(|table| table.services[0].pools[1].available).await;
    let said = rig.switch_with("standby", false, true).await.unwrap();
    assert_eq!((&*said, rig.app().failover.held), ("app moved from hot to standby", false));
}

#[tokio::test(start_paused = true)]
async fn the_reason_of_a_mode_is_kept_with_it_and_told_of_a_move_that_comes_later() {
    let rig = settled().await;
    let taken_out = |rig: &Rig| rig.app().pools[0].details[0].taken_out.clone();
    rig.sim.let_be(STANDBY, Life::Refusing);
    rig.until(|table| !table.services[0].pools[1].available).await;
    rig.mode("hot", HOT, Mode::Off, true).await.unwrap();
    let ordered = taken_out(&rig).unwrap();
    assert_eq!((&*ordered.reason, serving(&rig.table())), ("patch day", 0));
    rig.reload(false).await.unwrap();
    assert_eq!(taken_out(&rig), Some(ordered));
    rig.sim.let_be(STANDBY, Life::Well);
    rig.until(|table| serving(table) == 1).await;
    let last = rig.app().history.last.clone().unwrap();
    assert_eq!(last.cause, Cause::Manual);
    assert_eq!(&*last.reason, "0 of 1 endpoints up (1 drained or off), needs 1: patch day");
    rig.mode("hot", HOT, Mode::Active, false).await.unwrap();
    assert_eq!(taken_out(&rig), None);
}

fn ramped() -> Arc<Config> {
    ramped_over(&[HOT], Duration::from_secs(60))
}

fn ramped_over(hot: &[&str], ramp: Duration) -> Arc<Config> {
    let service = app(hot, &[STANDBY]);
    let failback = config::Failback::Auto { stable_for: Duration::from_secs(300), ramp };
    let failover = config::Failover { failback, ..service.failover.clone() };
    let service = Arc::new(config::Service { failover, ..(*service).clone() });
    config(two_pools().listeners.clone(), vec![service])
}

#[tokio::test(start_paused = true)]
async fn a_return_goes_by_degrees_and_is_broken_off_when_the_pool_errs_more() {
    let rig = rig(ramped());
    rig.until(|table| table.endpoints().all(|(_, v)| v == Verdict::Up)).await;
    rig.sim.let_be(HOT, Life::Refusing);
    rig.until(|table| serving(table) == 1).await;
    rig.sim.let_be(HOT, Life::Well);
    let share = |table: &Table| table.services[0].share.map(|share| (share.pool, share.permille));
    rig.until(|table| share(table) == Some((0, 10))).await;
    rig.until(|table| share(table) == Some((0, 50))).await;
    let cells = |pool: usize| Arc::clone(&rig.app().pools[pool].endpoints[0]);
    let (hot, standby) = (cells(0), cells(1));
    standby.counters.workers.of(0).responses[1].add(1000);
    hot.counters.workers.of(0).responses[1].add(50);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(share(&rig.table()), Some((0, 50)), "it goes well");
    hot.counters.workers.of(0).responses[4].add(5);
    let took = rig.until(|table| share(table).is_none()).await;
    assert!(took <= Duration::from_millis(1_010), "{took:?}");
    assert_eq!(serving(&rig.table()), 1);
    let again = rig.until(|table| share(table).is_some()).await;
    assert!(between(again, 299_000, 310_000), "its stability began anew: {again:?}");
    let took = rig.until(|table| serving(table) == 0).await;
    assert!(between(took, 60_000, 60_010), "{took:?}");
    assert_eq!((rig.app().cause, rig.app().share), (Cause::Failback, None));
}

#[tokio::test(start_paused = true)]
async fn a_return_is_watched_however_short_it_is_and_whatever_endpoints_leave() {
    let other = "10.0.1.2:80";
    let share = |table: &Table| table.services[0].share.is_some();
    for (ramp, leaves) in [(800, false), (60_000, true)] {
        let ramp = Duration::from_millis(ramp);
        let rig = rig(ramped_over(&[HOT, other], ramp));
        rig.until(|table| table.endpoints().all(|(_, v)| v == Verdict::Up)).await;
        for name in [HOT, other] {
            rig.sim.let_be(name, Life::Refusing);
        }
        rig.until(|table| serving(table) == 1).await;
        let hot = Arc::clone(&rig.app().pools[0].endpoints[0]);
        let gone = Arc::clone(&rig.app().pools[0].endpoints[1]);
        // What it did in its life before.
        gone.counters.workers.of(0).responses[4].add(1_000);
        for name in [HOT, other] {
            rig.sim.let_be(name, Life::Well);
        }
        rig.until(share).await;
        if leaves {
            rig.reload_to(&ramped_over(&[HOT], ramp), false).await.unwrap();
            sleep(Duration::from_secs(2)).await;
        }
        hot.counters.workers.of(0).responses[4].add(50);
        rig.until(|table| !share(table)).await;
        assert_eq!(serving(&rig.table()), 1, "{ramp:?}");
    }
}
