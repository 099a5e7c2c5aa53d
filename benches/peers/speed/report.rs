//! What was measured, and what it says of all rounds together.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Result;
use crate::args::Args;
use crate::configs::Peer;
use crate::cpu::Spent;
use crate::engine::Counts;
use crate::growth::Grown;
use crate::workload::Workload;

/// Fewer requests than this in a round do not tell a quantile of 99.9 %.
const TAIL_LEAST: u64 = 900;

/// One proxy under one workload in one round.
#[derive(Serialize)]
pub(crate) struct Sample {
    pub(crate) peer: &'static str,
    pub(crate) workload: &'static str,
    pub(crate) round: u32,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    /// Kept connections the proxy closed although they were in use.
    pub(crate) closed: u64,
    /// CPU time of the proxy per request, in microseconds.
    pub(crate) cpu_us: f64,
    /// Time generator and endpoints were at work per request, in microseconds.
    pub(crate) generator_us: f64,
    /// Shares of a core: the proxy's, the generator's at work, everybody else's.
    pub(crate) proxy_load: f64,
    pub(crate) generator_load: f64,
    pub(crate) others_load: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Memory of the proxy (PSS) at the end of the closed loop.
    pub(crate) memory_kib: u64,
    pub(crate) paced: Option<Paced>,
}

/// The same at a fixed rate: latencies count from when a request was due.
#[derive(Serialize)]
pub(crate) struct Paced {
    pub(crate) rate: f64,
    /// Answered, as a share of what was due.
    pub(crate) carried: f64,
    pub(crate) cpu_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// None where there were too few requests to tell.
    pub(crate) p999_us: Option<f64>,
    /// How late the generator was itself, at 99.9 %.
    pub(crate) late_us: f64,
    pub(crate) errors: u64,
    pub(crate) others_load: f64,
}

impl Sample {
    pub(crate) fn new(
        peer: Peer,
        workload: Workload,
        round: u32,
        counts: &Counts,
        spent: &Spent,
        memory_kib: u64,
    ) -> Self {
        let requests = counts.requests as f64;
        let wall = spent.wall as f64;
        Self {
            peer: peer.name(),
            workload: workload.title(),
            round,
            requests: counts.requests,
            errors: counts.errors,
            closed: counts.closed,
            cpu_us: spent.proxy as f64 / 1e3 / requests,
            generator_us: counts.busy.as_secs_f64() * 1e6 / requests,
            proxy_load: spent.proxy as f64 / wall,
            generator_load: counts.busy.as_secs_f64() * 1e9 / wall,
            others_load: spent.others(),
            requests_per_second: requests / wall * 1e9,
            p50_us: counts.latency.quantile(0.5) as f64 / 1e3,
            p99_us: counts.latency.quantile(0.99) as f64 / 1e3,
            memory_kib,
            paced: None,
        }
    }

    /// Together with the open loop; tells whoever watches the run.
    pub(crate) fn with(self, paced: Paced) -> Self {
        eprintln!(
            "{:<26} round {} {:<14} {:>8.2} µs of CPU a request, {:>7.0}/s; at {:.0}/s p50 {:.0}, \
             p99 {:.0}, p99.9 {:.0} µs (cores: proxy {:.0} %, generator {:.0} %, others {:.0} %)",
            self.workload,
            self.round,
            self.peer,
            self.cpu_us,
            self.requests_per_second,
            paced.rate,
            paced.p50_us,
            paced.p99_us,
            paced.p999_us.unwrap_or(f64::NAN),
            self.proxy_load * 100.0,
            self.generator_load * 100.0,
            self.others_load * 100.0,
        );
        Self { paced: Some(paced), ..self }
    }
}

