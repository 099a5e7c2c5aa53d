//! The whole control side in simulated time: endpoints that live and die at an order.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::*;
use crate::config::check::{Checked, Severity};
use crate::config::{self, Config, WhenNone};
use crate::failover::Cause;
use crate::health::{Failure, Observation, Verdict};
use crate::probe::{Outcome, Patience, Subject, Timings};
use crate::table::build;
use crate::table::fixture::{config, listener, pool, service_of};
use crate::table::live::Seen;
use crate::table::{EndpointId, ListenerId, Service, Table};

const HOT: &str = "10.0.1.1:80";
const STANDBY: &str = "10.0.2.1:80";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Well,
    Refusing,
    Silent,
    /// Nothing is wrong with it, but we have no descriptors left.
    OurFault,
}

/// The world of one test.
#[derive(Debug)]
struct Sim {
    start: Instant,
    /// The clock never says the same twice, as the real one.
    last: Mutex<Duration>,
    lives: Mutex<HashMap<String, Life>>,
    /// Which endpoint was asked, when, and by a check with which interval.
    asked: Mutex<Vec<(String, Duration, Duration)>>,
    /// What was done, in order.
    done: Mutex<Vec<String>>,
    /// Nobody can bind this port.
    taken: u16,
    bad_certificate: AtomicBool,
}

#[derive(Debug, Clone)]
struct World(Arc<Sim>);

impl Sim {
    fn let_be(&self, endpoint: &str, life: Life) {
        self.lives.lock().unwrap().insert(endpoint.to_owned(), life);
    }

    fn asked(&self, endpoint: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|(name, ..)| name == endpoint).count()
    }

    fn done(&self) -> Vec<String> {
        std::mem::take(&mut self.done.lock().unwrap())
    }

    fn note(&self, what: String) {
        self.done.lock().unwrap().push(what);
    }
}

impl Effects for World {
    type Prepared = usize;
    type Sockets = SocketAddr;

    fn now(&self) -> Duration {
        let mut last = self.0.last.lock().unwrap();
        *last = self.0.start.elapsed().max(*last + Duration::from_nanos(1));
        *last
    }

    async fn ask(&self, subject: &Subject, patience: Patience) -> Outcome {
        let began = self.now();
        let name = subject.endpoint.name.to_string();
        self.0.asked.lock().unwrap().push((name.clone(), self.now(), subject.check.interval));
        let life = self.0.lives.lock().unwrap().get(&name).copied().unwrap_or(Life::Well);
        let (took, observation, detail) = match life {
            Life::Well => (1, Observation::Success, "connected"),
            Life::Refusing => (1, Observation::Failure(Failure::Refused), "connection refused"),
            Life::Silent => {
                let patience = patience.connect.as_millis() as u64;
                (patience, Observation::Failure(Failure::Timeout), "no answer in time")
            }
            Life::OurFault => (0, Observation::SelfFault, "too many open files"),
        };
        let took = Duration::from_millis(took);
        sleep(took).await;
        let tcp = (observation == Observation::Success).then_some(took);
        let timings = Timings { tcp, ..Timings::default() };
        Outcome { observation, detail: detail.into(), began, took, timings }
    }

    fn prepare(&self, config: &Config) -> Result<usize, String> {
        match self.0.bad_certificate.load(Ordering::Relaxed) {
            true => Err("web.key does not match web.crt".into()),
            false => Ok(config.listeners.len()),
        }
    }

    fn replace(&self, prepared: usize) {
        self.0.note(format!("replace {prepared}"));
    }

