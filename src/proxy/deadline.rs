//! ○ Deadlines of a worker's connections, without a timer each: a cell a connection and one sweep.
//!
//! A connection sets its deadline by writing a cell. Every tick the worker asks whether the
//! earliest one known is over, and only then looks at all of them. The same sweep tells requests
//! that wait for an endpoint when it was declared down, and idle connections when to leave.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use super::sessions::Session;
use crate::table::counters::UpstreamError;
use crate::table::{EndpointId, ListenerId};

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fired {
    Deadline,
    /// The endpoint waited for was declared down, or is no longer configured.
    EndpointDown,
    /// The endpoint waited for answers nobody on this worker.
    EndpointSilent,
    /// An ICMP error refused what was sent to the endpoint.
    EndpointRejected(UpstreamError),
    /// The answer has been waited for so long that its client may have left.
    WaitsLong,
    /// The connection is idle and its listener or the process is going away.
    Leave,
    /// The session has to go, as [`Ticket::session`] says why.
    SessionOver,
}

/// All connections of a worker.
#[derive(Debug)]
pub struct Registry {
    entries: RefCell<Slab<Rc<Entry>>>,
    /// No deadline is earlier, in milliseconds since the origin.
    next_due: Cell<u64>,
    now_millis: Cell<u64>,
    /// Keys of the connections that linger.
    lingering: RefCell<Vec<usize>>,
}

#[derive(Debug)]
struct Entry {
    listener: ListenerId,
    deadline: Cell<u64>,
    /// No deadline may be later.
    limit: Cell<u64>,
    waits_for: Cell<Option<EndpointId>>,
    idle: Cell<bool>,
    /// When it was last set idle, in milliseconds since the origin.
    idle_since: Cell<u64>,
    linger: Cell<Linger>,
    session: Session,
    fired: Cell<Option<Fired>>,
    waker: RefCell<Option<Waker>>,
}

/// Whether an idle connection keeps what the next request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Linger {
    /// Nothing was asked yet.
    No,
    /// It is in the registry's list.
    Yes,
    /// It has done so for long enough.
    Over,
}

/// One connection's place in the registry.
#[derive(Debug)]
pub struct Ticket {
    registry: Rc<Registry>,
    entry: Rc<Entry>,
    key: usize,
}

/// Ends one connection's wait from outside of the registry.
#[derive(Debug)]
pub struct Bell(Rc<Entry>);

impl Registry {
    const NEVER: u64 = u64::MAX;
    /// How often [`Registry::sweep`] is to be called.
    pub const TICK: Duration = Duration::from_millis(50);
    /// Connections that linger at the most; a few KiB each.
    const LINGERING_MAX: usize = 256;
    /// Milliseconds for which a connection lingers: an active client's next request comes sooner,
    /// and a silent one's memory is soon given back.
    const LINGER: u64 = 2 * Self::TICK.as_millis() as u64;

    /// Deadlines count from `now` until the first sweep.
    pub fn new(now: Duration) -> Self {
        Self {
            entries: RefCell::default(),
            next_due: Cell::new(Self::NEVER),
            now_millis: Cell::new(now.as_millis() as u64),
            lingering: RefCell::default(),
        }
    }

    /// The time of the last sweep; at most one tick old.
    pub fn now_millis(&self) -> u64 {
        self.now_millis.get()
    }

    pub fn register(self: &Rc<Self>, listener: ListenerId) -> Ticket {
        let entry = Rc::new(Entry {
            listener,
            deadline: Cell::new(Self::NEVER),
            limit: Cell::new(Self::NEVER),
            waits_for: Cell::new(None),
            idle: Cell::new(false),
            idle_since: Cell::new(0),
            linger: Cell::new(Linger::No),
            session: Session::default(),
            fired: Cell::new(None),
            waker: RefCell::new(None),
        });
        let key = self.entries.borrow_mut().insert(Rc::clone(&entry));
        Ticket { registry: Rc::clone(self), entry, key }
    }

