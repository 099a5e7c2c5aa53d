//! What one run came to.

use std::time::Duration;

use serde::Serialize;

use crate::peer::Peer;
use crate::rig::pool_of;
use crate::rig::proxy::Move;
use crate::rig::report::{Figures, Report};
use crate::rig::{Pool, report::quantile};
use crate::scenario::{Scenario, Struck};

/// The plot's resolution.
const BIN: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    pub(crate) fault: String,
    pub(crate) title: String,
    pub(crate) peer: String,
    /// Before the fault.
    pub(crate) healthy: Figures,
    /// From the fault on.
    pub(crate) struck: Figures,
    /// From the fault (or from when the standby was back) to the standby's first good answer.
    pub(crate) first_success_ms: Option<f64>,
    /// Moves that Standfast's status showed after the fault: milliseconds since, and to which pool.
    pub(crate) moves: Option<Vec<(f64, String)>>,
    /// Does the standby answer most of the last half second's requests?
    pub(crate) moved: bool,
    pub(crate) notes: Vec<String>,
    /// What the issue requires of Standfast and this run has not.
    pub(crate) missed: Vec<String>,
    pub(crate) bins: Vec<Bin>,
}

/// The requests due in 50 ms.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Bin {
    /// Its beginning, in seconds since the fault.
    pub(crate) at: f64,
    /// The 99 % quantile of those answered well; `None` if none was.
    pub(crate) p99_ms: Option<f64>,
    pub(crate) requests: usize,
    pub(crate) lost: usize,
    pub(crate) by_standby: usize,
}

impl Run {
    pub(crate) fn new(
        scenario: Scenario,
        peer: &Peer,
        calm: Duration,
        struck: &Struck,
        first: Option<Duration>,
        report: &Report,
        moves: Option<Vec<Move>>,
    ) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let Struck { from, until, .. } = *struck;
        let end = report.between(until.saturating_sub(Duration::from_millis(500)), until);
        // The first entry is what served at the beginning.
        let moves = moves.map(|moves| {
            let moves = moves.into_iter().skip(1).filter(|moved| moved.at >= from);
            moves.map(|moved| (ms(moved.at - from), moved.to)).collect()
        });
        let mut run = Self {
            fault: scenario.name(),
            title: scenario.title(),
            peer: peer.to_string(),
            healthy: report.between(calm, from),
            struck: report.between(from, until),
            first_success_ms: first.map(ms),
            moves,
            moved: end.by_standby > end.by_hot,
            notes: struck.notes.clone(),
            missed: Vec::new(),
            bins: bins(report, from.saturating_sub(Duration::from_secs(1)), from, until),
        };
        run.missed = run.missed(scenario);
        run
    }

    /// One line to watch the bench by.
    pub(crate) fn line(&self) -> String {
        let Figures { lost_get, lost_post, twice_post, p99, p999, .. } = &self.struck;
        format!(
            "{:<18} {:<14} lost {lost_get} GET, {lost_post} POST; twice {twice_post} POST; first \
             success {}; p99 {p99:.1}, p99.9 {p999:.1} ms (healthy {:.1}, {:.1}; client late {:.1})",
            self.fault,
            self.peer,
            self.first_success_ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1} ms")),
            self.healthy.p99,
            self.healthy.p999,
            self.struck.client_late,
        )
    }

    /// In words: `moved after 213 ms`, `no`, `3 moves`, …
    pub(crate) fn movement(&self) -> String {
        match self.moves.as_deref() {
            Some([(after, _)]) => format!("{after:.0} ms"),
            Some([]) => "no".to_owned(),
            Some(moves) => format!("{} times", moves.len()),
            None if self.moved => "yes".to_owned(),
            None => "no".to_owned(),
        }
    }

    fn missed(&self, scenario: Scenario) -> Vec<String> {
        let required = scenario.required();
        let mut missed = Vec::new();
        let mut count = |what: &str, is: usize, most: Option<usize>| {
            if most.is_some_and(|most| is > most) {
                missed.push(format!("{is} {what}"));
            }
        };
        count("GET lost", self.struck.lost_get, required.lost_get);
        count("POST lost", self.struck.lost_post, required.lost_post);
        count("POST twice", self.struck.twice_post, Some(0));
        let mut time = |what: &str, is: Option<f64>, most: Option<f64>| match (is, most) {
            (Some(is), Some(most)) if is > most => missed.push(format!("{what} {is:.0} ms")),
            (None, Some(_)) => missed.push(format!("no {what}")),
            _ => {}
        };
        time("first success", self.first_success_ms, required.first);
        time("p99", Some(self.struck.p99), required.p99);
        time("p99.9", Some(self.struck.p999), required.p999);
        if let Some(moves) = &self.moves {
            time("move", moves.first().map(|(after, _)| *after), required.moved_within);
        }
        match required.moves {
            Some(true) if !self.moved => missed.push("did not move".to_owned()),
            Some(false) if self.moved => missed.push("moved".to_owned()),
            _ => {}
        }
        missed
    }
}

fn bins(report: &Report, from: Duration, zero: Duration, until: Duration) -> Vec<Bin> {
    let count = ((until - from).as_nanos() / BIN.as_nanos()) as usize;
    let mut bins: Vec<(Vec<Duration>, usize, usize, usize)> = vec![Default::default(); count];
    for sample in report.samples.iter().filter(|sample| sample.due >= from) {
        let index = ((sample.due - from).as_nanos() / BIN.as_nanos()) as usize;
        let Some((latencies, requests, lost, by_standby)) = bins.get_mut(index) else { continue };
        *requests += 1;
        if sample.is_good() {
            latencies.push(sample.latency);
        } else {
            *lost += 1;
        }
        *by_standby += usize::from(sample.endpoint().map(pool_of) == Some(Pool::Standby));
    }
    let whole = bins.into_iter().enumerate();
    whole
        .map(|(index, (mut latencies, requests, lost, by_standby))| {
            latencies.sort();
            let p99 = quantile(&latencies, 0.99).as_secs_f64() * 1e3;
            let begins = from + BIN * index as u32;
            Bin {
                at: begins.as_secs_f64() - zero.as_secs_f64(),
                p99_ms: (!latencies.is_empty()).then_some(p99),
                requests,
                lost,
                by_standby,
            }
        })
        .collect()
}
