//! The runs as a table to read.

use std::fmt::Write as _;

use crate::peer::{Peer, Program};
use crate::run::Run;

/// One table for each fault's proxies, in the order of the run, and what is to be known about it.
pub(crate) fn markdown(peers: &[Peer], runs: &[Run], failures: &[String]) -> String {
    let mut out = String::new();
    let mut last = None;
    for peer in peers {
        if last != Some(peer.program) {
            let version = &peer.version;
            let note = match peer.program {
                Program::Haproxy => " (as packaged by the distribution)",
                _ => "",
            };
            let _ = writeln!(out, "- {version}{note}");
        }
        last = Some(peer.program);
    }
    out.push_str(
        "\nTimes in ms; latencies are those of requests answered well, from when each was due. \"GET \
         again\": delivered more than once (rescued).\n\n\
         | fault | proxy | lost GET | lost POST | POST twice | first success | moved | p99 | p99.9 \
         | max | healthy p99.9 | GET again | misses |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n",
    );
    let mut fault = "";
    for run in runs {
        let title = if run.fault == fault { "" } else { run.title.as_str() };
        fault = &run.fault;
        let figures = &run.struck;
        let answered = figures.by_hot + figures.by_standby > 0;
        let latencies = if answered {
            format!("{:.1} | {:.1} | {:.0}", figures.p99, figures.p999, figures.max)
        } else {
            "– | – | –".to_owned()
        };
        let _ = writeln!(
            out,
            "| {title} | {} | {} | {} | {} | {} | {} | {latencies} | {:.1} | {} | {} |",
            run.peer,
            figures.lost_get,
            figures.lost_post,
            figures.twice_post,
            run.first_success_ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1}")),
            run.movement(),
            run.healthy.p999,
            figures.twice_get,
            if run.missed.is_empty() { "nothing".to_owned() } else { run.missed.join(", ") },
        );
    }
    details(&mut out, runs, failures);
    out
}

fn details(out: &mut String, runs: &[Run], failures: &[String]) {
    out.push('\n');
    for run in runs {
        let why: Vec<String> =
            run.struck.why.iter().map(|(why, count)| format!("{count} × {why}")).collect();
        let mut said = run.notes.clone();
        if !why.is_empty() {
            said.push(format!("lost: {}", why.join(", ")));
        }
        if !said.is_empty() {
            let _ = writeln!(out, "- {} {}: {}", run.fault, run.peer, said.join("; "));
        }
    }
    for failure in failures {
        let _ = writeln!(out, "- FAILED: {failure}");
    }
    let late = |run: &&Run| run.healthy.client_late.max(run.struck.client_late) > LATE;
    let disturbed: Vec<String> =
        runs.iter().filter(late).map(|run| format!("{} {}", run.fault, run.peer)).collect();
    let _ = match disturbed.len() {
        0 => writeln!(out, "\nUndisturbed: the client was never later than {LATE} ms (99.9 %)."),
        count => writeln!(
            out,
            "\nDISTURBED: in {count} of {} runs the client itself was more than {LATE} ms late \
             (99.9 %), for want of a CPU; their tails are worth little: {}{}.",
            runs.len(),
            disturbed[..count.min(NAMED)].join(", "),
            if count > NAMED { ", …" } else { "" }
        ),
    };
}

/// How many disturbed runs are named.
const NAMED: usize = 6;
/// Milliseconds above which a run was disturbed.
const LATE: f64 = 5.0;