    pub fn count(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Ends the waits that are over at `now`.
    pub fn sweep(&self, now: Duration) {
        let now = now.as_millis() as u64;
        self.now_millis.set(now);
        self.end_lingering(now);
        if now < self.next_due.get() {
            return;
        }
        let mut next = Self::NEVER;
        for (_, entry) in self.entries.borrow().iter() {
            if entry.deadline.get() <= now {
                entry.deadline.set(Self::NEVER);
                entry.fire(Fired::Deadline);
            }
            if entry.session.is_due(now) {
                entry.fire(Fired::SessionOver);
            }
            next = next.min(entry.deadline.get()).min(entry.session.close_at());
        }
        self.next_due.set(next);
    }

    /// Tells the connections that have lingered for long enough.
    fn end_lingering(&self, now: u64) {
        let entries = self.entries.borrow();
        self.lingering.borrow_mut().retain(|key| {
            // The place may have changed hands: then its new owner begins anew.
            let Some(entry) = entries.get(*key).filter(|e| e.linger.get() == Linger::Yes) else {
                return false;
            };
            if !entry.idle.get() {
                entry.linger.set(Linger::No);
                return false;
            }
            let over = now.saturating_sub(entry.idle_since.get()) >= Self::LINGER;
            if over {
                entry.linger.set(Linger::Over);
                entry.wake();
            }
            !over
        });
    }

    /// Ends the waits for endpoints that `is_gone` says are down or no longer there.
    pub fn endpoints_changed(&self, mut is_gone: impl FnMut(EndpointId) -> bool) {
        for (_, entry) in self.entries.borrow().iter() {
            if entry.waits_for.get().is_some_and(&mut is_gone) {
                entry.waits_for.set(None);
                entry.fire(Fired::EndpointDown);
            }
        }
    }

    /// Shows every connection's session to `change`, and ends those that are due at `now`.
    pub fn sessions(&self, now_millis: u64, mut change: impl FnMut(ListenerId, &Session)) {
        for (_, entry) in self.entries.borrow().iter() {
            change(entry.listener, &entry.session);
            if entry.session.is_due(now_millis) {
                entry.fire(Fired::SessionOver);
            }
            self.next_due.set(self.next_due.get().min(entry.session.close_at()));
        }
    }

    /// Asks the idle connections to leave: those of one listener, or all.
    pub fn leave(&self, listener: Option<ListenerId>) {
        for (_, entry) in self.entries.borrow().iter() {
            if entry.is_idle() && listener.is_none_or(|id| id == entry.listener) {
                entry.fire(Fired::Leave);
            }
        }
    }
}

impl Registry {
    /// Asks those to leave that have been idle for longest, at most `count` and none that was busy
    /// after `since`. How many those are.
    pub fn send_away(&self, count: usize, since: Duration) -> usize {
        let since = since.as_millis() as u64;
        let entries = self.entries.borrow();
        let idle = entries.iter().map(|(_, entry)| entry);
        let mut idle: Vec<_> =
            idle.filter(|entry| entry.is_idle() && entry.idle_since.get() <= since).collect();
        let count = count.min(idle.len());
        if count < idle.len() {
            idle.select_nth_unstable_by_key(count, |entry| entry.idle_since.get());
        }
        for entry in &idle[..count] {
            // Whoever has not left by the next time is not asked twice.
            entry.idle_since.set(Self::NEVER);
            entry.fire(Fired::Leave);
        }
        count
    }
}

impl Ticket {
    /// Sets or moves the deadline, counted from the last sweep.
    pub fn set(&self, after: Duration) {
        let deadline = self.in_future(after).min(self.entry.limit.get());
        self.entry.deadline.set(deadline);
        if deadline < self.registry.next_due.get() {
            self.registry.next_due.set(deadline);
        }
    }

    /// From now on no deadline is later than this; `None` lifts the limit.
    pub fn limit(&self, after: Option<Duration>) {
        self.entry.limit.set(after.map_or(Registry::NEVER, |after| self.in_future(after)));
    }

    fn in_future(&self, after: Duration) -> u64 {
        // One tick more: a wait is never shorter than it was asked to be.
        let after = after + Registry::TICK;
        self.registry.now_millis.get().saturating_add(after.as_millis() as u64)
    }

    pub fn clear(&self) {
        self.entry.deadline.set(Registry::NEVER);
        self.entry.waits_for.set(None);
        self.entry.session.end();
        self.entry.fired.set(None);
    }

    pub fn has_deadline(&self) -> bool {
        self.entry.deadline.get() != Registry::NEVER
    }

    pub fn session(&self) -> &Session {
        &self.entry.session
    }

    /// To be called after the session's time to go was changed.
    pub fn session_changed(&self) {
        let close_at = self.entry.session.close_at();
        self.registry.next_due.set(self.registry.next_due.get().min(close_at));
    }

    /// The wait is for this endpoint and ends when it is declared down.
    pub fn wait_for(&self, endpoint: Option<EndpointId>) {
        self.entry.waits_for.set(endpoint);
    }

