//! The report as Markdown, to be pasted into a README.

use std::fmt::Write as _;

use crate::configs::Peer;
use crate::report::{Report, Sample};
use crate::workload::Workload;

/// Above this share of a core taken by others, a round was disturbed.
const DISTURBED: f64 = 0.05;
/// Above this, in microseconds, the generator was too late itself to tell a tail.
const LATE_US: f64 = 300.0;
/// How many disturbed rounds are named.
const NAMED: usize = 6;
/// Below this share of what was due, a proxy did not carry the rate.
pub(crate) const CARRIED: f64 = 0.99;

impl Report {
    /// Machine and versions.
    pub(crate) fn head(&self) -> String {
        let mut out = format!("{}; {}\n", self.processor, self.kernel);
        for (peer, version) in &self.versions {
            let _ = writeln!(out, "- {peer}: {version}");
        }
        out
    }

    /// The tables, and what is to be known about them.
    pub(crate) fn markdown(&self) -> String {
        let mut out = self.head();
        if !self.samples.is_empty() {
            self.write_cpu(&mut out);
            self.write_latency(&mut out);
            self.write_memory(&mut out);
            self.write_workers(&mut out);
        }
        if !self.idle.is_empty() {
            self.write_idle(&mut out);
        }
        if !self.growth.is_empty() {
            out.push_str("\n| as it grows (Standfast) | figure | median | least–most |\n");
            out.push_str("|---|---|--:|--:|\n");
            for grown in &self.growth {
                let _ = writeln!(out, "{}", grown.row());
            }
        }
        if !self.samples.is_empty() {
            self.write_details(&mut out);
        }
        out.push_str(&self.verdict());
        out
    }

