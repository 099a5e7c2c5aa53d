//! ○ `standfast backtest`: what a configuration would have decided on a recorded probe history.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::{check, load};
use crate::control::backtest::{Backtest, Made, Summary, replay};
use crate::control::probe_history::{self, Moved};
use crate::control::recorder;
use crate::failover::record::Stamp;
use crate::observe::calendar;

/// Endpoints and moves that are named; of more only the number is given.
const NAMED: usize = 20;

/// Replays `history`, and what was set aside of it, under `config`; prints the moves it would have
/// made beside those that were made.
pub fn backtest(config: &Path, history: &Path, json: bool) -> ExitCode {
    let (config, _) = match load::load(config) {
        Ok(loaded) => loaded,
        Err(diagnostics) => {
            eprint!("{}", check::render(&diagnostics, &config.display().to_string(), false));
            return ExitCode::FAILURE;
        }
    };
    let text = match read(history) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("standfast: {} cannot be read: {error}", history.display());
            return ExitCode::FAILURE;
        }
    };
    let (lines, unreadable) = probe_history::parse(&text);
    if unreadable > 0 {
        eprintln!("standfast: {unreadable} lines cannot be read and are left out");
    }
    let backtest = replay(Arc::new(config), &lines);
    if backtest.observations == 0 {
        eprintln!("standfast: no observation in {} fits the configuration", history.display());
    }
    let mut out = io::stdout().lock();
    let written = match json {
        true => serde_json::to_writer(&mut out, &backtest)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out)),
        false => print(&backtest, &mut out),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        // A reader such as `head` may leave before the end.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("standfast: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The file with what was set aside of it before, if anything was.
fn read(history: &Path) -> io::Result<String> {
    let mut bytes = match std::fs::read(recorder::aside(history)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    bytes.push(b'\n');
    bytes.extend(std::fs::read(history)?);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn print(backtest: &Backtest, out: &mut dyn Write) -> io::Result<()> {
    let Backtest { from, to, observations, unknown, moves, recorded, services } = backtest;
    writeln!(out, "{observations} observations from {} to {}", time(*from), time(*to))?;
    for name in unknown.iter().take(NAMED) {
        writeln!(out, "  {name} is not in the configuration: left out")?;
    }
    if let Some(more) = unknown.len().checked_sub(NAMED).filter(|more| *more > 0) {
        writeln!(out, "  and {more} more")?;
    }
    writeln!(out, "\nMoves this configuration would have made: {}", moves.len())?;
    moves.iter().try_for_each(|made| print_made(made, out))?;
    if !recorded.is_empty() {
        writeln!(out, "\nMoves that were made then: {}", recorded.len())?;
        recorded.iter().try_for_each(|moved| print_moved(moved, out))?;
    }
    writeln!(out, "\n{:<20} {:>18} {:>18}", "", "this configuration", "recorded")?;
    services.iter().try_for_each(|(name, summary)| print_summary(name, summary, out))
}

fn print_made(made: &Made, out: &mut dyn Write) -> io::Result<()> {
    let Made { service, from, to, cause, at, first_evidence, reason, evidence } = made;
    let took = at.since(*first_evidence).as_millis();
    let after = if took > 0 { format!(", {took} ms after it began") } else { String::new() };
    let cause = cause.label();
    writeln!(out, "  {}  {service}: {from} → {to}  {cause}: {reason}{after}", time(*at))?;
    evidence.iter().take(NAMED).try_for_each(|line| writeln!(out, "      {line}"))
}

fn print_moved(moved: &Moved, out: &mut dyn Write) -> io::Result<()> {
    let Moved { id, moved: service, from, to, cause, at, .. } = moved;
    let cause = cause.label();
    writeln!(out, "  {}  {service}: {from} → {to}  {cause} ({id})", time(*at))
}

fn print_summary(name: &str, summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
    let detection =
        |mean: Option<f64>| mean.map_or_else(|| "-".to_owned(), |mean| format!("{mean:.3} s"));
    let seconds = |seconds: f64| format!("{seconds:.0} s");
    let rows = [
        ("moves", summary.moves.to_string(), summary.recorded_moves.to_string()),
        (
            "on standby",
            seconds(summary.on_standby_seconds),
            seconds(summary.recorded_on_standby_seconds),
        ),
        (
            "detection (mean)",
            detection(summary.detection_mean_seconds),
            detection(summary.recorded_detection_mean_seconds),
        ),
    ];
    writeln!(out, "{name}")?;
    rows.iter().try_for_each(|(what, now, then)| writeln!(out, "  {what:<18} {now:>18} {then:>18}"))
}

/// RFC 3339, to the millisecond.
fn time(stamp: Stamp) -> String {
    let mut text = Vec::new();
    calendar::date(&mut text, stamp.0 / 1_000_000);
    text.push(b'.');
    calendar::digits(&mut text, stamp.0 / 1000 % 1000, 3);
    text.push(b'Z');
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_read_the_older_first_and_one_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        assert!(read(&path).is_err());
        std::fs::write(&path, "new").unwrap();
        assert_eq!(read(&path).unwrap(), "\nnew");
        std::fs::write(recorder::aside(&path), "old").unwrap();
        assert_eq!(read(&path).unwrap(), "old\nnew");
    }

    #[test]
    fn a_backtest_is_printed_with_times_causes_and_a_summary() {
        let at = Stamp(1_700_000_000_250_000);
        let made = Made {
            service: "app".to_owned(),
            from: "hot".to_owned(),
            to: "standby".to_owned(),
            cause: crate::failover::Cause::Health,
            at,
            first_evidence: Stamp(at.0 - 180_000),
            reason: "0 of 2 endpoints up, needs 1".to_owned(),
            evidence: vec!["10.0.1.1:80 connection refused, 3 times".to_owned()],
        };
        let summary =
            Summary { moves: 1, detection_mean_seconds: Some(0.18), ..Summary::default() };
        let backtest = Backtest {
            from: at,
            to: at,
            observations: 7,
            unknown: vec!["app/hot/gone:80".to_owned()],
            moves: vec![made],
            recorded: Vec::new(),
            services: [("app".to_owned(), summary)].into(),
        };
        let mut out = Vec::new();
        print(&backtest, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let line = "2023-11-14T22:13:20.250Z  app: hot → standby  health: 0 of 2 endpoints up, \
                    needs 1, 180 ms after it began";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("app/hot/gone:80 is not in the configuration"), "{text}");
        assert!(text.contains("0.180 s"), "{text}");
    }
}
