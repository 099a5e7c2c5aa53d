//! ● One endpoint's verdict: state × observation × now → state, and a flip where it changed.

use std::fmt;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Verdict {
    #[default]
    Unknown,
    Up,
    Down,
}

/// The result of a probe, or later of live traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    Success,
    Failure(Failure),
    /// Our own fault (no descriptor, no port, a late timer): never evidence against an endpoint.
    SelfFault,
}

/// How an endpoint failed. All but `Timeout` and `Unreachable` are positive evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Refused,
    Reset,
    Unreachable,
    Timeout,
    Tls,
    /// An HTTP status outside of what is expected.
    Status(u16),
    /// The body or a header was not as expected.
    Content,
    /// The answer was not HTTP.
    Malformed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures in a row until down, at least 1.
    pub unhealthy: u32,
    /// Successes in a row until up, at least 1.
    pub healthy: u32,
}

/// What is remembered of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    pub verdict: Verdict,
    /// Observations in a row of the same kind, the last one included.
    pub successes: u32,
    pub failures: u32,
    /// When the verdict was reached.
    pub since: Duration,
    /// The first failure of the present run of failures.
    pub first_failure: Option<Duration>,
    pub last_success: Option<Duration>,
    pub last_failure: Option<(Duration, Failure)>,
}

/// A verdict that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flip {
    pub from: Verdict,
    pub to: Verdict,
    /// The first observation of the run that led here.
    pub first_evidence: Duration,
}

impl State {
    /// Folds one observation.
    ///
    /// From unknown, one success is enough for up (traffic flows there anyway); the full
    /// `unhealthy` run is needed for down.
    pub fn step(
        self,
        observation: Observation,
        now: Duration,
        thresholds: Thresholds,
    ) -> (Self, Option<Flip>) {
        let _ = (observation, now, thresholds);
        todo!("health helper")
    }

    /// The last observations disagree with the verdict, or there is no verdict yet.
    pub fn in_doubt(&self) -> bool {
        todo!("health helper")
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}
