//! What was measured, as a table to read and as raw data.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::Result;
use crate::args::Args;
use crate::configs::Peer;
use crate::cpu::Spent;
use crate::engine::Counts;
use crate::workload::Workload;

/// Above this share of a core taken by others, a round was disturbed.
const DISTURBED: f64 = 0.05;

/// How many disturbed rounds are named.
const NAMED: usize = 6;

/// One proxy under one workload in one round.
#[derive(Serialize)]
pub(crate) struct Sample {
    peer: &'static str,
    workload: &'static str,
    round: u32,
    requests: u64,
    errors: u64,
    /// Kept connections the proxy closed although they were in use.
    closed: u64,
    /// CPU time of the proxy per request, in microseconds.
    cpu_us: f64,
    /// Time generator and endpoints were at work per request, in microseconds.
    generator_us: f64,
    /// Shares of a core: the proxy's, the generator's at work, everybody else's.
    proxy_load: f64,
    generator_load: f64,
    others_load: f64,
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Sample {
    pub(crate) fn new(
        peer: Peer,
        workload: Workload,
        round: u32,
        counts: &Counts,
        spent: &Spent,
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
        }
    }

    /// One line to watch the run by.
    pub(crate) fn line(&self) -> String {
        format!(
            "{:<22} round {} {:<14} {:>8.2} µs of CPU a request, {:>7.0}/s (generator {:.2} µs; \
             cores: proxy {:.0} %, generator {:.0} %, others {:.0} %)",
            self.workload,
            self.round,
            self.peer,
            self.cpu_us,
            self.requests_per_second,
            self.generator_us,
            self.proxy_load * 100.0,
            self.generator_load * 100.0,
            self.others_load * 100.0,
        )
    }
}

/// One proxy holding idle connections.
#[derive(Serialize)]
pub(crate) struct IdleSample {
    peer: &'static str,
    tls: bool,
    connections: usize,
    before_kib: u64,
    after_kib: u64,
    kib_per_connection: f64,
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
        Self { peer: peer.name(), tls, connections, before_kib, after_kib, kib_per_connection }
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "idle {:<5} {:<14} {:>6.2} KiB a connection ({} → {} KiB with {})",
            if self.tls { "TLS" } else { "plain" },
            self.peer,
            self.kib_per_connection,
            self.before_kib,
            self.after_kib,
            self.connections,
        )
    }
}

/// All of a run.
#[derive(Serialize)]
pub(crate) struct Report {
    rounds: u32,
    seconds: f64,
    kernel: String,
    processor: String,
    versions: BTreeMap<&'static str, String>,
    samples: Vec<Sample>,
    idle: Vec<IdleSample>,
}

