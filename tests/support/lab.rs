//! A directory of its own for one test, with a CA and a certificate for the listener.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use super::certs::{Authority, Pair};

/// Everything of one test lives in here and goes with it.
pub struct Lab {
    dir: TempDir,
    pub ca: Authority,
    /// For `app.test`, `*.app.test` and 127.0.0.1.
    pub app: Pair,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("standfast-test-").tempdir().unwrap();
        let ca = Authority::new(dir.path(), "ca");
        let app = ca.issue("app", &["app.test", "*.app.test", "127.0.0.1"]);
        Self { dir, ca, app }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `tls: …` of a listener, with the certificate of this lab.
    pub fn tls(&self) -> String {
        tls(&self.app)
    }

    /// A TLS client that trusts this lab's CA alone.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let pem = fs::read(&self.ca.ca_file).unwrap();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.unwrap()).unwrap();
        }
        Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
    }
}

/// `{ cert_file: …, key_file: … }` in YAML.
pub fn tls(pair: &Pair) -> String {
    let (cert, key) = (pair.cert_file.display(), pair.key_file.display());
    format!("{{ cert_file: {cert}, key_file: {key} }}")
}

/// A configuration with a plain listener and one service of one pool with one endpoint.
pub fn plain(bind: SocketAddr, endpoint: &str) -> String {
    plain_with(bind, "", "", endpoint)
}

/// The same, with more lines for the listener and for the service, each line as it stands in YAML.
pub fn plain_with(bind: SocketAddr, listener: &str, service: &str, endpoint: &str) -> String {
    format!(
        "listeners:
  - bind: {bind}
    service: app
    {listener}
services:
  app:
    {service}
    pools: [{{ name: hot, endpoints: [{endpoint}] }}]
"
    )
}

/// A configuration with a hot and a standby pool: what stands in the braces of the listener, the
/// lines of the service as they stand in YAML, and the endpoints of each pool.
pub fn two_pools(listener: &str, service: &str, hot: &[String], standby: &[String]) -> String {
    format!(
        "listeners: [{{ {listener}, service: app }}]
services:
  app:
    {service}
    pools:
      - {{ name: hot, endpoints: [{}] }}
      - {{ name: standby, endpoints: [{}] }}
",
        hot.join(", "),
        standby.join(", ")
    )
}
