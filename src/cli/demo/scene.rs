//! ○ What the demo shows, as lines of at most 80 columns. Touches nothing.

use std::time::Duration;

use crate::cli::numbers::thousands;

use super::tally::{Phase, Tally};

pub(super) const WIDTH: usize = 80;

/// The time one letter of the strip stands for.
pub(super) const CELL: Duration = Duration::from_millis(250);

/// Letters of the strip that fit.
const CELLS: usize = 60;

/// Events shown, the latest ones.
const EVENTS: usize = 7;

/// Everything there is to see at a moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Scene {
    /// Since the load began.
    pub(super) elapsed: Duration,
    pub(super) url: String,
    pub(super) rate: u32,
    /// By priority.
    pub(super) pools: Vec<PoolScene>,
    pub(super) ok: u64,
    pub(super) rescued: u64,
    pub(super) lost: u64,
    pub(super) strip: Vec<Cell>,
    /// p50 and p99 by phase.
    pub(super) latency: [Option<[Duration; 2]>; Phase::ALL.len()],
    pub(super) events: Vec<(Duration, String)>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct PoolScene {
    pub(super) name: String,
    pub(super) address: String,
    /// The ingress runs.
    pub(super) alive: bool,
    /// What Standfast believes of it: unknown, up or down.
    pub(super) verdict: String,
    pub(super) serving: bool,
}

/// Who gave most answers within a [`CELL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    Nobody,
    /// Index of the pool.
    Pool(usize),
    /// A request was lost, whoever answered the others.
    Lost,
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(pub(super) bool);

impl Paint {
    /// Select Graphic Rendition (ECMA-48 section 8.3.117).
    pub(super) fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// The colour of a pool, by priority.
    fn pool(self, index: usize, text: &str) -> String {
        self.with(if index == 0 { "32" } else { "36" }, text)
    }
}

impl Scene {
    /// The picture for a terminal; always the same number of lines.
    pub(super) fn live(&self, paint: Paint) -> Vec<String> {
        let mut lines = vec![
            format!(
                "{}  {}  {} requests/s over TLS  {}",
                paint.bold("standfast demo"),
                self.url,
                self.rate,
                paint.dim(&seconds(self.elapsed)),
            ),
            String::new(),
        ];
        lines.extend(self.pools.iter().enumerate().map(|(i, pool)| pool.line(i, paint)));
        lines.push(String::new());
        lines.push(format!("  answered by  {}", self.strip(paint)));
        lines.push(paint.dim(&self.legend()));
        lines.push(String::new());
        let lost = format!("{} lost", thousands(self.lost));
        lines.push(format!(
            "  requests     {}   {} rescued   {}",
            paint.good(&format!("{} ok", thousands(self.ok))),
            thousands(self.rescued),
            if self.lost == 0 { lost } else { paint.bad(&lost) },
        ));
        lines.extend(self.latencies());
        lines.push(String::new());
        let from = self.events.len().saturating_sub(EVENTS);
        let shown = &self.events[from..];
        lines.extend(shown.iter().map(|(at, event)| self::event(*at, event, paint)));
        lines.extend(std::iter::repeat_n(String::new(), EVENTS - shown.len()));
        lines
    }

    /// One line for where there is no terminal.
    pub(super) fn plain(&self) -> String {
        let serving = self.pools.iter().find(|pool| pool.serving);
        format!(
            "{}  {} serves: {} ok, {} rescued, {} lost",
            seconds(self.elapsed),
            serving.map_or("nobody", |pool| &pool.name),
            thousands(self.ok),
            thousands(self.rescued),
            thousands(self.lost),
        )
    }

    fn strip(&self, paint: Paint) -> String {
        let from = self.strip.len().saturating_sub(CELLS);
        let cell = |cell: &Cell| match cell {
            Cell::Nobody => " ".to_owned(),
            Cell::Pool(index) => paint.pool(*index, letter(*index)),
            Cell::Lost => paint.bad("x"),
        };
        self.strip[from..].iter().map(cell).collect()
    }