    fn bind(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        if address.port() == self.0.taken {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.0.note(format!("bind {}", address.port()));
        Ok(address)
    }

    fn listen(&self, id: ListenerId, sockets: SocketAddr) {
        self.0.note(format!("listen {} {}", id.0, sockets.port()));
    }

    fn unlisten(&self, id: ListenerId) {
        self.0.note(format!("unlisten {}", id.0));
    }
}

/// A control that runs, and what a test needs to play with it.
struct Rig {
    sim: Arc<Sim>,
    current: Arc<Current>,
    events: mpsc::Sender<Event>,
    sightings: mpsc::Sender<Sighting>,
    counters: Arc<ReloadCounters>,
    /// What the file says now.
    file: Arc<Mutex<Checked>>,
    task: tokio::task::JoinHandle<()>,
}

fn saw(endpoint: EndpointId, kind: Seen) -> Sighting {
    Sighting { endpoint, kind, at: Duration::ZERO }
}

fn problem(message: &str) -> Diagnostic {
    guard::error("services", message.into(), "mend it")
}

fn rig(config: Arc<Config>) -> Rig {
    let sim = Arc::new(Sim {
        start: Instant::now(),
        last: Mutex::default(),
        lives: Mutex::default(),
        asked: Mutex::default(),
        done: Mutex::default(),
        taken: 666,
        bad_certificate: AtomicBool::new(false),
    });
    let file = Arc::new(Mutex::new(Ok(((*config).clone(), Vec::new()))));
    let read = Arc::clone(&file);
    rig_with(config, sim, file, move || read.lock().unwrap().clone())
}

fn rig_with(
    config: Arc<Config>,
    sim: Arc<Sim>,
    file: Arc<Mutex<Checked>>,
    load: impl Fn() -> Checked + Send + Sync + 'static,
) -> Rig {
    resumed_rig(config, sim, file, load, |control| control)
}

/// With a control that was prepared first.
fn resumed_rig(
    config: Arc<Config>,
    sim: Arc<Sim>,
    file: Arc<Mutex<Checked>>,
    load: impl Fn() -> Checked + Send + Sync + 'static,
    prepare: impl FnOnce(Control<World>) -> Control<World>,
) -> Rig {
    let current = Current::new(build::first(config, 1, Duration::ZERO));
    let describe = |old: &Config, new: &Config| {
        vec![format!("{} services become {}", old.services.len(), new.services.len())]
    };
    let source = Source { file: "test.yaml".into(), load: Box::new(load), describe };
    let (sightings, sighted) = mpsc::channel(1);
    let control = Control::new(World(Arc::clone(&sim)), Arc::clone(&current), source, sighted);
    let control = prepare(control);
    let (events, counters) = (control.handle(), control.reload_counters());
    Rig { sim, current, events, sightings, counters, file, task: tokio::spawn(control.run()) }
}

impl Rig {
    fn table(&self) -> Arc<Table> {
        self.current.load()
    }

    fn app(&self) -> Arc<Service> {
        Arc::clone(self.table().service("app").unwrap())
    }

    fn verdict(&self, endpoint: &str) -> Verdict {
        let table = self.table();
        let mut endpoints = table.endpoints();
        endpoints.find(|(known, _)| &*known.config.name == endpoint).unwrap().1
    }

    /// Waits until `claim` holds of the table; how long that took.
    async fn until(&self, claim: impl Fn(&Table) -> bool) -> Duration {
        let begin = Instant::now();
        let mut changes = self.current.changes();
        let reached = async {
            while !claim(&self.table()) {
                changes.changed().await.unwrap();
            }
        };
        let limit = Duration::from_secs(3600);
        tokio::time::timeout(limit, reached).await.expect("it never came to that");
        begin.elapsed()
    }

    async fn reload(&self, force: bool) -> Result<Reloaded, Vec<Diagnostic>> {
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::Reload { force, reply: Some(reply) }).await.unwrap();
        answer.await.unwrap()
    }

    async fn reload_to(&self, config: &Config, force: bool) -> Result<Reloaded, Vec<Diagnostic>> {
        *self.file.lock().unwrap() = Ok((config.clone(), Vec::new()));
        self.reload(force).await
    }

    async fn switch(&self, to: &str) -> Result<String, String> {
        let (reply, answer) = oneshot::channel();
        let (service, to, reason) = ("app".into(), to.into(), "patch day".into());
        let order = SwitchOrder { to, reason, hold: false, force: false };
        self.events.send(Event::Switch { service, order, reply }).await.unwrap();
        answer.await.unwrap()
    }
}

