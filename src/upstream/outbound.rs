//! ○ What one worker has for reaching endpoints. Lives on one thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::idle::{Connection, Idle};
use super::lease::Chosen;
use super::line::Lines;
use super::warm::{self, Warm};
use crate::clock;
use crate::current::{Reader, Snapshot, View};
use crate::descriptors::Descriptors;
use crate::table::EndpointId;
use crate::table::live::{Seen, Sighting};
use crate::tls::Certificates;

#[derive(Debug)]
pub struct Outbound {
    /// Index of this worker's cells in all counters.
    pub worker: usize,
    pub certificates: Arc<Certificates>,
    pub idle: RefCell<Idle>,
    pub lines: Lines,
    pub warm: Warm,
    pub descriptors: Descriptors,
    /// The process is stopping: no connection is kept.
    pub draining: Cell<bool>,
    sightings: mpsc::Sender<Sighting>,
    view: View,
}

impl Outbound {
    pub fn new(
        worker: usize,
        reader: Reader,
        certificates: Arc<Certificates>,
        sightings: mpsc::Sender<Sighting>,
    ) -> Rc<Self> {
        Rc::new(Self {
            worker,
            certificates,
            idle: RefCell::new(Idle::default()),
            lines: Lines::default(),
            warm: Warm::default(),
            descriptors: Descriptors::default(),
            draining: Cell::new(false),
            sightings,
            view: View::new(reader),
        })
    }

    /// The current table.
    pub fn table(&self) -> Snapshot {
        self.view.table()
    }

    /// Has an endpoint looked at that failed a request. Never waits: if the queue is full, control
    /// has enough to look at.
    pub fn sight(&self, endpoint: EndpointId, kind: Seen) {
        let _ = self.sightings.try_send(Sighting { endpoint, kind, at: clock::now() });
    }

    /// Takes a connection that has carried no request yet: for who waits for one, or to be used
    /// after all others that are kept.
    pub fn take_new(&self, chosen: &Chosen, connection: Connection) {
        let id = chosen.endpoint().id;
        let Some(connection) = self.lines.give(id, connection, false) else { return };
        // The endpoint may have gone down, or out of the configuration, meanwhile.
        if warm::still_serves(self, id) {
            let now = clock::now().as_millis() as u64;
            let expires = now + warm::renewal(chosen.service());
            self.idle.borrow_mut().put_first(id, connection, now, expires);
        }
    }
}
