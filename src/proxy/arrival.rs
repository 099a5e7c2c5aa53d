//! ○ Who connected: a PROXY header is read off a connection before anything else, where the
//! listener requires one of its peer.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::local::Local;
use super::worker;
use crate::listen::proxy_protocol::{self, Header, Parsed, Told};
use crate::table::ListenerId;
use crate::table::counters::Rejection;

/// A client's connection, as far as it told of itself.
#[derive(Debug)]
pub(super) struct Arrival {
    /// The client itself, behind however many proxies that tell of it.
    pub(super) peer: SocketAddr,
    /// What it connected to, where a header says so.
    pub(super) destination: Option<SocketAddr>,
    pub(super) told: Told,
    /// Its peer must not send a header, so that what looks like one is refused.
    pub(super) is_screened: bool,
}

enum Trouble {
    /// It left, or its connection broke.
    Left,
    Malformed(&'static str),
}

/// `None`: the connection was refused and counted, or is gone.
pub(super) async fn greet(
    local: &Local,
    id: ListenerId,
    stream: &TcpStream,
    peer: SocketAddr,
) -> Option<Arrival> {
    let table = local.table();
    let config = &table.listener(id)?.config;
    let from = &config.proxy_protocol;
    let plain = Arrival { peer, destination: None, told: Told::default(), is_screened: false };
    if !from.iter().any(|net| net.contains(&peer.ip().to_canonical())) {
        return Some(Arrival { is_screened: !from.is_empty(), ..plain });
    }
    let rejection = match tokio::time::timeout(config.limits.header_timeout, read(stream)).await {
        Ok(Ok(header)) => {
            let (source, destination) = header.addresses.unzip();
            let peer = source.unwrap_or(peer);
            return Some(Arrival { peer, destination, told: header.told, is_screened: false });
        }
        Ok(Err(Trouble::Left)) => return None,
        Ok(Err(Trouble::Malformed(reason))) => {
            tracing::debug!(listener = &*config.name, %peer, reason, "no PROXY header");
            Rejection::ProxyProtocol
        }
        Err(_) => Rejection::Timeout,
    };
    refuse(local, id, stream, rejection);
    None
}

/// Counts a connection that is turned away, and has it reset.
pub(super) fn refuse(local: &Local, id: ListenerId, stream: &TcpStream, why: Rejection) {
    worker::count(local, id, |cells| cells.rejected[why as usize].increment());
    let _ = stream.set_zero_linger();
}

/// Takes the header and not a byte more: what follows may be a TLS handshake, which is not ours to
/// buffer.
async fn read(stream: &TcpStream) -> Result<Header, Trouble> {
    let mut held = Vec::with_capacity(proxy_protocol::LEAST * 8);
    let mut chunk = [0; 512];
    loop {
        let count = stream.peek(&mut chunk).await.map_err(|_| Trouble::Left)?;
        if count == 0 {
            return Err(Trouble::Left);
        }
        let before = held.len();
        held.extend_from_slice(&chunk[..count]);
        let parsed = proxy_protocol::parse(&held).map_err(|wrong| Trouble::Malformed(wrong.0))?;
        let (taken, header) = match parsed {
            Parsed::Complete { header, length } => (length - before, Some(header)),
            Parsed::Partial => (count, None),
        };
        take(stream, &mut chunk[..taken]).map_err(|_| Trouble::Left)?;
        match header {
            Some(header) => return Ok(header),
            None => held.truncate(before + taken),
        }
    }
}

/// Reads bytes that are known to be there.
fn take(stream: &TcpStream, bytes: &mut [u8]) -> io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        match stream.try_read(&mut bytes[at..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => at += count,
        }
    }
    Ok(())
}
