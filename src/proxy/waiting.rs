//! ○ The requests of a worker that wait for the head of an answer, by endpoint, and the look that
//! finds a silent endpoint long before any deadline and any verdict.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;

use super::deadline::{Bell, Ticket};
use super::latency::Latency;
use super::silence::{self, Finding, Flight};
use crate::clock;
use crate::sys;
use crate::table::live::{Doubt, Seen};
use crate::table::{Endpoint, EndpointId};
use crate::upstream::connect;

/// All waits of a worker. To enter and to leave costs a clock reading and no allocation.
#[derive(Debug, Default)]
pub struct Waiting {
    /// By slot of the endpoint.
    slots: RefCell<Vec<Slot>>,
    count: Cell<usize>,
    /// Somebody looks every [`silence::LOOK`].
    watched: Cell<bool>,
    begins: Notify,
    /// When somebody last looked, or began to.
    looked: Cell<Duration>,
}

/// What this worker knows of one endpoint. A slot that changed hands begins anew.
#[derive(Debug, Default)]
struct Slot {
    endpoint: Option<Arc<Endpoint>>,
    waits: Slab<Wait>,
    /// Counts what it answered; wraps.
    answers: u32,
    answered_at: Duration,
    latency: Latency,
    /// We found it silent, and nobody took that back yet.
    silent: bool,
    sighted_at: Option<Duration>,
}

#[derive(Debug)]
struct Wait {
    /// When its age began.
    since: Duration,
    /// Answers of the endpoint until then.
    answers: u32,
    uploading: bool,
    /// Its socket was asked for an error since something was last sent.
    asked: bool,
    /// The endpoint's kernel has all that was sent.
    delivered: bool,
    sighted: bool,
    /// When it was last told of the endpoint's silence, …
    told_at: Option<Duration>,
    /// … and of its own length.
    reminded_at: Option<Duration>,
    socket: RawFd,
    bell: Bell,
}

/// One request's place among the waits, until it is dropped.
#[derive(Debug)]
pub struct Place<'a> {
    waiting: &'a Waiting,
    endpoint: EndpointId,
    key: usize,
}

/// A request that waits is asked that often whether its client still does. The first time after
/// [`silence::PATIENCE`], so that answers that come promptly are not paid for.
const REMIND: Duration = Duration::from_secs(1);

/// What is told again of an endpoint, or of silence to the same request, is told that rarely.
const AGAIN: Duration = Duration::from_millis(100);

impl Waiting {
    /// A request waits for `endpoint` from now on. `socket` must stay open as long as the place is
    /// kept; `uploading`: not all of it was sent yet.
    pub fn enter(
        &self,
        endpoint: &Arc<Endpoint>,
        ticket: &Ticket,
        socket: &impl AsFd,
        uploading: bool,
    ) -> Place<'_> {
        let now = clock::now();
        let id = endpoint.id;
        let mut slots = self.slots.borrow_mut();
        let index = id.slot as usize;
        if index >= slots.len() {
            slots.resize_with(index + 1, Slot::default);
        }
        let slot = &mut slots[index];
        if !slot.is_of(id) {
            self.count.set(self.count.get() - slot.waits.len());
            *slot = Slot { endpoint: Some(Arc::clone(endpoint)), ..Slot::default() };
        }
        let key = slot.waits.insert(Wait {
            since: now,
            answers: slot.answers,
            uploading,
            asked: false,
            delivered: false,
            sighted: false,
            told_at: None,
            reminded_at: None,
            socket: socket.as_fd().as_raw_fd(),
            bell: ticket.bell(),
        });
        self.count.set(self.count.get() + 1);
        if !self.watched.replace(true) {
            self.looked.set(now);
            self.begins.notify_one();
        }
        Place { waiting: self, endpoint: id, key }
    }

    /// Returns when [`Waiting::look`] is to be called every [`silence::LOOK`], until it says no.
    pub async fn begins(&self) {
        self.begins.notified().await;
    }

    /// Judges every endpoint that is waited for, and ends the waits for a silent one. `see` is told
    /// what control should know. False when nobody waits any more.
    pub fn look(&self, now: Duration, mut see: impl FnMut(EndpointId, Seen)) -> bool {
        let late = silence::was_late(now.saturating_sub(self.looked.replace(now)));
        if self.count.get() == 0 {
            self.watched.set(false);
            return false;
        }
        for slot in self.slots.borrow_mut().iter_mut() {
            if late {
                slot.begin_anew(now);
            } else {
                slot.look(now, &mut see);
            }
        }
        true
    }

    /// What was sent to this endpoint was refused on the way. Whatever else it has not taken yet
    /// will fare no better, though routers say so only a few times a second (RFC 1812 section
    /// 4.3.2.8).
    pub fn rejected(&self, id: EndpointId) {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(id.slot as usize).filter(|slot| slot.is_of(id));
        for (_, wait) in slot.into_iter().flat_map(|slot| &mut slot.waits) {
            if sys::tcp_progress_of(wait.socket).is_ok_and(|progress| progress.unacked > 0) {
                wait.bell.endpoint_is_silent();
            }
        }
    }

    fn with_wait(&self, place: &Place<'_>, act: impl FnOnce(&mut Slot, usize)) {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(place.endpoint.slot as usize);
        if let Some(slot) = slot.filter(|slot| slot.is_of(place.endpoint)) {
            act(slot, place.key);
        }
    }
}

