//! ○ One attempt: the request sent over one connection, and the answer taken back.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::buffer::Buffer;
use super::deadline::{Fired, Ticket};
use super::elsewhere;
use super::evidence;
use super::exchange::{self, Call, Client, Ended};
use super::local::Local;
use super::pump::Broken;
use super::sessions::{self, Kind};
use super::waiting::Place;
use crate::clock;
use crate::http1::{Body, Limits, Method, Parsed, Response};
use crate::retry::Progress;
use crate::stream::{Left, Stream};
use crate::sys;
use crate::table::counters::{Loss, UpstreamError};
use crate::table::live::Doubt;
use crate::upstream::connect;
use crate::upstream::lease::{Chosen, Lease};

/// How an attempt ended.
pub enum Outcome {
    Ended(Ended),
    /// The endpoint answered with a gateway error, which is dropped: `call.next` says where the
    /// request goes instead.
    Elsewhere,
    /// Nothing of an answer reached the client.
    Failed {
        error: UpstreamError,
        progress: Progress,
    },
}

/// Informational responses passed on for one request at the most.
const INFORMATIONAL_MAX: u32 = 32;

const RESPONSE_LIMITS: Limits = Limits { head_size_max: 64 * 1024, headers_max: 256, uri_max: 0 };

/// Sends the request over `lease` and passes the answer on.
pub async fn run<C: Client>(
    local: &Local,
    ticket: &Ticket,
    client: &mut C,
    call: &mut Call,
    lease: &mut Lease,
    response: &mut Response,
) -> Outcome {
    let chosen = lease.chosen().clone();
    let timeouts = &chosen.service().config.timeouts;
    // Nothing of an answer that broke off may be taken for a part of the next one.
    response.reset();
    client.begin_upload(chosen.endpoint().config.name.as_bytes());
    ticket.wait_for(Some(chosen.endpoint().id));
    ticket.set(call.body_timeout);
    let mut attempt = Attempt {
        local,
        ticket,
        client: &mut *client,
        stream: &mut lease.connection.stream,
        buffer: Buffer::default(),
        response,
        method: call.method,
        harmless: call.is_harmless(),
        body_timeout: call.body_timeout,
        response_header: timeouts.response_header,
        uploading: true,
        watches_client: false,
        reset: false,
        passed: 0,
        informational: 0,
        chosen: &chosen,
        place: None,
    };
    let head = std::future::poll_fn(|cx| attempt.poll_answered(cx, call)).await;
    ticket.wait_for(None);
    let outcome = match head {
        Ok((length, now)) => {
            call.status = attempt.response.status();
            if exchange::heard(local, &*attempt.client, call, &chosen, now) {
                call.reusable = attempt.is_whole(length);
                attempt.buffer.release(&local.store);
                drop(attempt);
                lease.connection.written += client.upload().wire_bytes;
                return Outcome::Elsewhere;
            }
            call.first_byte = call.wants_times.then_some(now);
            sessions::begin(local, ticket, Kind::Download, &chosen);
            attempt.begin_download(length, timeouts.idle);
            let idle = timeouts.idle;
            Ok(std::future::poll_fn(|cx| attempt.poll_delivered(cx, idle)).await)
        }
        Err(failure) => Err(failure),
    };
    // Bytes after the answer are nobody's: the connection is not used again.
    call.reusable = attempt.buffer.len() <= attempt.client.download().position;
    if matches!(outcome, Ok(Ended::Answered)) && attempt.response.switches() {
        attempt.buffer.consume(attempt.client.download().position);
        call.rest = Some(std::mem::take(&mut attempt.buffer));
    }
    attempt.buffer.release(&local.store);
    drop(attempt);
    lease.connection.written += client.upload().wire_bytes;
    match outcome {
        Ok(ended) => Outcome::Ended(ended),
        Err(failure) => failure.into_outcome(local, client, lease).await,
    }
}

/// The parts of an attempt while it lasts.
struct Attempt<'a, C> {
    local: &'a Local,
    ticket: &'a Ticket,
    client: &'a mut C,
    stream: &'a mut Stream,
    /// What the endpoint sent.
    buffer: Buffer,
    response: &'a mut Response,
    method: Method,
    /// It may be sent again though it may have been processed.
    harmless: bool,
    body_timeout: Duration,
    response_header: Duration,
    uploading: bool,
    /// The answer is waited for so long that its client may have left.
    watches_client: bool,
    /// The endpoint reset the connection while it was written to. The kernel says so once; reads
    /// then find what looks like an orderly end.
    reset: bool,
    /// Bytes moved when the deadline was last set.
    passed: u64,
    informational: u32,
    chosen: &'a Chosen,
    /// Among the waiting requests, from the first byte sent to the head of the answer.
    place: Option<Place<'a>>,
}

