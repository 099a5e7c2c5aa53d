//! ○ TLS towards endpoints: whom we believe.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::config::{CaFile, UpstreamTls};

/// The name to verify and to send as SNI: a DNS name or a literal address, with or without the
/// brackets of a URL.
pub fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(bare.to_owned())
        .map_err(|_| format!("`{host}` is neither a DNS name nor an address"))
}

/// A client for these settings. The system's roots are read once into `system_roots`, if at all.
pub(super) fn config(
    settings: &UpstreamTls,
    system_roots: &mut Option<Arc<RootCertStore>>,
) -> Result<Arc<ClientConfig>, String> {
    let provider = super::provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if settings.verify {
        let roots = roots(settings, system_roots)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| error.to_string())?;
        builder.with_webpki_verifier(verifier)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificateAtAll))
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![super::HTTP1.to_vec()];
    Ok(Arc::new(config))
}

fn roots(
    settings: &UpstreamTls,
    system_roots: &mut Option<Arc<RootCertStore>>,
) -> Result<Arc<RootCertStore>, String> {
    if let Some(file) = &settings.ca {
        return from_file(file).map(Arc::new);
    }
    if let Some(roots) = system_roots {
        return Ok(Arc::clone(roots));
    }
    let roots = Arc::new(of_the_system()?);
    *system_roots = Some(Arc::clone(&roots));
    Ok(roots)
}

fn from_file(file: &CaFile) -> Result<RootCertStore, String> {
    let of = |error: String| format!("{}: {error}", file.path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&file.pem) {
        let certificate = certificate.map_err(|error| of(error.to_string()))?;
        roots.add(certificate).map_err(|error| of(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(of("there is no certificate in this file".to_owned()));
    }
    Ok(roots)
}

fn of_the_system() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!(
            "this machine has no CA certificates to verify https endpoints with{why}: install \
             the package ca-certificates, or write `upstream.tls.ca_file`"
        ));
    }
    Ok(roots)
}

/// `verify: false`: believes everybody, so that whoever is on the path can read and change
/// everything. That the peer holds the key of the certificate it shows is checked all the same,
/// which proves nothing about who it is.
#[derive(Debug)]
struct AnyCertificateAtAll;

impl ServerCertVerifier for AnyCertificateAtAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = super::provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = super::provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        super::provider().signature_verification_algorithms.supported_schemes()
    }
}
