//! WebSockets through the proxy, each watched for its end: told by a close frame, cut, or left open.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::space::Space;
use super::wait;

/// The nonce of RFC 6455, section 1.3; [`ACCEPT`] is its answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What the application answers to [`KEY`].
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// How often a client says something at the most, and all of them together in a second.
const CHATTER: (Duration, u32) = (Duration::from_millis(500), 1000);

/// What became of a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not answered yet.
    Opening,
    /// Answered otherwise than with 101; 0: not at all.
    Refused {
        status: u16,
    },
    Open,
    /// A close frame came, with this code (1005: without one), at this time since the rig's origin.
    Told {
        code: u16,
        at: Duration,
    },
    /// The connection ended without a close frame.
    Cut {
        at: Duration,
    },
}

/// Open WebSockets, with a thread that watches them.
pub struct WebSockets {
    states: Arc<Mutex<Vec<State>>>,
    ended: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl WebSockets {
    /// Opens them one after the other; returns once all are answered.
    pub(super) fn open(space: &Space, origin: Instant, target: SocketAddr, count: usize) -> Self {
        let states = Arc::new(Mutex::new(vec![State::Opening; count]));
        // As often as many applications' keep-alives, but a crowd must not become a load test.
        let chatter = CHATTER.0.max(Duration::from_secs(count as u64) / CHATTER.1);
        let ended = Arc::new(Notify::new());
        let space = space.again();
        let thread = std::thread::spawn({
            let (states, ended) = (Arc::clone(&states), Arc::clone(&ended));
            move || {
                space.enter();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async {
                    let mut watching = JoinSet::new();
                    for index in 0..count {
                        let states = Arc::clone(&states);
                        let (stream, rest) = match open(target).await {
                            Ok(open) => open,
                            Err(status) => {
                                set(&states, index, State::Refused { status });
                                continue;
                            }
                        };
                        set(&states, index, State::Open);
                        watching.spawn(async move {
                            let code = watch(stream, rest, chatter).await.ok();
                            let at = origin.elapsed();
                            let told = code.map(|code| State::Told { code, at });
                            set(&states, index, told.unwrap_or(State::Cut { at }));
                        });
                    }
                    ended.notified().await;
                });
            }
        });
        let sockets = Self { states, ended, thread: Some(thread) };
        wait("all WebSockets are open", || {
            (!sockets.states().contains(&State::Opening)).then_some(())
        });
        sockets
    }

    pub fn states(&self) -> Vec<State> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many are still open.
    pub fn open_now(&self) -> usize {
        self.states().iter().filter(|state| **state == State::Open).count()
    }
}

impl Drop for WebSockets {
    fn drop(&mut self) {
        self.ended.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn set(states: &Mutex<Vec<State>>, index: usize, state: State) {
    states.lock().unwrap_or_else(PoisonError::into_inner)[index] = state;
}

/// The connection once it is a WebSocket, and what came after the head; or the status, 0 for none.
async fn open(target: SocketAddr) -> Result<(TcpStream, Vec<u8>), u16> {
    let mut stream = TcpStream::connect(target).await.map_err(|_| 0u16)?;
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: app.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|_| 0u16)?;
    let mut buf = Vec::new();
    loop {
        if let Some(end) = memchr::memmem::find(&buf, b"\r\n\r\n") {
            let status = std::str::from_utf8(buf.get(9..12).unwrap_or_default());
            let status = status.ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            return if status == 101 { Ok((stream, buf.split_off(end + 4))) } else { Err(status) };
        }
        if stream.read_buf(&mut buf).await.unwrap_or(0) == 0 {
            return Err(0);
        }
    }
}

/// Talks until a close frame comes; its code.
async fn watch(stream: TcpStream, mut buf: Vec<u8>, chatter: Duration) -> io::Result<u16> {
    let (mut reader, mut writer) = stream.into_split();
    let mut chatter = tokio::time::interval(chatter);
    loop {
        while let Some((opcode, payload, taken)) = frame(&buf) {
            if opcode == 8 {
                let code =
                    payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
                return Ok(code);
            }
            buf.drain(..taken);
        }
        tokio::select! {
            // A masked text frame of two bytes; its mask is zero.
            _ = chatter.tick() => writer.write_all(b"\x81\x82\0\0\0\0hi").await?,
            count = reader.read_buf(&mut buf) => if count? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            },
        }
    }
}

/// The first whole frame of a server: opcode, payload, length. Short payloads alone are expected.
fn frame(buf: &[u8]) -> Option<(u8, &[u8], usize)> {
    let [first, length, rest @ ..] = buf else { return None };
    let length = usize::from(length & 0x7f);
    Some((first & 0x0f, rest.get(..length)?, 2 + length))
}
