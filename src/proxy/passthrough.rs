//! ○ A client that speaks TLS with its endpoint itself: what its ClientHello asks for decides where
//! it goes.

use std::task::{Poll, ready};
use std::time::Duration;

use super::deadline::{Fired, Ticket};
use super::local::Local;
use super::tcp::Guest;
use crate::tls::hello::{self, Hello, Parsed};

/// Why there is no ClientHello.
pub(super) enum Silent {
    /// Not all of it came in time.
    Late,
    Malformed(&'static str),
    Left,
}

/// A fatal alert `unrecognized_name` (RFC 6066 section 3), in the record of any version of TLS.
pub(super) const UNRECOGNIZED_NAME: &[u8] = b"\x15\x03\x03\x00\x02\x02\x70";

/// Waits for a whole ClientHello, which stays in the guest's buffer: all of it goes on.
pub(super) async fn ask(
    local: &Local,
    ticket: &Ticket,
    guest: &mut Guest,
    limit: Duration,
) -> Result<Hello, Silent> {
    ticket.set(limit);
    ticket.set_idle(true);
    let found = std::future::poll_fn(|cx| {
        let begun = !guest.relay.up.buffer.is_empty();
        match ticket.poll(cx) {
            Poll::Ready(Fired::Deadline) => return Poll::Ready(Err(Silent::Late)),
            Poll::Ready(Fired::Leave) if !begun => return Poll::Ready(Err(Silent::Left)),
            _ => {}
        }
        loop {
            let up = &mut guest.relay.up;
            let read = ready!(up.poll_read(cx, &local.store, &mut guest.stream));
            if read.is_err() || up.ended {
                return Poll::Ready(Err(Silent::Left));
            }
            ticket.set_idle(false);
            match hello::parse(up.buffer.bytes()) {
                Ok(Parsed::Partial) => {}
                Ok(Parsed::Complete { hello, length }) => {
                    guest.hello = length;
                    return Poll::Ready(Ok(hello));
                }
                Err(wrong) => return Poll::Ready(Err(Silent::Malformed(wrong.0))),
            }
        }
    })
    .await;
    ticket.set_idle(false);
    ticket.clear();
    found
}
