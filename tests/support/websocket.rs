//! WebSockets (RFC 6455) for both ends of a test, apart from the product's own notion of a frame.
//! The handshake's key is taken and answered as it comes: between the two it is a matter of theirs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;

use super::client::Client;
use super::endpoint::Conn;
use super::wire::Message;

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// Fields of a client's handshake.
pub const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// One frame as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Code and reason of a Close frame.
    pub fn close(&self) -> (u16, String) {
        assert_eq!(self.opcode, CLOSE, "no Close frame: {self:?}");
        let code = u16::from_be_bytes([self.payload[0], self.payload[1]]);
        (code, String::from_utf8(self.payload[2..].to_vec()).unwrap())
    }
}

/// One whole frame; with a key, as clients must send it.
pub fn frame(opcode: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    let bit = if key.is_some() { 0x80 } else { 0 };
    match payload.len() {
        short @ 0..=125 => out.push(short as u8 | bit),
        medium @ 126..=65_535 => {
            out.push(126 | bit);
            out.extend((medium as u16).to_be_bytes());
        }
        long => {
            out.push(127 | bit);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend(key.into_iter().flatten());
    let key = key.unwrap_or_default();
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// Reads a frame by `take`, which gives exactly so many bytes.
fn read_frame<E>(mut take: impl FnMut(usize) -> Result<Vec<u8>, E>) -> Result<Frame, E> {
    let head = take(2)?;
    let length = match head[1] & 0x7f {
        126 => take(2)?.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)),
        127 => take(8)?.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)),
        short => short.into(),
    };
    let masked = head[1] & 0x80 != 0;
    let key = if masked { take(4)? } else { vec![0; 4] };
    let payload = take(length)?;
    let payload = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    Ok(Frame { opcode: head[0] & 0x0f, masked, payload })
}

/// A client's end.
pub struct Socket(pub Client);

impl Socket {
    pub fn open(address: SocketAddr) -> Self {
        Self::over(Client::plain(address))
    }

    pub fn open_tls(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        Self::over(Client::tls(address, config, "app.test"))
    }

    fn over(client: Client) -> Self {
        let mut socket = Self(client);
        let answer = socket.handshake();
        assert_eq!(answer.status(), 101, "{answer:?}");
        assert_eq!(answer.field("upgrade"), Some("websocket"));
        assert_eq!(answer.field("connection"), Some("Upgrade"));
        socket
    }

    pub fn handshake(&mut self) -> Message {
        self.0.send(format!("GET /socket HTTP/1.1\r\nHost: app.test\r\n{HANDSHAKE}\r\n"));
        self.0.response("GET")
    }

    pub fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.0.send(frame(opcode, payload, Some([7, 0, 0x88, 255])));
    }

    pub fn receive(&mut self) -> Frame {
        self.try_receive().unwrap()
    }

    pub fn try_receive(&mut self) -> io::Result<Frame> {
        read_frame(|length| {
            let mut bytes = vec![0; length];
            let mut at = 0;
            while at < length {
                match self.0.read(&mut bytes[at..])? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => at += count,
                }
            }
            Ok(bytes)
        })
    }

    pub fn assert_echo(&mut self, text: &str) {
        self.send(TEXT, text.as_bytes());
        let echo = self.receive();
        assert_eq!((echo.opcode, echo.payload.as_slice()), (TEXT, text.as_bytes()));
    }
}

/// Answers the handshake; false for a request that asks for none, which is answered with 200.
pub fn accept(conn: &mut Conn) -> bool {
    while let Some(head) = conn.head_only() {
        if head.field("upgrade") == Some("websocket") && head.field("connection") == Some("Upgrade")
        {
            return conn.send(ANSWER);
        }
        conn.answer(200, "plain");
    }
    false
}

pub fn receive(conn: &mut Conn) -> Option<Frame> {
    read_frame(|length| conn.take(length).ok_or(())).ok()
}

/// Says everything back, answers pings, and closes when told to. What it was told at last.
pub fn echo(conn: &mut Conn) -> Option<Frame> {
    if !accept(conn) {
        return None;
    }
    loop {
        let got = receive(conn)?;
        assert!(got.masked, "a client's frame must be masked: {got:?}");
        let opcode = if got.opcode == PING { PONG } else { got.opcode };
        conn.send(frame(opcode, &got.payload, None));
        if got.opcode == CLOSE {
            return Some(got);
        }
    }
}
