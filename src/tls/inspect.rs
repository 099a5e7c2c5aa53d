//! ○ What `check` asks about certificate files: are they what they should be, do they belong
//! together, and if not, what to do.

use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::Secret;
use crate::config::check::{CertificateFacts, Problem};

/// Parses a chain and its key and matches them.
pub fn certificate(chain_pem: &[u8], key_pem: &Secret) -> Result<CertificateFacts, Problem> {
    let chain = chain(chain_pem)?;
    let key = private_key(&key_pem.0)?;
    let key = super::provider().key_provider.load_private_key(key).map_err(|error| {
        in_key(
            format!("this kind of key is not supported, or too weak ({error})"),
            "use an RSA key of 2048 bits or more, ECDSA P-256 or P-384, or Ed25519",
        )
    })?;
    let parsed = parse(&chain)?;
    if let Some(public) = key.public_key() {
        match parsed.iter().position(|cert| cert.public_key().raw == public.as_ref()) {
            Some(0) => {}
            Some(at) => return Err(leaf_is_not_first(at)),
            None => return Err(other_key()),
        }
    }
    in_order(&parsed)?;
    let leaf = &parsed[0];
    let facts = CertificateFacts {
        names: dns_names(leaf)?,
        not_before: leaf.validity().not_before.timestamp(),
        not_after: leaf.validity().not_after.timestamp(),
    };
    // What will serve has the last word.
    CertifiedKey::new(chain, key).keys_match().map_err(|error| {
        in_cert(format!("the certificate cannot be used ({error})"), "issue it anew")
    })?;
    Ok(facts)
}

/// Checks a bundle of CA certificates: at least one, all readable.
pub fn ca(pem: &[u8]) -> Result<(), Problem> {
    let mut roots = rustls::RootCertStore::empty();
    for (index, certificate) in chain(pem)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| {
            in_cert(
                format!("certificate {} of this file cannot be used ({error})", index + 1),
                "leave it out, or issue it anew",
            )
        })?;
    }
    Ok(())
}

/// The certificates of a PEM text; at least one.
fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| in_cert(broken(&error), "copy the file again, whole"))?;
    if !certificates.is_empty() {
        return Ok(certificates);
    }
    if looks_like_der(pem) {
        return Err(in_cert(
            "this file is DER, not PEM".to_owned(),
            "convert it: `openssl x509 -inform der -in FILE -out FILE.pem`",
        ));
    }
    if PrivateKeyDer::from_pem_slice(pem).is_ok() {
        return Err(in_cert(
            "this file holds a private key and no certificate".to_owned(),
            "write the certificate's file here; are the two files swapped?",
        ));
    }
    Err(in_cert(
        "there is no certificate in this file".to_owned(),
        "write a PEM file with a `-----BEGIN CERTIFICATE-----` section",
    ))
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    if is_encrypted(pem) {
        return Err(in_key(
            "the key is encrypted with a passphrase".to_owned(),
            "decrypt it into a file only standfast can read: `openssl pkey -in FILE -out NEW`",
        ));
    }
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if looks_like_der(pem) => Err(in_key(
            "this file is DER, not PEM".to_owned(),
            "convert it: `openssl pkey -inform der -in FILE -out FILE.pem`",
        )),
        Err(pem::Error::NoItemsFound) if has_certificate(pem) => Err(in_key(
            "this file holds a certificate and no private key".to_owned(),
            "write the key's file here; are the two files swapped?",
        )),
        Err(pem::Error::NoItemsFound) => Err(in_key(
            "there is no private key in this file".to_owned(),
            "write a PEM file with a `-----BEGIN PRIVATE KEY-----` section",
        )),
        Err(error) => Err(in_key(broken(&error), "copy the file again, whole")),
    }
}

/// PKCS #8 says so in the label, the older formats in a header line (RFC 1421).
fn is_encrypted(pem: &[u8]) -> bool {
    [&b"-----BEGIN ENCRYPTED PRIVATE KEY-----"[..], b"Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|mark| memchr::memmem::find(pem, mark).is_some())
}

fn has_certificate(pem: &[u8]) -> bool {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem)
        .any(|section| matches!(section, Ok((SectionKind::Certificate, _))))
}

/// An ASN.1 SEQUENCE with a long length, which no text begins with.
fn looks_like_der(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x81..=0x84, ..])
}

