//! The report as a picture: CPU per request beside Standfast's, and the latencies at a fixed rate.

use std::fmt::Write as _;

use crate::configs::Peer;
use crate::report::Report;
use crate::tables::CARRIED;

/// Of one panel, in pixels.
const WIDTH: f64 = 430.0;
const LEFT: f64 = 200.0;
const GAP: f64 = 240.0;
const TOP: f64 = 64.0;
const ROW: f64 = 15.0;
const BETWEEN: f64 = 12.0;
/// Microseconds at the edges of the latencies' panel, on a logarithmic scale.
const LATENCY: (f64, f64) = (20.0, 200_000.0);
const OURS: &str = "#0b5cad";
const THEIRS: &str = "#9aa4af";
const INK: &str = "#1b1f24";
const FAINT: &str = "#d0d7de";

/// A block of rows for each workload, a row for each proxy: CPU as a bar on the left; on the right
/// a line from p50 to p99.9 with p99 as a stroke.
pub(crate) fn svg(report: &Report) -> String {
    let (workloads, peers) = (report.workloads(), report.peers());
    let rows: usize = workloads.iter().map(|w| present(report, w, &peers).len()).sum();
    let height = TOP + rows as f64 * ROW + workloads.len() as f64 * BETWEEN + 30.0;
    let width = LEFT + WIDTH + GAP + WIDTH + 30.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let most = most(report, &workloads, &peers);
    let right = LEFT + WIDTH + GAP;
    text(&mut out, LEFT, 24.0, "start", "CPU per request, as a multiple of Standfast's");
    text(
        &mut out,
        right,
        24.0,
        "start",
        "Latency at a fixed rate: p50 to p99.9, p99 as a stroke (µs)",
    );
    for multiple in 1..=most as u32 {
        let x = LEFT + f64::from(multiple) / most * WIDTH;
        rule(&mut out, x, height);
        text(&mut out, x, TOP - 12.0, "middle", &format!("{multiple}"));
    }
    for power in 2..=5 {
        let value = 10_f64.powi(power);
        let x = right + along(value);
        rule(&mut out, x, height);
        text(&mut out, x, TOP - 12.0, "middle", &format!("{value}"));
    }
    let mut y = TOP;
    for workload in workloads {
        text(&mut out, 8.0, y + ROW * 0.75, "start", workload);
        for peer in present(report, workload, &peers) {
            row(&mut out, report, workload, peer, y, most);
            y += ROW;
        }
        y += BETWEEN;
    }
    out.push_str("</svg>\n");
    out
}

fn row(out: &mut String, report: &Report, workload: &str, peer: &str, y: f64, most: f64) {
    let colour = if peer == Peer::Standfast.name() { OURS } else { THEIRS };
    let middle = y + ROW / 2.0;
    if let Some(ratio) = report.ratio(workload, peer) {
        let width = ratio / most * WIDTH;
        let _ = writeln!(
            out,
            "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" \
             fill=\"{colour}\"/>",
            y + 1.5,
            ROW - 3.0
        );
        let words = match report.middle(workload, peer, |s| Some(s.cpu_us)) {
            Some(cpu) => format!("{peer} {ratio:.2} ({cpu:.1} µs)"),
            None => peer.to_owned(),
        };
        text(out, LEFT + width + 4.0, y + ROW * 0.75, "start", &words);
    }
    let right = LEFT + WIDTH + GAP;
    let p50 = report.middle(workload, peer, |s| Some(s.paced.as_ref()?.p50_us));
    let p99 = report.middle(workload, peer, |s| Some(s.paced.as_ref()?.p99_us));
    let p999 = report.middle(workload, peer, |s| s.paced.as_ref()?.p999_us);
    let carried = report.middle(workload, peer, |s| Some(s.paced.as_ref()?.carried));
    if carried.is_some_and(|carried| carried < CARRIED) {
        // What was not answered in time is in no quantile.
        text(out, right, y + ROW * 0.75, "start", &format!("{peer}: rate not carried"));
    } else if let (Some(p50), Some(p99)) = (p50, p99) {
        let [from, stroke] = [p50, p99].map(|value| right + along(value));
        let to = right + along(p999.unwrap_or(p99));
        let _ = writeln!(
            out,
            "<path d=\"M{from:.1} {middle:.1}H{to:.1}\" stroke=\"{colour}\" stroke-width=\"3\"/>\n\
             <path d=\"M{stroke:.1} {:.1}V{:.1}\" stroke=\"{colour}\" stroke-width=\"3\"/>",
            y + 2.0,
            y + ROW - 2.0
        );
        text(out, right - 4.0, y + ROW * 0.75, "end", peer);
    }
}

/// The peers that took part.
fn present<'a>(report: &Report, workload: &str, peers: &[&'a str]) -> Vec<&'a str> {
    let took_part = |peer: &&&str| !report.rounds_of(workload, peer).is_empty();
    peers.iter().filter(took_part).copied().collect()
}

/// The right edge of the left panel: a whole multiple.
fn most(report: &Report, workloads: &[&str], peers: &[&str]) -> f64 {
    let all = workloads.iter().flat_map(|w| peers.iter().filter_map(|p| report.ratio(w, p)));
    all.fold(1.0, f64::max).ceil()
}

/// Pixels from the right panel's left edge.
fn along(microseconds: f64) -> f64 {
    let (least, most) = (LATENCY.0.ln(), LATENCY.1.ln());
    (microseconds.clamp(LATENCY.0, LATENCY.1).ln() - least) / (most - least) * WIDTH
}

fn rule(out: &mut String, x: f64, height: f64) {
    let _ = writeln!(
        out,
        "<path d=\"M{x:.1} {:.1}V{:.1}\" stroke=\"{FAINT}\" stroke-width=\"1\"/>",
        TOP - 6.0,
        height - 24.0
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{INK}\">{words}</text>"
    );
}
