//! ○ TLS: certificates of listeners, clients for endpoints, all replaced whole at a reload.
//!
//! [`certs`] chooses a certificate by SNI, [`client`] builds what dials endpoints, [`inspect`]
//! answers what `check` asks about certificate files.

pub mod certs;
pub mod client;
pub mod hello;
pub mod inspect;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion, version};

use crate::config::{
    CheckKind, Config, Listener, Pool, Protocols, Scheme, Tls, TlsVersion, UpstreamTls,
};
use certs::BySni;

pub use client::server_name;

/// The names of the protocols (RFC 7301, RFC 9113 section 3.1).
const HTTP1: &[u8] = b"http/1.1";
pub const HTTP2: &[u8] = b"h2";

/// What is in force now: the second `ArcSwap` of the process, the one named exception.
#[derive(Debug)]
pub struct Certificates {
    inner: ArcSwap<Prepared>,
}

/// Built from a configuration, not in force yet.
#[derive(Debug)]
pub struct Prepared {
    servers: HashMap<Arc<str>, Server>,
    clients: HashMap<UpstreamTls, Arc<ClientConfig>>,
}

/// What a listener needs for its handshakes.
#[derive(Debug)]
struct Server {
    config: Arc<ServerConfig>,
    resolver: Arc<BySni>,
}

/// The names one connection was opened for, as far as its certificate says.
#[derive(Debug)]
pub struct Served {
    resolver: Arc<BySni>,
    sni: Option<String>,
}

impl Served {
    /// A request for this host (without port) may come over the connection: it is the name the
    /// client asked for, or one that the certificate it was shown carries (RFC 9110 section 7.4,
    /// RFC 9113 section 9.1.1). An address cannot be asked for by SNI.
    pub fn covers(&self, host: &str) -> bool {
        let is_address = || host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
        let asked_for = match &self.sni {
            Some(sni) => sni.eq_ignore_ascii_case(host),
            None => is_address(),
        };
        asked_for || self.resolver.covers(self.sni.as_deref(), &host.to_ascii_lowercase())
    }
}

impl Certificates {
    /// Everything a configuration needs, or what is wrong: a sentence that names the file.
    pub fn prepare(config: &Config) -> Result<Prepared, String> {
        let mut servers = HashMap::new();
        for listener in &config.listeners {
            if let Some(tls) = &listener.tls {
                servers.insert(Arc::clone(&listener.name), server(listener, tls)?);
            }
        }
        let mut clients = HashMap::new();
        let mut system_roots = None;
        for pool in config.services.iter().flat_map(|service| &service.pools) {
            let settings = &pool.upstream.tls;
            if dials_tls(pool) && !clients.contains_key(settings) {
                clients.insert(settings.clone(), client::config(settings, &mut system_roots)?);
            }
        }
        Ok(Prepared { servers, clients })
    }

    pub fn new(prepared: Prepared) -> Arc<Self> {
        Arc::new(Self { inner: ArcSwap::from_pointee(prepared) })
    }

    /// Puts `prepared` in force. Open connections keep theirs; session tickets stay valid.
    pub fn replace(&self, prepared: Prepared) {
        self.inner.store(Arc::new(prepared));
    }

    /// For a listener by name; `None` where it has no TLS.
    pub fn server(&self, listener: &str) -> Option<Arc<ServerConfig>> {
        self.inner.load().servers.get(listener).map(|server| Arc::clone(&server.config))
    }

    /// What a connection of this listener, opened for `sni`, may be asked for.
    pub fn served(&self, listener: &str, sni: Option<&str>) -> Option<Served> {
        let prepared = self.inner.load();
        let resolver = Arc::clone(&prepared.servers.get(listener)?.resolver);
        Some(Served { resolver, sni: sni.map(str::to_owned) })
    }

    /// For endpoints with these settings; one without verification or with system roots included.
    /// `None` where the configuration in force has no pool that dials TLS with them.
    pub fn client(&self, settings: &UpstreamTls) -> Option<Arc<ClientConfig>> {
        self.inner.load().clients.get(settings).cloned()
    }
}

/// The cryptography of the process, always passed explicitly.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

/// One source of session tickets for all listeners and all configurations of the process, so that a
/// reload costs nobody a full handshake. Its keys are random and rotate every six hours.
fn ticketer() -> Result<Arc<dyn ProducesTickets>, String> {
    static TICKETER: OnceLock<Arc<dyn ProducesTickets>> = OnceLock::new();
    if let Some(ticketer) = TICKETER.get() {
        return Ok(Arc::clone(ticketer));
    }
    let made = aws_lc_rs::Ticketer::new()
        .map_err(|error| format!("the keys for session tickets cannot be made: {error}"))?;
    Ok(Arc::clone(TICKETER.get_or_init(|| made)))
}

fn server(listener: &Listener, tls: &Tls) -> Result<Server, String> {
    let resolver = BySni::new(&tls.certificates)
        .map_err(|error| format!("listener {}: {error}", listener.name))?;
    let resolver = Arc::new(resolver);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(tls.min_version))
        .map_err(|error| format!("listener {}: {error}", listener.name))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&resolver) as _);
    // Best first: where a client offers both, it gets HTTP/2.
    let Protocols { http1, http2 } = listener.protocols;
    let names = [(http2, HTTP2), (http1, HTTP1)];
    let spoken = names.into_iter().filter(|(spoken, _)| *spoken);
    config.alpn_protocols = spoken.map(|(_, name)| name.to_vec()).collect();
    // Tickets hold the session on the client's side; nothing is kept for it here.
    config.ticketer = ticketer()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // A second ticket costs every handshake and helps only clients that open several at once.
    config.send_tls13_tickets = 1;
    Ok(Server { config: Arc::new(config), resolver })
}

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_1_2: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    match min {
        TlsVersion::V1_2 => &FROM_1_2,
        TlsVersion::V1_3 => &FROM_1_2[..1],
    }
}

/// Whether requests or probes of this pool need a TLS client.
fn dials_tls(pool: &Pool) -> bool {
    let check = pool.health_check.as_ref().map(|check| &check.kind);
    matches!(check, Some(CheckKind::Http(http)) if http.tls)
        || matches!(check, Some(CheckKind::Tls))
        || pool.endpoints.iter().any(|endpoint| endpoint.scheme == Scheme::Https)
}

#[cfg(test)]
pub(crate) mod tests;
