//! Records, state and drills, with the whole control side in simulated time.

use super::*;
use crate::control::recorder::Recorder;
use crate::control::saved::Restored;
use crate::control::state_file::{self, StateFile};
use crate::failover::Record;
use crate::failover::record::{Clock, Source};

fn records(rig: &Rig) -> Vec<Record> {
    rig.app().history.records.iter().map(|record| (**record).clone()).collect()
}

async fn drill(rig: &Rig, kind: DrillKind) -> Result<DrillReport, String> {
    let (watch, reason) = (Duration::from_secs(30), "rehearsal".to_owned());
    let order = DrillOrder { kind, max_errors: 0.001, watch, reason };
    rig.order(|reply| Event::Drill { service: "app".into(), order, reply }).await
}

#[tokio::test(start_paused = true)]
async fn a_move_is_published_with_its_record_which_is_completed_later() {
    let rig = settled().await;
    rig.sim.let_be(HOT, Life::Refusing);
    rig.until(|table| serving(table) == 1).await;
    let known = records(&rig);
    assert_eq!(known.len(), 1);
    let record = &known[0];
    assert_eq!((&*record.id, record.complete), ("app-1", false));
    assert_eq!((&*record.from, &*record.to), ("hot", "standby"));
    assert_eq!(record.reason, "connection refused; 0 of 1 endpoints up, needs 1");
    assert_eq!(record.rules["unhealthy_threshold"], "3");
    let failures: Vec<_> = record.evidence.iter().filter(|seen| !seen.success).collect();
    assert_eq!(failures.len(), 3, "{:#?}", record.evidence);
    assert!(failures.iter().all(|seen| seen.pool == "hot"));
    assert!(failures.iter().any(|seen| seen.source == Source::Confirm && seen.phases.is_some()));
    let proof = record.evidence.iter().find(|seen| seen.success).unwrap();
    assert_eq!(proof.pool, "standby");
    let took = rig.until(|table| table.services[0].history.records[0].complete).await;
    assert!(took < Duration::from_secs(13), "nobody asks, nobody waits: {took:?}");
    assert_eq!(records(&rig).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_order_and_a_return_are_recorded_with_their_own_rules() {
    let rig = settled().await;
    rig.switch("standby").await.unwrap();
    let known = records(&rig);
    assert_eq!((known[0].cause, &*known[0].reason), (Cause::Manual, "patch day"));
    rig.sim.let_be(STANDBY, Life::Refusing);
    rig.until(|table| serving(table) == 0).await;
    rig.sim.let_be(STANDBY, Life::Well);
    rig.sim.let_be(HOT, Life::Refusing);
    rig.until(|table| serving(table) == 1).await;
    rig.sim.let_be(HOT, Life::Well);
    rig.until(|table| serving(table) == 0).await;
    let known = records(&rig);
    let causes: Vec<_> = known.iter().map(|record| record.cause).collect();
    assert_eq!(causes, [Cause::Manual, Cause::Health, Cause::Health, Cause::Failback]);
    assert_eq!(known[3].rules["stable_for"], "5m");
    let complete: Vec<_> = known.iter().map(|record| record.complete).collect();
    assert_eq!(complete[..3], [true; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_drill_that_only_decides_moves_nothing_and_measures_the_proof() {
    let rig = settled().await;
    let version = rig.table().version;
    let report = drill(&rig, DrillKind::Decision).await.unwrap();
    assert!(report.passed, "{report:?}");
    assert_eq!((&*report.from, &*report.to), ("hot", "standby"));
    assert!((1000..60_000).contains(&report.proof_micros), "{report:?}");
    assert_eq!(report.evidence.len(), 1);
    assert_eq!((rig.table().version, records(&rig).len()), (version, 0));
    rig.sim.let_be(STANDBY, Life::Silent);
    let report = drill(&rig, DrillKind::Decision).await.unwrap();
    assert!(!report.passed && report.aborted.unwrap().contains("did not prove itself"));
    assert_eq!(serving(&rig.table()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_drill_goes_there_and_back_and_leaves_two_records() {
    let rig = settled().await;
    let begin = Instant::now();
    let report = drill(&rig, DrillKind::Full).await.unwrap();
    assert!(report.passed, "{report:?}");
    assert!(between(begin.elapsed(), 30_000, 33_000), "{:?}", begin.elapsed());
    assert_eq!(report.records, ["app-1", "app-2"]);
    let known = records(&rig);
    assert!(known.iter().all(|record| record.cause == Cause::Drill));
    let app = rig.app();
    assert_eq!((app.serving, app.failover.stands), (0, false));
    let now = rig.sim.start.elapsed();
    assert!(app.failover.penalties.iter().all(|penalty| penalty.value(now) == 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_share_is_published_for_the_time_of_the_drill() {
    let rig = settled().await;
    let watched = async {
        let share = |table: &Table| table.services[0].share;
        rig.until(|table| share(table).is_some_and(|share| share.permille == 50)).await;
        rig.until(|table| share(table).is_none()).await
    };
    let (report, lasted) = tokio::join!(drill(&rig, DrillKind::Share(50)), watched);
    assert!(report.unwrap().passed);
    assert!(between(lasted, 29_900, 30_100), "{lasted:?}");
    assert_eq!(records(&rig).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drill_goes_on_through_a_reload_and_is_judged_by_what_is_done_in_it() {
    let other = "10.0.2.2:80";
    let of = |standby: &[&str]| config(two_pools().listeners.clone(), vec![app(&[HOT], standby)]);
    let rig = rig(of(&[STANDBY, other]));
    rig.until(|table| table.endpoints().all(|(_, v)| v == Verdict::Up)).await;
    let standby = Arc::clone(&rig.app().pools[1]);
    let failed = |index: usize, count| {
        standby.endpoints[index].counters.workers.of(0).responses[4].add(count);
    };
    // What it did in its life before.
    failed(1, 1_000);
    let share = |table: &Table| table.services[0].share.is_some();
    let trouble = async {
        rig.until(share).await;
        rig.reload_to(&of(&[STANDBY]), false).await.unwrap();
        assert!(share(&rig.table()), "the drill goes on");
        failed(0, 50);
        rig.until(|table| !share(table)).await
    };
    let (report, lasted) = tokio::join!(drill(&rig, DrillKind::Share(50)), trouble);
    assert!(report.unwrap().aborted.unwrap().starts_with("50 of 50 requests erred"));
    assert!(lasted < Duration::from_millis(100), "{lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn errors_at_the_other_pool_end_a_full_drill_at_once() {
    let rig = settled().await;
    let trouble = async {
        rig.until(|table| serving(table) == 1).await;
        let app = rig.app();
        let cells = app.pools[1].endpoints[0].counters.workers.of(0);
        cells.responses[1].add(100);
        cells.responses[4].add(3);
        rig.until(|table| serving(table) == 0).await
    };
    let (report, lasted) = tokio::join!(drill(&rig, DrillKind::Full), trouble);
    let report = report.unwrap();
    assert!(!report.passed && report.aborted.unwrap().starts_with("3 of 103 requests erred"));
    assert!(lasted < Duration::from_millis(100), "{lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn a_forced_move_during_a_drill_wins() {
    let rig = settled().await;
    let trouble = async {
        rig.until(|table| serving(table) == 1).await;
        sleep(Duration::from_secs(5)).await;
        rig.sim.let_be(STANDBY, Life::Refusing);
        rig.until(|table| serving(table) == 0).await;
    };
    let (report, ()) = tokio::join!(drill(&rig, DrillKind::Full), trouble);
    assert!(!report.unwrap().passed);
    assert_eq!(rig.app().cause, Cause::Health);
    rig.sim.let_be(STANDBY, Life::Well);
    sleep(Duration::from_secs(400)).await;
    assert_eq!(serving(&rig.table()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_could_not_go_back_returns_as_after_any_other_move() {
    let rig = settled().await;
    let trouble = async {
        rig.until(|table| serving(table) == 1).await;
        rig.sim.let_be(HOT, Life::Refusing);
    };
    let (report, ()) = tokio::join!(drill(&rig, DrillKind::Full), trouble);
    let why = report.unwrap().aborted.unwrap();
    assert!(why.starts_with("it cannot go back: 0 of 1"), "{why}");
    assert_eq!(serving(&rig.table()), 1);
    rig.sim.let_be(HOT, Life::Well);
    rig.until(|table| serving(table) == 0).await;
    assert_eq!(rig.app().cause, Cause::Failback);
}

#[tokio::test(start_paused = true)]
async fn there_is_one_drill_of_a_service_at_a_time_and_none_of_a_held_one() {
    let rig = settled().await;
    let second = async {
        rig.until(|table| serving(table) == 1).await;
        drill(&rig, DrillKind::Decision).await
    };
    let (first, second) = tokio::join!(drill(&rig, DrillKind::Full), second);
    assert!(first.unwrap().passed);
    assert!(second.unwrap_err().contains("under way already"));
    rig.switch_with("hot", true, false).await.unwrap();
    assert!(drill(&rig, DrillKind::Full).await.unwrap_err().contains("holds it"));
}

fn with(prepare: impl FnOnce(Control<World>) -> Control<World>) -> Rig {
    let file: Arc<Mutex<Checked>> = Arc::new(Mutex::new(Ok(((*two_pools()).clone(), Vec::new()))));
    let read = Arc::clone(&file);
    let load = move || read.lock().unwrap().clone();
    prepared_rig(two_pools(), sim(), file, load, prepare)
}

fn clock() -> Clock {
    Clock { now: Duration::from_secs(100), unix: crate::clock::unix() }
}

/// Runs until hot was left, with its state in `file`; what the next process restores.
async fn left_hot(dir: &std::path::Path) -> Restored {
    let file = dir.join("state.json");
    let (state, recorder) =
        (StateFile::start(file.clone()).unwrap(), Recorder::start(dir.join("history")).unwrap());
    let rig = with(|control| control.keeping(Some(state), Some(recorder)));
    rig.until(|table| table.endpoints().all(|(_, verdict)| verdict == Verdict::Up)).await;
    rig.sim.let_be(HOT, Life::Refusing);
    rig.until(|table| serving(table) == 1).await;
    rig.events.send(Event::Stop).await.unwrap();
    rig.task.await.unwrap();
    let (saved, age) = state_file::read(&file, clock()).unwrap();
    saved.restore(&two_pools(), age, clock())
}

#[tokio::test(start_paused = true)]
async fn a_restart_sends_nobody_to_the_dead_and_believes_nobody_to_be_up() {
    let dir = tempfile::tempdir().unwrap();
    let restored = left_hot(dir.path()).await;
    let first = build::first(two_pools(), 1, Duration::ZERO);
    let table = resumed(first, &restored, Duration::ZERO);
    let app = &table.services[0];
    assert_eq!((app.serving, app.cause), (1, Cause::Health));
    assert!(app.pools[0].candidates.is_empty() && !app.pools[1].candidates.is_empty());
    let verdicts: Vec<_> = table.endpoints().map(|(_, verdict)| verdict).collect();
    assert_eq!(verdicts, [Verdict::Down, Verdict::Unknown]);
    assert_eq!(app.history.records.len(), 1);
    assert_eq!(table.version, 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_alone_moves_nothing_and_records_go_on_counting() {
    let dir = tempfile::tempdir().unwrap();
    let restored = left_hot(dir.path()).await;
    let rig = with(|control| control.resuming(restored));
    // Hot is dead still; standby answers.
    rig.sim.let_be(HOT, Life::Refusing);
    rig.until(|table| table.services[0].pools[1].available).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!((serving(&rig.table()), records(&rig).len()), (1, 0));
    assert_eq!(rig.verdict(HOT), Verdict::Down);
    rig.sim.let_be(HOT, Life::Well);
    rig.until(|table| serving(table) == 0).await;
    assert_eq!(records(&rig)[0].id, "app-2");
}