impl Place<'_> {
    /// More of the request was sent (`all`: the rest of it); its age begins anew.
    pub fn sent(&self, all: bool) {
        self.waiting.with_wait(self, |slot, key| {
            let wait = &mut slot.waits[key];
            wait.since = clock::now();
            wait.answers = slot.answers;
            wait.uploading = !all;
            wait.asked = false;
            wait.delivered = false;
        });
    }

    /// The endpoint said something that is not an answer yet.
    pub fn heard(&self) {
        self.waiting.with_wait(self, |slot, key| {
            let now = clock::now();
            slot.heard(now);
            slot.waits[key].since = now;
        });
    }

    /// The head of the answer is there, at `now`.
    pub fn answered(self, now: Duration) {
        self.waiting.with_wait(&self, |slot, key| {
            slot.heard(now);
            let wait = &slot.waits[key];
            // What lay unread while we did not run took our time, not the endpoint's.
            let awake = !silence::was_late(now.saturating_sub(self.waiting.looked.get()));
            if awake && !wait.uploading {
                slot.latency.record(now.saturating_sub(wait.since));
            }
        });
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.with_wait(self, |slot, key| {
            slot.waits.remove(key);
            self.waiting.count.set(self.waiting.count.get() - 1);
        });
    }
}

impl Slot {
    fn is_of(&self, id: EndpointId) -> bool {
        self.endpoint.as_ref().is_some_and(|endpoint| endpoint.id == id)
    }

    fn heard(&mut self, now: Duration) {
        self.answers = self.answers.wrapping_add(1);
        self.answered_at = now;
    }

    fn begin_anew(&mut self, now: Duration) {
        let answers = self.answers;
        for (_, wait) in &mut self.waits {
            wait.since = now;
            wait.answers = answers;
            wait.delivered = false;
        }
    }

    fn look(&mut self, now: Duration, see: &mut impl FnMut(EndpointId, Seen)) {
        let Some(endpoint) = self.endpoint.clone().filter(|_| !self.waits.is_empty()) else {
            return;
        };
        for (_, wait) in &mut self.waits {
            wait.ask();
            wait.remind(now);
        }
        let doubted = endpoint.live.is(Doubt::Silent);
        if self.silent && !doubted {
            // It answered another worker or a probe: who waited until now proves no more silence.
            self.silent = false;
            self.heard(now);
        }
        match self.judge(now, doubted) {
            Finding::Fine => {}
            Finding::LookCloser => {
                let news = self.waits.iter_mut().any(|(_, wait)| {
                    now.saturating_sub(wait.since) >= silence::PATIENCE
                        && !std::mem::replace(&mut wait.sighted, true)
                });
                if news {
                    self.sight(endpoint.id, now, false, see);
                }
            }
            Finding::Silent => {
                self.silent = true;
                // The time of an older doubt stays, for it decides when somebody may try again.
                let news = !doubted && endpoint.live.doubt(Doubt::Silent, now);
                self.sight(endpoint.id, now, news, see);
                for (_, wait) in &mut self.waits {
                    if is_due(wait.told_at, now) {
                        wait.told_at = Some(now);
                        wait.bell.endpoint_is_silent();
                    }
                }
            }
        }
    }

