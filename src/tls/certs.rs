//! ○ Which certificate a listener shows: by SNI and by what the client can verify.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::Certificate;

/// The certificates of one listener. An exact name goes before a wildcard, a wildcard stands for
/// one
/// label (RFC 6125 section 6.4.3), and a client that names none of them gets the first. Where
/// several fit, the first one whose key the client can verify is shown, so that a name may have an
/// ECDSA and an RSA certificate.
#[derive(Debug)]
pub(super) struct BySni {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
    /// What each of `all` carries, in lower case.
    names: Vec<Vec<String>>,
}

impl BySni {
    /// The error is a sentence that names the file.
    pub(super) fn new(certificates: &[Certificate]) -> Result<Self, String> {
        let mut this = Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            all: Vec::new(),
            names: Vec::new(),
        };
        for certificate in certificates {
            let key = Arc::new(certified_key(certificate)?);
            for name in &certificate.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut this.wildcard, parent),
                    None => (&mut this.exact, name.as_str()),
                };
                names.entry(name.to_owned()).or_default().push(Arc::clone(&key));
            }
            this.all.push(key);
            this.names.push(certificate.names.clone());
        }
        Ok(this)
    }

    /// A certificate that a client asking for `sni` may have been shown carries `host`, which is in
    /// lower case and without port.
    pub(super) fn covers(&self, sni: Option<&str>, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        let fits = |name: &str| match name.strip_prefix("*.") {
            Some(wildcard) => parent == Some(wildcard),
            None => name == host,
        };
        let carries = |shown: &Arc<CertifiedKey>| {
            let mut all = self.all.iter().zip(&self.names);
            all.any(|(key, names)| Arc::ptr_eq(key, shown) && names.iter().any(|name| fits(name)))
        };
        let mut named = self.named(sni).peekable();
        match named.peek() {
            Some(_) => named.any(carries),
            None => self.all.first().is_some_and(carries),
        }
    }

    /// Those that carry the name asked for, best first.
    fn named(&self, sni: Option<&str>) -> impl Iterator<Item = &Arc<CertifiedKey>> {
        let exact = sni.and_then(|name| self.exact.get(name));
        let wildcard = sni
            .and_then(|name| name.split_once('.'))
            .and_then(|(_, parent)| self.wildcard.get(parent));
        exact.into_iter().chain(wildcard).flatten()
    }

    fn choose(&self, sni: Option<&str>, offered: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let candidates = || self.named(sni).chain(&self.all);
        candidates()
            .find(|certified| certified.key.choose_scheme(offered).is_some())
            .or_else(|| candidates().next())
            .cloned()
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls hands the name over in lower case.
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

fn certified_key(certificate: &Certificate) -> Result<CertifiedKey, String> {
    let of = |path: &std::path::Path, error: String| format!("{}: {error}", path.display());
    let chain = CertificateDer::pem_slice_iter(&certificate.chain_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| of(&certificate.cert_file, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&certificate.key_pem.0)
        .map_err(|error| of(&certificate.key_file, error.to_string()))?;
    CertifiedKey::from_der(chain, key, &super::provider())
        .map_err(|error| of(&certificate.cert_file, error.to_string()))
}

#[cfg(test)]
mod tests {
    use rcgen::CertificateParams;

    use super::*;
    use crate::tls::tests::{Authority, leaf, rsa_key, with_names};

    const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
    const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];

    fn chosen(resolver: &BySni, sni: Option<&str>, offered: &[SignatureScheme]) -> usize {
        let chosen = resolver.choose(sni, offered).unwrap();
        resolver.all.iter().position(|one| Arc::ptr_eq(one, &chosen)).unwrap()
    }

    #[test]
    fn an_exact_name_goes_before_a_wildcard_and_a_stranger_gets_the_first() {
        let authority = Authority::new("CA");
        let names: [&[&str]; 3] = [&["first.test"], &["*.example.com"], &["app.example.com"]];
        let resolver =
            BySni::new(&names.map(|names| with_names(&leaf(&authority, names), names))).unwrap();
        for (sni, at) in [
            (Some("first.test"), 0),
            (Some("app.example.com"), 2),
            (Some("shop.example.com"), 1),
            (Some("a.shop.example.com"), 0),
            (Some("example.com"), 0),
            (Some("com"), 0),
            (None, 0),
        ] {
            assert_eq!(chosen(&resolver, sni, ECDSA), at, "{sni:?}");
        }
    }

    #[test]
    fn of_two_certificates_for_a_name_the_client_gets_the_one_it_can_verify() {
        let authority = Authority::new("CA");
        let names = ["app.example.com"];
        let key = rsa_key();
        let params = CertificateParams::new(names.map(str::to_owned)).unwrap();
        let rsa = params.signed_by(&key, &authority.issuer).unwrap().pem();
        let resolver = BySni::new(&[
            with_names(&leaf(&authority, &["first.test"]), &["first.test"]),
            with_names(&leaf(&authority, &names), &names),
            with_names(&(rsa, key.serialize_pem()), &names),
        ])
        .unwrap();
        assert_eq!(chosen(&resolver, Some(names[0]), ECDSA), 1);
        assert_eq!(chosen(&resolver, Some(names[0]), RSA), 2);
        assert_eq!(chosen(&resolver, Some(names[0]), &[]), 1);
    }
}
