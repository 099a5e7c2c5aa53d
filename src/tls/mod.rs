//! ○ TLS: certificates of listeners, clients for endpoints, all replaced whole at a reload.
//!
//! [`certs`] chooses a certificate by SNI, [`client`] builds what dials endpoints, [`inspect`]
//! answers what `check` asks about certificate files.

pub mod certs;
pub mod client;
pub mod inspect;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion, version};

use crate::config::{CheckKind, Config, Listener, Pool, Scheme, Tls, TlsVersion, UpstreamTls};

pub use client::server_name;

/// The protocols offered and accepted by ALPN, best first.
const ALPN: &[&[u8]] = &[b"http/1.1"];

/// What is in force now: the second `ArcSwap` of the process, the one named exception.
#[derive(Debug)]
pub struct Certificates {
    inner: ArcSwap<Prepared>,
}

/// Built from a configuration, not in force yet.
#[derive(Debug)]
pub struct Prepared {
    servers: HashMap<Arc<str>, Arc<ServerConfig>>,
    clients: HashMap<UpstreamTls, Arc<ClientConfig>>,
}

impl Certificates {
    /// Everything a configuration needs, or what is wrong: a sentence that names the file.
    pub fn prepare(config: &Config) -> Result<Prepared, String> {
        let mut servers = HashMap::new();
        for listener in &config.listeners {
            if let Some(tls) = &listener.tls {
                servers.insert(Arc::clone(&listener.name), server_config(listener, tls)?);
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
        self.inner.load().servers.get(listener).cloned()
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

fn server_config(listener: &Listener, tls: &Tls) -> Result<Arc<ServerConfig>, String> {
    let resolver = certs::BySni::new(&tls.certificates)
        .map_err(|error| format!("listener {}: {error}", listener.name))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(tls.min_version))
        .map_err(|error| format!("listener {}: {error}", listener.name))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
    // Tickets hold the session on the client's side; nothing is kept for it here.
    config.ticketer = ticketer()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // A second ticket costs every handshake and helps only clients that open several at once.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
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
        || pool.endpoints.iter().any(|endpoint| endpoint.scheme == Scheme::Https)
}

#[cfg(test)]
pub(crate) mod tests;
