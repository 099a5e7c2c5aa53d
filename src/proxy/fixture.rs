//! ○ A worker for tests, with nothing behind it.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::local::{Local, Snapshot};
use crate::config::WhenNone;
use crate::current::Current;
use crate::table::live::{Doubt, Seen, Sighting};
use crate::table::{Endpoint, build, fixture};
use crate::tls::Certificates;
use crate::upstream::lease::Chosen;

/// Two endpoints in each of two pools, all of them unknown, the first pool serving.
pub(super) struct Worker {
    pub(super) local: Rc<Local>,
    pub(super) table: Snapshot,
    sightings: mpsc::Receiver<Sighting>,
}

impl Worker {
    pub(super) fn new() -> Self {
        let hot = fixture::pool("hot", &["10.0.1.10:80", "10.0.1.11:80"]);
        let standby = fixture::pool("standby", &["10.0.2.10:80", "10.0.2.11:80"]);
        let service = fixture::service_of("app", WhenNone::TryAll, vec![hot, standby]);
        let config = fixture::config(Vec::new(), vec![service]);
        let certificates = Certificates::new(Certificates::prepare(&config).unwrap());
        let current = Current::new(build::first(config, 1, Duration::ZERO));
        let (sender, sightings) = mpsc::channel(100);
        let local = Local::new(0, current.reader(), certificates, None, sender);
        let table = local.table();
        Self { local, table, sightings }
    }

    /// By pool and place in it.
    pub(super) fn chosen(&self, pool: usize, endpoint: usize) -> Chosen {
        Chosen { table: Snapshot::clone(&self.table), service: 0, pool, endpoint }
    }

    pub(super) fn endpoint(&self, pool: usize, endpoint: usize) -> &Endpoint {
        &self.table.services[0].pools[pool].endpoints[endpoint]
    }

    pub(super) fn doubt(&self, (pool, endpoint): (usize, usize), doubt: Doubt) {
        self.endpoint(pool, endpoint).live.doubt(doubt, crate::clock::now());
    }

    /// What control was told since this was last asked.
    pub(super) fn seen(&mut self) -> Vec<Seen> {
        std::iter::from_fn(|| self.sightings.try_recv().ok()).map(|s| s.kind).collect()
    }
}
