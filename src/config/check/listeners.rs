//! ● Listeners, their limits and their routes.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::admin::{DAY, MILLI};
use super::reader::Reader;
use super::services::ReadService;
use super::{passing, tls};
use crate::config::file::{self, Item, Table, closest};
use crate::config::units::quote;
use crate::config::{HostPattern, IpNet, Limits, Listener, ListenerMode, Protocols, Route, names};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A listener as far as it could be read, and the places later checks point at.
pub(super) struct ReadListener<'a> {
    pub(super) listener: Arc<Listener>,
    pub(super) item: Item<'a>,
    /// `bind`, where one could be read.
    pub(super) bind: Option<Item<'a>>,
    pub(super) has_tls: bool,
    /// `limits.max_connections`, where it is written.
    pub(super) connections: Option<Item<'a>>,
}

/// The services by name.
pub(super) struct Known<'s, 'a> {
    index: HashMap<&'s str, u32>,
    services: &'s [ReadService<'a>],
}

impl Known<'_, '_> {
    fn find(&self, name: &str) -> Option<u32> {
        let index = *self.index.get(name)?;
        let read = usize::try_from(index).ok().and_then(|index| self.services.get(index));
        if let Some(read) = read {
            read.is_named.set(true);
        }
        Some(index)
    }
}

/// Stands for a bind that was reported as wrong; port 0 clashes with nothing.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

pub(super) fn listeners<'a>(
    reader: &Reader<'a>,
    top: &Table<'a>,
    services: &[ReadService<'a>],
) -> Vec<ReadListener<'a>> {
    let remedy = "add a list of listeners, each with `bind` and what it serves";
    let Some(items) = top.need("listeners", remedy).and_then(|item| item.list()) else {
        return Vec::new();
    };
    let index = services.iter().zip(0..).map(|(read, n)| (read.name, n)).collect();
    let known = Known { index, services };
    let found = items.iter().filter_map(|item| {
        let table = item.table(&file::LISTENER)?;
        Some(listener(reader, &table, &known))
    });
    let found: Vec<_> = found.collect();
    duplicate_names(&found);
    if !top.has("services") && items.iter().any(|item| serves(item)) {
        top.need("services", "add a mapping of services, each with its pools");
    }
    found
}

fn serves(listener: &Item<'_>) -> bool {
    let entries = listener.is_map().then(|| listener.entries()).flatten().unwrap_or_default();
    entries.iter().any(|(key, _)| matches!(key.text.as_str(), "service" | "routes"))
}

