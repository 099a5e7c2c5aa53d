//! ○ What the demo says at its end. Touches nothing.

use crate::table::counters::Proof;

use super::figures::detection;
use super::scene::{Paint, millis, thousands};
use super::story::Report;
use super::tally::Phase;

pub(super) fn lines(report: &Report, paint: Paint) -> Vec<String> {
    let mut lines = vec![String::new(), paint.bold("summary")];
    lines.push(row("failover", &failover(report)));
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
    lines
}

fn row(name: &str, text: &str) -> String {
    format!("  {name:10}{text}")
}

fn failover(report: &Report) -> String {
    let Some(moved) = &report.failover else { return "did not happen".to_owned() };
    let first = report.first_answer.map_or_else(String::new, |first| {
        format!("; standby's first answer {} after the kill", millis(first))
    });
    format!(
        "{} -> {} in {} from the first evidence{first}",
        moved.from,
        moved.to,
        millis(detection(moved))
    )
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
    let by_proof = Proof::ALL.iter().map(|(proof, _)| {
        let count = thousands(figures.rescued[*proof as usize]);
        match proof {
            Proof::NotSent => format!("{count} not sent yet"),
            Proof::NotRead => format!("{count} not read yet"),
            Proof::Idempotent => format!("{count} idempotent"),
        }
    });
    let proofs: Vec<_> = by_proof.collect();
    format!("{} sent anew to another endpoint: {}", thousands(figures.rescued()), proofs.join(", "))
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
