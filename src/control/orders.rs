//! ● What an operator can order of a service, and what he is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failover::ramp::Tally;
use crate::failover::record::{Cost, Evidence, Stamp};
use crate::table::Mode;

/// A sentence for people: what was done, or why it was not.
pub type Answer = Result<String, String>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchOrder {
    /// Name of the pool.
    pub to: String,
    pub reason: String,
    /// Stay there whatever happens, until released.
    pub hold: bool,
    /// Also if that is worse; recorded. A pool that is not available is held.
    pub force: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModeOrder {
    pub pool: String,
    /// Name of the endpoint: host and port.
    pub endpoint: String,
    pub mode: Mode,
    pub reason: String,
    /// Also if the service is then left without an available pool; recorded.
    pub force: bool,
}

/// A rehearsed failover to the first other available pool.
#[derive(Debug, Clone, PartialEq)]
pub struct DrillOrder {
    pub kind: DrillKind,
    /// Share of requests that may err before the drill is aborted, 0..=1.
    pub max_errors: f64,
    /// How long the other pool is watched under traffic.
    pub watch: Duration,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrillKind {
    /// Ask the target, decide, move nothing.
    Decision,
    /// Send it a share of the requests, in thousandths.
    Share(u16),
    /// Move there and back.
    Full,
}

/// How a drill went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    pub service: String,
    pub from: String,
    pub to: String,
    pub kind: DrillKind,
    /// The other pool could take over now.
    pub passed: bool,
    /// Why it did not pass, or was aborted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted: Option<String>,
    pub began: Stamp,
    pub ended: Stamp,
    /// From the order until the target had proved itself, in microseconds: what detection would not
    /// add.
    pub proof_micros: u64,
    /// From the decision until the table that carries the move was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch_micros: Option<u64>,
    /// What each pool did meanwhile.
    pub target: Tally,
    pub serving: Tally,
    /// Probes of the target.
    pub evidence: Vec<Evidence>,
    /// Records of the moves there and back.
    pub records: Vec<String>,
    pub cost: Cost,
}
