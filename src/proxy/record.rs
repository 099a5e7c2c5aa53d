//! ○ A finished request as a line of the access log.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::exchange::{Call, Ended};
use super::local::Local;
use super::respond;
use crate::config::IpNet;
use crate::http1::{Request, Version};
use crate::observe::access_log::Entry;
use crate::table::Listener;
use crate::upstream::lease::Chosen;

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
    pub call: Option<&'a Call>,
    pub status: u16,
    pub ended: Ended,
    pub started: Duration,
    pub duration: Duration,
}

impl Record<'_> {
    pub fn write(&self, local: &Local) {
        let service = self.call.map(|call| &call.table.services[call.service]);
        let last = self.call.and_then(|call| call.last.as_ref());
        let (pool, endpoint) = (last.map(Chosen::pool), last.map(Chosen::endpoint));
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
            },
            status: self.status,
            request_body_bytes: self.request_body_bytes,
            response_body_bytes: self.response_body_bytes,
            user_agent: self.request.field(self.bytes, "user-agent"),
            request_id: trusted_id.unwrap_or(self.request_id),
            listener: &self.listener.config.name,
            service: service.map(|service| &*service.config.name),
            pool: pool.map(|pool| &*pool.config.name),
            endpoint: endpoint.map(|endpoint| &*endpoint.config.name),
            attempts: self.call.map_or(0, |call| call.attempts),
            duration: self.duration,
            first_byte: self
                .call
                .and_then(|call| call.first_byte)
                .map(|at| at.saturating_sub(self.started)),
            reason: respond::reason(self.ended),
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
