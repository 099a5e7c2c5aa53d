//! ○ A request with nowhere to go waits a moment for an endpoint instead of failing.
//!
//! It is looked after at once when the table changes or an endpoint is trusted again, and every
//! 50 ms in any case. A few at a time go out to doubted endpoints all the same, so that it is found
//! out soon whether one of them answers again; the others wait for what becomes of those. Nor do
//! they all leave at once when one does: it is hardly on its feet. [`Turns`] lets a few go, and two
//! more for each that is answered.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use super::caller::Caller;
use super::deadline::{Fired, Ticket};
use super::exchange::{self, Call, Ended, Step, Trust};
use super::local::Local;
use super::pick::{self, Tried};
use crate::clock;
use crate::config::WhenNone;
use crate::stream::Left;
use crate::table::Service;
use crate::table::counters::{Loss, ServiceCounters};

/// How often a held request is looked after without a cause.
const LOOK: Duration = Duration::from_millis(50);

/// Held requests of a service that a worker sends to doubted endpoints within one [`LOOK`].
const SCOUTS: u64 = 4;

/// Waits until there is somewhere to go, and notes it in `call.next`. An error is how the request
/// ends: it may not wait, or waited in vain.
pub async fn wait<C: Caller>(
    local: &Local,
    ticket: &Ticket,
    client: &mut C,
    call: &mut Call,
) -> Result<(), Ended> {
    let Some(_place) = Place::take(local, call) else {
        return Err(exchange::unanswered(local, call, Loss::NoEndpoint));
    };
    ticket.set(exchange::UNTIL_TOTAL);
    let found = look_around(local, ticket, client, call).await;
    ticket.clear();
    found
}

/// Requests of the service are waiting already, and there is room for more.
pub fn others_wait(service: &Service) -> bool {
    let holding = service.counters.holding.load(Ordering::Relaxed);
    holding > 0 && holding < service.config.failover.hold.requests
}

async fn look_around<C: Caller>(
    local: &Local,
    ticket: &Ticket,
    client: &mut C,
    call: &mut Call,
) -> Result<(), Ended> {
    loop {
        match event(local, ticket, client).await {
            Event::Look => {}
            Event::ClientLeft => return Err(exchange::abandoned(local, call)),
            Event::Late => return Err(exchange::unanswered(local, call, Loss::Timeout)),
        }
        exchange::refresh(local, call);
        if !may_wait(call) {
            return Err(exchange::unanswered(local, call, Loss::NoEndpoint));
        }
        // A new round: whoever failed before may answer now.
        call.tried = Tried::default();
        let mut next = None;
        if local.turns.are_left() {
            next = exchange::next(local, call, Trust::Trusted);
            next.iter().for_each(|_| local.turns.take());
        }
        if next.is_none() && is_scout(local, &call.table.services[call.service]) {
            next = exchange::next(local, call, Trust::Any);
        }
        let Some(next) = next else { continue };
        return match exchange::approve(local, client, call, next) {
            Step::Fail(loss) => Err(exchange::unanswered(local, call, loss)),
            Step::Resend | Step::Stuck => Ok(()),
        };
    }
}

enum Event {
    Look,
    ClientLeft,
    /// The time of the whole exchange is over.
    Late,
}

async fn event<C: Caller>(local: &Local, ticket: &Ticket, client: &mut C) -> Event {
    let mut relief = pin!(local.relief.notified());
    let mut look = pin!(tokio::time::sleep(LOOK));
    std::future::poll_fn(|cx| {
        if ticket.poll(cx) == Poll::Ready(Fired::Deadline) {
            return Poll::Ready(Event::Late);
        }
        // Most who end their side have closed: nobody waits for what a hold might still bring.
        if let Poll::Ready(Left::Ended | Left::Broken) = client.poll_left(cx) {
            return Poll::Ready(Event::ClientLeft);
        }
        if relief.as_mut().poll(cx).is_ready() || look.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Look);
        }
        Poll::Pending
    })
    .await
}

/// Its time is not over, and the service neither answers with 503 because none of its pools is
/// available nor is merely busy. A process that stops waits as well, as for any other request.
fn may_wait(call: &Call) -> bool {
    let service = &call.table.services[call.service];
    let refuses =
        service.none_available && service.config.failover.when_none == WhenNone::Unavailable;
    let in_time = call.hold_until.is_none_or(|until| clock::now() < until);
    in_time && !refuses && !pick::is_full(service)
}

/// One of the few of this moment.
fn is_scout(local: &Local, service: &Service) -> bool {
    let moment = (clock::now().as_millis() / LOOK.as_millis()) as u64;
    let scouts = &service.counters.workers.of(local.worker).scouts;
    let sent = match scouts.load(Ordering::Relaxed) {
        known if known >> 8 == moment => known & 0xff,
        _ => 0,
    };
    if sent >= SCOUTS {
        return false;
    }
    scouts.store(moment << 8 | (sent + 1), Ordering::Relaxed);
    true
}

/// How many of a worker's held requests may leave for an endpoint that answers again.
#[derive(Debug, Default)]
pub struct Turns {
    left: Cell<u32>,
    /// Requests held now.
    held: Cell<u32>,
}

impl Turns {
    const FIRST: u32 = 4;
    /// Turns that each held request brings when it is answered.
    pub const EACH: u32 = 2;

    /// Something changed that the held requests may have waited for. Turns that were earned stay.
    pub fn begin(&self) {
        self.left.set(self.left.get().max(Self::FIRST));
    }

    pub fn are_waited_for(&self) -> bool {
        self.held.get() > 0
    }

    pub fn answered(&self) {
        self.left.set(self.left.get().saturating_add(Self::EACH));
    }

    fn are_left(&self) -> bool {
        self.left.get() > 0
    }

    fn take(&self) {
        self.left.set(self.left.get().saturating_sub(1));
    }

    fn enter(&self) {
        if self.held.replace(self.held.get() + 1) == 0 {
            self.left.set(0);
        }
    }

    fn leave(&self) {
        self.held.set(self.held.get() - 1);
    }
}

/// One request counted as waiting, until it is dropped.
struct Place<'a> {
    service: Arc<ServiceCounters>,
    turns: &'a Turns,
}

impl<'a> Place<'a> {
    fn take(local: &'a Local, call: &mut Call) -> Option<Self> {
        let hold = call.table.services[call.service].config.failover.hold;
        if hold.time.is_zero() || !may_wait(call) {
            return None;
        }
        let counters = Arc::clone(&call.table.services[call.service].counters);
        let before = counters.holding.fetch_add(1, Ordering::Relaxed);
        // From here on the drop takes it back.
        local.turns.enter();
        let place = Self { service: counters, turns: &local.turns };
        if before >= hold.requests {
            return None;
        }
        if call.hold_until.is_none() {
            call.hold_until = Some(clock::now() + hold.time);
            place.service.workers.of(local.worker).held.increment();
        }
        Some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.service.holding.fetch_sub(1, Ordering::Relaxed);
        self.turns.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of nine leave.
    fn leave(turns: &Turns) -> usize {
        let take = |_| turns.are_left().then(|| turns.take());
        (0..9).filter_map(take).count()
    }

    #[test]
    fn a_few_leave_first_and_two_more_for_each_that_is_answered() {
        let turns = Turns::default();
        turns.enter();
        assert_eq!(leave(&turns), 0);
        turns.begin();
        assert_eq!(leave(&turns), 4);
        turns.answered();
        assert_eq!(leave(&turns), 2);
        turns.answered();
        turns.leave();
        turns.enter();
        assert_eq!(leave(&turns), 0, "what was left over is of no use to the next who are held");
    }
}
