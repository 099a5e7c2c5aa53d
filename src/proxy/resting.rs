//! ○ A client's connection on which nothing is under way: all that a silent client costs.
//!
//! What a request needs besides, its own future included, is made when one begins, and given back
//! once the client has been silent for a moment (`Ticket::lingers`).

use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::deadline::{Fired, Ticket};
use super::local::Local;
use crate::stream::Stream;
use crate::table::ListenerId;
use crate::table::counters::Rejection;

/// A connection between two requests, or before the first.
pub struct Resting {
    pub(super) local: Rc<Local>,
    pub(super) listener: ListenerId,
    pub(super) ticket: Ticket,
    pub(super) stream: Stream,
    pub(super) peer: SocketAddr,
    /// No request has begun on it yet.
    pub(super) fresh: bool,
}

impl Resting {
    pub fn new(
        local: Rc<Local>,
        listener: ListenerId,
        ticket: Ticket,
        stream: Stream,
        peer: SocketAddr,
    ) -> Self {
        Self { local, listener, ticket, stream, peer, fresh: true }
    }

    /// Waits for the first byte of a request. False when the connection is over instead.
    pub async fn wait(&mut self) -> bool {
        let Some(time) = self.patience() else { return false };
        let Self { local, ticket, stream, .. } = self;
        ticket.set(time);
        ticket.set_idle(true);
        let mut late = false;
        let begins = std::future::poll_fn(|cx| {
            match ticket.poll(cx) {
                Poll::Ready(Fired::Deadline) => {
                    late = true;
                    return Poll::Ready(false);
                }
                // A request that has come meanwhile is still answered.
                Poll::Ready(Fired::Leave) if !local.draining.get() && !stream.has_input_now() => {
                    return Poll::Ready(false);
                }
                _ => {}
            }
            let readable = stream.poll_readable(cx);
            // What has arrived is still answered: its client could not know that we stop.
            if readable.is_pending() && local.draining.get() && !stream.has_input_now() {
                return Poll::Ready(false);
            }
            readable.map(|readable| readable.is_ok())
        })
        .await;
        ticket.set_idle(false);
        ticket.clear();
        if late && self.fresh {
            self.local.count_rejection(self.listener, Rejection::Timeout);
        }
        begins
    }

    /// How long it may take until a request begins; none once the listener is gone.
    fn patience(&self) -> Option<Duration> {
        let table = self.local.table();
        let limits = &table.listener(self.listener)?.config.limits;
        // The deadline of the first head runs since the connection was accepted.
        Some(if self.fresh { limits.header_timeout } else { limits.idle_timeout })
    }
}
