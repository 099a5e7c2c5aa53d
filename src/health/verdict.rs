//! ● One endpoint's verdict: state × observation × now → state, and a flip where it changed.
//!
//! One rule takes an endpoint down: `unhealthy` failures with never [`CALM`] successes in a row
//! between them. A run of failures is the plain case of it; every third probe that fails is found
//! as well (the leaky counter of gdnsd).

use std::fmt;
use std::time::Duration;

/// Successes in a row after which earlier failures are forgotten, and which an endpoint that failed
/// now and then must show before it is up again.
pub const CALM: u32 = 5;

/// How long errors of live traffic bar an endpoint the first time; doubled each further time.
pub const BAR: Duration = Duration::from_secs(10);
/// The longest bar.
pub const BAR_MOST: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Verdict {
    #[default]
    Unknown,
    Up,
    Down,
}

/// What was seen of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// A probe succeeded.
    Success,
    /// A probe failed, or live traffic met what no client can cause: a connection that was refused,
    /// found no way, or failed in its TLS handshake.
    Failure(Failure),
    /// Live traffic got gateway errors in a row that another endpoint would not have given.
    Errors,
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
    /// The body or a header was not as expected: another cluster may answer there.
    Content,
    /// The answer was not HTTP.
    Malformed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures until down, at least 1.
    pub unhealthy: u32,
    /// Successes in a row until up, at least 1.
    pub healthy: u32,
}

/// What is remembered of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    pub verdict: Verdict,
    /// Successes in a row, the last observation included.
    pub successes: u32,
    /// Failures with never [`CALM`] successes in a row between them; while up.
    pub failures: u32,
    /// The last observation was a failure.
    pub failing: bool,
    /// It failed now and then, or was barred: up again only after [`CALM`] successes.
    pub wary: bool,
    /// Successes of probes that began before this do not count.
    pub barred_until: Option<Duration>,
    /// Times it was barred without ten quiet minutes between.
    pub bars: u32,
    /// When the verdict was reached.
    pub since: Duration,
    /// The first success of the present run of successes.
    pub first_success: Option<Duration>,
    /// When the first of the failures counted was known.
    pub first_failure: Option<Duration>,
    /// When the earliest of those began: silence is known only once patience with it is over.
    pub first_began: Option<Duration>,
    /// When the newest probe that succeeded began: what it proves holds from then on.
    pub last_success: Option<Duration>,
    /// When the newest failure was seen to begin.
    pub last_failure: Option<(Duration, Failure)>,
}

/// A verdict that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flip {
    pub from: Verdict,
    pub to: Verdict,
    /// The first observation that led here.
    pub first_evidence: Duration,
}

impl State {
    /// Folds one observation of a probe (or connection) that `began` no later than `now`.
    ///
    /// From unknown, one success is enough for up (traffic flows there anyway); all `unhealthy`
    /// failures are needed for down.
    pub fn step(
        self,
        observation: Observation,
        began: Duration,
        now: Duration,
        thresholds: Thresholds,
    ) -> (Self, Option<Flip>) {
        match observation {
            Observation::Success => self.succeeded(began, now, thresholds),
            Observation::Failure(failure) => self.failed(failure, began, now, thresholds),
            Observation::Errors => self.barred(began, now),
            Observation::SelfFault => (self, None),
        }
    }

    /// The verdict is not settled: it is asked more often.
    pub fn in_doubt(&self) -> bool {
        match self.verdict {
            Verdict::Unknown => true,
            Verdict::Up => self.failures > 0,
            Verdict::Down => self.successes > 0,
        }
    }

    /// Of an endpoint that is down: when the newest probe began that leaves it so. That is one that
    /// failed; while errors of live traffic bar it, any that was answered.
    pub fn confirmed_down(&self) -> Duration {
        let failed = self.last_failure.map_or(self.since, |(began, _)| began);
        match (self.barred_until, self.last_success) {
            (Some(until), Some(heard)) if heard < until => failed.max(heard),
            _ => failed,
        }
    }

