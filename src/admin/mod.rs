//! ○ The admin server: `/livez /readyz /metrics /api/v1/…`, over TCP and a unix socket.
//!
//! It runs on a thread of its own, so that it answers however busy the workers are, and everything
//! it shows is read from the table they read.

mod access;
mod api;
mod failovers;
mod orders;
mod path;
pub mod ready;
mod reply;
mod server;
mod socket;
pub mod view;
mod wanted;

use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::control;
use crate::current::Current;
use crate::observe::metrics::Files;

pub use server::{Admin, Bound, bind};

/// What the admin server shows and asks.
pub struct Deps {
    pub current: Arc<Current>,
    pub readiness: ready::Readiness,
    /// Reloads and orders go here.
    pub control: mpsc::Sender<control::Event>,
    /// Begins to drain the process, as SIGTERM does; returns at once.
    pub drain: Box<dyn Fn() + Send + Sync>,
    pub reloads: Arc<control::ReloadCounters>,
    /// How writing to files goes at the moment.
    pub files: Box<dyn Fn() -> Files + Send + Sync>,
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deps").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
