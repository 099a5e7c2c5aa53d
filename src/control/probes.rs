//! ○ The probe tasks that run: one for each endpoint of the table that has a health check.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use crate::health::schedule;
use crate::probe::{self, Patience, Report, Subject};
use crate::table::{EndpointId, Table};

use super::Effects;

pub(super) struct Probes<E> {
    effects: Arc<E>,
    reports: mpsc::Sender<Report>,
    running: HashMap<EndpointId, Probe>,
}

#[derive(Debug)]
struct Probe {
    subject: Arc<Subject>,
    task: AbortHandle,
    hasten: Arc<Notify>,
    /// When it was last hastened.
    hastened: Option<Duration>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<E: Effects> Probes<E> {
    pub(super) fn new(effects: Arc<E>, reports: mpsc::Sender<Report>) -> Self {
        Self { effects, reports, running: HashMap::new() }
    }

    /// Probes exactly the endpoints of `table`: new ones at once, known ones undisturbed unless how
    /// they are asked changed, others no more.
    pub(super) fn follow(&mut self, table: &Table, random: &mut fastrand::Rng) {
        let mut before = std::mem::take(&mut self.running);
        let mut new = Vec::new();
        for subject in subjects(table) {
            match before.remove(&subject.id) {
                Some(probe) if *probe.subject == subject => {
                    self.running.insert(subject.id, probe);
                }
                _ => new.push(subject),
            }
        }
        for subject in &new {
            let delay = schedule::first_delay(new.len(), &subject.check, random.u64(..));
            let (id, subject) = (subject.id, Arc::new(subject.clone()));
            let (effects, asked) = (Arc::clone(&self.effects), Arc::clone(&subject));
            let reports = self.reports.clone();
            let hasten = Arc::new(Notify::new());
            let sooner = Arc::clone(&hasten);
            let task = tokio::spawn(async move {
                let patience = Patience::ordinary(&asked.check);
                probe::run(id, delay, reports, sooner, || effects.ask(&asked, patience)).await;
            });
            let task = task.abort_handle();
            self.running.insert(id, Probe { subject, task, hasten, hastened: None });
        }
    }
}

impl<E> Probes<E> {
    /// Asks an endpoint at once, at most once a `fast_interval`.
    pub(super) fn hasten(&mut self, id: EndpointId, now: Duration) {
        let Some(probe) = self.running.get_mut(&id) else { return };
        let pause = probe.subject.check.fast_interval;
        if probe.hastened.is_none_or(|last| now.saturating_sub(last) >= pause) {
            probe.hastened = Some(now);
            // Not kept for later: a probe in flight will tell as much.
            probe.hasten.notify_waiters();
        }
    }
}

fn subjects(table: &Table) -> impl Iterator<Item = Subject> {
    let pools = table.services.iter().flat_map(|service| service.pools.iter());
    let checked = pools.filter_map(|pool| Some((pool, pool.config.health_check.as_ref()?)));
    checked.flat_map(|(pool, check)| {
        pool.endpoints.iter().zip(&pool.config.endpoints).map(|(endpoint, config)| Subject {
            id: endpoint.id,
            endpoint: Arc::clone(config),
            check: check.clone(),
            tls: pool.config.upstream.tls.clone(),
        })
    })
}
