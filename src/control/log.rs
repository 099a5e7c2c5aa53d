//! ○ One clear line for every change of a verdict, every move, every reload.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::config::check::{Diagnostic, Severity};
use crate::failover::{Cause, Record, Trouble};
use crate::health::{self, Flip, Verdict};
use crate::table::Endpoint;
use crate::table::history::Moved;

use super::{DrillReport, Reloaded};

/// Something that changed; said after the table that carries it was published.
#[derive(Debug)]
pub(super) enum Line {
    Verdict { endpoint: Arc<Endpoint>, flip: Flip, state: health::State, why: String },
    Moved { service: Arc<str>, moved: Moved },
    Stuck { service: Arc<str>, serving: Arc<str>, trouble: Trouble, why: String },
    AvailableAgain { service: Arc<str>, serving: Arc<str> },
    Ordered { service: Arc<str>, did: String, reason: String, forced: bool, held: bool },
    Returning { service: Arc<str>, to: Arc<str>, permille: u16, begins: bool, length: Duration },
    BrokenOff { service: Arc<str>, to: Arc<str>, why: String },
    Record(Arc<Record>),
}

impl Line {
    pub(super) fn write(&self) {
        match self {
            Self::Verdict { endpoint, flip, state, why } => verdict(endpoint, *flip, state, why),
            Self::Moved { service, moved } => failover(service, moved),
            Self::Record(record) => self::record(record),
            Self::Stuck { service, serving, trouble, why } => {
                stuck(service, serving, *trouble, why);
            }
            Self::AvailableAgain { service, serving } => {
                info!(%service, %serving, "a pool is available again");
            }
            Self::Ordered { service, did, reason, forced, held } => {
                info!(%service, did, reason, forced, held, "order");
            }
            Self::Returning { service, to, permille, begins, length } => {
                let share = format!("{} %", permille / 10);
                let said = if *begins { "return begins" } else { "return goes on" };
                info!(%service, %to, share, within_ms = millis(*length), "{said}");
            }
            Self::BrokenOff { service, to, why } => {
                warn!(%service, %to, why, "return broken off");
            }
        }
    }
}

fn stuck(service: &str, serving: &str, trouble: Trouble, why: &str) {
    match trouble {
        Trouble::NoneAvailable => error!(%service, %serving, why, "no pool is available"),
        Trouble::Held => error!(%service, %serving, why, "the serving pool is lost but not left"),
        Trouble::Unproved { .. } | Trouble::Unsure => {
            warn!(%service, %serving, why, "the serving pool is lost but not left yet");
        }
    }
}

fn verdict(endpoint: &Endpoint, flip: Flip, state: &health::State, why: &str) {
    let Endpoint { service, pool, config, .. } = endpoint;
    let (run, kind) = match flip.to {
        Verdict::Down => (state.failures, "failures"),
        Verdict::Up | Verdict::Unknown => (state.successes, "successes"),
    };
    let took = millis(state.since.saturating_sub(flip.first_evidence));
    let why = match run {
        1 => why.to_owned(),
        _ => format!("{why}; {run} {kind} in a row within {took} ms"),
    };
    let (endpoint, from, to) = (&config.name, flip.from, flip.to);
    match to {
        Verdict::Down => warn!(%service, %pool, %endpoint, %from, %to, why, "verdict"),
        Verdict::Up | Verdict::Unknown => {
            info!(%service, %pool, %endpoint, %from, %to, why, "verdict");
        }
    }
}

fn failover(service: &str, moved: &Moved) {
    let Moved { from, to, reason, .. } = moved;
    let cause = moved.cause.label();
    let evidence = millis(moved.published.saturating_sub(moved.first_evidence));
    match moved.cause {
        Cause::Health => {
            let why = format!("{reason}; first evidence {evidence} ms ago");
            warn!(%service, %from, %to, %cause, why, "failover");
        }
        _ => info!(%service, %from, %to, %cause, why = &**reason, "failover"),
    }
}

/// The whole of it as JSON, for machines: when it is published, and when its cost is final.
pub(super) fn record(record: &Record) {
    let Record { id, complete, .. } = record;
    let record = serde_json::to_string(record).unwrap_or_default();
    info!(id, complete, record, "failover record");
}

/// A rehearsal that is over, whole as JSON.
pub(super) fn drill(report: &DrillReport) {
    let DrillReport { service, to, passed, .. } = report;
    let why = report.aborted.as_deref().unwrap_or("the other pool could take over");
    let report = serde_json::to_string(report).unwrap_or_default();
    info!(service, to, passed, why, report, "drill");
}

pub(super) fn reload(file: &str, result: &Result<Reloaded, Vec<Diagnostic>>) {
    match result {
        Ok(Reloaded { generation, changes, warnings }) => {
            info!(file, generation, changes = changes.len(), "configuration applied");
            for change in changes {
                info!(generation, "reload: {change}");
            }
            warnings.iter().for_each(|warning| diagnostic(file, warning));
        }
        Err(diagnostics) => {
            let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
            error!(file, errors, "configuration refused, the running one goes on");
            diagnostics.iter().for_each(|problem| diagnostic(file, problem));
        }
    }
}

fn diagnostic(file: &str, diagnostic: &Diagnostic) {
    let Diagnostic { severity, path, line, column, snippet, message, remedy } = diagnostic;
    // What no line of the file is to blame for has no snippet.
    let place = match snippet.is_empty() {
        true => file.to_owned(),
        false => format!("{file}:{line}:{column}"),
    };
    match severity {
        Severity::Error => error!(%place, %path, %remedy, "{message}"),
        Severity::Warning => warn!(%place, %path, %remedy, "{message}"),
    }
}

fn millis(duration: Duration) -> u128 {
    duration.as_millis()
}
