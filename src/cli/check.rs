//! ○ `standfast check` and `standfast diff`: what is wrong with a file, what a reload would change.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use super::load::load_in;
use crate::config::Config;
use crate::config::check::{Checked, Diagnostic, Severity, World};
use crate::config::diff;
use crate::config::view::diagnostic_json;

/// `standfast check -c FILE [--json]`: 0 where the file can be used, 1 where it cannot.
pub fn check(path: &Path, json: bool, world: &dyn World) -> ExitCode {
    let checked = read(path, world);
    let (config, found) = match &checked {
        Ok((config, warnings)) => (Some(config), warnings),
        Err(found) => (None, found),
    };
    let name = shown_name(path);
    let output = if json {
        let all: Vec<_> = found.iter().map(|found| diagnostic_json(found, &name)).collect();
        format!("{:#}\n", serde_json::Value::from(all))
    } else {
        render(found, &name, colour_on_stdout()) + &summary(config, found, &name)
    };
    print(&output);
    if config.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `standfast diff OLD NEW`: 1 only where one of the two cannot be used.
pub fn diff(old: &Path, new: &Path, world: &dyn World) -> ExitCode {
    let (old_checked, new_checked) = (read(old, world), read(new, world));
    let (Ok((before, _)), Ok((after, _))) = (&old_checked, &new_checked) else {
        for (path, checked) in [(old, &old_checked), (new, &new_checked)] {
            if let Err(found) = checked {
                let name = shown_name(path);
                let errors = render(found, &name, colour_on_stdout());
                print(&(errors + &summary(None, found, &name)));
            }
        }
        return ExitCode::FAILURE;
    };
    let changes = diff::diff(before, after);
    let mut output = String::new();
    for change in &changes {
        let _ = writeln!(output, "{change}");
    }
    if changes.is_empty() {
        output.push_str("nothing changes: a reload would keep everything as it is\n");
    }
    print(&output);
    ExitCode::SUCCESS
}

/// Findings for people, in the manner of rustc. `file` is the name to show.
pub fn render(found: &[Diagnostic], file: &str, colour: bool) -> String {
    let paint = Paint { colour };
    let mut output = String::new();
    for diagnostic in found {
        one(&mut output, diagnostic, file, paint);
    }
    output
}

/// Colour is for terminals whose owner did not set NO_COLOR (no-color.org).
pub fn colour_on_stdout() -> bool {
    io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// `-` is the standard input.
fn read(path: &Path, world: &dyn World) -> Checked {
    if path.as_os_str() == "-" {
        load_in(Path::new("/dev/stdin"), world)
    } else {
        load_in(path, world)
    }
}

fn shown_name(path: &Path) -> String {
    if path.as_os_str() == "-" { "<stdin>".into() } else { path.display().to_string() }
}

/// A closed pipe is no reason to fail: whoever closed it has read enough.
fn print(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

#[derive(Clone, Copy)]
struct Paint {
    colour: bool,
}

impl Paint {
    /// Select Graphic Rendition (ECMA-48 8.3.117).
    fn with(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn frame(self, text: &str) -> String {
        self.with("1;34", text)
    }
}

fn one(output: &mut String, diagnostic: &Diagnostic, file: &str, paint: Paint) {
    let Diagnostic { severity, line, column, snippet, message, remedy, .. } = diagnostic;
    let severity = match severity {
        Severity::Error => paint.with("1;31", "error"),
        Severity::Warning => paint.with("1;33", "warning"),
    };
    let number = line.to_string();
    let margin = " ".repeat(number.len());
    let (bar, arrow, equals) = (paint.frame("|"), paint.frame("-->"), paint.frame("="));
    // Writing into a String cannot fail.
    let _ = writeln!(output, "{severity}{}", paint.bold(&format!(": {message}")));
    let _ = writeln!(output, "{margin}{arrow} {file}:{line}:{column}");
    if !snippet.trim().is_empty() {
        let (text, caret) = window(snippet, *column);
        let mark = paint.with("1;31", "^");
        let _ = writeln!(output, "{margin} {bar}");
        let _ = writeln!(output, "{} {bar} {text}", paint.frame(&number));
        let _ = writeln!(output, "{margin} {bar} {}{mark}", " ".repeat(caret));
    }
    let _ = writeln!(output, "{margin} {equals} {}: {remedy}\n", paint.bold("help"));
}

/// What of a line is shown, and how far into that the column lies: long lines are cut to a window
/// around it, and no character of the file can command the terminal.
fn window(line: &str, column: usize) -> (String, usize) {
    const WIDTH: usize = 100;
    const BEFORE: usize = 60;
    let letters: Vec<char> =
        line.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let at = column.saturating_sub(1).min(letters.len());
    if letters.len() <= WIDTH {
        return (letters.into_iter().collect(), at);
    }
    let start = at.saturating_sub(BEFORE);
    let end = (start + WIDTH).min(letters.len());
    let (before, after) =
        (if start > 0 { "…" } else { "" }, if end < letters.len() { "…" } else { "" });
    let text: String = letters[start..end].iter().collect();
    (format!("{before}{text}{after}"), at - start + usize::from(start > 0))
}

fn summary(config: Option<&Config>, found: &[Diagnostic], file: &str) -> String {
    let warnings = found.iter().filter(|found| found.severity == Severity::Warning).count();
    let warned = if warnings == 0 { String::new() } else { count(warnings, "warning") };
    let Some(config) = config else {
        let errors = count(found.len() - warnings, "error");
        let and = if warned.is_empty() { String::new() } else { format!(" and {warned}") };
        return format!("{file}: {errors}{and}\n");
    };
    let pools = || config.services.iter().flat_map(|service| &service.pools);
    let endpoints = pools().map(|pool| pool.endpoints.len()).sum();
    let with = if warned.is_empty() { String::new() } else { format!(", with {warned}") };
    format!(
        "{file}: ok{with}: {}, {}, {}, {}\n",
        count(config.listeners.len(), "listener"),
        count(config.services.len(), "service"),
        count(pools().count(), "pool"),
        count(endpoints, "endpoint"),
    )
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(line: usize, column: usize, snippet: &str) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            path: "listeners[0].servce".into(),
            line,
            column,
            snippet: snippet.into(),
            message: "unknown key `servce` in a listener".into(),
            remedy: "did you mean `service`?".into(),
        }
    }

    #[test]
    fn a_finding_is_shown_with_its_line_a_caret_and_the_remedy() {
        let shown = render(&[finding(10, 5, "    servce: app")], "a.yaml", false);
        let expected = "\
error: unknown key `servce` in a listener
  --> a.yaml:10:5
   |
10 |     servce: app
   |     ^
   = help: did you mean `service`?

";
        assert_eq!(shown, expected);
    }

    #[test]
    fn colour_is_there_only_when_asked_for() {
        let found = [finding(1, 1, "servce: app")];
        assert!(!render(&found, "a.yaml", false).contains('\x1b'));
        assert!(render(&found, "a.yaml", true).contains("\x1b[1;31merror\x1b[0m"));
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let line = format!("{}X{}", "a".repeat(5000), "b".repeat(5000));
        let (text, caret) = window(&line, 5001);
        assert_eq!(text.chars().nth(caret), Some('X'));
        assert!(text.chars().count() <= 102);
    }

    #[test]
    fn a_line_cannot_command_the_terminal() {
        let shown = render(&[finding(1, 3, "\x1b[2J\tservce")], "a.yaml", false);
        assert!(!shown.contains(['\x1b', '\t']));
    }

    proptest::proptest! {
        #[test]
        fn no_line_and_column_panics(line in ".*", column in 0usize..300) {
            let _ = window(&line, column);
        }
    }
}
