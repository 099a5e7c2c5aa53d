//! ● May a request that failed at one endpoint be tried at another?
//!
//! RFC 9110 section 9.2.2 (idempotent methods) and section 9.3; the budget follows the practice of
//! Finagle and Envoy: a share of the requests, so that retries cannot multiply an outage.

use crate::table::counters::{Loss, Proof};

/// What is known of the request when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub idempotent: bool,
    /// Its body, if any, is still whole in memory.
    pub replayable: bool,
    /// How far it got.
    pub progress: Progress,
    /// Times it was sent again after it may have been sent.
    pub resent: u32,
    /// The next endpoint to try would be in another pool.
    pub changes_pool: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// No byte of it left us.
    NotSent,
    /// It was written, and the endpoint's kernel acknowledged none of it.
    NotRead,
    /// It may have been read and processed; no byte of a response came.
    Sent,
    /// A response had begun.
    Answered,
}

/// One service's budget at one worker: each request earns a share of a retry, each retry costs one.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    tokens: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Resend(Proof),
    Fail(Loss),
}

impl Default for Budget {
    fn default() -> Self {
        Self { tokens: Self::START }
    }
}

impl Budget {
    /// Retries a service may make before it has earned any, and the most it can save up.
    pub const START: f64 = 10.0;
    pub const MOST: f64 = 100.0;

    /// One request came: `share` of a retry is earned, 0..=1.
    pub fn earn(&mut self, share: f64) {
        self.tokens = (self.tokens + share).min(Self::MOST);
    }

    fn spend(&mut self) -> bool {
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

/// May the request be sent to the next endpoint, and by what proof is that safe?
///
/// Exempt from attempts and budget: a request that was not sent or not read. Exempt from the budget
/// alone: a request that moves to another pool, for it adds nothing to the pool that fails and
/// arrives at the other one once.
pub fn decide(facts: Facts, attempts: u32, budget: &mut Budget) -> Decision {
    let _ = (facts, attempts, budget, Budget::spend);
    todo!("route helper")
}