    fn write_cpu(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "\nCPU time of the proxy per request, medians of {} rounds of {} s, one worker; of the \
             others as multiples of Standfast's (above 1: they need more).\n",
            self.rounds, self.seconds
        );
        let others: Vec<_> = self.others();
        let _ =
            writeln!(out, "| workload | standfast µs | req/s on a core | {} |", others.join(" | "));
        let _ = writeln!(out, "|---|--:|--:|{}", "--:|".repeat(others.len()));
        for workload in self.workloads() {
            let ours = self.middle(workload, Peer::Standfast.name(), |s| Some(s.cpu_us));
            let _ = write!(
                out,
                "| {workload} | {} | {} |",
                cell(ours, 2),
                cell(ours.map(|cpu| 1e6 / cpu), 0)
            );
            for peer in &others {
                let _ = write!(out, " {} |", cell(self.ratio(workload, peer), 2));
            }
            out.push('\n');
        }
    }

    fn write_latency(&self, out: &mut String) {
        out.push_str(
            "\nLatency in µs at the same fixed rate for all (open loop, from when a request was \
             due): p50 / p99 / p99.9.\n\n",
        );
        let peers = self.peers();
        let _ = writeln!(out, "| workload | requests/s | {} |", peers.join(" | "));
        let _ = writeln!(out, "|---|--:|{}", "--:|".repeat(peers.len()));
        for workload in self.workloads() {
            let sample = self.samples.iter().find(|s| s.workload == workload);
            let rate = sample.and_then(|s| s.paced.as_ref()).map(|paced| paced.rate);
            let _ = write!(out, "| {workload} | {} |", cell(rate, 0));
            for peer in &peers {
                let of = |get: fn(&Sample) -> Option<f64>| self.middle(workload, peer, get);
                let p50 = of(|s| Some(s.paced.as_ref()?.p50_us));
                let p99 = of(|s| Some(s.paced.as_ref()?.p99_us));
                let p999 = of(|s| s.paced.as_ref()?.p999_us);
                let carried = of(|s| Some(s.paced.as_ref()?.carried)).unwrap_or(1.0);
                let cells = [p50, p99, p999].map(|value| cell(value, 0)).join(" / ");
                let _ = match p50 {
                    None => write!(out, " – |"),
                    // What it did not answer in time is in no quantile.
                    Some(_) if carried < CARRIED => {
                        write!(out, " carried {:.0} % |", carried * 100.0)
                    }
                    Some(_) => write!(out, " {cells} |"),
                };
            }
            out.push('\n');
        }
    }

    fn write_memory(&self, out: &mut String) {
        out.push_str("\nMemory (PSS) under that load, MiB.\n\n");
        let peers = self.peers();
        let _ = writeln!(out, "| workload | {} |", peers.join(" | "));
        let _ = writeln!(out, "|---|{}", "--:|".repeat(peers.len()));
        for workload in self.workloads() {
            let _ = write!(out, "| {workload} |");
            for peer in &peers {
                let memory = self.middle(workload, peer, |s| Some(s.memory_kib as f64 / 1024.0));
                let _ = write!(out, " {} |", cell(memory, 1));
            }
            out.push('\n');
        }
    }

    /// What a second worker adds, where there was a core for it.
    fn write_workers(&self, out: &mut String) {
        let (one, two) = (Workload::W1.title(), Workload::TwoWorkers.title());
        let mut scales = Vec::new();
        for peer in self.peers() {
            let of = |workload| self.middle(workload, peer, |s| Some(s.requests_per_second));
            if let (Some(one), Some(two)) = (of(one), of(two)) {
                scales.push(format!("{peer} {:.2}", two / one));
            }
        }
        if scales.is_empty() {
            return;
        }
        let cores = match self.proxy_cores.len() {
            0 | 1 => {
                "on the one core of the proxy, so this is what a second costs, not what it gains"
            }
            _ => "each on a core",
        };
        let _ = writeln!(
            out,
            "\nRequests a second with two workers ÷ with one ({cores}): {}.",
            scales.join(", ")
        );
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

    fn write_details(&self, out: &mut String) {
        out.push_str(
            "\nThe closed loop in full; CPU with the least and most of the rounds.\n\n\
             | workload | proxy | CPU µs/request | requests/s | p50 µs | p99 µs \
             | generator µs/request |\n|---|---|--:|--:|--:|--:|--:|\n",
        );
        for workload in self.workloads() {
            for peer in self.peers() {
                let of = |get: fn(&Sample) -> f64| self.middle(workload, peer, |s| Some(get(s)));
                let Some(middle) = of(|s| s.cpu_us) else { continue };
                let rounds = self.rounds_of(workload, peer);
                let least = rounds.iter().map(|s| s.cpu_us).fold(f64::INFINITY, f64::min);
                let most = rounds.iter().map(|s| s.cpu_us).fold(0.0, f64::max);
                let _ = writeln!(
                    out,
                    "| {workload} | {peer} | {middle:.2} ({least:.2}–{most:.2}) | {} | {} | {} | {} |",
                    cell(of(|s| s.requests_per_second), 0),
                    cell(of(|s| s.p50_us), 0),
                    cell(of(|s| s.p99_us), 0),
                    cell(of(|s| s.generator_us), 2),
                );
            }
        }
    }

    /// May the figures be believed?
    fn verdict(&self) -> String {
        let mut out = String::from("\n");
        for failure in &self.failures {
            let _ = writeln!(out, "- FAILED: {failure}");
        }
        for note in &self.notes {
            let _ = writeln!(out, "- NOT AT FIRST: {note}");
        }
        for sample in &self.samples {
            let errors = sample.errors + sample.paced.as_ref().map_or(0, |paced| paced.errors);
            if errors + sample.closed > 0 {
                let _ = writeln!(
                    out,
                    "- FAILURES: {} {} round {}: {errors} requests failed, {} kept connections \
                     were closed.",
                    sample.workload, sample.peer, sample.round, sample.closed
                );
            }
        }
        let disturbed: Vec<String> = self
            .samples
            .iter()
            .filter(|sample| others(sample) > DISTURBED || late(sample) > LATE_US)
            .map(|sample| format!("{} {} round {}", sample.workload, sample.peer, sample.round))
            .collect();
        let most = self.samples.iter().map(others).fold(0.0, f64::max) * 100.0;
        let latest = self.samples.iter().map(late).fold(0.0, f64::max);
        if self.samples.is_empty() {
            return out;
        }
        let _ = if disturbed.is_empty() {
            writeln!(
                out,
                "Undisturbed: others took at most {most:.0} % of a core, and the generator was at \
                 most {latest:.0} µs late (99.9 %)."
            )
        } else {
            writeln!(
                out,
                "DISTURBED: others took more than {:.0} % of a core (at most {most:.0} %), or the \
                 generator was more than {LATE_US:.0} µs late (at most {latest:.0} µs), in {} of {} \
                 measurements; repeat them: {}{}.",
                DISTURBED * 100.0,
                disturbed.len(),
                self.samples.len(),
                disturbed[..disturbed.len().min(NAMED)].join(", "),
                if disturbed.len() > NAMED { ", …" } else { "" }
            )
        };
        out
    }

    /// All peers but Standfast.
    pub(crate) fn others(&self) -> Vec<&'static str> {
        self.peers().into_iter().filter(|&peer| peer != Peer::Standfast.name()).collect()
    }
}

fn others(sample: &Sample) -> f64 {
    sample.paced.as_ref().map_or(0.0, |paced| paced.others_load).max(sample.others_load)
}

fn late(sample: &Sample) -> f64 {
    sample.paced.as_ref().map_or(0.0, |paced| paced.late_us)
}

fn cell(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}
