//! One rig with a running proxy and a load, and what must be true of every one of them.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Output;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::metrics::Metrics;
use crate::rig::app::Delivery;
use crate::rig::load::{Load, Outcome, Plan, Sample};
use crate::rig::proxy::{ADMIN, FRONT, Move, Proxy, Watch};
use crate::rig::report::{Figures, Report};
use crate::rig::{At, Fault, Pool, Rig, pool_of, wait};

pub const STANDFAST: &str = env!("CARGO_BIN_EXE_standfast");

/// Two rigs at a time would be each other's fault.
static ALONE: Mutex<()> = Mutex::new(());

/// Requests that make a healthy run, and that follow a move; a second and a half of them.
pub const SOME: usize = 750;

/// Of clients; more than a request may be held, and than the proxy is ever paused.
const PATIENCE: Duration = Duration::from_secs(5);

/// Fields are dropped in their order.
pub struct Trial {
    loads: Vec<Load>,
    watch: Watch,
    pub proxy: Proxy,
    pub rig: Rig,
    /// As of the start of the load.
    before: Metrics,
    /// Requests besides those of the loads.
    pub others: u64,
    /// Whether to wait until the cost of each move is known, and with it what became of every
    /// request.
    pub whole_records: bool,
    _alone: MutexGuard<'static, ()>,
}

/// What came of it.
pub struct Ended {
    /// Of each load, the trial's own first.
    pub reports: Vec<Report>,
    /// The pool that served at first, and each move.
    pub served: Vec<Move>,
    before: Metrics,
    pub after: Metrics,
    pub status: Value,
    /// The proxy's own account of the moves, newest first.
    pub records: Vec<Value>,
    /// The newest of them for people.
    pub told: String,
    /// They are complete: no request is left of which the proxy does not know what became of it.
    whole: bool,
}

impl Trial {
    /// The 12 lines and 500 requests a second, of which the first were answered by hot.
    pub fn begin() -> Self {
        Self::with(str::to_owned)
    }