impl Report {
    pub(crate) fn new(args: &Args, versions: Vec<(Peer, String)>) -> Self {
        Self {
            rounds: args.rounds,
            seconds: args.seconds,
            kernel: kernel(),
            processor: processor(),
            versions: versions.into_iter().map(|(peer, text)| (peer.name(), text)).collect(),
            samples: Vec::new(),
            idle: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    pub(crate) fn add_idle(&mut self, sample: IdleSample) {
        self.idle.push(sample);
    }

    pub(crate) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// The tables, and what is to be known about them.
    pub(crate) fn markdown(&self) -> String {
        let mut out = format!("{}; {}\n", self.processor, self.kernel);
        for (peer, version) in &self.versions {
            let _ = writeln!(out, "- {peer}: {version}");
        }
        if !self.samples.is_empty() {
            self.write_load(&mut out);
        }
        if !self.idle.is_empty() {
            self.write_idle(&mut out);
        }
        out.push_str(&self.verdict());
        out
    }

    fn write_load(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "\nMedians of {} rounds of {} s each; CPU µs with the least and most of them.\n\n\
             | workload | proxy | CPU µs/request | ÷ standfast | requests/CPU-s | requests/s \
             | p50 µs | p99 µs | generator µs/request |\n|---|---|--:|--:|--:|--:|--:|--:|--:|",
            self.rounds, self.seconds
        );
        for (workload, peer) in self.groups() {
            let of = |get: fn(&Sample) -> f64| median(self.values(workload, peer, get));
            let mut cpu = self.values(workload, peer, |s| s.cpu_us);
            cpu.sort_by(f64::total_cmp);
            let range = match cpu[..] {
                [least, .., most] => format!(" ({least:.2}–{most:.2})"),
                _ => String::new(),
            };
            let middle = median(cpu);
            let ratio = self.ratio(workload, peer);
            let _ = writeln!(
                out,
                "| {workload} | {peer} | {middle:.2}{range} | {} | {:.0} | {:.0} | {:.0} | {:.0} \
                 | {:.2} |",
                ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
                1e6 / middle,
                of(|s| s.requests_per_second),
                of(|s| s.p50_us),
                of(|s| s.p99_us),
                of(|s| s.generator_us),
            );
        }
    }

    fn write_idle(&self, out: &mut String) {
        out.push_str(
            "\n| idle connections | proxy | KiB/connection | MiB before | MiB after |\n\
             |---|---|--:|--:|--:|\n",
        );
        for sample in &self.idle {
            let _ = writeln!(
                out,
                "| {} {} | {} | {:.2} | {:.1} | {:.1} |",
                sample.connections,
                if sample.tls { "TLS" } else { "plain" },
                sample.peer,
                sample.kib_per_connection,
                sample.before_kib as f64 / 1024.0,
                sample.after_kib as f64 / 1024.0,
            );
        }
    }

    /// Workload and peer of each row, in the order of the run.
    fn groups(&self) -> Vec<(&'static str, &'static str)> {
        let mut groups = Vec::new();
        for sample in &self.samples {
            let group = (sample.workload, sample.peer);
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        groups
    }

    fn values(&self, workload: &str, peer: &str, get: fn(&Sample) -> f64) -> Vec<f64> {
        let group = self.samples.iter().filter(|s| s.workload == workload && s.peer == peer);
        group.map(get).collect()
    }

    /// The median of the rounds' ratios, since a drift of the machine moves both sides of one round.
    fn ratio(&self, workload: &str, peer: &str) -> Option<f64> {
        let theirs = self.values(workload, peer, |s| s.cpu_us);
        let ours = self.values(workload, Peer::Standfast.name(), |s| s.cpu_us);
        if ours.len() != theirs.len() {
            return None;
        }
        Some(median(theirs.iter().zip(&ours).map(|(theirs, ours)| theirs / ours).collect()))
    }

    /// May the figures be believed?
    fn verdict(&self) -> String {
        let mut out = String::from("\n");
        let disturbed: Vec<String> = self
            .samples
            .iter()
            .filter(|s| s.others_load > DISTURBED)
            .map(|s| format!("{} {} round {}", s.workload, s.peer, s.round))
            .collect();
        let most = self.samples.iter().map(|s| s.others_load).fold(0.0, f64::max) * 100.0;
        if disturbed.is_empty() {
            let _ = writeln!(out, "Undisturbed: others took at most {most:.0} % of a core.");
        } else {
            let _ = writeln!(
                out,
                "DISTURBED: others took more than {:.0} % of a core (at most {most:.0} %) in {} of \
                 {} measurements; repeat them: {}{}.",
                DISTURBED * 100.0,
                disturbed.len(),
                self.samples.len(),
                disturbed[..disturbed.len().min(NAMED)].join(", "),
                if disturbed.len() > NAMED { ", …" } else { "" }
            );
        }
        for sample in self.samples.iter().filter(|s| s.errors + s.closed > 0) {
            let _ = writeln!(
                out,
                "FAILURES: {} {} round {}: {} requests failed, {} kept connections were closed.",
                sample.workload, sample.peer, sample.round, sample.errors, sample.closed
            );
        }
        out
    }
}

/// The middle value, or the mean of the two in the middle; not a number if there is none.
fn median(mut values: Vec<f64>) -> f64 {
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
