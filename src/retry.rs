//! ● May a request that failed at one endpoint be tried at another?
//!
//! RFC 9110 section 9.2.2 (idempotent methods) and section 9.3; the budget follows the practice of
//! Finagle and Envoy: a share of the requests, so that retries cannot multiply an outage.

use crate::table::counters::{Loss, Proof};

/// What is known of the request when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Its method is idempotent.
    pub idempotent: bool,
    /// It carries an `Idempotency-Key` that its route heeds.
    pub keyed: bool,
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

    /// The next retry could be paid.
    pub fn can_spend(&self) -> bool {
        self.tokens >= 1.0
    }

    fn spend(&mut self) -> bool {
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

impl Facts {
    /// It does no harm if it is processed twice, and why.
    fn harmless(&self) -> Option<Proof> {
        match (self.idempotent, self.keyed) {
            (true, _) => Some(Proof::Idempotent),
            (false, true) => Some(Proof::IdempotencyKey),
            (false, false) => None,
        }
    }
}

/// May the request be sent to the next endpoint, and by what proof is that safe?
///
/// Exempt from attempts and budget: a request that was not sent or not read. Exempt from the budget
/// alone: a request that moves to another pool, for it adds nothing to the pool that fails and
/// arrives at the other one once.
pub fn decide(facts: Facts, attempts: u32, budget: &mut Budget) -> Decision {
    let Facts { progress, replayable, resent, changes_pool, .. } = facts;
    match (progress, facts.harmless()) {
        (Progress::Answered, _) => Decision::Fail(Loss::Cut),
        (Progress::Sent, None) => Decision::Fail(Loss::NotIdempotent),
        _ if !replayable => Decision::Fail(Loss::BodyGone),
        (Progress::NotSent, _) => Decision::Resend(Proof::NotSent),
        (Progress::NotRead, _) => Decision::Resend(Proof::NotRead),
        (Progress::Sent, _) if resent >= attempts => Decision::Fail(Loss::Attempts),
        (Progress::Sent, Some(proof)) if changes_pool || budget.spend() => Decision::Resend(proof),
        (Progress::Sent, _) => Decision::Fail(Loss::Attempts),
    }
}

/// May a request that failed on an idle connection used again go to the same endpoint once more?
///
/// The endpoint is not at fault, the connection was. It costs neither attempt nor budget, but is
/// granted once: whatever fails after that failed on a new connection.
pub fn after_stale(facts: Facts) -> Option<Proof> {
    match facts.progress {
        _ if !facts.replayable => None,
        Progress::NotSent | Progress::NotRead => Some(Proof::NotRead),
        Progress::Sent => facts.harmless(),
        Progress::Answered => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts(progress: Progress) -> Facts {
        Facts {
            idempotent: true,
            keyed: false,
            replayable: true,
            progress,
            resent: 0,
            changes_pool: false,
        }
    }

    /// Every combination of what decides, against the rules said once more as a list.
    #[test]
    fn every_combination_is_decided_as_the_rules_say() {
        let progresses = [Progress::NotSent, Progress::NotRead, Progress::Sent, Progress::Answered];
        for bits in 0..4 * 64 {
            let bit = |n: u32| bits >> n & 1 == 1;
            let progress = progresses[bits >> 6];
            let (idempotent, replayable, spent) = (bit(0), bit(1), bit(2));
            let (changes_pool, poor, keyed) = (bit(3), bit(4), bit(5));
            let resent = if spent { 2 } else { 1 };
            let facts = Facts { idempotent, keyed, replayable, progress, resent, changes_pool };
            let harmless = if idempotent { Proof::Idempotent } else { Proof::IdempotencyKey };
            let mut budget = Budget { tokens: if poor { 0.5 } else { 5.0 } };
            let rules = [
                (progress == Progress::Answered, Decision::Fail(Loss::Cut)),
                (
                    progress == Progress::Sent && !idempotent && !keyed,
                    Decision::Fail(Loss::NotIdempotent),
                ),
                (!replayable, Decision::Fail(Loss::BodyGone)),
                (progress == Progress::NotSent, Decision::Resend(Proof::NotSent)),
                (progress == Progress::NotRead, Decision::Resend(Proof::NotRead)),
                (spent, Decision::Fail(Loss::Attempts)),
                (poor && !changes_pool, Decision::Fail(Loss::Attempts)),
                (true, Decision::Resend(harmless)),
            ];
            let expected = rules.iter().find(|(applies, _)| *applies).unwrap().1;
            assert_eq!(decide(facts, 2, &mut budget), expected, "{facts:?} poor: {poor}");
            let paid = expected == Decision::Resend(harmless) && !changes_pool;
            let before = if poor { 0.5 } else { 5.0 };
            assert_eq!(budget.tokens, if paid { before - 1.0 } else { before }, "{facts:?}");
        }
    }

    #[test]
    fn no_attempts_means_that_what_may_have_been_processed_is_never_sent_again() {
        let decision = decide(facts(Progress::Sent), 0, &mut Budget::default());
        assert_eq!(decision, Decision::Fail(Loss::Attempts));
    }

    #[test]
    fn stale_connection_costs_nothing_unless_the_body_is_gone_or_may_have_been_processed() {
        use Progress::{Answered, NotRead, NotSent, Sent};
        for progress in [NotSent, NotRead, Sent, Answered] {
            assert_eq!(after_stale(Facts { replayable: false, ..facts(progress) }), None);
            let unsafe_method = Facts { idempotent: false, ..facts(progress) };
            let (idempotent, other) = match progress {
                NotSent | NotRead => (Some(Proof::NotRead), Some(Proof::NotRead)),
                Sent => (Some(Proof::Idempotent), None),
                Answered => (None, None),
            };
            assert_eq!(after_stale(facts(progress)), idempotent, "{progress:?}");
            assert_eq!(after_stale(unsafe_method), other, "{progress:?}");
            let keyed = idempotent.map(|proof| match proof {
                Proof::Idempotent => Proof::IdempotencyKey,
                proof => proof,
            });
            assert_eq!(after_stale(Facts { keyed: true, ..unsafe_method }), keyed, "{progress:?}");
        }
    }

    #[test]
    fn savings_are_capped() {
        let mut budget = Budget::default();
        (0..100_000).for_each(|_| budget.earn(1.0));
        assert_eq!(budget.tokens, Budget::MOST);
    }

    proptest! {
        #[test]
        fn retries_within_a_pool_stay_within_the_share_of_the_requests(
            share in 0.0..=1.0f64, requests in proptest::collection::vec(0..4u32, 1..300),
        ) {
            let mut budget = Budget::default();
            let mut retries = 0;
            for failures in &requests {
                budget.earn(share);
                for resent in 0..*failures {
                    let facts = Facts { resent, ..facts(Progress::Sent) };
                    match decide(facts, 3, &mut budget) {
                        Decision::Resend(_) => retries += 1,
                        Decision::Fail(_) => break,
                    }
                }
            }
            let bound = share * requests.len() as f64 + Budget::START;
            prop_assert!(f64::from(retries) <= bound + 1e-9, "{retries} > {bound}");
        }
    }
}
