//! Endpoints that do exactly what a test wants, also what no sane server does.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use socket2::{SockFilter, SockRef};

use super::wire::{self, Framing, Message};
use super::{free_address, until};

/// A TCP server of the test; each connection is served by the script on a thread of its own.
pub struct Endpoint {
    pub address: SocketAddr,
    listener: Arc<TcpListener>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    connections: AtomicUsize,
    requests: Mutex<Vec<Message>>,
    streams: Mutex<Vec<Weak<TcpStream>>>,
}

/// One connection as a script sees it.
pub struct Conn {
    stream: Arc<TcpStream>,
    buf: Vec<u8>,
    shared: Arc<Shared>,
    /// From 0, in the order of acceptance.
    pub number: usize,
}

impl Endpoint {
    pub fn start(script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        Self::start_at(free_address(), script)
    }

    /// Answers every request with 200 and `body`, and keeps connections.
    pub fn answering(body: &'static str) -> Self {
        Self::start(move |conn| {
            while conn.request().is_some() {
                conn.answer(200, body);
            }
        })
    }

    pub fn start_at(
        address: SocketAddr,
        script: impl Fn(&mut Conn) + Send + Sync + 'static,
    ) -> Self {
        let listener = Arc::new(until("the address is free", || TcpListener::bind(address).ok()));
        let shared = Arc::new(Shared::default());
        let script = Arc::new(script);
        thread::spawn({
            let (listener, shared) = (Arc::clone(&listener), Arc::clone(&shared));
            move || {
                while let Ok((stream, _)) = listener.accept() {
                    let mut conn = Conn::new(stream, Arc::clone(&shared));
                    let script = Arc::clone(&script);
                    thread::spawn(move || script(&mut conn));
                }
            }
        });
        Self { address, listener, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// Requests read so far, in their order, probes left out.
    pub fn requests(&self) -> Vec<Message> {
        lock(&self.shared.requests).clone()
    }

    /// Connections accepted so far, those of probes included.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// As a host that is gone: whatever is sent to it from now on is neither acknowledged nor refused.
    pub fn black_hole(&self) {
        // `BPF_RET | BPF_K` with 0 bytes: the kernel drops every segment before TCP sees it.
        let drop_all = [SockFilter::new(0x06, 0, 0, 0)];
        SockRef::from(&*self.listener).attach_filter(&drop_all).unwrap();
        for stream in lock(&self.shared.streams).iter().filter_map(Weak::upgrade) {
            SockRef::from(&*stream).attach_filter(&drop_all).unwrap();
        }
    }

    /// As a killed process: nothing listens any more, and every connection ends at once.
    pub fn kill(&self) {
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        self.cut();
    }

    /// Nobody listens any more; connections stay.
    pub fn deafen(&self) {
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
    }

    /// Ends every connection there is.
    pub fn cut(&self) {
        for stream in lock(&self.shared.streams).drain(..).filter_map(|stream| stream.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Conn {
    fn new(stream: TcpStream, shared: Arc<Shared>) -> Self {
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        let _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        lock(&shared.streams).push(Arc::downgrade(&stream));
        Self { stream, buf: Vec::new(), shared, number }
    }

    /// The next request with its body. Probes (`/healthz`) are answered with 200 and passed over.
    pub fn request(&mut self) -> Option<Message> {
        let mut message = self.head()?;
        let framing = message.request_framing();
        loop {
            if let Some(taken) = wire::body(&mut message, framing, &self.buf, false) {
                self.buf.drain(..taken);
                self.record(&message);
                return Some(message);
            }
            self.fill()?;
        }
    }

    /// The next request's head, recorded with no body.
    pub fn head_only(&mut self) -> Option<Message> {
        let message = self.head()?;
        self.record(&message);
        Some(message)
    }

    /// A counted or chunked request body, digested and not kept.
    pub fn digest_body(&mut self, head: &Message) -> Option<wire::Checksum> {
        let mut sum = wire::Checksum::default();
        match head.request_framing() {
            Framing::Length(length) => {
                self.digest(&mut sum, length)?;
            }
            Framing::Chunked => loop {
                let size = self.line()?;
                let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
                self.digest(&mut sum, size)?;
                self.line()?;
                if size == 0 {
                    break;
                }
            },
            Framing::None | Framing::UntilClose => {}
        }
        Some(sum.finish())
    }

    /// One line, without CRLF.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = wire::find(&self.buf, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buf[..end]).into_owned();
                self.buf.drain(..end + 2);
                return Some(line);
            }
            self.fill()?;
        }
    }

    /// Whether the bytes to come begin with these; waits until that is clear.
    pub fn starts_with(&mut self, bytes: &[u8]) -> bool {
        while self.buf.len() < bytes.len() && bytes.starts_with(&self.buf) {
            if self.fill().is_none() {
                return false;
            }
        }
        self.buf.starts_with(bytes)
    }

    /// Exactly so many of the next bytes.
    pub fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buf.len() < length {
            self.fill()?;
        }
        Some(self.buf.drain(..length).collect())
    }

    /// Whatever comes next; none at the end.
    pub fn some(&mut self) -> Option<Vec<u8>> {
        if self.buf.is_empty() {
            self.fill()?;
        }
        Some(std::mem::take(&mut self.buf))
    }

    /// Sends; false if the other side is gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        (&*self.stream).write_all(bytes.as_ref()).is_ok()
    }

    /// A whole response with a content-length.
    pub fn answer(&mut self, status: u16, body: &str) -> bool {
        let length = body.len();
        self.send(format!("HTTP/1.1 {status} Any\r\nContent-Length: {length}\r\n\r\n{body}"))
    }

    /// Holds the connection until the other side ends it; the bytes that came.
    pub fn until_closed(&mut self) -> Vec<u8> {
        while self.fill().is_some() {}
        std::mem::take(&mut self.buf)
    }

    /// Reads to the end; the error it ended with, if it was none in good order.
    pub fn end(&mut self) -> Option<io::Error> {
        let mut chunk = [0; 4096];
        loop {
            match (&*self.stream).read(&mut chunk) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(error),
            }
        }
    }

    /// True if the other side ends the connection within `limit`, whatever it sends before.
    pub fn closed_within(&mut self, limit: Duration) -> bool {
        let _ = self.stream.set_read_timeout(Some(limit));
        let mut chunk = [0; 4096];
        loop {
            match (&*self.stream).read(&mut chunk) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => {
                    return !matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    );
                }
            }
        }
    }

    /// Makes the end of this connection a reset.
    pub fn reset_at_end(&self) {
        let _ = SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO));
    }

    pub fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn head(&mut self) -> Option<Message> {
        loop {
            let Some((message, taken)) = wire::head(&self.buf) else {
                self.fill()?;
                continue;
            };
            self.buf.drain(..taken);
            if message.target() != "/healthz" {
                return Some(message);
            }
            self.answer(200, "ok");
        }
    }

    fn record(&self, message: &Message) {
        lock(&self.shared.requests).push(message.clone());
    }

    fn digest(&mut self, sum: &mut wire::Checksum, length: usize) -> Option<()> {
        let mut left = length;
        while left > 0 {
            if self.buf.is_empty() {
                self.fill()?;
            }
            let n = left.min(self.buf.len());
            sum.update(&self.buf[..n]);
            self.buf.drain(..n);
            left -= n;
        }
        Some(())
    }

    fn fill(&mut self) -> Option<()> {
        let mut chunk = [0; 64 * 1024];
        match (&*self.stream).read(&mut chunk) {
            Ok(0) | Err(_) => None,
            Ok(n) => {
                self.buf.extend_from_slice(&chunk[..n]);
                Some(())
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
