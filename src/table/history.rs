//! ● What a service remembers of its moves: counted by from, to and cause, the last one in full.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::failover::record::KEPT;
use crate::failover::{Cause, Record};

/// Moves of one service since the process started. Survives reloads.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    pub counts: Vec<FailoverCount>,
    /// First evidence → switched, of moves forced by health.
    pub detection: Detection,
    pub last: Option<Moved>,
    /// Why the service is held, or was last; an order to hold need not move it.
    pub held_because: Option<Arc<str>>,
    /// In full, the newest last; [`KEPT`] at the most.
    pub records: VecDeque<Arc<Record>>,
}

/// How often a service moved between two pools for one cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverCount {
    pub from: Arc<str>,
    pub to: Arc<str>,
    pub cause: Cause,
    pub count: u64,
}

/// One move of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    pub from: Arc<str>,
    pub to: Arc<str>,
    pub cause: Cause,
    /// For people, such as `0 of 2 endpoints up, needs 1`, or the operator's reason.
    pub reason: Arc<str>,
    /// All three since the process's origin.
    pub first_evidence: Duration,
    pub decided: Duration,
    /// When the table that carries the move was published.
    pub published: Duration,
}

/// A histogram of seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Detection {
    /// Not cumulative; the last one is everything above the last bound.
    pub buckets: [u64; Self::BOUNDS.len() + 1],
    pub sum: Duration,
    pub count: u64,
}

impl Detection {
    /// Upper bounds in seconds, inclusive.
    pub const BOUNDS: [f64; 13] =
        [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

    fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.buckets[Self::BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        self.sum += took;
        self.count += 1;
    }
}

impl History {
    /// Adds a record, or replaces the one of the same id.
    pub fn keep(&mut self, record: Arc<Record>) {
        match self.records.iter_mut().rev().find(|kept| kept.id == record.id) {
            Some(kept) => *kept = record,
            None => {
                self.records.push_back(record);
                let over = self.records.len().saturating_sub(KEPT);
                self.records.drain(..over);
            }
        }
    }

    /// Adds a move.
    pub fn record(&mut self, moved: Moved) {
        if moved.cause == Cause::Health {
            self.detection.observe(moved.published.saturating_sub(moved.first_evidence));
        }
        let same = |count: &&mut FailoverCount| {
            (&count.from, &count.to, count.cause) == (&moved.from, &moved.to, moved.cause)
        };
        match self.counts.iter_mut().find(same) {
            Some(count) => count.count += 1,
            None => self.counts.push(FailoverCount {
                from: Arc::clone(&moved.from),
                to: Arc::clone(&moved.to),
                cause: moved.cause,
                count: 1,
            }),
        }
        self.last = Some(moved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(from: &str, to: &str, cause: Cause, took_millis: u64) -> Moved {
        Moved {
            from: from.into(),
            to: to.into(),
            cause,
            reason: "".into(),
            first_evidence: Duration::from_secs(1),
            decided: Duration::from_secs(1),
            published: Duration::from_secs(1) + Duration::from_millis(took_millis),
        }
    }

    #[test]
    fn moves_are_counted_by_from_to_and_cause_and_only_forced_ones_are_timed() {
        let mut history = History::default();
        history.record(moved("hot", "standby", Cause::Health, 250));
        history.record(moved("standby", "hot", Cause::Failback, 0));
        history.record(moved("hot", "standby", Cause::Health, 251));
        let counts: Vec<_> = history.counts.iter().map(|c| (&*c.from, c.cause, c.count)).collect();
        assert_eq!(counts, [("hot", Cause::Health, 2), ("standby", Cause::Failback, 1)]);
        assert_eq!(history.detection.count, 2);
        assert_eq!(history.detection.sum, Duration::from_millis(501));
        assert_eq!((history.detection.buckets[5], history.detection.buckets[6]), (1, 1));
        assert_eq!(history.last, Some(moved("hot", "standby", Cause::Health, 251)));
    }
}
