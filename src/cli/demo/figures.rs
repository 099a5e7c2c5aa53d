//! ○ What Standfast itself says in the demo: read from its table, as its metrics are.

use std::time::Duration;

use crate::health::Verdict;
use crate::table::counters::{Codes, Loss, Proof};
use crate::table::history::Moved;
use crate::table::{Service, Table};

/// Standfast's own account of the one service there is.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    /// Index of the pool that serves.
    pub(super) serving: usize,
    /// Of the only endpoint of each pool, by priority.
    pub(super) verdicts: Vec<Verdict>,
    pub(super) requests: u64,
    /// By [`Proof::ALL`].
    pub(super) rescued: [u64; Proof::ALL.len()],
    pub(super) lost: u64,
    /// The latest move.
    pub(super) moved: Option<Moved>,
}

impl Figures {
    pub(super) fn read(table: &Table) -> Self {
        let Some(service) = table.services.first() else { return Self::default() };
        let targets = table.listeners.iter().flat_map(|listener| listener.targets.iter());
        let codes = |codes: &Codes| (0..Codes::LABELS.len()).map(|index| codes.value(index)).sum();
        Self {
            serving: service.serving,
            verdicts: verdicts(service),
            requests: targets.map(|t| t.counters.workers.sum(|cell| codes(&cell.codes))).sum(),
            rescued: Proof::ALL.map(|(proof, _)| {
                service.counters.workers.sum(|cell| cell.rescued[proof as usize].value())
            }),
            lost: Loss::ALL
                .map(|(loss, _)| {
                    service.counters.workers.sum(|cell| cell.lost[loss as usize].value())
                })
                .iter()
                .sum(),
            moved: service.history.last.clone(),
        }
    }

    pub(super) fn rescued(&self) -> u64 {
        self.rescued.iter().sum()
    }

    pub(super) fn all_up(&self) -> bool {
        self.verdicts.iter().all(|verdict| *verdict == Verdict::Up)
    }
}

fn verdicts(service: &Service) -> Vec<Verdict> {
    let of = |pool: &crate::table::Pool| pool.verdicts.first().copied().unwrap_or_default();
    service.pools.iter().map(|pool| of(pool)).collect()
}

/// First evidence → the table with the move was in force.
pub(super) fn detection(moved: &Moved) -> Duration {
    moved.published.saturating_sub(moved.first_evidence)
}
