//! The floor: a relay of bytes on epoll that understands nothing, in one thread.
//!
//! It opens a connection to an endpoint for every client's, and copies what comes on one to the
//! other. No proxy that waits with epoll and copies through user space can do with less.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventFlags};
use rustix::fd::OwnedFd;

use crate::Result;

/// The token of the listener; connections have their descriptor's number.
const LISTENER: u64 = u64::MAX;
/// Bytes copied at once.
const BUFFER: usize = 256 << 10;

/// One side of a pair.
struct Side {
    stream: TcpStream,
    /// Where in [`Relay::sides`] the other side is.
    other: usize,
    /// What it could not take yet of what the other sent.
    pending: Vec<u8>,
    watched: EventFlags,
}

struct Relay {
    epoll: OwnedFd,
    /// By descriptor.
    sides: Vec<Option<Side>>,
    buffer: Vec<u8>,
}

/// Relays until it is killed.
pub(crate) fn run(listen: SocketAddr, endpoints: &[SocketAddr]) -> Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut relay = Relay { epoll, sides: Vec::new(), buffer: vec![0; BUFFER] };
    let mut events = Vec::with_capacity(256);
    let mut turns = endpoints.iter().cycle();
    loop {
        events.clear();
        epoll::wait(&relay.epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            let token = event.data.u64();
            if token == LISTENER {
                while let (Ok((client, _)), Some(&endpoint)) = (listener.accept(), turns.next()) {
                    relay.pair(client, TcpStream::connect(endpoint)?)?;
                }
            } else if relay.serve(token as usize, event.flags).is_err() {
                relay.end(token as usize);
            }
        }
    }
}

impl Relay {
    fn pair(&mut self, client: TcpStream, endpoint: TcpStream) -> Result<()> {
        let [a, b] = [&client, &endpoint].map(|stream| stream.as_raw_fd() as usize);
        if self.sides.len() <= a.max(b) {
            self.sides.resize_with(a.max(b) + 1, || None);
        }
        for (stream, at, other) in [(client, a, b), (endpoint, b, a)] {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let data = epoll::EventData::new_u64(at as u64);
            epoll::add(&self.epoll, &stream, data, EventFlags::IN)?;
            let (pending, watched) = (Vec::new(), EventFlags::IN);
            self.sides[at] = Some(Side { stream, other, pending, watched });
        }
        Ok(())
    }

    /// Writes what waits for the side `at`, or takes what it has sent to its other side.
    fn serve(&mut self, at: usize, flags: EventFlags) -> Result<()> {
        let Some(side) = self.sides[at].as_mut() else { return Ok(()) };
        let other = side.other;
        if flags.contains(EventFlags::OUT) {
            let count = write(&mut side.stream, &side.pending)?;
            side.pending.drain(..count);
        } else {
            let count = match side.stream.read(&mut self.buffer) {
                Ok(0) => return Err("closed".into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let to = self.sides[other].as_mut().ok_or("already gone")?;
            let bytes = &self.buffer[..count];
            let sent = write(&mut to.stream, bytes)?;
            to.pending.extend_from_slice(&bytes[sent..]);
        }
        self.watch(at, other)?;
        self.watch(other, at)
    }

    /// A side is read unless its other is full, and told of room while it is full itself.
    fn watch(&mut self, at: usize, other: usize) -> Result<()> {
        let free = self.sides[other].as_ref().is_none_or(|other| other.pending.is_empty());
        let Some(side) = self.sides[at].as_mut() else { return Ok(()) };
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, free);
        wanted.set(EventFlags::OUT, !side.pending.is_empty());
        if wanted != side.watched {
            side.watched = wanted;
            let data = epoll::EventData::new_u64(at as u64);
            epoll::modify(&self.epoll, &side.stream, data, wanted)?;
        }
        Ok(())
    }

    /// Either side ending ends both; closed, they leave the epoll instance.
    fn end(&mut self, at: usize) {
        if let Some(side) = self.sides[at].take() {
            self.sides[side.other] = None;
        }
    }
}

/// Writes what there is room for.
fn write(stream: &mut TcpStream, bytes: &[u8]) -> Result<usize> {
    match stream.write(bytes) {
        Ok(count) => Ok(count),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}
