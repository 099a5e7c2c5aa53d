//! ○ A new connection for a request: one endpoint is dialled, and while it stays silent the next
//! one as well. The first that connects wins.
//!
//! A dead host answers nothing, so silence is all there is to go by ("happy eyeballs", RFC 8305,
//! dials the next address after a fixed time; here the time follows what is usual).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::time::{Instant, Sleep};

use super::caller::Caller;
use super::deadline::{Fired, Ticket};
use super::evidence;
use super::exchange::{self, Call, Ended, Step, Trust};
use super::local::Local;
use super::silence;
use crate::retry::Progress;
use crate::stream::Left;
use crate::table::counters::{Loss, Proof};
use crate::upstream::connect::ConnectError;
use crate::upstream::lease::{self, Chosen, InFlight, Lease};
use crate::upstream::line::{self, Refused};

/// Why there is no connection.
pub enum NoLease {
    Ended(Ended),
    /// The request may be sent, but nobody is left to try.
    Stuck,
}

/// An idle connection that can be trusted with the request, if there is one.
pub fn reuse(local: &Local, call: &Call, chosen: Chosen) -> Result<Lease, InFlight> {
    let in_flight = chosen.enter();
    if call.met_stale {
        return Err(in_flight);
    }
    let must_be_alive = !call.method.is_idempotent();
    lease::reuse(local, in_flight, must_be_alive, local.registry.now_millis())
}

/// Dials `first`, and others as long as none has connected.
pub async fn connect<C: Caller>(
    local: &Local,
    ticket: &Ticket,
    client: &mut C,
    call: &mut Call,
    first: InFlight,
) -> Result<Lease, NoLease> {
    let now = Instant::now();
    let mut race = Race {
        local,
        dials: Vec::new(),
        silence: Box::pin(tokio::time::sleep_until(now)),
        waits: false,
        relief: Box::pin(local.relief.notified()),
    };
    ticket.set(exchange::UNTIL_TOTAL);
    race.dial(ticket, call, first);
    race.dials[0].is_first = true;
    let lease = race.run(ticket, client, call).await;
    ticket.clear();
    lease
}

/// How long a connection may be silent before another endpoint is dialled as well.
///
/// Four times what is usual: at least 20 ms, at most 50 ms or, to an endpoint so far away that this
/// is usual, twice its time.
fn patience(usual: Option<Duration>) -> Duration {
    const LEAST: Duration = Duration::from_millis(20);
    const MOST: Duration = Duration::from_millis(50);
    usual.map_or(MOST, |usual| (usual * 4).clamp(LEAST, MOST.max(usual * 2)))
}

struct Race<'a> {
    local: &'a Local,
    dials: Vec<Dial<'a>>,
    /// When the latest dial has been silent for too long.
    silence: Pin<Box<Sleep>>,
    /// The silence of the latest dial was not noted yet.
    waits: bool,
    /// Nobody is left to dial until something changes.
    relief: Pin<Box<Notified<'a>>>,
}

struct Dial<'a> {
    chosen: Chosen,
    connecting: Pin<Box<dyn Future<Output = Result<Lease, Refused>> + 'a>>,
    /// What its [line](line::Lines::signs) had shown of the endpoint when last looked at.
    signs: u32,
    is_first: bool,
    /// Its silence brought the doubt, so its success ends it.
    brought_doubt: bool,
    is_silent: bool,
}

enum Event {
    Connected(usize, Lease),
    Failed(usize, Refused),
    /// The latest dial was silent for too long, or something changed: another may be dialled.
    More {
        silent: bool,
    },
    Late,
    ClientLeft,
}

impl<'a> Race<'a> {
    async fn run<C: Caller>(
        &mut self,
        ticket: &Ticket,
        client: &mut C,
        call: &mut Call,
    ) -> Result<Lease, NoLease> {
        loop {
            let event = std::future::poll_fn(|cx| self.poll(cx, ticket, client)).await;
            let next = match event {
                Event::Connected(index, lease) => return Ok(self.won(call, index, lease)),
                Event::Failed(index, refused) => match self.failed(client, call, index, &refused) {
                    Ok(next) => next,
                    Err(no_lease) => return Err(no_lease),
                },
                Event::More { silent } => {
                    if silent {
                        self.note_silence();
                    }
                    exchange::refresh(self.local, call);
                    let next = exchange::next(self.local, call, Trust::Any);
                    if next.is_some() {
                        count_hedge(self.local, call);
                    }
                    next
                }
                Event::Late => {
                    let ended = exchange::unanswered(self.local, call, Loss::Timeout);
                    return Err(NoLease::Ended(ended));
                }
                Event::ClientLeft => return Err(NoLease::Ended(self.left(call))),
            };
            let Some(chosen) = next else { continue };
            match reuse(self.local, call, chosen) {
                Ok(lease) => {
                    call.rescued = Some(Proof::NotSent);
                    return Ok(lease);
                }
                Err(in_flight) => self.dial(ticket, call, in_flight),
            }
        }
    }

    fn dial(&mut self, ticket: &Ticket, call: &mut Call, in_flight: InFlight) {
        let chosen = in_flight.chosen().clone();
        let endpoint = chosen.endpoint();
        call.tried.add(endpoint.id);
        ticket.wait_for(Some(endpoint.id));
        let patience = patience(endpoint.live.usual_connect());
        self.silence.as_mut().reset(Instant::now() + patience);
        self.waits = true;
        self.dials.push(Dial {
            signs: self.local.lines.signs(endpoint.id),
            connecting: Box::pin(line::connect(&self.local.outbound, in_flight, call.met_stale)),
            chosen,
            is_first: false,
            brought_doubt: false,
            is_silent: false,
        });
    }

