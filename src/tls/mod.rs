//! ○ TLS: certificates of listeners, clients for endpoints, all replaced whole at a reload.

use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};

use crate::config::{Config, UpstreamTls};

/// What is in force now: the second `ArcSwap` of the process, the one named exception.
#[derive(Debug)]
pub struct Certificates {
    _private: (),
}

/// Built from a configuration, not in force yet.
#[derive(Debug)]
pub struct Prepared {
    _private: (),
}

#[expect(unused_variables, reason = "being built")]
impl Certificates {
    /// Everything a configuration needs, or what is wrong: a sentence that names the file.
    pub fn prepare(config: &Config) -> Result<Prepared, String> {
        todo!()
    }

    pub fn new(prepared: Prepared) -> Arc<Self> {
        todo!()
    }

    /// Puts `prepared` in force. Open connections keep theirs; session tickets stay valid.
    pub fn replace(&self, prepared: Prepared) {
        todo!()
    }

    /// For a listener by name.
    pub fn server(&self, listener: &str) -> Option<Arc<ServerConfig>> {
        todo!()
    }

    /// For endpoints with these settings; one without verification or with system roots included.
    pub fn client(&self, settings: &UpstreamTls) -> Option<Arc<ClientConfig>> {
        todo!()
    }
}

/// The name a client asks for and verifies.
pub fn server_name(host: &str) -> Result<rustls::pki_types::ServerName<'static>, String> {
    let _ = host;
    todo!()
}
