//! Certificates made for one test, in its own directory.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize, date_time_ymd,
};

/// A certificate authority of a test.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub ca_file: PathBuf,
    dir: PathBuf,
}

/// A chain and its key, as files.
#[derive(Debug, Clone)]
pub struct Pair {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

impl Authority {
    /// Makes a CA and writes `NAME.pem` into `dir`.
    pub fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("standfast test CA {name}"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let ca_file = dir.join(format!("{name}.pem"));
        fs::write(&ca_file, issuer.pem()).unwrap();
        Self { issuer, ca_file, dir: dir.to_owned() }
    }

    /// Issues a server certificate for `names` (DNS names or addresses) as `FILE.crt`, `FILE.key`.
    pub fn issue(&self, file: &str, names: &[&str]) -> Pair {
        self.issue_with(file, names, |_| ())
    }

    /// The same, expired years ago.
    pub fn issue_expired(&self, file: &str, names: &[&str]) -> Pair {
        self.issue_with(file, names, |params| {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        })
    }

    /// The same, with a key that costs the server some milliseconds in each handshake.
    pub fn issue_costly(&self, file: &str, names: &[&str]) -> Pair {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096).unwrap();
        self.issue_for(file, names, &key, |_| ())
    }

    fn issue_with(
        &self,
        file: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        self.issue_for(file, names, &KeyPair::generate().unwrap(), change)
    }

    fn issue_for(
        &self,
        file: &str,
        names: &[&str],
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, file);
        change(&mut params);
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        let pair = Pair {
            cert_file: self.dir.join(format!("{file}.crt")),
            key_file: self.dir.join(format!("{file}.key")),
        };
        fs::write(&pair.cert_file, certificate.pem()).unwrap();
        fs::write(&pair.key_file, key.serialize_pem()).unwrap();
        pair
    }
}