    pub fn bell(&self) -> Bell {
        Bell(Rc::clone(&self.entry))
    }

    /// Between two requests a connection may be asked to leave.
    pub fn set_idle(&self, idle: bool) {
        self.entry.idle.set(idle);
        self.entry.idle_since.set(self.registry.now_millis());
    }

    /// While idle: whether what the next request needs is kept for a moment longer. When it no
    /// longer is, the connection's task is woken.
    pub fn lingers(&self) -> bool {
        match self.entry.linger.get() {
            Linger::Yes => true,
            Linger::Over => {
                self.entry.linger.set(Linger::No);
                false
            }
            Linger::No => {
                let mut lingering = self.registry.lingering.borrow_mut();
                let has_room = lingering.len() < Registry::LINGERING_MAX;
                if has_room {
                    lingering.push(self.key);
                    self.entry.linger.set(Linger::Yes);
                }
                has_room
            }
        }
    }

    /// Ready when the wait is over. To be polled first, before the work it guards.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Fired> {
        if let Some(fired) = self.entry.fired.take() {
            return Poll::Ready(fired);
        }
        let mut waker = self.entry.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.registry.entries.borrow_mut().remove(self.key);
    }
}

impl Bell {
    /// What was sent to the endpoint was refused on the way.
    pub fn is_rejected(&self, reason: UpstreamError) {
        self.0.fire(Fired::EndpointRejected(reason));
    }

    /// The endpoint waited for is silent. Says less than what may have been fired before.
    pub fn endpoint_is_silent(&self) {
        if matches!(self.0.fired.get(), None | Some(Fired::WaitsLong)) {
            self.0.fire(Fired::EndpointSilent);
        }
    }

    /// Says less than anything else.
    pub fn waits_long(&self) {
        if self.0.fired.get().is_none() {
            self.0.fire(Fired::WaitsLong);
        }
    }
}

impl Entry {
    fn is_idle(&self) -> bool {
        self.idle.get()
    }

