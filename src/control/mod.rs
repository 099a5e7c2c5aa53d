//! ○ The one writer: folds events (probe results, reloads, orders) and publishes Tables.

pub mod reload;

use tokio::sync::oneshot;

use crate::config::check::Diagnostic;

/// What others ask of control, on a bounded channel. Nothing calls control.
#[derive(Debug)]
pub enum Event {
    /// Read the configuration file again and apply it whole or not at all.
    Reload { force: bool, reply: Option<oneshot::Sender<Result<Reloaded, Vec<Diagnostic>>>> },
    /// Move a service to a pool (a planned failover).
    Switch {
        service: String,
        to: String,
        reason: String,
        reply: oneshot::Sender<Result<String, String>>,
    },
    /// Stop probing and publishing; the process ends.
    Stop,
}

/// What a reload changed.
#[derive(Debug, Clone)]
pub struct Reloaded {
    pub generation: u64,
    /// One line a change, as `diff` prints them.
    pub changes: Vec<String>,
    pub warnings: Vec<Diagnostic>,
}
