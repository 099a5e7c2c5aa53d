//! The runs as a picture: one row for each fault, one column for each proxy.

use std::fmt::Write as _;

use crate::peer::Peer;
use crate::run::Run;

const WIDTH: f64 = 210.0;
const HEIGHT: f64 = 92.0;
const GAP: f64 = 14.0;
const LEFT: f64 = 190.0;
const TOP: f64 = 74.0;
/// Seconds shown before and after the fault.
const TIME: (f64, f64) = (-1.0, 6.0);
/// Milliseconds at the lower and the upper edge, on a logarithmic scale.
const LATENCY: (f64, f64) = (0.3, 10_000.0);

/// Latency as a line (99 % of 50 ms of requests), requests lost as red columns from above (the whole
/// height: all of them), the part answered by the standby as a band at the foot.
pub(crate) fn svg(peers: &[Peer], runs: &[Run]) -> String {
    let columns: Vec<String> = peers.iter().map(ToString::to_string).collect();
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for run in runs {
        if !rows.contains(&(run.fault.as_str(), run.title.as_str())) {
            rows.push((&run.fault, &run.title));
        }
    }
    let width = LEFT + columns.len() as f64 * (WIDTH + GAP) + GAP;
    let height = TOP + rows.len() as f64 * (HEIGHT + GAP) + 30.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    legend(&mut out);
    for (column, name) in columns.iter().enumerate() {
        let x = left(column) + WIDTH / 2.0;
        text(
            &mut out,
            x,
            TOP - 10.0,
            "middle",
            "#1b1f24",
            &format!("<tspan font-weight=\"bold\">{name}</tspan>"),
        );
    }
    for (row, (fault, title)) in rows.iter().enumerate() {
        let y = top(row);
        label(&mut out, y, title);
        for (column, name) in columns.iter().enumerate() {
            let of = |run: &&Run| run.fault == *fault && run.peer == *name;
            match runs.iter().find(of) {
                Some(run) => panel(&mut out, left(column), y, run, column == 0),
                None => text(
                    &mut out,
                    left(column) + WIDTH / 2.0,
                    y + HEIGHT / 2.0,
                    "middle",
                    "#8b949e",
                    "not run",
                ),
            }
        }
    }
    let y = top(rows.len()) + 2.0;
    for column in 0..columns.len() {
        for second in [0.0, 2.0, 4.0, 6.0] {
            let label = format!("{second} s");
            text(&mut out, left(column) + across(second), y, "middle", "#57606a", &label);
        }
    }
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String) {
    let entries = [
        ("#0b5cad", "p99 latency of requests answered (each point: 50 ms of requests)"),
        ("#e5646e", "requests lost (full height: all of them)"),
        ("#2da44e", "answered by the standby"),
    ];
    let mut x = 12.0;
    for (colour, words) in entries {
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"16\" width=\"14\" height=\"10\" fill=\"{colour}\"/>"
        );
        text(out, x + 20.0, 25.0, "start", "#1b1f24", words);
        x += 40.0 + words.len() as f64 * 6.0;
    }
    let words = "2,000 requests a second, open loop; the fault strikes at 0 s; latency in ms, \
                 logarithmic";
    text(out, 12.0, 44.0, "start", "#57606a", words);
}

/// The fault's name, in lines that fit beside the row.
fn label(out: &mut String, y: f64, title: &str) {
    let mut lines = vec![String::new()];
    for word in title.split(' ') {
        let current = lines.len() - 1;
        if lines[current].len() + word.len() > 24 {
            lines.push(word.to_owned());
        } else {
            let space = if lines[current].is_empty() { "" } else { " " };
            let _ = write!(lines[current], "{space}{word}");
        }
    }
    for (number, line) in lines.iter().enumerate() {
        text(out, 12.0, y + 16.0 + number as f64 * 14.0, "start", "#1b1f24", line);
    }
}

fn panel(out: &mut String, x: f64, y: f64, run: &Run, scale: bool) {
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#f6f8fa\"/>"
    );
    for ms in [1.0, 10.0, 100.0, 1000.0] {
        let at = y + down(ms);
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#d8dee4\"/>",
            x + WIDTH
        );
        if scale {
            text(out, x - 5.0, at + 4.0, "end", "#57606a", &format!("{ms}"));
        }
    }
    let zero = x + across(0.0);
    let _ = writeln!(
        out,
        "<line x1=\"{zero:.1}\" x2=\"{zero:.1}\" y1=\"{y}\" y2=\"{:.1}\" stroke=\"#8b949e\" \
         stroke-dasharray=\"3 3\"/>",
        y + HEIGHT
    );
    let (mut line, mut pen) = (String::new(), 'M');
    for bin in run.bins.iter().filter(|bin| (TIME.0..TIME.1).contains(&bin.at)) {
        let (left, width) = (x + across(bin.at), across(TIME.0 + 0.05));
        let part = |count: usize| count as f64 / bin.requests.max(1) as f64;
        if bin.lost > 0 {
            // A single lost request must not be invisible.
            let tall = (part(bin.lost) * HEIGHT).max(3.0);
            column(out, left, y, width, tall, "#e5646e");
        }
        if bin.by_standby > 0 {
            let tall = (part(bin.by_standby) * 5.0).max(1.0);
            column(out, left, y + HEIGHT - tall, width, tall, "#2da44e");
        }
        match bin.p99_ms {
            Some(ms) => {
                let _ = write!(line, "{pen}{:.1} {:.1}", left + width / 2.0, y + down(ms));
                pen = 'L';
            }
            None => pen = 'M',
        }
    }
    let _ =
        writeln!(out, "<path d=\"{line}\" fill=\"none\" stroke=\"#0b5cad\" stroke-width=\"1.2\"/>");
    let lost = run.struck.lost_get + run.struck.lost_post;
    let colour = if lost == 0 { "#1a7f37" } else { "#cf222e" };
    text(out, x + WIDTH - 5.0, y + 14.0, "end", colour, &format!("{lost} lost"));
}

/// A little wider than it is, so that no gap shows between neighbours.
fn column(out: &mut String, x: f64, y: f64, width: f64, height: f64, colour: &str) {
    let width = width + 0.3;
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
         fill=\"{colour}\"/>"
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, colour: &str, words: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>"
    );
}

fn left(column: usize) -> f64 {
    LEFT + column as f64 * (WIDTH + GAP)
}

fn top(row: usize) -> f64 {
    TOP + row as f64 * (HEIGHT + GAP)
}

/// Pixels from a panel's left edge.
fn across(seconds: f64) -> f64 {
    (seconds - TIME.0) / (TIME.1 - TIME.0) * WIDTH
}

/// Pixels from a panel's upper edge.
fn down(ms: f64) -> f64 {
    let (least, most) = (LATENCY.0.ln(), LATENCY.1.ln());
    let part = (ms.clamp(LATENCY.0, LATENCY.1).ln() - least) / (most - least);
    (1.0 - part) * HEIGHT
}