impl Paced {
    pub(crate) fn new(rate: f64, counts: &Counts, spent: &Spent) -> Self {
        let quantile = |share| counts.latency.quantile(share) as f64 / 1e3;
        Self {
            rate,
            carried: counts.requests as f64 / counts.due.max(1) as f64,
            cpu_us: spent.proxy as f64 / 1e3 / counts.requests.max(1) as f64,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: (counts.requests >= TAIL_LEAST).then(|| quantile(0.999)),
            late_us: counts.late.quantile(0.999) as f64 / 1e3,
            errors: counts.errors,
            others_load: spent.others(),
        }
    }
}

/// One proxy holding idle connections.
#[derive(Serialize)]
pub(crate) struct IdleSample {
    pub(crate) peer: &'static str,
    pub(crate) tls: bool,
    pub(crate) connections: usize,
    pub(crate) before_kib: u64,
    pub(crate) after_kib: u64,
    pub(crate) kib_per_connection: f64,
}

impl IdleSample {
    pub(crate) fn new(
        peer: Peer,
        tls: bool,
        connections: usize,
        before_kib: u64,
        after_kib: u64,
    ) -> Self {
        let grown = after_kib as f64 - before_kib as f64;
        let kib_per_connection = grown / connections as f64;
        eprintln!(
            "idle {:<5} {:<14} {kib_per_connection:>6.2} KiB a connection ({before_kib} → \
             {after_kib} KiB with {connections})",
            if tls { "TLS" } else { "plain" },
            peer.name(),
        );
        Self { peer: peer.name(), tls, connections, before_kib, after_kib, kib_per_connection }
    }
}

/// All of a run.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) proxy_cores: Vec<usize>,
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) versions: BTreeMap<&'static str, String>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) idle: Vec<IdleSample>,
    pub(crate) growth: Vec<Grown>,
    /// What failed once and not again.
    pub(crate) notes: Vec<String>,
    /// What could not be measured.
    pub(crate) failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(args: &Args, versions: &[(Peer, String)]) -> Self {
        Self {
            rounds: args.rounds,
            seconds: args.seconds,
            proxy_cores: args.proxy_core.clone(),
            kernel: kernel(),
            processor: processor(),
            versions: versions.iter().map(|(peer, text)| (peer.name(), text.clone())).collect(),
            samples: Vec::new(),
            idle: Vec::new(),
            growth: Vec::new(),
            notes: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub(crate) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Workloads in the order of the run.
    pub(crate) fn workloads(&self) -> Vec<&'static str> {
        distinct(self.samples.iter().map(|sample| sample.workload))
    }

    /// Peers in the order of the run.
    pub(crate) fn peers(&self) -> Vec<&'static str> {
        distinct(self.samples.iter().map(|sample| sample.peer))
    }

    /// One proxy's rounds under one workload.
    pub(crate) fn rounds_of(&self, workload: &str, peer: &str) -> Vec<&Sample> {
        let of = |sample: &&Sample| sample.workload == workload && sample.peer == peer;
        self.samples.iter().filter(of).collect()
    }

    /// The median over rounds; none if there was none.
    pub(crate) fn middle(
        &self,
        workload: &str,
        peer: &str,
        get: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<f64> {
        let values: Vec<f64> = self.rounds_of(workload, peer).into_iter().filter_map(get).collect();
        (!values.is_empty()).then(|| median(values))
    }

    /// The median of the rounds' ratios to Standfast, since a drift of the machine moves both sides
    /// of one round.
    pub(crate) fn ratio(&self, workload: &str, peer: &str) -> Option<f64> {
        let ours = self.rounds_of(workload, Peer::Standfast.name());
        let ratio = |theirs: &Sample| {
            let ours = ours.iter().find(|ours| ours.round == theirs.round)?;
            Some(theirs.cpu_us / ours.cpu_us)
        };
        self.middle(workload, peer, ratio)
    }
}

fn distinct(names: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

/// The middle value, or the mean of the two in the middle; not a number if there is none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

fn kernel() -> String {
    let uname = rustix::system::uname();
    format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy())
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let all = text.lines().filter(|line| line.starts_with("processor")).count().max(cores);
    format!("{name}, {all} cores")
}