fn app(hot: &[&str], standby: &[&str]) -> Arc<config::Service> {
    service_of("app", WhenNone::TryAll, vec![pool("hot", hot), pool("standby", standby)])
}

fn two_pools() -> Arc<Config> {
    config(vec![listener("web", "0.0.0.0:80", &[0])], vec![app(&[HOT], &[STANDBY])])
}

/// Both pools are known to be up.
async fn settled() -> Rig {
    let rig = rig(two_pools());
    rig.until(|table| table.endpoints().all(|(_, verdict)| verdict == Verdict::Up)).await;
    sleep(Duration::from_secs(10)).await;
    rig
}

fn serving(table: &Table) -> usize {
    table.services[0].serving
}

fn between(took: Duration, from_millis: u128, to_millis: u128) -> bool {
    (from_millis..=to_millis).contains(&took.as_millis())
}

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
    assert_eq!(&*last.reason, "0 of 1 endpoints up, needs 1");
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
    assert!(between(last.first_evidence - first, 0, 3), "{first:?} {last:?}");
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
async fn stop_ends_control_and_its_probes() {
    let rig = settled().await;
    rig.events.send(Event::Stop).await.unwrap();
    rig.task.await.unwrap();
    let asked = rig.sim.asked(HOT);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.sim.asked(HOT), asked);
}

thread_local! {
    /// Log lines of this thread's test, as a person reads them.
    static LINES: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[derive(Debug, Clone, Copy)]
struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// For the whole test process: a subscriber of one thread would race with the other threads
    /// for who decides whether a line is of interest.
    fn listen() {
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(|| Self)
            .finish();
        tracing::subscriber::set_global_default(subscriber).expect("only this test listens");
    }

    fn take() -> String {
        String::from_utf8(LINES.take()).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_failover_is_told_in_one_line_for_each_thing_that_changed() {
    Lines::listen();
    let rig = settled().await;
    assert_eq!(Lines::take().lines().count(), 2, "each endpoint came up");
    rig.sim.let_be(HOT, Life::Refusing);
    rig.until(|table| serving(table) == 1).await;
    sleep(Duration::from_secs(30)).await;
    let told_failover = Lines::take();
    let failover: Vec<_> = told_failover.lines().map(str::trim).collect();
    let [verdict, moved, record, complete] = failover[..] else { panic!("{failover:#?}") };
    let expected = "WARN verdict service=app pool=hot endpoint=10.0.1.1:80 from=up to=down \
                    why=\"connection refused; 3 failures in a row within 2";
    assert!(verdict.starts_with(expected), "{verdict}");
    let expected = "WARN failover service=app from=hot to=standby cause=health \
                    why=\"0 of 1 endpoints up, needs 1; first evidence 2";
    assert!(moved.starts_with(expected), "{moved}");
    let expected = "INFO failover record id=\"app-1\" complete=false record=\"{";
    assert!(record.starts_with(expected), "{record}");
    let expected = "INFO failover record id=\"app-1\" complete=true record=\"{";
    assert!(complete.starts_with(expected), "{complete}");
    rig.sim.let_be(STANDBY, Life::Refusing);
    rig.until(|table| table.services[0].none_available).await;
    sleep(Duration::from_secs(30)).await;
    let told_dark = Lines::take();
    let dark: Vec<_> = told_dark.lines().map(str::trim).collect();
    assert_eq!(dark.len(), 2, "{dark:#?}");
    let expected = "ERROR no pool is available service=app serving=standby \
                    why=\"0 of 1 endpoints up, needs 1\"";
    assert_eq!(dark[1], expected);
}

#[test]
fn a_problem_of_the_world_is_an_error_without_a_snippet() {
    let problem = problem("x");
    assert_eq!((problem.severity, &*problem.snippet), (Severity::Error, ""));
}

mod keeping;