    fn judge(&mut self, now: Duration, doubted: bool) -> Finding {
        let oldest = self.waits.iter().map(|(_, wait)| wait.since).min().unwrap_or(now);
        if now.saturating_sub(oldest) < silence::PATIENCE {
            return Finding::Fine;
        }
        let overdue = silence::overdue_after(self.latency.p99());
        let Self { waits, answers, answered_at, .. } = self;
        let waits = waits.iter_mut().map(|(_, wait)| {
            let age = now.saturating_sub(wait.since);
            silence::Wait {
                age,
                unheard: wait.answers == *answers && !wait.uploading,
                unacknowledged: wait.is_unacknowledged(age, now.saturating_sub(*answered_at)),
            }
        });
        silence::judge(waits, overdue, doubted)
    }

    fn sight(
        &mut self,
        id: EndpointId,
        now: Duration,
        at_once: bool,
        see: &mut impl FnMut(EndpointId, Seen),
    ) {
        if at_once || is_due(self.sighted_at, now) {
            self.sighted_at = Some(now);
            see(id, Seen::Silent);
        }
    }
}

impl Wait {
    /// Asks once whether what was sent was refused on the way.
    fn ask(&mut self) {
        if std::mem::replace(&mut self.asked, true) {
            return;
        }
        let error = sys::take_error_of(self.socket);
        if let Some(reason) = error.and_then(|error| connect::rejected(&error)) {
            self.bell.is_rejected(reason);
        }
    }

    fn remind(&mut self, now: Duration) {
        let due = match self.reminded_at {
            None => now.saturating_sub(self.since) >= silence::PATIENCE,
            Some(last) => now.saturating_sub(last) >= REMIND,
        };
        if due {
            self.reminded_at = Some(now);
            self.bell.waits_long();
        }
    }

    /// Asks the kernel only when its answer can matter.
    fn is_unacknowledged(&mut self, age: Duration, since_answer: Duration) -> bool {
        let quiet = age.min(since_answer);
        if self.delivered || quiet < silence::unacknowledged_after(self.uploading) {
            return false;
        }
        let Ok(progress) = sys::tcp_progress_of(self.socket) else {
            return false;
        };
        self.delivered = progress.unacked == 0;
        let flight = Flight {
            unacknowledged: progress.unacked,
            since_last_ack: progress.since_last_ack,
            round_trip: progress.round_trip,
        };
        silence::is_unacknowledged(flight, quiet, self.uploading)
    }
}

