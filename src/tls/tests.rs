use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConnection, HandshakeKind, ProtocolVersion, ServerConnection};

use super::*;
use crate::config::{self, CaFile, Certificate, Secret};

/// A certificate authority for one test.
pub(crate) struct Authority {
    pub(crate) pem: String,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let pem = Self::params(name).self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(Self::params(name), key) }
    }

    pub(crate) fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }
}

/// Certificate and key as PEM.
pub(crate) fn leaf(authority: &Authority, names: &[&str]) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let params = CertificateParams::new(names).unwrap();
    (params.signed_by(&key, &authority.issuer).unwrap().pem(), key.serialize_pem())
}

pub(crate) fn rsa_key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap()
}

pub(crate) fn with_names((chain, key): &(String, String), names: &[&str]) -> Certificate {
    Certificate {
        cert_file: "app.crt".into(),
        key_file: "app.key".into(),
        chain_pem: chain.clone().into_bytes(),
        key_pem: Secret(key.clone().into_bytes()),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        not_after: 0,
    }
}

fn listener(certificate: Certificate, min_version: TlsVersion) -> Arc<Listener> {
    Arc::new(Listener {
        name: "https".into(),
        bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        protocols: Protocols { http1: true, http2: true },
        tls: Some(Tls { min_version, certificates: vec![certificate] }),
        redirect_https: false,
        mode: <_>::default(),
        proxy_protocol: Vec::new(),
        trusted_proxies: Vec::new(),
        limits: config::Limits {
            max_connections: 1,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            max_header_size: 65_536,
            max_headers: 128,
            max_uri: 16_384,
            max_body_size: None,
            max_concurrent_streams: 128,
        },
        routes: Vec::new(),
    })
}

fn pool(tls: UpstreamTls) -> Arc<Pool> {
    let address = SocketAddr::from(([127, 0, 0, 1], 443));
    Arc::new(Pool {
        name: "hot".into(),
        min_healthy: 1,
        health_check: None,
        upstream: config::Upstream { tls, max_requests: 1024, warm: 0, proxy_protocol: None },
        endpoints: vec![Arc::new(config::Endpoint {
            name: "127.0.0.1:443".into(),
            scheme: Scheme::Https,
            host: "127.0.0.1".into(),
            address,
            weight: 1,
        })],
    })
}

fn config(listeners: Vec<Arc<Listener>>, upstream: &[&UpstreamTls]) -> Config {
    let failback = config::Failback::Manual;
    let failover = config::Failover {
        failback,
        when_none: config::WhenNone::TryAll,
        hold: <_>::default(),
        sessions: <_>::default(),
    };
    Config {
        admin: config::Admin {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            listen_is_explicit: true,
            socket: None,
            token: None,
        },
        process: config::Process {
            workers: None,
            lame_duck: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            state_file: None,
            history_file: None,
        },
        logging: config::Logging {
            level: config::Level::Info,
            format: config::LogFormat::Text,
            access_log: None,
        },
        listeners,
        services: vec![Arc::new(config::Service {
            name: "app".into(),
            balance: config::Balance::RoundRobin,
            failover,
            outlier_errors: Some(5),
            retries: config::Retries { attempts: 2, budget: 0.2 },
            timeouts: config::Timeouts {
                connect: Duration::from_secs(1),
                response_header: Duration::from_secs(30),
                idle: Duration::from_secs(60),
                total: None,
                silence: None,
            },
            pools: upstream.iter().map(|tls| pool((*tls).clone())).collect(),
        })],
        digest: String::new(),
    }
}

fn trusting(authority: &Authority) -> UpstreamTls {
    let ca = CaFile { path: "ca.crt".into(), pem: authority.pem.clone().into_bytes() };
    UpstreamTls { server_name: None, ca: Some(ca), verify: true }
}

/// A whole handshake in memory, with what the server sends after it (tickets).
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<ClientConnection, rustls::Error> {
    let name = server_name(name).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        server.read_tls(&mut io::Cursor::new(&bytes)).unwrap();
        server.process_new_packets()?;
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut io::Cursor::new(&bytes)).unwrap();
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(client)
}

