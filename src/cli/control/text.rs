//! ● What the control commands print for people, in 80 columns.
//!
//! [`status`] is one page, [`history`] a line for each move, [`explain`] one move as a story,
//! [`drill`] a rehearsal; here is what they share.

pub(super) mod drill;
pub(crate) mod explain;
pub(super) mod history;
pub(super) mod status;

use std::fmt::Write;

use serde_json::Value;

use crate::cli::numbers::thousands;
use crate::failover::record::Stamp;
use crate::observe::calendar;

const COLUMNS: usize = 80;

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    /// Select Graphic Rendition (ECMA-48 section 8.3.117) around each line of a text.
    fn with(self, code: &str, text: &str) -> String {
        if !self.0 {
            return text.to_owned();
        }
        text.lines().map(|line| format!("\x1b[{code}m{line}\x1b[0m\n")).collect()
    }

    fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }
}

/// When it is, and how far the clock on the wall is ahead of UTC at any time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) now: Stamp,
    /// Unix seconds → seconds east of UTC.
    pub(crate) offset: fn(u64) -> i64,
}

impl Clock {
    /// `2026-11-20 21:28:02`, on the wall.
    fn local(self, at: Stamp) -> String {
        let unix = at.0 / 1_000_000;
        let wall = unix.saturating_add_signed((self.offset)(unix));
        let mut out = Vec::with_capacity(19);
        calendar::date(&mut out, wall);
        String::from_utf8_lossy(&out).replace('T', " ")
    }

    /// Seconds.
    fn age(self, at: Stamp) -> f64 {
        self.now.since(at).as_secs_f64()
    }
}

/// What a reload changed.
pub(super) fn reloaded(told: &Value) -> String {
    let mut out = format!("configuration {} is in force\n", told["generation"]);
    let changes = told["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if changes.is_empty() {
        out.push_str("nothing changed\n");
    }
    for change in changes.iter().filter_map(Value::as_str) {
        let _ = writeln!(out, "  {}", clean(change));
    }
    let warnings = diagnostics(&told["warnings"]);
    if !warnings.is_empty() {
        let _ = writeln!(out, "{}", warnings.trim_start());
    }
    out
}

/// Each with its place, its line and its remedy; begins with a line end unless there is none.
pub(super) fn diagnostics(found: &Value) -> String {
    let mut out = String::new();
    for diagnostic in found.as_array().into_iter().flatten() {
        let text = |key: &str| clean(diagnostic[key].as_str().unwrap_or_default());
        let (severity, path, message) = (text("severity"), text("path"), text("message"));
        let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
        let _ = write!(out, "\n{severity}: {place}{message}");
        // What no line of the file is to blame for has no snippet.
        if !text("snippet").trim().is_empty() {
            let _ = write!(out, " (line {}, column {})", diagnostic["line"], diagnostic["column"]);
        }
        for (mark, text) in [("|", text("snippet")), ("=", text("remedy"))] {
            if !text.trim().is_empty() {
                let _ = write!(out, "\n  {mark} {text}");
            }
        }
    }
    out
}

/// Two units at most: `0.3 s`, `42 s`, `3 m 12 s`, `2 h 5 m`, `12 d 3 h`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3_600 => format!("{} m {} s", whole / 60, whole % 60),
        3_600..86_400 => format!("{} h {} m", whole / 3_600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3_600 % 24),
    }
}

/// Without what would speak to the terminal: names and reasons come from elsewhere.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn line(out: &mut String, text: &str) {
    out.push_str(cut(&clean(text), COLUMNS).trim_end());
    out.push('\n');
}

/// [`line()`] by itself.
fn one(text: &str) -> String {
    let mut out = String::new();
    line(&mut out, text);
    out
}

/// As [`line()`], but what does not fit goes on in lines of its own, which begin with `indent`: the
/// end of a reason often is the part that matters.
fn wrapped(out: &mut String, indent: &str, text: &str) {
    let mut rest = clean(text);
    while let Some((end, _)) = rest.char_indices().nth(COLUMNS) {
        // A break within the indent would take nothing.
        let Some(at) = rest[..=end].rfind(' ').filter(|at| *at > indent.len()) else { break };
        line(out, &rest[..at]);
        rest = format!("{indent}{}", &rest[at + 1..]);
    }
    line(out, &rest);
}

/// The first `width` characters, the last of them `…` if there were more.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// `3 requests`, `1 request`.
fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(number), if number == 1 { "" } else { "s" })
}

/// A short time: `0.8 ms`, `42 ms`, `1.2 s`.
fn millis(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{:.1} ms", micros as f64 / 1e3),
        10_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => duration(micros as f64 / 1e6),
    }
}
