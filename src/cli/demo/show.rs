//! ○ Where the demo is shown: a picture repainted in place on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use rustix::termios::tcgetwinsize;

use super::scene::{Paint, Scene, WIDTH, event};
use super::setup::Stage;

/// Rows a terminal needs for the picture.
const ROWS: u16 = 24;

/// How often the picture is repainted, and how often a plain line is written.
const REPAINT: Duration = Duration::from_millis(100);
const REPEAT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Show {
    pub(super) paint: Paint,
    live: bool,
    /// Lines of the picture on the terminal, to be painted over.
    painted: usize,
    /// When the last picture or line was shown, since the load began.
    shown: Option<Duration>,
    /// Events of the scene that are written already.
    told: usize,
}

impl Show {
    pub(super) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let fits = tcgetwinsize(io::stdout())
            .is_ok_and(|size| usize::from(size.ws_col) >= WIDTH && size.ws_row >= ROWS);
        Self {
            paint: Paint(terminal && colour && !dumb),
            live: terminal && !dumb && fits,
            painted: 0,
            shown: None,
            told: 0,
        }
    }

    pub(super) fn introduce(&self, stage: &Stage) {
        let mut lines = vec![
            "Two ingresses, hot and standby, run in this process, and Standfast in front of"
                .to_owned(),
            "them, with this configuration:".to_owned(),
            String::new(),
        ];
        lines.extend(stage.config.lines().map(|line| self.paint.dim(&format!("    {line}"))));
        lines.push(String::new());
        lines.extend(stage.notes.iter().map(|note| format!("note: {note}")));
        self.print(&lines);
    }

    /// Shows a moment, if it is time to.
    pub(super) fn update(&mut self, scene: &Scene) {
        if self.live {
            if self.is_due(scene.elapsed, REPAINT) {
                self.repaint(scene);
            }
            return;
        }
        let new = scene.events.get(self.told..).unwrap_or_default();
        let mut lines: Vec<_> = new.iter().map(|(at, text)| event(*at, text, self.paint)).collect();
        self.told = scene.events.len();
        if self.is_due(scene.elapsed, REPEAT) {
            lines.push(scene.plain());
        }
        self.print(&lines);
    }

    /// Shows the last moment, whatever the time.
    pub(super) fn finish(&mut self, scene: &Scene) {
        self.shown = None;
        self.update(scene);
    }

    fn is_due(&mut self, elapsed: Duration, every: Duration) -> bool {
        let due = self.shown.is_none_or(|shown| elapsed >= shown + every);
        if due {
            self.shown = Some(elapsed);
        }
        due
    }

    fn repaint(&mut self, scene: &Scene) {
        let mut text = String::new();
        if self.painted > 0 {
            // Cursor up, to the first column (ECMA-48: CPL).
            text.push_str(&format!("\x1b[{}F", self.painted));
        }
        let lines = scene.live(self.paint);
        for line in &lines {
            text.push_str(line);
            // Erase what is left of the line before (EL).
            text.push_str("\x1b[K\n");
        }
        self.painted = lines.len();
        write(&text);
    }

    pub(super) fn print(&self, lines: &[String]) {
        if !lines.is_empty() {
            write(&(lines.join("\n") + "\n"));
        }
    }
}

/// A reader that has gone is no reason to stop.
fn write(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