fn parse<'a>(chain: &'a [CertificateDer<'_>]) -> Result<Vec<X509Certificate<'a>>, Problem> {
    chain
        .iter()
        .enumerate()
        .map(|(index, der)| match X509Certificate::from_der(der) {
            Ok((_, certificate)) => Ok(certificate),
            Err(error) => Err(in_cert(
                format!("certificate {} of this file cannot be parsed ({error})", index + 1),
                "issue it anew",
            )),
        })
        .collect()
}

/// Clients follow a chain from the leaf upwards; some give up at a gap that sorting would close.
fn in_order(chain: &[X509Certificate<'_>]) -> Result<(), Problem> {
    for (index, pair) in chain.windows(2).enumerate() {
        let issuer = pair[0].issuer();
        if pair[1].subject() != issuer && chain[index + 2..].iter().any(|c| c.subject() == issuer) {
            return Err(in_cert(
                format!(
                    "the chain is out of order: certificate {} is not the issuer of the one \
                     before it, a later one is",
                    index + 2
                ),
                "order it: the server's own certificate first, then each one's issuer",
            ));
        }
    }
    Ok(())
}

/// Names a client may ask for. Clients have not looked at the common name for years.
fn dns_names(leaf: &X509Certificate<'_>) -> Result<Vec<String>, Problem> {
    let extension = leaf.subject_alternative_name().map_err(|error| {
        in_cert(format!("its subject alternative names cannot be read ({error})"), "issue it anew")
    })?;
    let names = extension.map(|e| e.value.general_names.as_slice()).unwrap_or_default();
    Ok(names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect())
}

fn leaf_is_not_first(at: usize) -> Problem {
    in_cert(
        format!("the key belongs to certificate {} of this file, not to the first", at + 1),
        "order it: the server's own certificate first, then each one's issuer",
    )
}

fn other_key() -> Problem {
    in_key(
        "the key belongs to another certificate".to_owned(),
        "compare `openssl x509 -in CERT -noout -pubkey` with `openssl pkey -in KEY -pubout`",
    )
}

fn broken(error: &pem::Error) -> String {
    format!("this file is not sound PEM ({error})")
}

fn in_cert(message: String, remedy: &str) -> Problem {
    Problem { in_key: false, message, remedy: remedy.to_owned() }
}

fn in_key(message: String, remedy: &str) -> Problem {
    Problem { in_key: true, message, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, Issuer, KeyPair};

    use super::*;
    use crate::tls::tests::{Authority, leaf, rsa_key};

    fn inspect(chain: &str, key: &str) -> Result<CertificateFacts, Problem> {
        certificate(chain.as_bytes(), &Secret(key.as_bytes().to_vec()))
    }

    fn complaint(chain: &str, key: &str) -> (bool, String) {
        let problem = inspect(chain, key).unwrap_err();
        assert!(!problem.remedy.is_empty());
        (problem.in_key, problem.message)
    }

    fn two_leaves() -> ((String, String), (String, String)) {
        let authority = Authority::new("CA");
        (leaf(&authority, &["a.example.com"]), leaf(&authority, &["b.example.com"]))
    }

    #[test]
    fn a_good_pair_tells_its_names_in_lower_case_and_its_validity() {
        let authority = Authority::new("CA");
        let (cert, key) = leaf(&authority, &["App.Example.com", "*.example.com", "127.0.0.1"]);
        let facts = inspect(&cert, &key).unwrap();
        assert_eq!(facts.names, ["app.example.com", "*.example.com"]);
        assert_eq!((facts.not_before, facts.not_after), (157_766_400, 67_090_118_400));
    }

    #[test]
    fn a_key_of_another_certificate_is_found_in_the_key() {
        let ((cert, _), (_, key)) = two_leaves();
        assert_eq!(complaint(&cert, &key), (true, "the key belongs to another certificate".into()));
    }

    #[test]
    fn a_chain_whose_leaf_is_not_first_is_out_of_order() {
        let authority = Authority::new("CA");
        let (cert, key) = leaf(&authority, &["a.example.com"]);
        let (in_key, message) = complaint(&format!("{}{cert}", authority.pem), &key);
        assert!(!in_key && message.contains("certificate 2 of this file, not to the first"));
        inspect(&format!("{cert}{}", authority.pem), &key).unwrap();
    }

    #[test]
    fn a_chain_whose_issuers_are_swapped_is_out_of_order() {
        let root = Authority::new("root");
        let key = KeyPair::generate().unwrap();
        let middle = Authority::params("middle").signed_by(&key, &root.issuer).unwrap().pem();
        let issuer = Issuer::new(Authority::params("middle"), key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["a.example.com".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap().pem();
        let key = key.serialize_pem();
        inspect(&format!("{cert}{middle}{}", root.pem), &key).unwrap();
        let (in_key, message) = complaint(&format!("{cert}{}{middle}", root.pem), &key);
        assert!(!in_key && message.contains("out of order: certificate 2"), "{message}");
    }

    #[test]
    fn swapped_files_are_recognised() {
        let ((cert, key), _) = two_leaves();
        assert_eq!(
            complaint(&key, &cert),
            (false, "this file holds a private key and no certificate".into())
        );
        assert_eq!(
            complaint(&cert, &cert),
            (true, "this file holds a certificate and no private key".into())
        );
    }

    #[test]
    fn empty_broken_and_binary_files_are_told_apart() {
        let ((cert, key), _) = two_leaves();
        let says = |chain: &str, key: &str, part: &str| {
            let (_, message) = complaint(chain, key);
            assert!(message.contains(part), "{message}");
        };
        says("", &key, "no certificate in this file");
        says(&cert, "", "no private key in this file");
        says(&cert[..cert.len() / 2], &key, "not sound PEM");
        says(&cert, &key[..key.len() / 2], "not sound PEM");
        let der = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
        let problem = certificate(&der, &Secret(key.into_bytes())).unwrap_err();
        assert!(problem.message.contains("DER, not PEM"));
    }

    #[test]
    fn an_encrypted_key_is_named_as_such() {
        let ((cert, key), _) = two_leaves();
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let (in_key, message) = complaint(&cert, &encrypted);
        assert!(in_key && message.contains("passphrase"), "{message}");
    }

    #[test]
    fn a_weak_key_is_refused() {
        // An RSA key of 1024 bits, made by certs/make-certs.sh for this test.
        let weak = include_str!("../../certs/weak-rsa1024.key");
        let ((cert, _), _) = two_leaves();
        let (in_key, message) = complaint(&cert, weak);
        assert!(in_key && message.contains("too weak"), "{message}");
    }

    #[test]
    fn an_rsa_key_is_as_good_as_an_elliptic_one() {
        let authority = Authority::new("CA");
        let key = rsa_key();
        let params = CertificateParams::new(["a.example.com".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &authority.issuer).unwrap().pem();
        inspect(&cert, &key.serialize_pem()).unwrap();
    }

    #[test]
    fn a_ca_file_needs_a_certificate() {
        let authority = Authority::new("CA");
        ca(authority.pem.as_bytes()).unwrap();
        assert!(ca(b"# empty\n").unwrap_err().message.contains("no certificate"));
    }
}
