//! ○ A finished request as a line of the access log.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::exchange::Call;
use super::local::Local;
use crate::config::IpNet;
use crate::http1::{Request, Version};
use crate::observe::access_log::Entry;
use crate::table::Listener;

/// What is known of a request when it has ended.
pub struct Record<'a> {
    pub listener: &'a Listener,
    pub peer: SocketAddr,
    pub trusted: bool,
    pub https: bool,
    pub request: &'a Request,
    /// The buffer the request was parsed from.
    pub bytes: &'a [u8],
    pub request_id: &'a [u8],
    pub request_body_bytes: u64,
    pub response_body_bytes: u64,
    pub way: Way<'a>,
    pub status: u16,
    /// The word for what went wrong.
    pub reason: Option<&'static str>,
    pub started: Duration,
    pub duration: Duration,
}

/// How a request ended, for its line.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    pub way: Way<'a>,
    pub status: u16,
    /// The word for what went wrong.
    pub reason: Option<&'static str>,
    /// Bytes of body that the client sent and got.
    pub body_bytes: (u64, u64),
    pub started: Duration,
    pub duration: Duration,
}

/// The way a request took: empty where the listener itself answered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Way<'a> {
    pub service: Option<&'a str>,
    /// Of the endpoint tried last.
    pub pool: Option<&'a str>,
    pub endpoint: Option<&'a str>,
    pub attempts: u32,
    /// From the origin, when the response head came.
    pub first_byte: Option<Duration>,
}

impl<'a> Way<'a> {
    pub fn of(call: &'a Call) -> Self {
        let last = call.last.as_ref();
        Self {
            service: Some(&call.table.services[call.service].config.name),
            pool: last.map(|last| &*last.pool().config.name),
            endpoint: last.map(|last| &*last.endpoint().config.name),
            attempts: call.attempts,
            first_byte: call.first_byte,
        }
    }
}

impl Record<'_> {
    pub fn write(&self, local: &Local) {
        let trusted_id = self.request.request_id(self.bytes).filter(|_| self.trusted);
        let entry = Entry {
            peer: self.peer,
            client: self.client(),
            method: self.request.method_bytes(self.bytes),
            https: self.https,
            host: self.request.authority(self.bytes),
            path: self.request.path(self.bytes),
            protocol: match self.request.version() {
                Version::Http10 => "1.0",
                Version::Http11 => "1.1",
                Version::Http2 => "2",
            },
            status: self.status,
            request_body_bytes: self.request_body_bytes,
            response_body_bytes: self.response_body_bytes,
            user_agent: self.request.field(self.bytes, "user-agent"),
            request_id: trusted_id.unwrap_or(self.request_id),
            listener: &self.listener.config.name,
            service: self.way.service,
            pool: self.way.pool,
            endpoint: self.way.endpoint,
            attempts: self.way.attempts,
            duration: self.duration,
            first_byte: self.way.first_byte.map(|at| at.saturating_sub(self.started)),
            reason: self.reason,
        };
        let draw = local.rng.borrow_mut().f64();
        if let Some(sink) = &mut *local.access_log.borrow_mut() {
            sink.write(&entry, draw);
        }
    }

    /// The last address of X-Forwarded-For that no trusted proxy has.
    fn client(&self) -> IpAddr {
        let peer = self.peer.ip().to_canonical();
        if !self.trusted {
            return peer;
        }
        let trusted: &[IpNet] = &self.listener.config.trusted_proxies;
        let Some(forwarded) = self.request.field(self.bytes, "x-forwarded-for") else {
            return peer;
        };
        String::from_utf8_lossy(forwarded)
            .rsplit(',')
            .map_while(|part| part.trim().parse::<IpAddr>().ok())
            .find(|address| !trusted.iter().any(|net| net.contains(address)))
            .unwrap_or(peer)
    }
}
