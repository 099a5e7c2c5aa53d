//! ● Where diagnostics are gathered, so that one mistake does not hide the next.

use std::cell::RefCell;
use std::collections::HashSet;

use super::check::{Diagnostic, Severity};
use super::parse::Place;

pub(super) struct Report<'t> {
    lines: Vec<&'t str>,
    found: RefCell<Vec<Diagnostic>>,
    /// Inline secrets: struck out of every snippet.
    secrets: RefCell<Vec<String>>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            lines: text.lines().collect(),
            found: RefCell::default(),
            secrets: RefCell::default(),
        }
    }

    pub(super) fn push(
        &self,
        severity: Severity,
        path: &str,
        at: Place,
        message: String,
        remedy: String,
    ) {
        // A fault without a place (an empty file, a file that ends too early) is shown at the end.
        let last = self.lines.len().max(1);
        let line = if at.line == 0 { last } else { at.line.min(last) };
        let snippet = self.lines.get(line - 1).copied().unwrap_or_default().to_owned();
        let path = path.to_owned();
        let column = at.column.max(1);
        self.found.borrow_mut().push(Diagnostic {
            severity,
            path,
            line,
            column,
            snippet,
            message,
            remedy,
        });
    }

    pub(super) fn hide(&self, secret: &str) {
        if !secret.is_empty() {
            self.secrets.borrow_mut().push(secret.to_owned());
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        self.found.borrow().iter().any(|found| found.severity == Severity::Error)
    }

    /// Everything found, in the order of the file. What a service and its pools share is read once
    /// for each of them, so the same finding may have come several times.
    pub(super) fn finish(self) -> Vec<Diagnostic> {
        let secrets = self.secrets.into_inner();
        let mut found = self.found.into_inner();
        found.sort_by_key(|found| (found.line, found.column));
        let mut seen = HashSet::new();
        found.retain(|found| seen.insert((found.line, found.column, found.message.clone())));
        for diagnostic in &mut found {
            for secret in &secrets {
                diagnostic.snippet = diagnostic.snippet.replace(secret.as_str(), "(secret)");
            }
        }
        found
    }
}
