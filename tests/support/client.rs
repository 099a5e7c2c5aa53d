//! A client that sends exactly the bytes a test wants and reads what comes back.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::PATIENCE;
use super::wire::{self, Framing, Message};

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// One connection.
pub struct Client {
    stream: Stream,
    /// Read and not yet taken.
    buf: Vec<u8>,
    eof: bool,
}

impl Client {
    pub fn plain(address: SocketAddr) -> Self {
        Self::try_plain(address).unwrap()
    }

    pub fn try_plain(address: SocketAddr) -> io::Result<Self> {
        let stream = connect(address)?;
        Ok(Self { stream: Stream::Plain(stream), buf: Vec::new(), eof: false })
    }

    /// Connects and completes the handshake for `name`.
    pub fn tls(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Self {
        Self::try_tls(address, config, name).unwrap()
    }

    pub fn try_tls(
        address: SocketAddr,
        config: &Arc<ClientConfig>,
        name: &str,
    ) -> io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        let mut stream = StreamOwned::new(connection, connect(address)?);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { stream: Stream::Tls(Box::new(stream)), buf: Vec::new(), eof: false })
    }

    /// One plain GET on a connection of its own.
    pub fn try_get(address: SocketAddr, path: &str) -> io::Result<Message> {
        let mut client = Self::try_plain(address)?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        client.try_send(request.as_bytes())?;
        client.try_response("GET")
    }

    /// The TLS session, for what was negotiated.
    pub fn session(&self) -> &ClientConnection {
        match &self.stream {
            Stream::Tls(stream) => &stream.conn,
            Stream::Plain(_) => panic!("a plain connection has no TLS session"),
        }
    }

    pub fn local_address(&self) -> SocketAddr {
        self.socket().local_addr().unwrap()
    }

    /// A socket whose receive window is small and never read by the kernel ahead of us.
    pub fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).unwrap();
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }

    /// `GET path` for `app.test`, and its answer.
    pub fn get(&mut self, path: &str) -> Message {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        self.response("GET")
    }

    /// The next response, to a request of `method`. 1xx responses count.
    pub fn response(&mut self, method: &str) -> Message {
        self.try_response(method).unwrap()
    }

    pub fn try_response(&mut self, method: &str) -> io::Result<Message> {
        let mut message = self.try_head()?;
        let framing = message.response_framing(method);
        loop {
            if let Some(taken) = wire::body(&mut message, framing, &self.buf, self.eof) {
                self.buf.drain(..taken);
                return Ok(message);
            }
            if self.eof {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body is cut"));
            }
            self.fill()?;
        }
    }

    /// The next head alone; its body follows by [`Client::read`].
    pub fn head(&mut self) -> Message {
        self.try_head().unwrap()
    }

    pub fn try_head(&mut self) -> io::Result<Message> {
        loop {
            if let Some((message, taken)) = wire::head(&self.buf) {
                self.buf.drain(..taken);
                return Ok(message);
            }
            if self.eof {
                let text = format!("no response, {} bytes of one", self.buf.len());
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            self.fill()?;
        }
    }

    /// Body bytes as they come; 0 at the end of the connection.
    pub fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !self.buf.is_empty() {
            let length = self.buf.len().min(out.len());
            out[..length].copy_from_slice(&self.buf[..length]);
            self.buf.drain(..length);
            return Ok(length);
        }
        self.read_stream(out)
    }

    /// A chunked or counted body, digested and not kept. `head` is from [`Client::head`].
    pub fn digest_body(&mut self, head: &Message) -> io::Result<wire::Checksum> {
        let Framing::Length(length) = head.response_framing("GET") else {
            panic!("digests need a content-length: {:?}", head.start);
        };
        let mut sum = wire::Checksum::default();
        let mut buf = vec![0; 256 * 1024];
        while sum.length < length as u64 {
            match self.read(&mut buf)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => sum.update(&buf[..n]),
            }
        }
        Ok(sum.finish())
    }

    /// Everything until the other side closes, and whether it closed rightly (no reset).
    pub fn rest(&mut self) -> (Vec<u8>, io::Result<()>) {
        let ended = loop {
            if self.eof {
                break Ok(());
            }
            if let Err(error) = self.fill() {
                break Err(error);
            }
        };
        (std::mem::take(&mut self.buf), ended)
    }

    /// Waits for the end of the connection; panics if bytes come or it stays open.
    pub fn assert_closed(&mut self) {
        let (bytes, ended) = self.rest();
        assert!(bytes.is_empty(), "bytes before the end: {}", String::from_utf8_lossy(&bytes));
        if let Err(error) = ended {
            let kind = error.kind();
            assert!(
                kind != io::ErrorKind::WouldBlock && kind != io::ErrorKind::TimedOut,
                "the connection is still open"
            );
        }
    }

    /// Sends no more, but goes on reading.
    pub fn half_close(&mut self) {
        match &mut self.stream {
            Stream::Plain(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Stream::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush().unwrap();
                stream.sock.shutdown(Shutdown::Write).unwrap();
            }
        }
    }

    pub fn set_read_timeout(&self, timeout: Duration) {
        self.socket().set_read_timeout(Some(timeout)).unwrap();
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 64 * 1024];
        let n = self.read_stream(&mut chunk)?;
        self.buf.extend_from_slice(&chunk[..n]);
        Ok(())
    }

    fn read_stream(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.stream {
            Stream::Plain(stream) => stream.read(out),
            Stream::Tls(stream) => stream.read(out),
        };
        if matches!(result, Ok(0)) {
            self.eof = true;
        }
        result
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
