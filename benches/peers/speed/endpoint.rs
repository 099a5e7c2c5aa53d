//! The endpoints behind the proxy: a fixed answer to every request, on connections kept alive.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use memchr::memmem;

use crate::Result;

/// The path proxies may probe; answered with a small body whatever the workload.
pub(crate) const HEALTH_PATH: &str = "/healthz";

/// The two answers, head and body in one piece.
pub(crate) struct Answers {
    body: Vec<u8>,
    health: Vec<u8>,
}

impl Answers {
    pub(crate) fn new(body: usize) -> Self {
        Self { body: answer(&vec![b'x'; body]), health: answer(b"ok") }
    }
}

fn answer(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: endpoint\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// What one endpoint was asked for, and when last.
#[derive(Default)]
pub(crate) struct Deliveries {
    pub(crate) count: u64,
    pub(crate) last: Option<Instant>,
}

/// One connection a proxy opened.
pub(crate) struct EndpointConn {
    /// Which endpoint it was opened to.
    pub(crate) endpoint: usize,
    stream: TcpStream,
    /// A request head that has not come whole.
    partial: Vec<u8>,
    /// The answer under way, and how much of it is sent.
    sending: Option<(bool, usize)>,
}

impl EndpointConn {
    pub(crate) fn new(endpoint: usize, stream: TcpStream) -> Self {
        Self { endpoint, stream, partial: Vec::new(), sending: None }
    }

    /// Does what can be done now; false once the proxy has closed the connection.
    ///
    /// The connection is watched edge-triggered, so this reads until the socket is known to be empty.
    pub(crate) fn advance(
        &mut self,
        answers: &Answers,
        scratch: &mut [u8],
        mut deliveries: Option<&mut Deliveries>,
    ) -> Result<bool> {
        if !self.send(answers)? {
            return Ok(true);
        }
        loop {
            let count = match self.stream.read(scratch) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            self.request(&scratch[..count])?;
            if let (Some(deliveries), Some((false, 0))) = (&mut deliveries, self.sending) {
                deliveries.count += 1;
                deliveries.last = Some(Instant::now());
            }
            if !self.send(answers)? || count < scratch.len() {
                return Ok(true);
            }
        }
    }

    /// Takes bytes of a request; none of the requests has a body and none is pipelined.
    fn request(&mut self, bytes: &[u8]) -> Result<()> {
        let head = if self.partial.is_empty() {
            bytes
        } else {
            self.partial.extend_from_slice(bytes);
            &self.partial
        };
        match memmem::find(head, b"\r\n\r\n") {
            Some(end) if end + 4 == head.len() => {
                let path = head.split(|&b| b == b' ').nth(1).unwrap_or_default();
                self.sending = Some((path == HEALTH_PATH.as_bytes(), 0));
                self.partial.clear();
            }
            Some(_) => return Err("a proxy pipelined requests or sent a body".into()),
            None if self.partial.is_empty() => self.partial.extend_from_slice(bytes),
            None => {}
        }
        Ok(())
    }

    /// Sends on; false while the socket takes no more.
    fn send(&mut self, answers: &Answers) -> Result<bool> {
        while let Some((health, sent)) = self.sending {
            let whole = if health { &answers.health } else { &answers.body };
            match self.stream.write(&whole[sent..]) {
                Ok(count) if sent + count == whole.len() => self.sending = None,
                Ok(count) => self.sending = Some((health, sent + count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                // The proxy went away in the middle of an answer; reading will tell.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                    ) =>
                {
                    self.sending = None;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}