/// What a listener shows and what a client of endpoints believes, face to face.
struct Pair {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

fn pair(shown: &(String, String), believed: &UpstreamTls) -> Pair {
    let listener = listener(with_names(shown, &["app.example.com"]), TlsVersion::V1_2);
    let prepared = Certificates::prepare(&config(vec![listener], &[believed])).unwrap();
    let certificates = Certificates::new(prepared);
    Pair {
        server: certificates.server("https").unwrap(),
        client: certificates.client(believed).unwrap(),
    }
}

#[test]
fn both_sides_agree_on_tls_1_3_and_http_1_1() {
    let authority = Authority::new("CA");
    let Pair { server, client } =
        pair(&leaf(&authority, &["app.example.com"]), &trusting(&authority));
    let connection = handshake(&client, &server, "app.example.com").unwrap();
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn an_endpoint_with_another_name_or_another_ca_is_refused() {
    let authority = Authority::new("CA");
    let cert = leaf(&authority, &["app.example.com"]);
    let Pair { server, client } = pair(&cert, &trusting(&authority));
    handshake(&client, &server, "other.example.com").unwrap_err();
    let stranger = pair(&cert, &trusting(&Authority::new("CA")));
    handshake(&stranger.client, &server, "app.example.com").unwrap_err();
}

#[test]
fn an_endpoint_is_verified_by_its_address_as_well() {
    let authority = Authority::new("CA");
    let Pair { server, client } =
        pair(&leaf(&authority, &["10.0.1.10", "::1"]), &trusting(&authority));
    handshake(&client, &server, "10.0.1.10").unwrap();
    handshake(&client, &server, "[::1]").unwrap();
    handshake(&client, &server, "10.0.1.11").unwrap_err();
}

#[test]
fn without_verification_any_certificate_will_do() {
    let cert = leaf(&Authority::new("CA"), &["app.example.com"]);
    let nobody = UpstreamTls { server_name: None, ca: None, verify: false };
    let Pair { server, client } = pair(&cert, &nobody);
    handshake(&client, &server, "other.example.com").unwrap();
}

#[test]
fn an_old_client_is_refused_where_tls_1_3_is_the_least() {
    let authority = Authority::new("CA");
    let cert = leaf(&authority, &["app.example.com"]);
    let old = Arc::new(
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS12])
            .unwrap()
            .with_root_certificates({
                let mut roots = rustls::RootCertStore::empty();
                roots
                    .add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap())
                    .unwrap();
                roots
            })
            .with_no_client_auth(),
    );
    for (min, accepted) in [(TlsVersion::V1_2, true), (TlsVersion::V1_3, false)] {
        let listener = listener(with_names(&cert, &["app.example.com"]), min);
        let prepared = Certificates::prepare(&config(vec![listener], &[])).unwrap();
        let server = &prepared.servers["https"];
        assert_eq!(handshake(&old, &server.config, "app.example.com").is_ok(), accepted, "{min:?}");
    }
}

#[test]
fn a_session_ticket_outlives_a_reload() {
    let authority = Authority::new("CA");
    let settings = trusting(&authority);
    let load = || {
        let cert = leaf(&authority, &["app.example.com"]);
        let listener = listener(with_names(&cert, &["app.example.com"]), TlsVersion::V1_2);
        Certificates::prepare(&config(vec![listener], &[&settings])).unwrap()
    };
    let certificates = Certificates::new(load());
    let client = certificates.client(&settings).unwrap();
    let meet = || {
        let server = certificates.server("https").unwrap();
        handshake(&client, &server, "app.example.com").unwrap().handshake_kind()
    };
    assert_eq!(meet(), Some(HandshakeKind::Full));
    certificates.replace(load());
    assert_eq!(meet(), Some(HandshakeKind::Resumed));
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let authority = Authority::new("CA");
    let (chain, _) = leaf(&authority, &["app.example.com"]);
    let (_, key) = leaf(&authority, &["app.example.com"]);
    let mismatched = listener(with_names(&(chain, key), &[]), TlsVersion::V1_2);
    let error = Certificates::prepare(&config(vec![mismatched], &[])).unwrap_err();
    assert!(error.starts_with("listener https: app.crt: "), "{error}");
    let empty = CaFile { path: "ca.crt".into(), pem: Vec::new() };
    let settings = UpstreamTls { server_name: None, ca: Some(empty), verify: true };
    let error = Certificates::prepare(&config(Vec::new(), &[&settings])).unwrap_err();
    assert_eq!(error, "ca.crt: there is no certificate in this file");
}

#[test]
fn a_name_that_is_neither_dns_nor_an_address_is_refused() {
    server_name("app.example.com").unwrap();
    assert!(server_name("not a name").unwrap_err().contains("`not a name`"));
}
