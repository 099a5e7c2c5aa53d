//! ○ What the demo runs on: two ingresses, a certificate made on the spot, a configuration, and the
//! product in front of them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, pem};
use rustls::{ClientConfig, RootCertStore};

use crate::app::{self, Running};
use crate::cli::load::RealWorld;
use crate::config::Secret;
use crate::config::check::{CertificateFacts, Checked, Diagnostic, Problem, Spot, World, check};
use crate::config::diff;
use crate::control::Source;
use crate::tls::provider;

use super::ingress::Ingress;

/// Where the admin server is looked for first.
const ADMIN_PORT: u16 = 9090;

/// Everything on stage.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) hot: Ingress,
    pub(super) standby: Ingress,
    pub(super) running: Running,
    pub(super) address: SocketAddr,
    pub(super) admin: SocketAddr,
    /// What a client of ours believes.
    pub(super) client: Arc<ClientConfig>,
    /// As Standfast read it.
    pub(super) config: String,
    /// Remarks about ports that were taken.
    pub(super) notes: Vec<String>,
}

/// Builds the stage; `port` is where users come in, or a free one if it is taken.
pub(super) fn build(port: u16) -> Result<Stage, String> {
    let said = |error: io::Error| error.to_string();
    let hot = Ingress::start("hot").map_err(said)?;
    let standby = Ingress::start("standby").map_err(said)?;
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
        .map_err(|error| error.to_string())?;
    let world = InMemory { cert: pair.cert.pem(), key: pair.signing_key.serialize_pem() };
    let client = client(&world.cert)?;
    let world = Arc::new(world);
    let mut left = 3;
    loop {
        let mut notes = Vec::new();
        let address = free(port, &mut notes).map_err(said)?;
        let admin = free(ADMIN_PORT, &mut notes).map_err(said)?;
        let config = text(address, admin, hot.address, standby.address);
        left -= 1;
        match start(&config, &world) {
            Ok(running) => {
                return Ok(Stage { hot, standby, running, address, admin, client, config, notes });
            }
            Err(error) if left == 0 => return Err(error),
            // Somebody took a port between the look and the bind: look again.
            Err(_) => {}
        }
    }
}

fn start(config: &str, world: &Arc<InMemory>) -> Result<Running, String> {
    let (config, world) = (config.to_owned(), Arc::clone(world));
    let load = move || -> Checked { check(&config, &*world) };
    let (checked, _) = load().map_err(|found| first(&found))?;
    let source = Source {
        file: "(the demo's own configuration)".to_owned(),
        load: Box::new(load),
        describe: |old, new| diff::diff(old, new).iter().map(ToString::to_string).collect(),
    };
    app::start(checked, source).map_err(|errors| errors.join("; "))
}

/// The configuration from the README, and the lines a demo needs.
fn text(address: SocketAddr, admin: SocketAddr, hot: SocketAddr, standby: SocketAddr) -> String {
    let mut text = String::new();
    let mut line = |yaml: &str, remark: &str| {
        text.push_str(format!("{yaml:56}{remark}").trim_end());
        text.push('\n');
    };
    line("listeners:", "");
    line(&format!(r#"  - bind: "{address}""#), "");
    line("    tls: { cert_file: demo.crt, key_file: demo.key }", "# made just now");
    line("    service: app", "");
    line("services:", "");
    line("  app:", "");
    line("    health_check: { path: /healthz }", "");
    line("    failover: { failback: { stable_for: 3s } }", "# demo; default 5m");
    line("    pools:", "# by priority");
    line("      - name: hot", "");
    line(&format!("        endpoints: [http://{hot}]"), "");
    line("      - name: standby", "");
    line(&format!("        endpoints: [http://{standby}]"), "");
    line(&format!(r#"admin: {{ listen: "{admin}" }}"#), "# demo");
    text
}

/// An address of loopback with this port, or with a free one and a remark.
fn free(port: u16, notes: &mut Vec<String>) -> io::Result<SocketAddr> {
    if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        return listener.local_addr();
    }
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    notes.push(format!("port {port} is taken, {} is used instead", address.port()));
    Ok(address)
}

fn client(certificate: &str) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
        .map_err(|error: pem::Error| error.to_string())?;
    roots.add(certificate).map_err(|error| error.to_string())?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn first(found: &[Diagnostic]) -> String {
    let first = found.first().map(|found| format!("line {}: {}", found.line, found.message));
    first.unwrap_or_default()
}

/// The real world, but for two files that exist in memory alone.
#[derive(Debug)]
struct InMemory {
    cert: String,
    key: String,
}

impl World for InMemory {
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.to_str() {
            Some("demo.crt") => Ok(self.cert.clone().into_bytes()),
            Some("demo.key") => Ok(self.key.clone().into_bytes()),
            _ => RealWorld.read_file(path),
        }
    }

    fn look_at(&self, path: &Path) -> io::Result<Spot> {
        RealWorld.look_at(path)
    }

    fn env(&self, name: &str) -> Option<String> {
        RealWorld.env(name)
    }

    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        RealWorld.resolve(host, port)
    }

    fn inspect_certificate(
        &self,
        chain_pem: &[u8],
        key_pem: &Secret,
    ) -> Result<CertificateFacts, Problem> {
        RealWorld.inspect_certificate(chain_pem, key_pem)
    }

    fn inspect_ca(&self, pem: &[u8]) -> Result<(), Problem> {
        RealWorld.inspect_ca(pem)
    }

    fn descriptor_limit(&self) -> u64 {
        RealWorld.descriptor_limit()
    }

    fn unix_now(&self) -> i64 {
        RealWorld.unix_now()
    }

    fn cores(&self) -> usize {
        RealWorld.cores()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_shown_fits_80_columns_and_is_the_one_that_runs() {
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let text = text(address(60_001), address(60_002), address(60_003), address(60_004));
        assert!(text.lines().all(|line| line.chars().count() + 4 <= 80), "{text}");
        let names = ["localhost".to_owned()];
        let pair = rcgen::generate_simple_self_signed(names).unwrap();
        let world = InMemory { cert: pair.cert.pem(), key: pair.signing_key.serialize_pem() };
        let (config, _) = check(&text, &world).unwrap();
        assert_eq!(config.listeners[0].bind, address(60_001));
        assert_eq!(config.admin.listen, address(60_002));
        let pools = &config.services[0].pools;
        assert_eq!(pools[1].endpoints[0].address, address(60_004));
    }
}