    fn legend(&self) -> String {
        let names = self.pools.iter().enumerate();
        let pools: String =
            names.map(|(index, pool)| format!("{} {}  ", letter(index), pool.name)).collect();
        format!("{:15}{pools}x lost  ({} ms each)", "", CELL.as_millis())
    }

    /// A row for each phase, and a heading.
    pub(super) fn latencies(&self) -> Vec<String> {
        let mut lines = vec![format!("  latency      {:22}{:>10}{:>10}", "", "p50", "p99")];
        for ((_, name), latency) in Phase::ALL.iter().zip(&self.latency) {
            let shown = match latency {
                Some([p50, p99]) => format!("{:>10}{:>10}", millis(*p50), millis(*p99)),
                None => format!("{:>10}{:>10}", "-", "-"),
            };
            lines.push(format!("               {name:22}{shown}"));
        }
        lines
    }

    pub(super) fn set_latencies(&mut self, tally: &Tally) {
        self.latency = Phase::ALL.map(|(phase, _)| tally.latency(phase, [50, 99]));
    }
}

impl PoolScene {
    fn line(&self, index: usize, paint: Paint) -> String {
        let state = match self.alive {
            true => paint.good("running"),
            false => paint.bad("killed "),
        };
        let verdict = format!("{:7}", self.verdict);
        let verdict = match self.verdict.as_str() {
            "down" => paint.bad(&verdict),
            _ => verdict,
        };
        let serves = if self.serving { paint.pool(index, "◀ serves") } else { String::new() };
        format!("  {:12} {:22} {state}   {verdict}   {serves}", self.name, self.address)
    }
}

pub(super) fn event(at: Duration, event: &str, paint: Paint) -> String {
    format!("{}  {event}", paint.dim(&seconds(at)))
}

fn letter(pool: usize) -> &'static str {
    if pool == 0 { "█" } else { "░" }
}

fn seconds(duration: Duration) -> String {
    format!("{:5.1} s", duration.as_secs_f64())
}

/// Three digits at most before the unit says less than it knows.
pub(super) fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1000.0;
    if millis < 10.0 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> Scene {
        let pool = |name: &str, serving| PoolScene {
            name: name.into(),
            address: "127.0.0.1:18080".into(),
            alive: serving,
            verdict: "down".into(),
            serving,
        };
        Scene {
            elapsed: Duration::from_secs(1234),
            url: "https://127.0.0.1:65535".into(),
            rate: 5000,
            pools: vec![pool("hot", false), pool("standby", true)],
            ok: 123_456_789,
            rescued: 1_234_567,
            lost: 1_234_567,
            strip: vec![Cell::Pool(0); 500],
            latency: [Some([Duration::from_secs(12), Duration::from_secs(999)]); 4],
            events: vec![(Duration::from_secs(1234), "x".repeat(70)); 30],
        }
    }

    #[test]
    fn the_picture_fits_80_columns_and_24_rows_and_never_changes_its_height() {
        let lines = busy().live(Paint(false));
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{lines:#?}");
        assert!(lines.len() < 24);
        let empty = Scene { pools: busy().pools, ..Scene::default() };
        assert_eq!(empty.live(Paint(false)).len(), lines.len());
    }

    #[test]
    fn without_colour_there_is_no_escape() {
        assert!(!busy().live(Paint(false)).concat().contains('\x1b'));
        assert!(busy().live(Paint(true)).concat().contains('\x1b'));
    }

    #[test]
    fn the_plain_line_says_who_serves_and_what_became_of_the_requests() {
        let scene = Scene { ok: 1234, rescued: 5, lost: 0, ..busy() };
        assert_eq!(scene.plain(), "1234.0 s  standby serves: 1,234 ok, 5 rescued, 0 lost");
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!(millis(Duration::from_micros(420)), "0.42 ms");
        assert_eq!(millis(Duration::from_micros(42_420)), "42 ms");
    }
}
