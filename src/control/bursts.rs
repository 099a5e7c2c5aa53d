//! ○ Probes out of turn: bursts that find out quickly whether a doubt is right, the proof that
//! another pool lives, and rounds while every answer counts.
//!
//! They run beside the ordinary probes, which they neither hasten nor hold up, each over a
//! connection of its own and with less patience than those.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::health::{Failure, Observation};
use crate::probe::{self, Outcome, Patience};
use crate::table::counters::EndpointCounters;
use crate::table::{EndpointId, Pool, Service};

use super::Effects;
use super::probes::{Probe, Probes};

/// Probes out of turn in flight at once, of doubted endpoints and of trusted ones each. When a
/// thousand endpoints die at once they must not take the descriptors and ports that requests need
/// to be moved; at the least patience of 100 ms this still asks 2,560 silent ones a second.
pub(super) const AT_ONCE: usize = 256;

/// Between two probes of a burst: far enough apart that one moment of a busy machine does not cost
/// all of them.
const STEP: Duration = Duration::from_millis(20);
/// Probes of a burst at the most, however many failures a verdict needs.
const MOST: u32 = 10;
/// Between two bursts at one endpoint: requests that fail come by the thousand.
const PAUSE: Duration = Duration::from_millis(250);
/// Unanswered probes of rounds that one endpoint may have: what is asked every fast interval with
/// patience for several of them.
const UNANSWERED_MOST: usize = 4;
/// Longer than a probe's patience, for the way there and back.
const SLACK: Duration = Duration::from_millis(50);

impl<E: Effects> Probes<E> {
    /// As many probes as a verdict needs failures, each over a new connection, overlapping. False
    /// where one burst is under way or has just been.
    pub(super) fn burst(&mut self, id: EndpointId, now: Duration) -> bool {
        let Some(probe) = self.running.get_mut(&id) else { return false };
        let just = probe.burst.is_some_and(|last| now.saturating_sub(last) < PAUSE);
        if just || probe.unanswered() > 0 {
            return false;
        }
        probe.burst = Some(now);
        let count = probe.subject.check.unhealthy_threshold.min(MOST);
        for index in 0..count {
            self.ask(id, STEP * index, Arc::clone(&self.doubted));
        }
        true
    }

    /// One probe of every endpoint of the other pools: whoever answers it was alive after the
    /// evidence against `pool` began.
    pub(super) fn prove(&mut self, service: &Service, pool: usize) {
        let others = service.pools.iter().enumerate().filter(|(index, _)| *index != pool);
        for endpoint in others.flat_map(|(_, pool)| pool.endpoints.iter()) {
            self.ask_one(endpoint.id, 1, Arc::clone(&self.trusted));
        }
    }

    /// One probe of an endpoint, one more where those before it are not answered.
    pub(super) fn round(&mut self, id: EndpointId, down: bool) {
        let cap = if down { &self.doubted } else { &self.trusted };
        self.ask_one(id, UNANSWERED_MOST, Arc::clone(cap));
    }

    /// One probe of every endpoint of a pool that is to take over. By when it has proved itself, if
    /// it can.
    pub(super) fn ask_pool(&mut self, pool: &Pool, now: Duration) -> Duration {
        for endpoint in &pool.endpoints {
            self.round(endpoint.id, false);
        }
        let patience = pool.config.health_check.as_ref().map(|check| check.timeout);
        now + patience.unwrap_or_default() + SLACK
    }

    /// A probe out of turn has not been answered yet.
    pub(super) fn is_asked(&mut self, id: EndpointId) -> bool {
        self.running.get_mut(&id).is_some_and(|probe| probe.unanswered() > 0)
    }

    fn ask_one(&mut self, id: EndpointId, most: usize, cap: Arc<Semaphore>) {
        if self.running.get_mut(&id).is_some_and(|probe| probe.unanswered() < most) {
            self.ask(id, Duration::ZERO, cap);
        }
    }

    fn ask(&mut self, id: EndpointId, delay: Duration, cap: Arc<Semaphore>) {
        let (effects, reports) = (Arc::clone(&self.effects), self.reports.clone());
        let Some(probe) = self.running.get_mut(&id) else { return };
        let (subject, endpoint) = (Arc::clone(&probe.subject), Arc::clone(&probe.endpoint));
        let usual = (endpoint.live.usual_connect(), probe.usual);
        let patience = Patience::confirm(&subject.check, usual.0, usual.1);
        let asked = async move {
            // It is never closed; and to ask without leave is better than not to ask.
            let _leave = cap.acquire().await;
            let before = answers(&endpoint.counters);
            let outcome = effects.ask(&subject, patience).await;
            void_if_slow(outcome, before, answers(&endpoint.counters))
        };
        probe.extra.spawn(probe::confirm(id, delay, reports, asked));
    }
}

impl Probe {
    /// Probes out of turn that wait or are in flight.
    pub(super) fn unanswered(&mut self) -> usize {
        while self.extra.try_join_next().is_some() {}
        self.extra.len()
    }
}

/// Requests the endpoint has answered, with whatever status: silence is the question.
fn answers(counters: &EndpointCounters) -> u64 {
    counters.workers.sum(|cells| cells.responses.iter().map(|class| class.value()).sum())
}

/// Slow is not dead: silence towards a probe of little patience is void if the endpoint answered
/// requests meanwhile.
fn void_if_slow(outcome: Outcome, before: u64, after: u64) -> Outcome {
    let silent = outcome.observation == Observation::Failure(Failure::Timeout);
    if !silent || before == after {
        return outcome;
    }
    let detail = format!("void: {}, but it answered requests meanwhile", outcome.detail);
    Outcome { observation: Observation::SelfFault, detail, ..outcome }
}