fn duplicate_names(listeners: &[ReadListener<'_>]) {
    let mut seen = HashMap::new();
    for read in listeners.iter().filter(|read| read.bind.is_some()) {
        let name = &read.listener.name;
        let line = read.item.line();
        if let Some(first) = seen.insert(name.clone(), line) {
            read.item.error(
                format!("two listeners are named {} (the first on line {first})", quote(name)),
                "give each a `name` of its own",
            );
        }
    }
}

fn listener<'a>(reader: &Reader<'a>, table: &Table<'a>, known: &Known<'_, '_>) -> ReadListener<'a> {
    let protocols = protocols(table);
    let remedy = "write the address to listen on, e.g. `bind: \":443\"`";
    let bind_item = table.need("bind", remedy);
    let bind = bind_item.as_ref().and_then(|item| item.parse(names::bind));
    let name = table.get("name").and_then(|item| item.parse(names::name));
    let limits_table = table.get("limits").and_then(|item| item.table(&file::LIMITS));
    let tls = table.get("tls").and_then(|item| tls::of_listener(reader, &item));
    let redirect_https = redirect(table);
    let mode = passing::mode(table);
    let routes = if mode == ListenerMode::Http {
        routes(table, known, redirect_https)
    } else {
        passing::without_http(table, mode);
        passing::routes(table, known)
    };
    if let Some(tls) = &tls {
        uncovered_hosts(table, tls);
    }
    let address = bind.unwrap_or(NOWHERE);
    let has_tls = table.has("tls") || mode != ListenerMode::Http;
    if let (443, false, false, Some(item)) = (address.port(), has_tls, redirect_https, &bind_item) {
        item.warn(
            "clients speak TLS on port 443, and this listener has no `tls`",
            "add `tls: { cert_file: …, key_file: … }`, unless something before it ends TLS",
        );
    }
    let listener = Listener {
        name: name.map_or_else(|| address.to_string().into(), Arc::from),
        bind: address,
        protocols,
        mode,
        proxy_protocol: passing::proxy_protocol(table),
        tls,
        redirect_https,
        trusted_proxies: networks(table).unwrap_or_default(),
        limits: limits(limits_table.as_ref()),
        routes,
    };
    ReadListener {
        listener: Arc::new(listener),
        item: table.item.clone(),
        bind: bind.and(bind_item),
        has_tls: table.has("tls") || mode == ListenerMode::TlsPassthrough,
        connections: limits_table.and_then(|limits| limits.get("max_connections")),
    }
}

/// HTTP/2 is offered wherever clients can choose by ALPN; elsewhere it has to be asked for.
fn protocols(table: &Table<'_>) -> Protocols {
    let default = Protocols { http1: true, http2: table.has("tls") };
    let Some(item) = table.get("protocols") else { return default };
    let Some(items) = item.list() else { return default };
    let mut spoken = Protocols { http1: false, http2: false };
    for item in items {
        match item.choice(&[("http1", false), ("http2", true)], &["http3"]) {
            Some(true) => spoken.http2 = true,
            Some(false) => spoken.http1 = true,
            None => {}
        }
    }
    spoken
}

fn networks(table: &Table<'_>) -> Option<Vec<IpNet>> {
    let items = table.get("trusted_proxies")?.list()?;
    Some(items.iter().filter_map(|item| item.parse(names::network)).collect())
}

/// Reads `redirect`, and sees to it that the listener does exactly one thing.
fn redirect(table: &Table<'_>) -> bool {
    const KINDS: [&str; 3] = ["service", "routes", "redirect"];
    let written: Vec<_> = KINDS.into_iter().filter(|key| table.has(key)).collect();
    if written.is_empty() && !KINDS.iter().any(|key| table.was_meant(key)) {
        table.item.error(
            "this listener serves nothing",
            "write one of `service: NAME`, `routes: […]` and `redirect: https`",
        );
    }
    for extra in written.iter().skip(1) {
        if let Some(key) = table.key(extra) {
            key.error(
                format!("`{extra}` and `{}` exclude each other", written[0]),
                "keep one of `service`, `routes` and `redirect`",
            );
        }
    }
    let Some(item) = table.get("redirect") else { return false };
    let redirect = item.choice(&[("https", true)], &[]).unwrap_or(false);
    if redirect && let Some(tls) = table.key("tls") {
        tls.error(
            "a listener with `tls` cannot redirect to https: clients would go round in circles",
            "remove `tls`, or `redirect`",
        );
    }
    redirect
}

fn routes(table: &Table<'_>, known: &Known<'_, '_>, redirect: bool) -> Vec<Route> {
    let everything = |service| Route {
        hosts: Vec::new(),
        alpn: Vec::new(),
        path_prefix: "/".into(),
        service,
        idempotency_key: false,
    };
    let whole = table.get("service").and_then(|item| service(&item, known)).map(everything);
    let items = table.get("routes").and_then(|item| item.list()).unwrap_or_default();
    let mut taken = HashMap::new();
    let routes = items.iter().filter_map(|item| route(item, known, &mut taken));
    let routes = whole.into_iter().chain(routes).collect();
    if redirect { Vec::new() } else { routes }
}

/// Host and prefix → line of the route that has them.
type Taken = HashMap<(Option<HostPattern>, String), usize>;

fn route(item: &Item<'_>, known: &Known<'_, '_>, taken: &mut Taken) -> Option<Route> {
    let table = item.table(&file::ROUTE)?;
    for key in ["sni", "alpn"] {
        if let Some(item) = table.key(key) {
            item.error(
                format!("`{key}` has a meaning with `mode: tls-passthrough` alone"),
                "route by `hosts` and `path_prefix`",
            );
        }
    }
    let service = table
        .need("service", "name the service that answers")
        .and_then(|item| service(&item, known));
    let prefix = match table.get("path_prefix") {
        Some(item) => item.parse(names::path_prefix),
        None => Some("/".to_owned()),
    };
    let host_items = match table.get("hosts") {
        Some(item) => item.list()?,
        None => Vec::new(),
    };
    let hosts: Vec<_> = host_items
        .into_iter()
        .filter_map(|item| Some((item.parse(names::host_pattern)?, item)))
        .collect();
    let idempotency_key = idempotency_key(&table, known, service).unwrap_or(false);
    let path_prefix = prefix?;
    if hosts.is_empty() && !table.has("hosts") {
        take(taken, None, &path_prefix, &table.item);
    }
    for (host, item) in &hosts {
        take(taken, Some(host.clone()), &path_prefix, item);
    }
    let hosts = hosts.into_iter().map(|(host, _)| host).collect();
    let (service, alpn) = (service?, Vec::new());
    Some(Route { hosts, alpn, path_prefix, service, idempotency_key })
}

fn idempotency_key(table: &Table<'_>, known: &Known<'_, '_>, service: Option<u32>) -> Option<bool> {
    let item = table.get("idempotency_key")?;
    let wanted = item.flag()?;
    let read = service.and_then(|index| known.services.get(usize::try_from(index).ok()?));
    let service = read.and_then(|read| read.service.as_ref());
    if let (true, Some(service)) = (wanted, service)
        && service.retries.attempts == 0
    {
        item.warn(
            format!(
                "`idempotency_key` has no effect: `retries.attempts` of {} is 0",
                quote(&service.name)
            ),
            "raise `retries.attempts` of the service, or remove `idempotency_key`",
        );
    }
    Some(wanted)
}

/// Reports a host and prefix that an earlier route has: this one would never be reached.
fn take(taken: &mut Taken, host: Option<HostPattern>, prefix: &str, item: &Item<'_>) {
    let shown = match &host {
        None => "every host".to_owned(),
        Some(HostPattern::Exact(host)) => format!("`{host}`"),
        Some(HostPattern::Wildcard(parent)) => format!("`*.{parent}`"),
    };
    if let Some(line) = taken.get(&(host.clone(), prefix.to_owned())) {
        item.error(
            format!(
                "this route can never be reached: {shown} with the prefix {} is routed on line \
                 {line} already",
                quote(prefix)
            ),
            "remove one of the two, or give them different hosts or prefixes",
        );
        return;
    }
    taken.insert((host, prefix.to_owned()), item.line());
}

pub(super) fn service(item: &Item<'_>, known: &Known<'_, '_>) -> Option<u32> {
    let name = item.text()?;
    if let Some(index) = known.find(name) {
        return Some(index);
    }
    if known.index.is_empty() {
        // The services themselves are missing or wrong, which is reported there.
        return None;
    }
    let remedy = match closest(name, known.index.keys().copied()) {
        Some(close) => {
            known.find(close);
            format!("did you mean `{close}`?")
        }
        None => "add it under `services`, or name one that is there".into(),
    };
    item.error(format!("there is no service {}", quote(name)), remedy);
    None
}

fn uncovered_hosts(table: &Table<'_>, tls: &crate::config::Tls) {
    // Read again for the places; what is wrong with a host was reported at the first reading.
    let routes = table.get("routes").filter(Item::is_list).and_then(|item| item.list());
    for route in routes.unwrap_or_default().iter().filter(|route| route.is_map()) {
        let entries = route.entries().unwrap_or_default();
        let hosts = entries.iter().filter(|(key, item)| key.text == "hosts" && item.is_list());
        for item in hosts.filter_map(|(_, item)| item.list()).flatten() {
            let host = item.scalar().and_then(|text| names::host_pattern(text).ok());
            if host.is_some_and(|host| !tls::covers(tls, &host)) {
                item.warn(
                    "no certificate of this listener carries this host; clients will refuse it",
                    "add a certificate that names it, or remove the host",
                );
            }
        }
    }
}

fn limits(table: Option<&Table<'_>>) -> Limits {
    let get = |key| table?.get(key);
    let duration = |key, default| {
        let found = get(key).and_then(|item| item.duration(MILLI..=DAY));
        found.unwrap_or(default)
    };
    let size = |key, range: RangeInclusive<u64>| {
        get(key).and_then(|item| item.size(range)).and_then(|size| u32::try_from(size).ok())
    };
    let count = |key, most: u32| {
        get(key).and_then(|item| item.integer(1..=most.into())).and_then(|n| u32::try_from(n).ok())
    };
    let max_header_size = size("max_header_size", KIB..=128 * KIB).unwrap_or(64 << 10);
    let max_uri = size("max_uri", 256..=MIB);
    if let (Some(written), Some(uri)) = (get("max_uri"), max_uri)
        && uri > max_header_size
    {
        written.error(
            "`max_uri` is larger than `max_header_size`, which the request target is part of",
            "make it smaller, or `max_header_size` larger",
        );
    }
    Limits {
        max_connections: count("max_connections", 10_000_000).unwrap_or(50_000),
        header_timeout: duration("header_timeout", Duration::from_secs(10)),
        idle_timeout: duration("idle_timeout", Duration::from_secs(60)),
        body_timeout: duration("body_timeout", Duration::from_secs(30)),
        max_header_size,
        max_headers: count("max_headers", 1000).and_then(|n| n.try_into().ok()).unwrap_or(128),
        max_uri: max_uri.unwrap_or_else(|| max_header_size.min(16 << 10)),
        max_body_size: get("max_body_size").and_then(|item| item.size(1..=u64::MAX)),
        max_concurrent_streams: count("max_concurrent_streams", 10_000).unwrap_or(128),
    }
}