    /// The same with another configuration, made from the 12 lines.
    pub fn with(change: impl FnOnce(&str) -> String) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let rig = Rig::new();
        let config = change(&rig.config());
        Self::of(alone, rig, &config)
    }

    /// With a rig prepared by `prepare`, which makes the configuration too.
    pub fn prepared(prepare: impl FnOnce(&mut Rig) -> String) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rig = Rig::new();
        let config = prepare(&mut rig);
        Self::of(alone, rig, &config)
    }

    fn of(alone: MutexGuard<'static, ()>, rig: Rig, config: &str) -> Self {
        let proxy = rig.start_standfast(Path::new(STANDFAST), config);
        let watch = proxy.watch(rig.origin());
        let before = scrape(&proxy);
        let load = rig.load(Plan { rate: 500, timeout: PATIENCE, ..Plan::new(FRONT) });
        let trial = Self {
            loads: vec![load],
            watch,
            proxy,
            rig,
            before,
            others: 0,
            whole_records: false,
            _alone: alone,
        };
        trial.carry_on(SOME);
        trial
    }

    /// One more load beside the first.
    pub fn join(&mut self, plan: Plan) {
        self.loads.push(self.rig.load(plan));
    }

    pub fn load(&self) -> &Load {
        &self.loads[0]
    }

    /// Until so many more requests ended.
    pub fn carry_on(&self, requests: usize) {
        let enough = self.load().done() + requests;
        wait("requests are answered", || (self.load().done() >= enough).then_some(()));
    }

    /// Strikes; when, since the origin.
    pub fn strike(&mut self, fault: Fault, at: At) -> Duration {
        self.rig.inject(fault, at).at
    }

    /// Lifts; when, since the origin.
    pub fn lift(&mut self, fault: Fault, at: At) -> Duration {
        self.rig.lift(fault, at).at
    }

    pub fn service(&self) -> Value {
        self.proxy.status()["services"][0].clone()
    }

    pub fn metrics(&self) -> Metrics {
        scrape(&self.proxy)
    }

    /// Until this pool serves; when that was first seen.
    pub fn wait_serving(&self, pool: Pool) -> Duration {
        wait(&format!("{} serves", pool.name()), || {
            let last = self.watch.moves().pop()?;
            (last.to == pool.name()).then_some(last.at)
        })
    }

    /// Until that is so of a pool in the status.
    pub fn wait_pool(&self, pool: Pool, what: &str, is: impl Fn(&Value) -> bool) {
        wait(&format!("{}: {what}", pool.name()), || {
            let service = self.service();
            let pools = service["pools"].as_array()?;
            pools.iter().find(|known| known["name"] == pool.name()).filter(|p| is(p)).map(|_| ())
        });
    }

    /// Until a request due after `since` was answered well by this pool.
    pub fn wait_answer(&self, since: Duration, pool: Pool) {
        let of = |sample: &Sample| sample.endpoint().map(pool_of) == Some(pool);
        wait(&format!("{} answers", pool.name()), || self.load().any(since, of).then_some(()));
    }

    pub fn control(&self, words: &[&str]) -> Output {
        self.proxy.control(Path::new(STANDFAST), words)
    }

    /// A control command that must succeed.
    pub fn order(&self, words: &[&str]) {
        let output = self.control(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    /// What it logged so far, of which any line has all of these words.
    pub fn logged(&self, words: &[&str]) -> bool {
        let log = std::fs::read_to_string(self.proxy.dir.join("stderr")).unwrap();
        log.lines().any(|line| words.iter().all(|word| line.contains(word)))
    }

    /// Complete ones, for the cost is known when no request is left.
    fn records_once_whole(&self) -> Vec<Value> {
        wait("the records are complete", || {
            let records = self.records();
            let whole = records.iter().all(|record| record["complete"] == true);
            (whole || !self.whole_records).then_some(records)
        })
    }

    fn explain(&self, record: &Value) -> String {
        let output = self.control(&["explain", record["id"].as_str().unwrap()]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn records(&self) -> Vec<Value> {
        let (status, text) = self.proxy.get(ADMIN, "/api/v1/failovers").unwrap();
        assert_eq!(status, 200, "{text}");
        let list: Value = serde_json::from_str(&text).unwrap();
        list["failovers"].as_array().unwrap().clone()
    }

    /// Ends the loads and checks what must hold after whatever happened.
    pub fn end(mut self) -> Ended {
        let loads = std::mem::take(&mut self.loads);
        let reports: Vec<Report> = loads.into_iter().map(|load| self.rig.finish(load)).collect();
        let samples = || reports.iter().flat_map(|report| &report.samples);
        let records = self.records_once_whole();
        let told = records.first().map(|record| self.explain(record)).unwrap_or_default();
        println!("{told}");
        let hang = samples().filter(|sample| !self.whole_records && hangs(sample)).count() as u64;
        let requests = samples().count() as u64 + self.others - hang;
        // A request is counted when its answer was sent, and it may be read before.
        let patience = Instant::now() + Duration::from_secs(2);
        let mut after = scrape(&self.proxy);
        while grown(&self.before, &after, REQUESTS) < requests && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(10));
            after = scrape(&self.proxy);
        }
        let (served, before) = (self.watch.moves(), self.before.clone());
        let (status, whole) = (self.proxy.status(), self.whole_records);
        let ended = Ended { reports, served, before, after, status, records, told, whole };
        ended.check();
        let counted = ended.grown(REQUESTS);
        assert!((requests..=requests + hang).contains(&counted), "{counted}: {requests} + {hang}");
        ended
    }
}

const REQUESTS: &str = "standfast_http_requests_total";

fn scrape(proxy: &Proxy) -> Metrics {
    let (status, text) = proxy.get(ADMIN, "/metrics").unwrap();
    assert_eq!(status, 200, "{text}");
    Metrics::parse(&text)
}

fn grown(before: &Metrics, after: &Metrics, name: &str) -> u64 {
    (after.sum(name, &[]) - before.sum(name, &[])) as u64
}

impl Ended {
    /// By how much the counter grew, all its series together.
    pub fn grown(&self, name: &str) -> u64 {
        grown(&self.before, &self.after, name)
    }

    pub fn report(&self) -> &Report {
        &self.reports[0]
    }

    pub fn all(&self) -> Figures {
        self.report().all()
    }

    /// The moves, by where to.
    pub fn moves(&self) -> Vec<&str> {
        self.served.iter().skip(1).map(|moved| &*moved.to).collect()
    }

    /// When the first move was seen.
    pub fn moved_at(&self) -> Duration {
        self.served.get(1).expect("it moved").at
    }

    /// All deliveries of the requests that were delivered more than once.
    pub fn twice(&self) -> Vec<Delivery> {
        let times = self.report().times_delivered();
        let all = self.report().deliveries.iter();
        all.filter(|delivery| times[&delivery.number] > 1).copied().collect()
    }

    /// In the order in which they were due.
    pub fn lost_posts(&self) -> Vec<&Sample> {
        self.report().lost().into_iter().filter(|sample| sample.post).collect()
    }

    /// The service is where it was, and no endpoint was ever declared down.
    pub fn assert_nothing_moved(&self) {
        assert_eq!(self.moves(), [""; 0], "it moved");
        let down = self.after.sum("standfast_endpoint_transitions_total", &[("to", "down")]);
        assert_eq!(down, 0.0, "verdicts against endpoints");
    }

    /// Nobody got anything but his answer, by hot.
    pub fn assert_nothing_lost(&self) {
        let all = self.all();
        assert_eq!((all.lost_get, all.lost_post), (0, 0), "{:?}", all.why);
    }

    fn check(&self) {
        for report in &self.reports {
            deliveries_are_right(report);
        }
        let samples = || self.reports.iter().flat_map(|report| &report.samples);
        let wordless = |sample: &&Sample| !matches!(sample.outcome, Outcome::Answer { .. });
        let left: Vec<&Sample> = samples().filter(wordless).filter(|s| !hangs(s)).collect();
        let (count, first) = (left.len(), &left[..left.len().min(10)]);
        assert_eq!(count, 0, "left without a word: {first:?} …; {:?}", self.all());
        // What the application answers is no loss, unless it says that it cannot.
        let failed = |s: &&Sample| !matches!(s.outcome, Outcome::Answer { status: 200..=500, .. });
        let lost = samples().filter(failed).filter(|s| !hangs(s)).count();
        let hang = samples().filter(|sample| hangs(sample)).count();
        // What hangs is lost in the end, and until then not known to be.
        let least = if self.whole { lost + hang } else { lost };
        let why: HashMap<&str, f64> = (self.after.samples.iter())
            .filter(|sample| sample.name == LOST && sample.value > 0.0)
            .flat_map(|sample| sample.labels.iter().map(|(_, label)| (&**label, sample.value)))
            .collect();
        let counted = self.grown(LOST);
        let right = least as u64..=(lost + hang) as u64;
        assert!(right.contains(&counted), "{counted} lost, not {right:?}: the proxy says {why:?}");
        let twice: usize = self.reports.iter().map(|report| report.all().twice_get).sum();
        let rescued = self.grown("standfast_requests_rescued_total");
        let sent_again = self.grown("standfast_upstream_retries_total");
        assert!(sent_again >= twice as u64, "{twice} delivered twice, {sent_again} sent again");
        assert!(rescued + counted >= twice as u64, "{twice} twice, but {rescued} rescued");
        let moves = self.grown("standfast_failovers_total");
        assert_eq!(moves, self.moves().len() as u64, "seen: {:?}", self.served);
        let last = self.served.last().map(|moved| &*moved.to);
        assert_eq!(self.status["services"][0]["serving"].as_str(), last);
        assert_eq!(self.after.sum("standfast_panics_total", &[]), 0.0);
    }
}

/// A POST that was taken by an endpoint which fell silent: nobody knows whether it was processed, so
/// it is neither sent again nor given up for as long as the endpoint may yet answer, and its client
/// went away before that.
fn hangs(sample: &Sample) -> bool {
    sample.post && sample.outcome == Outcome::Timeout
}

const LOST: &str = "standfast_requests_lost_total";

/// No POST came twice, and an answer came from where the request went.
fn deliveries_are_right(report: &Report) {
    let mut places: HashMap<u64, HashSet<usize>> = HashMap::new();
    for delivery in &report.deliveries {
        places.entry(delivery.number).or_default().insert(delivery.endpoint);
    }
    let times = report.times_delivered();
    for sample in &report.samples {
        let times = times.get(&sample.number).copied().unwrap_or(0);
        assert!(!sample.post || times <= 1, "delivered {times} times: {sample:?}");
        let Some(endpoint) = sample.endpoint() else { continue };
        let there = places.get(&sample.number).is_some_and(|there| there.contains(&endpoint));
        assert!(there, "answered by an endpoint that did not have it: {sample:?}");
    }
}