    fn fire(&self, fired: Fired) {
        // These fire once; what else happened before they were noticed must not hide them.
        if !matches!(self.fired.get(), Some(Fired::Deadline | Fired::SessionOver)) {
            self.fired.set(Some(fired));
        }
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Rc<Registry> {
        Rc::new(Registry::new(Duration::from_secs(1)))
    }

    fn poll(ticket: &Ticket) -> Poll<Fired> {
        ticket.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_deadline_counts_from_the_beginning_before_the_first_sweep() {
        let registry = registry();
        let ticket = registry.register(ListenerId(0));
        ticket.set(Duration::from_millis(100));
        registry.sweep(Duration::from_millis(1_149));
        assert_eq!(poll(&ticket), Poll::Pending);
        registry.sweep(Duration::from_millis(1_150));
        assert_eq!(poll(&ticket), Poll::Ready(Fired::Deadline));
    }

    #[test]
    fn a_deadline_fires_once_and_not_early() {
        let registry = registry();
        let ticket = registry.register(ListenerId(0));
        ticket.set(Duration::from_millis(100));
        registry.sweep(Duration::from_millis(1_100));
        assert_eq!(poll(&ticket), Poll::Pending);
        registry.sweep(Duration::from_millis(1_150));
        assert_eq!(poll(&ticket), Poll::Ready(Fired::Deadline));
        registry.sweep(Duration::from_secs(9));
        assert_eq!(poll(&ticket), Poll::Pending);
    }

    #[test]
    fn a_deadline_moved_later_does_not_fire_at_the_earlier_time() {
        let registry = registry();
        let ticket = registry.register(ListenerId(0));
        ticket.set(Duration::from_millis(100));
        ticket.set(Duration::from_secs(5));
        registry.sweep(Duration::from_secs(3));
        assert_eq!(poll(&ticket), Poll::Pending);
        registry.sweep(Duration::from_secs(7));
        assert_eq!(poll(&ticket), Poll::Ready(Fired::Deadline));
    }

    #[test]
    fn a_limit_caps_every_deadline_set_after_it() {
        let registry = registry();
        let ticket = registry.register(ListenerId(0));
        ticket.limit(Some(Duration::from_millis(500)));
        ticket.set(Duration::from_secs(60));
        registry.sweep(Duration::from_millis(1_600));
        assert_eq!(poll(&ticket), Poll::Ready(Fired::Deadline));
    }

    #[test]
    fn only_waits_for_the_endpoint_that_went_down_end() {
        let registry = registry();
        let (one, two) = (registry.register(ListenerId(0)), registry.register(ListenerId(0)));
        let id = |slot| EndpointId { slot, serial: 1 };
        one.wait_for(Some(id(1)));
        two.wait_for(Some(id(2)));
        registry.endpoints_changed(|endpoint| endpoint == id(1));
        assert_eq!(poll(&one), Poll::Ready(Fired::EndpointDown));
        assert_eq!(poll(&two), Poll::Pending);
    }

    #[test]
    fn a_deadline_is_not_hidden_by_what_fires_before_it_is_noticed() {
        let registry = registry();
        let ticket = registry.register(ListenerId(0));
        ticket.set(Duration::from_millis(100));
        ticket.wait_for(Some(EndpointId { slot: 1, serial: 1 }));
        registry.sweep(Duration::from_secs(3));
        registry.endpoints_changed(|_| true);
        assert_eq!(poll(&ticket), Poll::Ready(Fired::Deadline));
    }

    #[test]
    fn silence_hides_neither_a_verdict_nor_a_deadline() {
        let registry = registry();
        let ticket = registry.register(ListenerId(0));
        let bell = ticket.bell();
        bell.endpoint_is_silent();
        assert_eq!(poll(&ticket), Poll::Ready(Fired::EndpointSilent));
        ticket.wait_for(Some(EndpointId { slot: 1, serial: 1 }));
        registry.endpoints_changed(|_| true);
        bell.endpoint_is_silent();
        assert_eq!(poll(&ticket), Poll::Ready(Fired::EndpointDown));
        assert_eq!(poll(&ticket), Poll::Pending);
    }

    #[test]
    fn a_connection_lingers_for_a_moment_after_its_last_request() {
        let registry = registry();
        let ticket = registry.register(ListenerId(0));
        ticket.set_idle(true);
        assert!(ticket.lingers());
        registry.sweep(Duration::from_millis(1_099));
        assert!(ticket.lingers());
        // Another request came and went.
        ticket.set_idle(false);
        ticket.set_idle(true);
        registry.sweep(Duration::from_millis(1_150));
        assert!(ticket.lingers());
        registry.sweep(Duration::from_millis(1_199));
        assert!(!ticket.lingers());
        assert!(ticket.lingers(), "after the next request it does again");
    }

    #[test]
    fn no_more_than_so_many_connections_linger() {
        let registry = registry();
        let register = || registry.register(ListenerId(0));
        let tickets: Vec<_> = (0..=Registry::LINGERING_MAX).map(|_| register()).collect();
        tickets.iter().for_each(|ticket| ticket.set_idle(true));
        let (last, others) = tickets.split_last().unwrap();
        assert!(others.iter().all(Ticket::lingers) && !last.lingers());
        // One that is busy, or gone, makes room at the next tick.
        tickets[0].set_idle(false);
        registry.sweep(Duration::from_millis(1_050));
        assert!(last.lingers() && !tickets[0].lingers());
    }

    #[test]
    fn those_that_were_idle_for_longest_are_sent_away_first_and_busy_ones_never() {
        let registry = registry();
        let tickets: Vec<_> = (0..6).map(|_| registry.register(ListenerId(0))).collect();
        for (second, ticket) in tickets[..5].iter().enumerate() {
            registry.sweep(Duration::from_secs(9 - second as u64));
            ticket.set_idle(true);
        }
        let gone = || tickets.iter().map(|ticket| poll(ticket).is_ready()).collect::<Vec<_>>();
        assert_eq!(registry.send_away(2, Duration::from_secs(7)), 2);
        assert_eq!(gone(), [false, false, false, true, true, false]);
        assert_eq!(registry.send_away(2, Duration::from_secs(7)), 1);
        assert_eq!(gone(), [false, false, true, false, false, false]);
        assert_eq!(registry.send_away(2, Duration::from_secs(7)), 0);
    }

    #[test]
    fn a_busy_connection_is_not_asked_to_leave() {
        let registry = registry();
        let (idle, busy) = (registry.register(ListenerId(3)), registry.register(ListenerId(3)));
        idle.set_idle(true);
        registry.leave(Some(ListenerId(4)));
        assert_eq!(poll(&idle), Poll::Pending);
        registry.leave(None);
        assert_eq!(poll(&idle), Poll::Ready(Fired::Leave));
        assert_eq!(poll(&busy), Poll::Pending);
    }
}