    fn succeeded(
        self,
        began: Duration,
        now: Duration,
        thresholds: Thresholds,
    ) -> (Self, Option<Flip>) {
        if self.barred_until.is_some_and(|until| began < until) {
            let last_success = self.last_success.max(Some(began));
            return (Self { last_success, failing: false, ..self }, None);
        }
        let first = self.first_success.unwrap_or(now);
        let successes = self.successes.saturating_add(1);
        let calm = successes >= CALM;
        let state = Self {
            successes,
            failures: if calm { 0 } else { self.failures },
            failing: false,
            wary: self.wary && !(calm && self.verdict == Verdict::Up),
            first_success: Some(first),
            first_failure: self.first_failure.filter(|_| !calm && self.failures > 0),
            first_began: self.first_began.filter(|_| !calm && self.failures > 0),
            last_success: self.last_success.max(Some(began)),
            ..self
        };
        let needed = match self.verdict {
            Verdict::Unknown if self.barred_until.is_none() => 1,
            _ if self.wary => thresholds.healthy.max(CALM),
            _ => thresholds.healthy,
        };
        if state.verdict == Verdict::Up || successes < needed {
            return (state, None);
        }
        // An endpoint that comes back starts anew; one nothing was known of has its failures still.
        let known = self.verdict == Verdict::Down;
        let state = Self {
            failures: if known { 0 } else { state.failures },
            first_failure: state.first_failure.filter(|_| !known),
            first_began: state.first_began.filter(|_| !known),
            wary: false,
            barred_until: None,
            ..state
        };
        state.flip(Verdict::Up, first, now)
    }

    fn failed(
        self,
        failure: Failure,
        began: Duration,
        now: Duration,
        thresholds: Thresholds,
    ) -> (Self, Option<Flip>) {
        let first = self.first_failure.unwrap_or(now);
        // Whether the failures so far stood in a row decides how it may come back.
        let in_a_row = self.failures == 0 || self.failing;
        let state = Self {
            successes: 0,
            failures: self.failures.saturating_add(1),
            failing: true,
            wary: self.wary || (self.verdict != Verdict::Down && !in_a_row),
            first_success: None,
            first_failure: Some(first),
            first_began: self.earliest(began),
            last_failure: self
                .last_failure
                .filter(|(at, _)| *at > began)
                .or(Some((began, failure))),
            ..self
        };
        if self.verdict == Verdict::Down || state.failures < thresholds.unhealthy {
            return (state, None);
        }
        state.flip(Verdict::Down, first, now)
    }

    fn barred(self, began: Duration, now: Duration) -> (Self, Option<Flip>) {
        if self.verdict == Verdict::Down {
            return (self, None);
        }
        let quiet = now.saturating_sub(self.since) > BAR_MOST * 2;
        let bars = if quiet { 1 } else { self.bars.saturating_add(1) };
        let time = BAR.saturating_mul(1 << (bars - 1).min(10)).min(BAR_MOST);
        let first = self.first_failure.unwrap_or(now);
        let state = Self {
            successes: 0,
            failing: true,
            wary: true,
            bars,
            barred_until: Some(now.saturating_add(time)),
            first_success: None,
            first_failure: Some(first),
            first_began: self.earliest(began),
            last_failure: Some((now, Failure::Status(503))),
            ..self
        };
        state.flip(Verdict::Down, first, now)
    }

    /// The beginning of the failures counted, once one that `began` then is among them.
    fn earliest(&self, began: Duration) -> Option<Duration> {
        Some(self.first_began.map_or(began, |first| first.min(began)))
    }

    fn flip(self, to: Verdict, first_evidence: Duration, now: Duration) -> (Self, Option<Flip>) {
        let flip = Flip { from: self.verdict, to, first_evidence };
        (Self { verdict: to, since: now, ..self }, Some(flip))
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

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
