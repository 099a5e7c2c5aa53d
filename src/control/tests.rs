//! The whole control side in simulated time: endpoints that live and die at an order.

mod keeping;
mod lines;
mod moves;
mod orders;
mod reloads;
mod simulation;

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
use crate::table::{EndpointId, ListenerId, Mode, Service, Table};

const HOT: &str = "10.0.1.1:80";
const STANDBY: &str = "10.0.2.1:80";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Well,
    Refusing,
    Silent,
    /// Answers after so many milliseconds.
    Slow(u64),
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
    /// Nothing gets through to anybody.
    isolated: AtomicBool,
    /// When the newest probe that each endpoint answered began.
    answered: Mutex<HashMap<String, Duration>>,
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

    fn life(&self, endpoint: &str) -> Life {
        if self.isolated.load(Ordering::Relaxed) {
            return Life::Silent;
        }
        self.lives.lock().unwrap().get(endpoint).copied().unwrap_or(Life::Well)
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
        let total = patience.total.as_millis() as u64;
        let (millis, observation, detail) = match self.0.life(&name) {
            Life::Well => (1, Observation::Success, "connected"),
            Life::Slow(millis) if millis < total => (millis, Observation::Success, "connected"),
            Life::Slow(_) => (total, Observation::Failure(Failure::Timeout), "no answer in time"),
            Life::Refusing => (1, Observation::Failure(Failure::Refused), "connection refused"),
            Life::Silent => {
                let patience = patience.connect.as_millis() as u64;
                (patience, Observation::Failure(Failure::Timeout), "no answer in time")
            }
            Life::OurFault => (0, Observation::SelfFault, "too many open files"),
        };
        let limit = Duration::from_millis(millis);
        let start = Instant::now();
        sleep(limit).await;
        let took = start.elapsed();
        let observation = match observation {
            // As a probe judges its own timer.
            Observation::Failure(Failure::Timeout) if took > limit + limit / 4 => {
                Observation::SelfFault
            }
            observation => observation,
        };
        if observation == Observation::Success {
            let mut answered = self.0.answered.lock().unwrap();
            let newest = answered.entry(name).or_default();
            *newest = began.max(*newest);
        }
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

thread_local! {
    /// What the jitter of the next rig of this thread comes from.
    static SEED: std::cell::Cell<u64> = const { std::cell::Cell::new(1) };
}

fn saw(endpoint: EndpointId, kind: Seen) -> Sighting {
    Sighting { endpoint, kind, at: Duration::ZERO }
}

fn problem(message: &str) -> Diagnostic {
    guard::error("services", message.into(), "mend it")
}

fn sim() -> Arc<Sim> {
    Arc::new(Sim {
        start: Instant::now(),
        last: Mutex::default(),
        lives: Mutex::default(),
        isolated: AtomicBool::new(false),
        answered: Mutex::default(),
        asked: Mutex::default(),
        done: Mutex::default(),
        taken: 666,
        bad_certificate: AtomicBool::new(false),
    })
}

fn rig(config: Arc<Config>) -> Rig {
    let sim = sim();
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
    prepared_rig(config, sim, file, load, |control| control)
}

/// With a control that was prepared before it runs.
fn prepared_rig(
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
    let mut control = prepare(control);
    control.random = fastrand::Rng::with_seed(SEED.get());
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

    async fn order<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> T {
        let (reply, answer) = oneshot::channel();
        self.events.send(event(reply)).await.unwrap();
        answer.await.expect("an order is answered")
    }

    async fn switch(&self, to: &str) -> Answer {
        self.switch_with(to, false, false).await
    }

    async fn switch_with(&self, to: &str, hold: bool, force: bool) -> Answer {
        let order = SwitchOrder { to: to.into(), reason: "patch day".into(), hold, force };
        self.order(|reply| Event::Switch { service: "app".into(), order, reply }).await
    }

    async fn release(&self) -> Answer {
        let (service, reason) = ("app".into(), "patched".into());
        self.order(|reply| Event::Release { service, reason, reply }).await
    }

    async fn mode(&self, pool: &str, endpoint: &str, mode: Mode, force: bool) -> Answer {
        let (pool, endpoint, reason) = (pool.into(), endpoint.into(), "patch day".into());
        let order = ModeOrder { pool, endpoint, mode, reason, force };
        self.order(|reply| Event::Mode { service: "app".into(), order, reply }).await
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
