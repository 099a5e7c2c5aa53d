//! ● Certificates of listeners, CA files and verification of endpoints.

use super::reader::Reader;
use crate::config::file::{self, Item, Layers, Table};
use crate::config::units::date;
use crate::config::{
    CaFile, Certificate, HostPattern, Secret, Tls, TlsVersion, UpstreamTls, names,
};

const WEEK: i64 = 7 * 24 * 60 * 60;

pub(super) fn of_listener(reader: &Reader<'_>, item: &Item<'_>) -> Option<Tls> {
    let table = item.table(&file::TLS)?;
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    let min_version = table.get("min_version").and_then(|item| item.choice(&versions, &[]));
    let one = table.has("cert_file") || table.has("key_file");
    let certificates = match table.get("certificates") {
        Some(list) if one => {
            list.error(
                "`certificates` and `cert_file` exclude each other",
                "move the pair of files into the list",
            );
            return None;
        }
        Some(list) => {
            let items = list.list()?;
            let tables = items.iter().map(|item| item.table(&file::CERTIFICATE));
            tables.map(|table| certificate(reader, &table?)).collect::<Vec<_>>()
        }
        None if one || !table.has("certificates") => vec![certificate(reader, &table)],
        None => return None,
    };
    Some(Tls {
        min_version: min_version.unwrap_or(TlsVersion::V1_2),
        certificates: certificates.into_iter().collect::<Option<_>>()?,
    })
}

fn certificate(reader: &Reader<'_>, table: &Table<'_>) -> Option<Certificate> {
    let cert_item = table.need("cert_file", "name the file with the certificate chain in PEM");
    let key_item = table.need("key_file", "name the file with the private key in PEM");
    let chain = cert_item.as_ref().and_then(|item| reader.file(item));
    let key = key_item.as_ref().and_then(|item| reader.secret_file(item));
    let (cert_item, key_item) = (cert_item?, key_item?);
    let ((cert_file, chain_pem), (key_file, key_pem)) = (chain?, key?);
    let key_pem = Secret(key_pem);
    let facts = match reader.world.inspect_certificate(&chain_pem, &key_pem) {
        Ok(facts) => facts,
        Err(problem) => {
            let item = if problem.in_key { &key_item } else { &cert_item };
            item.error(problem.message, problem.remedy);
            return None;
        }
    };
    lifetime(&cert_item, facts.not_before, facts.not_after, reader.world.unix_now());
    if facts.names.is_empty() {
        cert_item.warn(
            "this certificate carries no DNS name; clients will refuse it",
            "issue it with the served hosts as subject alternative names",
        );
    }
    let (names, not_after) = (facts.names, facts.not_after);
    Some(Certificate { cert_file, key_file, chain_pem, key_pem, names, not_after })
}

/// Warnings, not errors: one expired certificate must not keep a reload from renewing the others.
fn lifetime(item: &Item<'_>, not_before: i64, not_after: i64, now: i64) {
    let renew = "renew it, then reload";
    if now > not_after {
        let day = date(not_after);
        item.warn(format!("this certificate expired on {day}; clients will refuse it"), renew);
    } else if now < not_before {
        let day = date(not_before);
        item.warn(
            format!("this certificate is not valid before {day}; clients will refuse it"),
            "wait, correct the clock of this machine, or issue it anew",
        );
    } else if not_after - now < WEEK {
        item.warn(format!("this certificate expires on {}", date(not_after)), renew);
    }
}

/// Whether a client that asks for a host is shown a certificate with its name. Addresses are not
/// looked at: they are no DNS names.
pub(super) fn covers(tls: &Tls, host: &HostPattern) -> bool {
    let names = || tls.certificates.iter().flat_map(|certificate| &certificate.names);
    let wildcard_of = |parent: &str| names().any(|name| name.strip_prefix("*.") == Some(parent));
    match host {
        HostPattern::Wildcard(parent) => wildcard_of(parent),
        HostPattern::Exact(host) if host.starts_with('[') => true,
        HostPattern::Exact(host) if host.parse::<std::net::IpAddr>().is_ok() => true,
        HostPattern::Exact(host) => {
            names().any(|name| name == host)
                || host.split_once('.').is_some_and(|(_, parent)| wildcard_of(parent))
        }
    }
}

/// How endpoints are verified; a pool's keys lie over its service's.
pub(super) fn of_upstream(reader: &Reader<'_>, layers: &Layers<'_>) -> UpstreamTls {
    let server_name = layers.get("server_name").and_then(|item| {
        item.parse(|text| {
            let name = text.to_ascii_lowercase();
            if name.parse::<std::net::IpAddr>().is_err() {
                names::host_name(&name, text)?;
            }
            Ok(name)
        })
    });
    let ca = layers.get("ca_file").and_then(|item| ca_file(reader, &item));
    let verify = layers.get("verify").and_then(|item| {
        let verify = item.flag()?;
        if !verify {
            item.warn(
                "endpoints are not verified: whoever answers at their address is believed",
                "write `ca_file: PATH` instead",
            );
        }
        Some(verify)
    });
    UpstreamTls { server_name, ca, verify: verify.unwrap_or(true) }
}

fn ca_file(reader: &Reader<'_>, item: &Item<'_>) -> Option<CaFile> {
    let (path, pem) = reader.file(item)?;
    match reader.world.inspect_ca(&pem) {
        Ok(()) => Some(CaFile { path, pem }),
        Err(problem) => {
            item.error(problem.message, problem.remedy);
            None
        }
    }
}
