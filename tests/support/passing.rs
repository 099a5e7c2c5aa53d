//! Connections that nobody looks into: plain sockets with a limit on every wait, and pools of two.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use super::PATIENCE;
use super::endpoint::{Conn, Endpoint};

/// A client's connection.
pub struct Wire(pub TcpStream);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Orderly,
    Reset,
}

impl Wire {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    /// Exactly so many bytes.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn says(&mut self, words: &str) {
        assert_eq!(String::from_utf8_lossy(&self.take(words.len())), words);
    }

    /// Sends words and gets them back.
    pub fn echoes(&mut self, words: &str) {
        self.send(words);
        self.says(words);
    }

    pub fn half_close(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    /// What still comes, and how it ends.
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        let end = match self.0.read_to_end(&mut bytes) {
            Ok(_) => End::Orderly,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Reset,
            Err(error) => panic!("{error}"),
        };
        (bytes, end)
    }

    pub fn ends(&mut self) -> End {
        let (bytes, end) = self.rest();
        assert!(bytes.is_empty(), "{}", String::from_utf8_lossy(&bytes));
        end
    }

    /// Neither bytes nor an end within a moment that is short, for what must not happen.
    pub fn is_quiet_for(&mut self, moment: Duration) -> bool {
        self.0.set_read_timeout(Some(moment)).unwrap();
        let result = self.0.peek(&mut [0]);
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        matches!(result, Err(error) if is_timeout(&error))
    }

    pub fn reset(self) {
        SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Says who it is, then sends back what it gets, to the end.
pub fn echo(name: &'static str) -> impl Fn(&mut Conn) + Send + Sync + 'static {
    move |conn| {
        conn.send(name);
        echo_on(conn);
    }
}

/// Sends back what it gets, to the end.
pub fn echo_on(conn: &mut Conn) {
    while let Some(bytes) = conn.some() {
        if !conn.send(bytes) {
            return;
        }
    }
}

/// A health check that finds out soon.
pub const QUICK: &str =
    "health_check: { type: tcp, interval: 200ms, timeout: 100ms, fast_interval: 20ms }";

/// A listener of this mode, one service with these settings, hot and standby.
pub fn config(
    (bind, listener): (SocketAddr, &str),
    service: &str,
    hot: &[&Endpoint],
    standby: &[&Endpoint],
) -> String {
    let names = |pool: &[&Endpoint]| {
        pool.iter().map(|endpoint| format!("{:?}", endpoint.name())).collect::<Vec<_>>().join(", ")
    };
    format!(
        "process: {{ workers: 2, lame_duck: 0s, drain_timeout: 5s }}
listeners:
  - {{ name: passing, bind: {bind}, {listener}, service: app }}
services:
  app:
    {service}
    pools:
      - {{ name: hot, endpoints: [{}] }}
      - {{ name: standby, endpoints: [{}] }}
",
        names(hot),
        names(standby)
    )
}
