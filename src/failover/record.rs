//! ● What is kept of a move: why it came, what decided it, when, and what it cost.
//!
//! A record is published with the move, grows while requests are still at the pool before, and is
//! completed once its cost is known; then it changes no more. The shape is the API's:
//! `GET /api/v1/failovers`, the log, the state file.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Cause;

/// Records kept of one service.
pub const KEPT: usize = 100;

/// One move of a service, a return that was broken off, or a rehearsal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `SERVICE-N`, N from 1 for each service.
    pub id: String,
    pub service: String,
    pub from: String,
    pub to: String,
    pub cause: Cause,
    /// For people: `0 of 3 endpoints up, needs 1`, or the operator's own words.
    pub reason: String,
    /// It was ordered although it was worse.
    #[serde(default)]
    pub forced: bool,
    /// It was ordered to stay.
    #[serde(default)]
    pub held: bool,
    /// Set where the service did not move, or moved back: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted: Option<String>,
    /// What spoke against the pool before, and for the pool after; oldest first.
    pub evidence: Vec<Evidence>,
    /// The values that decided, by the names of their keys: `unhealthy_threshold` → `3`.
    pub rules: BTreeMap<String, String>,
    pub config: ConfigName,
    pub times: Times,
    pub cost: Cost,
    /// What the cost may yet grow by; none once it is final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// The cost is final.
    pub complete: bool,
}

/// One observation, or several of the same kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub pool: String,
    pub endpoint: String,
    pub source: Source,
    /// `connection refused`, `no answer within 400ms`, `200`.
    pub result: String,
    pub success: bool,
    /// Times it was seen; more than 1 for live traffic.
    pub count: u64,
    /// When it was last seen.
    pub at: Stamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A probe at its ordinary time.
    Probe,
    /// A probe of a confirm burst.
    Confirm,
    /// Requests.
    Live,
}

/// How long the parts of a probe took, in microseconds, as far as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Phases {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<u64>,
    /// From the request sent to the first byte of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<u64>,
    pub total: u64,
}

/// Which configuration decided.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfigName {
    pub generation: u64,
    pub digest: String,
}

/// Microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamp(pub u64);

impl Stamp {
    /// `at` is since the process's origin, `now` and `unix` the same moment on both clocks.
    pub fn of(at: Duration, now: Duration, unix: Duration) -> Self {
        let ago = now.saturating_sub(at);
        let ahead = at.saturating_sub(now);
        let unix = (unix + ahead).saturating_sub(ago);
        Self(u64::try_from(unix.as_micros()).unwrap_or(u64::MAX))
    }

    /// From `earlier` to this one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// One moment on both clocks. A record uses the same one from its beginning to its end, so that no
/// step of the wall clock comes between its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clock {
    /// Since the process's origin.
    pub now: Duration,
    /// Since 1970.
    pub unix: Duration,
}

impl Clock {
    /// `at` is since the process's origin.
    pub fn stamp(self, at: Duration) -> Stamp {
        Stamp::of(at, self.now, self.unix)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Times {
    /// When that began which led to the move: a request that met silence, a probe that was not
    /// answered. Equal to `decided` for a move without evidence.
    pub first_evidence: Stamp,
    /// When the first failure that decided was known: silence proves nothing before. The pool after
    /// has answered a probe begun later. None for a move that health did not force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<Stamp>,
    pub decided: Stamp,
    /// From here on new requests go to the pool after.
    pub published: Stamp,
    /// The first request answered by the pool after, since the first evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_success: Option<Stamp>,
    /// When the cost was final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<Stamp>,
}

/// What became of requests from the first evidence on, until no request was left at the pool
/// before.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Requests of the service in that time.
    pub requests: u64,
    /// At the pool before, when the move was published.
    pub in_flight: u64,
    /// By proof.
    pub rescued: BTreeMap<String, u64>,
    /// Waited for an endpoint, however that ended.
    pub held: u64,
    /// By reason.
    pub lost: BTreeMap<String, u64>,
    /// Added to requests that were rescued, in microseconds: on average, and the most.
    pub added_latency_mean_micros: u64,
    pub added_latency_most_micros: u64,
}

/// Requests that are still at the pool before. They were not sent again because they may have been
/// read, or their answers are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub requests: u64,
    /// When the cost is final at the latest.
    pub until: Stamp,
}

impl Cost {
    pub fn rescued_total(&self) -> u64 {
        self.rescued.values().sum()
    }

    pub fn lost_total(&self) -> u64 {
        self.lost.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_is_the_same_moment_on_the_other_clock() {
        let (now, unix) = (Duration::from_secs(100), Duration::from_secs(1_000_000));
        assert_eq!(Stamp::of(Duration::from_secs(99), now, unix), Stamp(999_999_000_000));
        assert_eq!(Stamp::of(Duration::from_secs(101), now, unix), Stamp(1_000_001_000_000));
        assert_eq!(Stamp(5).since(Stamp(3)), Duration::from_micros(2));
        assert_eq!(Stamp(3).since(Stamp(5)), Duration::ZERO);
    }
}
