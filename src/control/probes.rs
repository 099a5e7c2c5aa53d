//! ○ The probe tasks that run: one for each endpoint of the table that has a health check.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use crate::health::schedule;
use crate::probe::{self, Outcome, Patience, Report, Subject};
use crate::table::{Endpoint, EndpointId, Table};

use super::Effects;
use super::bursts::AT_ONCE;

pub(super) struct Probes<E> {
    pub(super) effects: Arc<E>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) running: HashMap<EndpointId, Probe>,
    /// For probes out of turn of endpoints that may well be dead …
    pub(super) doubted: Arc<Semaphore>,
    /// … and of those that should answer soon, so that these never wait behind the silent.
    pub(super) trusted: Arc<Semaphore>,
}

#[derive(Debug)]
pub(super) struct Probe {
    pub(super) subject: Arc<Subject>,
    pub(super) endpoint: Arc<Endpoint>,
    task: AbortHandle,
    /// How long a probe that succeeds usually takes.
    pub(super) usual: Option<Duration>,
    /// Probes out of turn that wait or are in flight.
    pub(super) extra: JoinSet<()>,
    /// When the last burst began.
    pub(super) burst: Option<Duration>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<E: Effects> Probes<E> {
    pub(super) fn new(effects: Arc<E>, reports: mpsc::Sender<Report>) -> Self {
        let [doubted, trusted] = [(); 2].map(|()| Arc::new(Semaphore::new(AT_ONCE)));
        Self { effects, reports, running: HashMap::new(), doubted, trusted }
    }

    /// Probes exactly the endpoints of `table`: new ones at once, known ones undisturbed unless how
    /// they are asked changed, others no more.
    pub(super) fn follow(&mut self, table: &Table, random: &mut fastrand::Rng) {
        let mut before = std::mem::take(&mut self.running);
        let mut new = Vec::new();
        for (endpoint, subject) in subjects(table) {
            match before.remove(&subject.id) {
                Some(probe) if *probe.subject == subject => {
                    self.running.insert(subject.id, probe);
                }
                _ => new.push((endpoint, subject)),
            }
        }
        let count = new.len();
        for (endpoint, subject) in new {
            let delay = schedule::first_delay(count, &subject.check, random.u64(..));
            self.begin(endpoint, Arc::new(subject), delay);
        }
    }

    fn begin(&mut self, endpoint: Arc<Endpoint>, subject: Arc<Subject>, delay: Duration) {
        let (effects, asked) = (Arc::clone(&self.effects), Arc::clone(&subject));
        let (id, reports) = (subject.id, self.reports.clone());
        let task = tokio::spawn(async move {
            let patience = Patience::ordinary(&asked.check);
            probe::run(id, delay, reports, || effects.ask(&asked, patience)).await;
        });
        let task = task.abort_handle();
        let (usual, extra, burst) = (None, JoinSet::new(), None);
        let probe = Probe { subject, endpoint, task, usual, extra, burst };
        self.running.insert(id, probe);
    }
}

impl<E> Probes<E> {
    /// Learns how long an endpoint usually takes.
    pub(super) fn succeeded(&mut self, id: EndpointId, outcome: &Outcome) {
        let Some(probe) = self.running.get_mut(&id) else { return };
        let smoothed = |before: Duration| before - before / 8 + outcome.took / 8;
        probe.usual = Some(probe.usual.map_or(outcome.took, smoothed));
        if let Some(tcp) = outcome.timings.tcp {
            probe.endpoint.live.connected(tcp + outcome.timings.tls.unwrap_or_default());
        }
    }
}

/// Every endpoint that has a health check, and how it is asked.
fn subjects(table: &Table) -> impl Iterator<Item = (Arc<Endpoint>, Subject)> {
    let pools = table.services.iter().flat_map(|service| service.pools.iter());
    let checked = pools.filter_map(|pool| Some((pool, pool.config.health_check.as_ref()?)));
    checked.flat_map(|(pool, check)| {
        pool.endpoints.iter().zip(&pool.config.endpoints).map(|(endpoint, config)| {
            let subject = Subject {
                id: endpoint.id,
                endpoint: Arc::clone(config),
                check: check.clone(),
                tls: pool.config.upstream.tls.clone(),
                proxy_protocol: pool.config.upstream.proxy_protocol,
            };
            (Arc::clone(endpoint), subject)
        })
    })
}
