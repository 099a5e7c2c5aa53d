//! ○ What the demo says at its end. Touches nothing.

use crate::table::counters::Proof;

use super::figures::detection;
use super::scene::{Paint, millis};
use super::story::Report;
use super::tally::Phase;
use crate::cli::numbers::thousands;

pub(super) fn lines(report: &Report, paint: Paint) -> Vec<String> {
    let mut lines = vec![String::new(), paint.bold("summary")];
    lines.push(row("failover", &failover(report)));
    lines.extend(first_answer(report));
    lines.push(row("return", &back(report)));
    lines.push(row("requests", &requests(report, paint)));
    lines.push(row("saved", &rescued(report)));
    lines.push(row("counted", &agreement(report)));
    lines.extend(lost(report));
    lines.push(format!("  {:10}{:22}{:>10}{:>10}", "latency", "", "p50", "p99"));
    for (phase, name) in Phase::ALL {
        let found = report.tally.latency(phase, [50, 99]);
        let [p50, p99] =
            found.map_or_else(|| ["-"; 2].map(str::to_owned), |found| found.map(millis));
        lines.push(format!("  {:10}{name:22}{p50:>10}{p99:>10}", ""));
    }
    lines.push(String::new());
    lines.push(verdict(report, paint));
    lines.push(
        paint.dim("(GET and PUT can be repeated; a POST that hot may have processed gets a 502)"),
    );
    lines
}

fn row(name: &str, text: &str) -> String {
    format!("  {name:10}{text}")
}

fn failover(report: &Report) -> String {
    let Some(moved) = &report.failover else { return "did not happen".to_owned() };
    let took = millis(detection(moved));
    format!("{} -> {}, {took} after the first evidence", moved.from, moved.to)
}

/// From the kill on, as a client saw it: requests are saved one by one before the service moves.
fn first_answer(report: &Report) -> Option<String> {
    let first = millis(report.first_answer?);
    Some(row("", &format!("standby's first answer came {first} after the kill")))
}

fn back(report: &Report) -> String {
    match (&report.back, report.return_took) {
        (Some(moved), Some(took)) => {
            format!(
                "{} -> {}, {:.1} s after hot was back",
                moved.from,
                moved.to,
                took.as_secs_f64()
            )
        }
        _ => "did not happen".to_owned(),
    }
}

fn requests(report: &Report, paint: Paint) -> String {
    let lost = report.tally.lost.max(report.figures.lost);
    let said = format!("{} lost", thousands(lost));
    format!(
        "{} sent, {} answered rightly, {}",
        thousands(report.tally.sent),
        thousands(report.tally.ok()),
        if lost == 0 { paint.good(&said) } else { paint.bad(&said) },
    )
}

fn rescued(report: &Report) -> String {
    let figures = &report.figures;
    // The demo's routes do not know `Idempotency-Key`.
    let named =
        [(Proof::NotSent, "unsent"), (Proof::NotRead, "unread"), (Proof::Idempotent, "idempotent")];
    let by_proof = named
        .iter()
        .map(|(proof, name)| format!("{} {name}", thousands(figures.rescued[*proof as usize])));
    let proofs: Vec<_> = by_proof.collect();
    format!("{} sent anew: {}", thousands(figures.rescued()), proofs.join(", "))
}

/// Two who count apart should come to the same number.
fn agreement(report: &Report) -> String {
    let (ours, theirs) = (&report.figures, &report.tally);
    let (ours, theirs) = ((ours.requests, ours.lost), (theirs.sent, theirs.lost));
    let (requests, lost) = (thousands(ours.0), thousands(ours.1));
    let said = format!("by Standfast itself: {requests} requests, {lost} lost");
    if ours == theirs {
        format!("{said}; the clients agree")
    } else {
        format!("{said}; the clients DISAGREE")
    }
}

fn lost(report: &Report) -> Vec<String> {
    let reasons = report.tally.reasons.iter();
    reasons.map(|(why, count)| row("", &format!("{count} lost: {why}"))).collect()
}

fn verdict(report: &Report, paint: Paint) -> String {
    if report.is_good() {
        return paint.good("hot died and came back, and no client noticed");
    }
    let missing = match (&report.failover, &report.back) {
        (None, _) => "the service did not move",
        (_, None) => "the service did not return",
        _ => "requests were lost",
    };
    paint.bad(missing)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::demo::figures::Figures;
    use crate::cli::demo::scene::WIDTH;
    use crate::cli::demo::tally::{Outcome, Tally};
    use crate::failover::Cause;
    use crate::table::history::Moved;

    fn moved(from: &str, to: &str) -> Moved {
        Moved {
            from: from.into(),
            to: to.into(),
            cause: Cause::Health,
            reason: "0 of 1 endpoints up, needs 1".into(),
            first_evidence: Duration::from_secs(3),
            decided: Duration::from_secs(4),
            published: Duration::from_millis(14_250),
        }
    }

    fn report(lost: u64) -> Report {
        let mut tally = Tally::default();
        tally.sent = 1_234_567;
        for _ in 0..lost {
            tally.end(Outcome::Lost("PUT: 502".into()), Duration::ZERO, Duration::ZERO);
        }
        tally.by_pool.insert("hot".to_owned(), tally.sent - lost);
        Report {
            figures: Figures {
                requests: tally.sent,
                lost,
                rescued: [99_999; 4],
                ..Figures::default()
            },
            tally,
            failover: Some(moved("hot", "standby")),
            first_answer: Some(Duration::from_millis(12_345)),
            back: Some(moved("standby", "hot")),
            return_took: Some(Duration::from_millis(3210)),
        }
    }

    fn text(report: &Report) -> String {
        lines(report, Paint(false)).join("\n")
    }

    #[test]
    fn a_story_in_which_nothing_was_lost_is_good_and_fits_80_columns() {
        let report = report(0);
        assert!(report.is_good());
        let text = text(&report);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.contains("1,234,567 sent, 1,234,567 answered rightly, 0 lost"), "{text}");
        assert!(text.contains("; the clients agree") && text.contains("no client noticed"));
    }

    #[test]
    fn a_loss_is_told_with_its_reason_and_makes_the_story_bad() {
        let report = report(2);
        assert!(!report.is_good());
        let text = text(&report);
        assert!(text.contains("2 lost: PUT: 502") && text.contains("\nrequests were lost\n"));
    }

    #[test]
    fn a_failover_or_a_return_that_did_not_happen_makes_the_story_bad() {
        for (failover, back, said) in
            [(None, None, "did not move"), (Some(moved("hot", "standby")), None, "did not return")]
        {
            let report = Report { failover, back, ..report(0) };
            assert!(!report.is_good());
            assert!(text(&report).contains(said));
        }
    }

    #[test]
    fn two_counts_that_differ_are_told() {
        let mut report = report(0);
        report.figures.requests += 1;
        assert!(text(&report).contains("DISAGREE"));
    }
}