fn is_due(last: Option<Duration>, now: Duration) -> bool {
    last.is_none_or(|last| now.saturating_sub(last) >= AGAIN)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::config::{self, Scheme};
    use crate::proxy::deadline::{Fired, Registry};
    use crate::table::ListenerId;
    use crate::table::counters::UpstreamError;

    /// A worker's waits, with a clock that tells what the test says from the first wait on.
    struct Worker {
        waiting: Waiting,
        registry: Rc<Registry>,
        socket: TcpListener,
    }

    impl Worker {
        fn new() -> Self {
            Self {
                waiting: Waiting::default(),
                registry: Rc::new(Registry::new(Duration::ZERO)),
                socket: TcpListener::bind("127.0.0.1:0").unwrap(),
            }
        }

        fn tickets(&self, count: usize) -> Vec<Ticket> {
            (0..count).map(|_| self.registry.register(ListenerId(0))).collect()
        }

        fn enter(&self, endpoint: &Arc<Endpoint>, ticket: &Ticket) -> Place<'_> {
            self.waiting.enter(endpoint, ticket, &self.socket, false)
        }

        fn enter_all(&self, endpoint: &Arc<Endpoint>, tickets: &[Ticket]) -> Vec<Place<'_>> {
            tickets.iter().map(|ticket| self.enter(endpoint, ticket)).collect()
        }

        /// Lets all waits begin now.
        fn begin(&self) -> Duration {
            let now = clock::now();
            self.waiting.looked.set(now);
            self.waiting.slots.borrow_mut().iter_mut().for_each(|slot| slot.begin_anew(now));
            now
        }

        /// Looks every 10 ms until `until` milliseconds after `start`; what control was told.
        fn looks(&self, start: Duration, until: u64) -> Vec<(EndpointId, Seen)> {
            let mut seen = Vec::new();
            let mut at = self.waiting.looked.get();
            while at + silence::LOOK <= start + Duration::from_millis(until) {
                at += silence::LOOK;
                self.waiting.look(at, |id, kind| seen.push((id, kind)));
            }
            seen
        }
    }

    fn endpoint(slot: u32, serial: u32) -> Arc<Endpoint> {
        let address = ([127, 0, 0, 1], 80).into();
        let (name, host) = ("one".into(), "one".into());
        let config = config::Endpoint { name, scheme: Scheme::Http, host, address, weight: 1 };
        let id = EndpointId { slot, serial };
        Arc::new(Endpoint::new(id, "app".into(), "hot".into(), Arc::new(config), 1))
    }

    /// With so many requests that may come to wait at one endpoint.
    fn scene(requests: usize) -> (Worker, Arc<Endpoint>, Vec<Ticket>) {
        let worker = Worker::new();
        let tickets = worker.tickets(requests);
        (worker, endpoint(0, 1), tickets)
    }

    fn fired(ticket: &Ticket) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        ticket.poll(cx) == Poll::Ready(Fired::EndpointSilent)
    }

    #[test]
    fn three_that_wait_for_long_end_the_waits_of_all_at_that_endpoint_alone() {
        let worker = Worker::new();
        let (silent, well) = (endpoint(3, 1), endpoint(0, 2));
        let tickets = worker.tickets(5);
        let _places = worker.enter_all(&silent, &tickets[..4]);
        let _other = worker.enter(&well, &tickets[4]);
        let start = worker.begin();
        assert_eq!(worker.looks(start, 240), []);
        // At the other one a single request is overdue, which is no more than a reason to look.
        let seen = [(well.id, Seen::Silent), (silent.id, Seen::Silent)];
        assert_eq!(worker.looks(start, 250), seen);
        assert!(silent.live.is(Doubt::Silent) && well.live.is_trusted());
        assert!(tickets[..4].iter().all(fired) && !fired(&tickets[4]));
        assert_eq!(worker.looks(start, 340), []);
        assert!(!tickets.iter().any(fired), "told once, and then not soon again");
        assert_eq!(worker.looks(start, 350), [(silent.id, Seen::Silent)]);
        assert!(tickets[..4].iter().all(fired));
    }

    #[test]
    fn a_worker_that_was_late_blames_nobody_and_every_wait_begins_anew() {
        let (worker, endpoint, tickets) = scene(3);
        let _places = worker.enter_all(&endpoint, &tickets);
        let start = worker.begin();
        assert_eq!(worker.looks(start, 200), []);
        let late = start + Duration::from_secs(3);
        assert!(worker.waiting.look(late, |id, kind| panic!("{id:?} {kind:?}")));
        assert_eq!(worker.looks(late, 240), []);
        assert!(endpoint.live.is_trusted());
        assert_eq!(worker.looks(late, 260), [(endpoint.id, Seen::Silent)]);
    }

    #[test]
    fn an_answer_to_anybody_excuses_the_requests_that_waited_before_it() {
        let (worker, endpoint, tickets) = scene(4);
        let mut places = worker.enter_all(&endpoint, &tickets);
        let start = worker.begin();
        assert_eq!(worker.looks(start, 240), []);
        places.remove(0).answered(clock::now());
        assert_eq!(worker.looks(start, 60_000), []);
        assert!(endpoint.live.is_trusted());
    }

    #[test]
    fn one_witness_is_enough_where_another_worker_doubts_already() {
        let (worker, endpoint, tickets) = scene(1);
        let _place = worker.enter(&endpoint, &tickets[0]);
        let start = worker.begin();
        endpoint.live.doubt(Doubt::Silent, start);
        assert_eq!(worker.looks(start, 260), [(endpoint.id, Seen::Silent)]);
        assert!(fired(&tickets[0]));
    }

    #[test]
    fn a_doubt_that_a_probe_took_back_is_not_raised_again_for_the_same_requests() {
        let (worker, endpoint, tickets) = scene(3);
        let _places = worker.enter_all(&endpoint, &tickets);
        let start = worker.begin();
        assert_eq!(worker.looks(start, 260), [(endpoint.id, Seen::Silent)]);
        endpoint.live.clear(Doubt::Silent);
        assert_eq!(worker.looks(start, 60_000), []);
        assert!(endpoint.live.is_trusted());
    }

    #[test]
    fn what_is_usual_for_an_endpoint_decides_when_its_requests_are_overdue() {
        let (worker, endpoint, tickets) = scene(3);
        for _ in 0..20 {
            worker.enter(&endpoint, &tickets[0]).answered(clock::now());
        }
        let _places = worker.enter_all(&endpoint, &tickets);
        let start = worker.begin();
        assert_eq!(worker.looks(start, 49), []);
        assert_eq!(worker.looks(start, 70), [(endpoint.id, Seen::Silent)]);
    }

    #[test]
    fn a_request_waits_from_the_last_byte_of_its_body_on() {
        let worker = Worker::new();
        let endpoint = endpoint(0, 1);
        endpoint.live.doubt(Doubt::Silent, Duration::ZERO);
        let tickets = worker.tickets(1);
        let place = worker.waiting.enter(&endpoint, &tickets[0], &worker.socket, true);
        let start = worker.begin();
        assert_eq!(worker.looks(start, 60_000), []);
        place.sent(true);
        let start = worker.begin();
        assert_eq!(worker.looks(start, 240), []);
        assert_eq!(worker.looks(start, 260), [(endpoint.id, Seen::Silent)]);
    }

    #[test]
    fn nobody_looks_where_nobody_waits() {
        let (worker, endpoint, tickets) = scene(1);
        let place = worker.enter(&endpoint, &tickets[0]);
        assert!(worker.waiting.watched.get());
        place.answered(clock::now());
        assert!(!worker.waiting.look(clock::now(), |_, _| {}));
        assert!(!worker.waiting.watched.get());
    }

    #[test]
    fn a_place_kept_beyond_its_endpoint_disturbs_nobody() {
        let worker = Worker::new();
        let (gone, new) = (endpoint(0, 1), endpoint(0, 2));
        let tickets = worker.tickets(2);
        let old = worker.enter(&gone, &tickets[0]);
        let place = worker.enter(&new, &tickets[1]);
        old.answered(clock::now());
        assert_eq!(worker.waiting.count.get(), 1);
        drop(place);
        assert_eq!(worker.waiting.count.get(), 0);
    }

    #[test]
    fn a_refusal_that_woke_nobody_is_found_at_the_next_look() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.set_nonblocking(true).unwrap();
        // The refusal is there at once, and stays unread.
        let _ = socket.connect(&nobody.into());
        let (worker, endpoint, tickets) = scene(2);
        let _place = worker.waiting.enter(&endpoint, &tickets[0], &socket, false);
        let _other = worker.enter(&endpoint, &tickets[1]);
        let start = worker.begin();
        assert_eq!(worker.looks(start, 10), []);
        let cx = &mut Context::from_waker(Waker::noop());
        let refused = Fired::EndpointRejected(UpstreamError::Refused);
        assert_eq!(tickets[0].poll(cx), Poll::Ready(refused));
        assert_eq!(tickets[1].poll(cx), Poll::Pending);
    }

    /// Unlike all others this one runs in real time, for the kernel's clock cannot be told.
    #[test]
    fn one_request_that_fell_into_a_black_hole_is_enough() {
        use std::io::Write;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let drop_all = socket2::SockFilter::new(0x06, 0, 0, 0);
        socket2::SockRef::from(&server).attach_filter(&[drop_all]).unwrap();
        client.write_all(b"GET").unwrap();
        let (worker, endpoint, tickets) = scene(1);
        let _place = worker.waiting.enter(&endpoint, &tickets[0], &client, false);
        let start = clock::now();
        while endpoint.live.is_trusted() {
            assert!(start + Duration::from_secs(10) > clock::now(), "never noticed");
            // As if the worker was never late, however the test is scheduled.
            worker.waiting.looked.set(clock::now());
            worker.waiting.look(clock::now(), |_, _| {});
            std::thread::yield_now();
        }
        assert!(clock::now() - start >= silence::PATIENCE - Duration::from_millis(1));
        assert!(fired(&tickets[0]));
        // A refusal elsewhere says the same of it.
        worker.waiting.rejected(endpoint.id);
        assert!(fired(&tickets[0]));
    }
}