/// Why no response head came.
enum Failure {
    /// The client left while it was waited for.
    Left,
    /// The client broke or broke the rules while its body was read.
    Client(Broken),
    /// The endpoint's stream failed or ended.
    Endpoint(io::Error),
    /// An ICMP error refused what was sent.
    Rejected(UpstreamError),
    Malformed(&'static str),
    Deadline,
    /// The endpoint was declared down, or is silent.
    Down,
}

impl<C: Client> Attempt<'_, C> {
    /// Ready with the length of the final response head and when it came, while the upload goes on.
    fn poll_answered(
        &mut self,
        cx: &mut Context<'_>,
        call: &Call,
    ) -> Poll<Result<(usize, Duration), Failure>> {
        let mut moves = false;
        if let Poll::Ready(fired) = self.ticket.poll(cx) {
            match fired {
                Fired::Deadline if self.uploading && self.client.upload().waits_for_client => {
                    let late = io::ErrorKind::TimedOut.into();
                    return Poll::Ready(Err(Failure::Client(Broken::Source(late))));
                }
                Fired::Deadline => return Poll::Ready(Err(Failure::Deadline)),
                Fired::EndpointDown if self.may_move() => return Poll::Ready(Err(Failure::Down)),
                Fired::EndpointSilent => {
                    self.watches_client = true;
                    moves =
                        self.may_move() && elsewhere::may_be_tried(self.local, self.chosen, call);
                }
                Fired::EndpointRejected(reason) => {
                    return Poll::Ready(Err(Failure::Rejected(reason)));
                }
                // It may still answer, and what was sent cannot be sent again.
                Fired::EndpointDown | Fired::WaitsLong => self.watches_client = true,
                Fired::Leave | Fired::SessionOver => {}
            }
        }
        if self.client.poll_cancelled(cx).is_ready() {
            return Poll::Ready(Err(Failure::Left));
        }
        if self.uploading {
            self.poll_upload(cx)?;
        }
        match self.poll_head(cx) {
            Poll::Ready(Ok(length)) => {
                let now = clock::now();
                if let Some(place) = self.place.take() {
                    place.answered(now);
                }
                Poll::Ready(Ok((length, now)))
            }
            Poll::Ready(Err(failure)) => Poll::Ready(Err(failure)),
            // The answer may have come while silence was found.
            Poll::Pending if moves => Poll::Ready(Err(Failure::Down)),
            Poll::Pending if self.watches_client && self.is_left(cx) => {
                Poll::Ready(Err(Failure::Left))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Nobody waits for the answer any more. A client that only ended its side may still do (RFC
    /// 9112 section 9.6), and is given up only together with an endpoint that is not well: most who
    /// end their side have closed.
    fn is_left(&mut self, cx: &mut Context<'_>) -> bool {
        match self.client.poll_left(cx) {
            Poll::Ready(Left::Broken) => true,
            Poll::Ready(Left::Ended) => evidence::is_in_doubt(self.local, self.chosen),
            Poll::Pending => false,
        }
    }

    fn may_move(&self) -> bool {
        self.harmless && self.client.upload().may_replay
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        match self.client.poll_upload(self.local, cx, self.stream) {
            Poll::Ready(Ok(())) => {
                self.uploading = false;
                self.ticket.set(self.response_header);
                self.sent(true);
            }
            // The kernel tells an ICMP error once; a read would wait for ever.
            Poll::Ready(Err(Broken::Sink(error))) if connect::rejected(&error).is_some() => {
                return Err(Failure::of_endpoint(error));
            }
            // The endpoint may have answered before it stopped reading.
            Poll::Ready(Err(Broken::Sink(error))) => {
                self.uploading = false;
                self.reset = error.kind() == io::ErrorKind::ConnectionReset;
            }
            Poll::Ready(Err(broken)) => return Err(Failure::Client(broken)),
            Poll::Pending => {
                let sent = self.client.upload().wire_bytes;
                if sent != self.passed {
                    self.passed = sent;
                    self.ticket.set(self.body_timeout);
                    self.sent(false);
                }
            }
        }
        Ok(())
    }

    /// Some or `all` of the request is on its way: the endpoint is waited for.
    fn sent(&mut self, all: bool) {
        match &self.place {
            Some(place) => place.sent(all),
            None => {
                let endpoint = &self.chosen.pool().endpoints[self.chosen.endpoint];
                let waiting = &self.local.waiting;
                self.place = Some(waiting.enter(endpoint, self.ticket, self.stream, !all));
            }
        }
    }

    /// Reads until a final response head is whole; its length.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Failure>> {
        loop {
            if !self.buffer.is_empty() {
                let bytes = self.buffer.bytes();
                let parsed = self.response.parse(bytes, self.method, &RESPONSE_LIMITS);
                match parsed.map_err(|error| Failure::Malformed(error.reason))? {
                    Parsed::Complete(length)
                        if !self.response.is_informational() || self.response.switches() =>
                    {
                        return Poll::Ready(Ok(length));
                    }
                    Parsed::Complete(length) => {
                        ready!(self.poll_informational(cx, length))?;
                        continue;
                    }
                    Parsed::Partial => {}
                }
            } else if self.stream.poll_readable(cx).map_err(Failure::of_endpoint)?.is_pending() {
                self.buffer.release(&self.local.store);
                return Poll::Pending;
            }
            self.buffer.ensure(&self.local.store);
            if self.buffer.room() == 0 && !self.buffer.grow(&self.local.store, Buffer::LARGE) {
                return Poll::Ready(Err(Failure::Malformed("response head too large")));
            }
            let filled = self.buffer.poll_fill(cx, self.stream);
            if ready!(filled).map_err(Failure::of_endpoint)? == 0 {
                let end = match self.reset {
                    true => io::ErrorKind::ConnectionReset,
                    false => io::ErrorKind::UnexpectedEof,
                };
                return Poll::Ready(Err(Failure::Endpoint(end.into())));
            }
        }
    }

    /// Passes one informational response on and takes it out of the buffer.
    fn poll_informational(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
    ) -> Poll<Result<(), Failure>> {
        if self.informational == INFORMATIONAL_MAX {
            let reason = "too many informational responses";
            return Poll::Ready(Err(Failure::Malformed(reason)));
        }
        let head = &self.buffer.bytes()[..length];
        let passed = self.client.poll_informational(cx, self.response, head);
        ready!(passed).map_err(|error| Failure::Client(Broken::Source(error)))?;
        self.informational += 1;
        if let Some(place) = &self.place {
            place.heard();
        }
        self.buffer.consume(length);
        Poll::Ready(Ok(()))
    }

    /// Both messages are over, and the answer to be dropped is in the buffer whole.
    fn is_whole(&self, head: usize) -> bool {
        let body = self.buffer.len() - head;
        let whole = match self.response.body() {
            Body::Empty => body == 0,
            Body::Length(length) => body as u64 == length,
            Body::Chunked | Body::UntilClose => false,
        };
        whole && self.client.upload().done
    }

    fn begin_download(&mut self, length: usize, idle: Duration) {
        let head = &self.buffer.bytes()[..length];
        self.client.begin_download(self.local, self.response, head, length);
        self.uploading = !self.client.upload().done;
        self.passed = 0;
        self.ticket.set(idle);
    }

    /// Passes the answer on, while the rest of an upload may still be under way.
    fn poll_delivered(&mut self, cx: &mut Context<'_>, idle: Duration) -> Poll<Ended> {
        match self.ticket.poll(cx) {
            Poll::Ready(Fired::Deadline) => return Poll::Ready(Ended::Cut(Loss::Timeout)),
            Poll::Ready(Fired::SessionOver) => return Poll::Ready(Ended::Cut(Loss::Failover)),
            _ => {}
        }
        if self.client.poll_cancelled(cx).is_ready() {
            return Poll::Ready(Ended::ClientGone);
        }
        if self.uploading
            && let Poll::Ready(end) = self.client.poll_upload(self.local, cx, self.stream)
        {
            self.uploading = false;
            if let Err(Broken::Source(_)) = end {
                return Poll::Ready(Ended::ClientGone);
            }
        }
        let end = self.client.poll_download(self.local, cx, self.stream, &mut self.buffer);
        let passed = self.client.upload().wire_bytes + self.client.download().wire_bytes;
        if passed != self.passed {
            self.passed = passed;
            self.ticket.set(idle);
        }
        end.map(|end| match end {
            Ok(()) => Ended::Answered,
            Err(Broken::Sink(_)) => Ended::ClientGone,
            Err(Broken::Framing(_)) => Ended::Cut(Loss::Malformed),
            Err(Broken::Source(_) | Broken::TooLarge) => Ended::Cut(Loss::Cut),
        })
    }
}

impl Failure {
    fn of_endpoint(error: io::Error) -> Self {
        connect::rejected(&error).map_or(Self::Endpoint(error), Self::Rejected)
    }

    /// What the failure means for the request, counted for the endpoint where it is at fault.
    async fn into_outcome<C: Client>(self, local: &Local, client: &C, lease: &Lease) -> Outcome {
        let endpoint = lease.chosen().endpoint();
        let (error, progress) = match self {
            Self::Left => return Outcome::Ended(Ended::ClientGone),
            Self::Client(broken) => return Outcome::Ended(of_client(&broken)),
            Self::Malformed(reason) => {
                tracing::debug!(endpoint = %endpoint.config.name, reason, "malformed response");
                (UpstreamError::Malformed, Progress::Answered)
            }
            Self::Deadline => (UpstreamError::Timeout, Progress::Answered),
            Self::Down => (UpstreamError::Timeout, Progress::Sent),
            Self::Rejected(reason) => {
                // New requests would meet the same, and some of them could not be sent again.
                endpoint.live.doubt(Doubt::Silent, clock::now());
                local.waiting.rejected(endpoint.id);
                let sent = client.upload().wire_bytes > 0;
                (reason, if sent { Progress::Sent } else { Progress::NotSent })
            }
            Self::Endpoint(error) => {
                let request_bytes = client.upload().wire_bytes;
                let ended = error.kind() == io::ErrorKind::UnexpectedEof;
                let progress = if request_bytes == 0 {
                    Progress::NotSent
                } else if ended && was_never_read(lease, request_bytes).await {
                    Progress::NotRead
                } else {
                    Progress::Sent
                };
                (UpstreamError::Reset, progress)
            }
        };
        let cells = endpoint.counters.workers.of(local.worker);
        cells.errors[error as usize].increment();
        cells.failed_at(error, clock::now());
        Outcome::Failed { error, progress }
    }
}

fn of_client(broken: &Broken) -> Ended {
    match broken {
        Broken::TooLarge => Ended::Refused(413, "request body too large"),
        Broken::Framing(error) => Ended::Refused(400, error.reason),
        Broken::Source(error) if error.kind() == io::ErrorKind::TimedOut => {
            Ended::Refused(408, "request body too slow")
        }
        Broken::Source(_) | Broken::Sink(_) => Ended::ClientGone,
    }
}

/// Proves that nobody can have read the request: the endpoint had closed the connection before the
/// request reached its kernel, which therefore reset it and acknowledged nothing.
///
/// A reset alone proves nothing, for what was read may not have been acknowledged yet. So this is
/// asked only after an orderly end, and believed only once the reset is there too; that takes one
/// round trip, for which it waits a moment. That the end came before the reset is the kernel's
/// word: it holds EPIPE against a connection that was reset after its end (Linux, `tcp_reset`).
/// What only looks like an end, since somebody took a reset's error before, has none.
async fn was_never_read(lease: &Lease, request_bytes: u64) -> bool {
    if !lease.reused || lease.connection.stream.is_tls() {
        return false;
    }
    let acked_before = lease.connection.written - request_bytes + 1;
    for _ in 0..20 {
        match sys::tcp_progress(&lease.connection.stream) {
            Ok(now) if now.bytes_acked > acked_before => return false,
            Ok(now) if now.closed => {
                let error = sys::take_error_of(lease.connection.stream.as_fd().as_raw_fd());
                return error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
            }
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::super::fixture::Worker;
    use super::*;
    use crate::upstream::idle::Connection;
    use crate::upstream::lease;

    const REQUEST: &[u8] = b"POST / HTTP/1.1";

    /// A connection as it is kept, and its other end.
    fn kept(worker: &Worker) -> (Lease, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        let (server, _) = listener.accept().unwrap();
        let stream = Stream::Plain(tokio::net::TcpStream::from_std(client).unwrap());
        let chosen = worker.chosen(0, 0);
        let connection = Connection { stream, written: REQUEST.len() as u64 };
        worker.local.idle.borrow_mut().put(chosen.endpoint().id, connection, 0, u64::MAX);
        let lease = lease::reuse(&worker.local, chosen.enter(), true, 0);
        (lease.ok().unwrap(), server)
    }

    fn write(lease: &Lease) {
        let written = rustix::io::write(&lease.connection.stream, REQUEST).unwrap();
        assert_eq!(written, REQUEST.len());
    }

    #[tokio::test]
    async fn what_met_a_closed_connection_was_never_read() {
        let worker = Worker::new();
        let (lease, server) = kept(&worker);
        drop(server);
        write(&lease);
        assert!(was_never_read(&lease, REQUEST.len() as u64).await);
    }

    /// Nothing of the request is acknowledged, as where an endpoint resets at once after reading.
    #[tokio::test]
    async fn a_reset_proves_nothing_though_its_error_was_taken_by_somebody() {
        for takes in [true, false] {
            let worker = Worker::new();
            let (lease, server) = kept(&worker);
            let drop_all = socket2::SockFilter::new(0x06, 0, 0, 0);
            socket2::SockRef::from(&server).attach_filter(&[drop_all]).unwrap();
            write(&lease);
            socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
            drop(server);
            let socket = lease.connection.stream.as_fd().as_raw_fd();
            while !sys::tcp_progress_of(socket).unwrap().closed {
                tokio::task::yield_now().await;
            }
            assert_eq!(sys::tcp_progress_of(socket).unwrap().bytes_acked, 1);
            assert!(!takes || sys::take_error_of(socket).is_some());
            assert!(!was_never_read(&lease, REQUEST.len() as u64).await);
        }
    }
}
