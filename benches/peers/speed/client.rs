//! One client connection: sends the fixed request, waits for the whole response, plain or in TLS.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use rustix::net::{RecvFlags, recv};
use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};

use crate::Result;
use crate::response::Response;
use crate::tls::HOST;

/// The requests of a load: their heads, sent in turn on every connection.
pub(crate) struct Requests(Vec<Vec<u8>>);

impl Requests {
    /// One for each host; `last` wants a connection for itself alone.
    pub(crate) fn to(hosts: &[String], last: bool) -> Rc<Self> {
        let close = if last { "Connection: close\r\n" } else { "" };
        let head = |host: &String| {
            format!(
                "GET /bench HTTP/1.1\r\nHost: {host}\r\nUser-Agent: speed\r\nAccept: */*\r\n\
                 {close}\r\n"
            )
            .into_bytes()
        };
        Rc::new(Self(hosts.iter().map(head).collect()))
    }

    /// What [`HOST`] is asked for.
    pub(crate) fn plain(last: bool) -> Rc<Self> {
        Self::to(&[HOST.to_owned()], last)
    }
}

/// The first read of a plain response takes the head and little more; the rest of the body is
/// dropped in the kernel, never copied.
const FIRST_READ: usize = 1 << 10;

/// Between two requests of a connection; a prime.
const STRIDE: usize = 7919;

/// What came of an event.
pub(crate) enum Step {
    /// Nothing complete yet.
    Waiting,
    /// A whole response is here.
    Response,
    /// The proxy closed the connection, with no response under way.
    Closed,
}

/// Buffers all connections share, since one thread serves them all.
pub(crate) struct Scratch {
    /// What is read.
    pub(crate) read: Vec<u8>,
    /// TLS records on their way out.
    out: Vec<u8>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { read: vec![0; 256 << 10], out: vec![0; 16 << 10] }
    }
}

/// One connection to the proxy.
pub(crate) struct Client {
    stream: TcpStream,
    tls: Option<Box<Tls>>,
    response: Response,
    requests: Rc<Requests>,
    /// Which of the requests is next.
    next: usize,
    /// When the request under way was sent or was due or, on a new connection, when connecting began.
    pub(crate) sent_at: Instant,
    /// Is a request under way?
    pub(crate) waiting: bool,
}

struct Tls {
    conn: UnbufferedClientConnection,
    /// The beginning of a record that has not come whole.
    partial: Vec<u8>,
    request_due: bool,
}

impl Client {
    /// Connects; loopback completes that at once.
    pub(crate) fn connect(
        target: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
        requests: &Rc<Requests>,
        next: usize,
        body: usize,
    ) -> Result<Self> {
        let sent_at = Instant::now();
        let stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let tls = match tls {
            Some(config) => Some(Box::new(Tls {
                conn: UnbufferedClientConnection::new(
                    Arc::clone(config),
                    ServerName::try_from(HOST)?,
                )?,
                partial: Vec::new(),
                request_due: false,
            })),
            None => None,
        };
        let (response, requests) = (Response::new(body), Rc::clone(requests));
        Ok(Self { stream, tls, response, requests, next, sent_at, waiting: false })
    }

    /// Sends the request, after the handshake if there is one to do first.
    pub(crate) fn send(&mut self, scratch: &mut Scratch) -> Result<()> {
        self.waiting = true;
        // A stride that meets all hosts, in an order in which no cache is warm by chance.
        self.next = (self.next + STRIDE) % self.requests.0.len();
        match &mut self.tls {
            None => send_all(&self.stream, &self.requests.0[self.next]),
            Some(tls) => {
                tls.request_due = true;
                let used = tls.partial.len();
                scratch.read[..used].copy_from_slice(&tls.partial);
                self.process(scratch, used).map(|_| ())
            }
        }
    }

    /// Reads on, until a response is whole or the socket is known to be empty (it is watched
    /// edge-triggered).
    pub(crate) fn advance(&mut self, scratch: &mut Scratch) -> Result<Step> {
        if self.tls.is_some() { self.advance_tls(scratch) } else { self.advance_plain(scratch) }
    }

    fn advance_plain(&mut self, scratch: &mut Scratch) -> Result<Step> {
        loop {
            let left = self.response.left();
            let (wanted, flags) = match left {
                None => (FIRST_READ, RecvFlags::empty()),
                Some(left) => (left.min(scratch.read.len()), RecvFlags::TRUNC),
            };
            let count = match recv(&self.stream, &mut scratch.read[..wanted], flags) {
                Ok((_, count)) => count,
                Err(rustix::io::Errno::AGAIN) => return Ok(Step::Waiting),
                Err(error) => return Err(error.into()),
            };
            if count == 0 {
                return self.closed();
            }
            let complete = match left {
                None => self.response.feed(&scratch.read[..count])?,
                Some(_) => self.response.skip(count)?,
            };
            if complete {
                return Ok(Step::Response);
            }
            if count < wanted {
                return Ok(Step::Waiting);
            }
        }
    }

    fn advance_tls(&mut self, scratch: &mut Scratch) -> Result<Step> {
        loop {
            let start = match &self.tls {
                Some(tls) => tls.partial.len(),
                None => 0,
            };
            let count = match self.stream.read(&mut scratch.read[start..]) {
                Ok(0) => return self.closed(),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Waiting),
                Err(error) => return Err(error.into()),
            };
            if let Some(tls) = &self.tls {
                scratch.read[..start].copy_from_slice(&tls.partial);
            }
            let exhausted = start + count < scratch.read.len();
            if self.process(scratch, start + count)? {
                return Ok(Step::Response);
            }
            if exhausted {
                return Ok(Step::Waiting);
            }
        }
    }

    /// Works through the `used` bytes of records in `scratch.read`, and sends what is due; true
    /// once a response is whole.
    fn process(&mut self, scratch: &mut Scratch, used: usize) -> Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(false) };
        let (mut at, mut filled, mut complete) = (0, 0, false);
        loop {
            let UnbufferedStatus { discard, state, .. } =
                tls.conn.process_tls_records(&mut scratch.read[at..used]);
            let mut more = true;
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        complete |= self.response.feed(record?.payload)?;
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    filled += data.encode(&mut scratch.out[filled..])?;
                }
                ConnectionState::TransmitTlsData(data) => {
                    send_all(&self.stream, &scratch.out[..filled])?;
                    filled = 0;
                    data.done();
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    if std::mem::take(&mut tls.request_due) {
                        let count =
                            traffic.encrypt(&self.requests.0[self.next], &mut scratch.out)?;
                        send_all(&self.stream, &scratch.out[..count])?;
                    }
                    more = false;
                }
                ConnectionState::PeerClosed => {}
                ConnectionState::BlockedHandshake | ConnectionState::Closed => more = false,
                other => return Err(format!("unexpected TLS state {other:?}").into()),
            }
            at += discard;
            if !more {
                break;
            }
        }
        tls.partial.clear();
        tls.partial.extend_from_slice(&scratch.read[at..used]);
        Ok(complete)
    }

    fn closed(&self) -> Result<Step> {
        if self.response.is_untouched() {
            Ok(Step::Closed)
        } else {
            Err("the proxy closed a connection in the middle of a response".into())
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Sends a few hundred bytes, which an empty socket always takes.
fn send_all(mut stream: &TcpStream, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() || stream.write(bytes)? == bytes.len() {
        Ok(())
    } else {
        Err("the socket took only part of a request".into())
    }
}