    fn poll<C: Caller>(
        &mut self,
        cx: &mut Context<'_>,
        ticket: &Ticket,
        client: &mut C,
    ) -> Poll<Event> {
        match ticket.poll(cx) {
            Poll::Ready(Fired::Deadline) => return Poll::Ready(Event::Late),
            Poll::Ready(Fired::EndpointDown) => return Poll::Ready(Event::More { silent: false }),
            _ => {}
        }
        // A client that only ended its side may still wait for the answer.
        if client.poll_left(cx) == Poll::Ready(Left::Broken) {
            return Poll::Ready(Event::ClientLeft);
        }
        for (index, dial) in self.dials.iter_mut().enumerate() {
            if let Poll::Ready(result) = dial.connecting.as_mut().poll(cx) {
                return Poll::Ready(match result {
                    Ok(lease) => Event::Connected(index, lease),
                    Err(refused) => Event::Failed(index, refused),
                });
            }
        }
        while self.waits && self.silence.as_mut().poll(cx).is_ready() {
            if !self.is_excused() {
                self.waits = false;
                return Poll::Ready(Event::More { silent: true });
            }
            self.silence.as_mut().reset(Instant::now() + patience(None));
        }
        if !self.waits && self.relief.as_mut().poll(cx).is_ready() {
            self.relief.set(self.local.relief.notified());
            return Poll::Ready(Event::More { silent: false });
        }
        Poll::Pending
    }

    /// That no connection came yet is not the endpoint's silence: it takes one after the other and
    /// this request's turn has not come, or we ourselves were not running.
    fn is_excused(&mut self) -> bool {
        let overdue = Instant::now().saturating_duration_since(self.silence.deadline());
        let mut excused = silence::was_late(silence::LOOK + overdue);
        for dial in self.dials.iter_mut().filter(|dial| !dial.is_silent) {
            let signs = self.local.lines.signs(dial.chosen.endpoint().id);
            excused |= std::mem::replace(&mut dial.signs, signs) != signs;
        }
        excused
    }

    fn note_silence(&mut self) {
        for dial in self.dials.iter_mut().filter(|dial| !dial.is_silent) {
            dial.is_silent = true;
            dial.brought_doubt = evidence::connect_silent(self.local, &dial.chosen);
        }
    }

    fn won(&mut self, call: &mut Call, index: usize, lease: Lease) -> Lease {
        let dial = &self.dials[index];
        if dial.brought_doubt {
            evidence::connected_late(self.local, &dial.chosen);
        }
        if !dial.is_first {
            call.rescued = Some(Proof::NotSent);
        }
        lease
    }

    /// The client left.
    fn left(&self, call: &mut Call) -> Ended {
        let in_doubt = |dial: &Dial<'_>| evidence::is_in_doubt(self.local, &dial.chosen);
        match self.dials.iter().all(in_doubt) {
            true => exchange::abandoned(self.local, call),
            false => Ended::ClientGone,
        }
    }

    /// Who is dialled next; an error once nobody else is being dialled either.
    fn failed<C: Caller>(
        &mut self,
        client: &C,
        call: &mut Call,
        index: usize,
        refused: &Refused,
    ) -> Result<Option<Chosen>, NoLease> {
        let dial = self.dials.swap_remove(index);
        call.attempts += 1;
        call.last_error = Some(refused.error.reason);
        call.tls_fault = refused.error.tls_fault;
        // One failure is one piece of evidence, however many waited for that connection.
        if refused.is_first {
            evidence::connect_failed(self.local, &dial.chosen, &refused.error);
            log_error(&dial.chosen, &refused.error);
        }
        call.last = Some(dial.chosen);
        let step = exchange::decide(self.local, client, call, Progress::NotSent);
        match step {
            Step::Resend => Ok(call.next.take()),
            _ if !self.dials.is_empty() => Ok(None),
            Step::Stuck => Err(NoLease::Stuck),
            Step::Fail(loss) => Err(NoLease::Ended(exchange::unanswered(self.local, call, loss))),
        }
    }
}

fn count_hedge(local: &Local, call: &Call) {
    let service = &call.table.services[call.service];
    service.counters.workers.of(local.worker).hedged.increment();
}

fn log_error(chosen: &Chosen, error: &ConnectError) {
    let (service, endpoint) = (&*chosen.service().config.name, &*chosen.endpoint().config.name);
    if error.self_fault {
        tracing::warn!(service, endpoint, detail = error.detail, "cannot connect: our own fault");
    } else {
        tracing::debug!(service, endpoint, detail = error.detail, "cannot connect");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_with_a_silent_dial_follows_what_is_usual_within_its_bounds() {
        let ms = Duration::from_millis;
        assert_eq!(patience(None), ms(50));
        assert_eq!(patience(Some(Duration::from_micros(300))), ms(20));
        assert_eq!(patience(Some(ms(8))), ms(32));
        assert_eq!(patience(Some(ms(20))), ms(50));
        assert_eq!(patience(Some(ms(120))), ms(240));
    }
}
