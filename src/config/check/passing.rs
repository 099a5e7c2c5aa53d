//! ● Listeners that pass bytes on, what they ask of their services, and PROXY headers.

use std::collections::HashMap;
use std::net::IpAddr;

use super::listeners::{Known, ReadListener, service};
use super::services::ReadService;
use crate::config::file::{self, Item, Table};
use crate::config::units::{Wrong, quote, wrong};
use crate::config::{HostPattern, IpNet, ListenerMode, Pool, Route, Scheme, Service, names};

pub(super) fn mode(table: &Table<'_>) -> ListenerMode {
    let modes = [ListenerMode::Http, ListenerMode::Tcp, ListenerMode::TlsPassthrough];
    let modes = modes.map(|mode| (mode.label(), mode));
    table.get("mode").and_then(|item| item.choice(&modes, &["udp"])).unwrap_or_default()
}

/// Whose connections begin with a PROXY header.
pub(super) fn proxy_protocol(table: &Table<'_>) -> Vec<IpNet> {
    let table = table.get("proxy_protocol").and_then(|item| item.table(&file::PROXY_PROTOCOL));
    let remedy = "list the proxies that send it, e.g. `from: [10.0.0.0/8]`";
    let from = table.and_then(|table| table.need("from", remedy)).and_then(|item| item.list());
    from.unwrap_or_default().iter().filter_map(|item| item.parse(names::network)).collect()
}

/// Reports what is of HTTP alone, or of TLS that we end ourselves.
pub(super) fn without_http(table: &Table<'_>, mode: ListenerMode) {
    let label = mode.label();
    for key in ["tls", "redirect", "protocols", "trusted_proxies"] {
        if let Some(item) = table.key(key) {
            item.error(
                format!("`{key}` has no meaning with `mode: {label}`: bytes go on as they come"),
                format!("remove `{key}`, or `mode`"),
            );
        }
    }
    if let (ListenerMode::Tcp, Some(item)) = (mode, table.key("routes")) {
        item.error(
            "`routes` has no meaning with `mode: tcp`: there is nothing to tell clients apart by",
            "write `service: NAME`, or `mode: tls-passthrough`",
        );
    }
    let limits = table.get("limits").filter(Item::is_map).and_then(|item| item.entries());
    for (key, item) in limits.unwrap_or_default() {
        if !matches!(&*key.text, "max_connections" | "header_timeout") {
            item.at_key(key).warn(
                format!("`{}` has no effect with `mode: {label}`", key.text),
                format!("remove `{}`", key.text),
            );
        }
    }
}

/// The routes of such a listener; `service` alone is one that takes everybody.
pub(super) fn routes(table: &Table<'_>, known: &Known<'_, '_>) -> Vec<Route> {
    let whole = table.get("service").and_then(|item| service(&item, known));
    let whole = whole.map(|service| to(Vec::new(), Vec::new(), service));
    let items = table.get("routes").filter(Item::is_list).and_then(|item| item.list());
    let mut taken = HashMap::new();
    let routes = items.unwrap_or_default();
    let routes = routes.iter().filter_map(|item| route(item, known, &mut taken));
    whole.into_iter().chain(routes).collect()
}

fn to(hosts: Vec<HostPattern>, alpn: Vec<String>, service: u32) -> Route {
    Route { hosts, alpn, path_prefix: "/".into(), service, idempotency_key: false }
}

/// Name and protocol → line of the route that has them.
type Taken = HashMap<(Option<HostPattern>, Option<String>), usize>;

fn route(item: &Item<'_>, known: &Known<'_, '_>, taken: &mut Taken) -> Option<Route> {
    let table = item.table(&file::ROUTE)?;
    for key in ["hosts", "path_prefix", "idempotency_key"] {
        if let Some(item) = table.key(key) {
            item.error(
                format!("`{key}` has no meaning with `mode: tls-passthrough`"),
                "route by `sni` and `alpn`, which clients say before anything is encrypted",
            );
        }
    }
    let service = table
        .need("service", "name the service that answers")
        .and_then(|item| service(&item, known));
    let hosts = parsed(&table, "sni", server_name);
    let alpn = parsed(&table, "alpn", protocol);
    for host in &or_any(&hosts) {
        for protocol in &or_any(&alpn) {
            take(taken, (host.clone(), protocol.clone()), &table.item);
        }
    }
    if hosts.is_empty() && table.has("sni") || alpn.is_empty() && table.has("alpn") {
        return None;
    }
    Some(to(hosts, alpn, service?))
}

/// What is right in a list of values.
fn parsed<T>(
    table: &Table<'_>,
    key: &str,
    read: impl Fn(&str) -> Result<T, Wrong> + Copy,
) -> Vec<T> {
    let items = table.get(key).and_then(|item| item.list()).unwrap_or_default();
    items.iter().filter_map(|item| item.parse(read)).collect()
}

fn or_any<T: Clone>(values: &[T]) -> Vec<Option<T>> {
    let some = values.iter().cloned().map(Some).collect::<Vec<_>>();
    if some.is_empty() { vec![None] } else { some }
}

fn server_name(text: &str) -> Result<HostPattern, Wrong> {
    if text.parse::<IpAddr>().is_ok() || text.starts_with('[') {
        return wrong(
            format!("{} is an address, which no client asks for by SNI", quote(text)),
            "write a name, or leave `sni` out to match every client",
        );
    }
    names::host_pattern(text)
}

/// RFC 7301 section 3.1, as far as a file can say it.
fn protocol(text: &str) -> Result<String, Wrong> {
    if text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    wrong(format!("{} is not a protocol of ALPN", quote(text)), "write e.g. `h2` or `http/1.1`")
}

/// Reports a name and protocol that an earlier route has: this one would never be reached.
fn take(taken: &mut Taken, key: (Option<HostPattern>, Option<String>), item: &Item<'_>) {
    let name = match &key.0 {
        None => "every client".to_owned(),
        Some(HostPattern::Exact(name)) => format!("`{name}`"),
        Some(HostPattern::Wildcard(parent)) => format!("`*.{parent}`"),
    };
    let with = key.1.as_ref().map(|name| format!(" with {}", quote(name))).unwrap_or_default();
    if let Some(line) = taken.get(&key) {
        item.error(
            format!("this route is never reached: {name}{with} is routed on line {line} already"),
            "remove one of the two, or give them different names or protocols",
        );
        return;
    }
    taken.insert(key, item.line());
}

/// What listeners ask of the services they lead to.
pub(super) fn services(listeners: &[ReadListener<'_>], services: &[ReadService<'_>]) {
    for (index, read) in (0..).zip(services) {
        let Some(service) = &read.service else { continue };
        let leads = |mode: &dyn Fn(ListenerMode) -> bool| {
            let mut those = listeners.iter().map(|read| &read.listener);
            those
                .find(|l| mode(l.mode) && l.routes.iter().any(|route| route.service == index))
                .map(|listener| listener.name.clone())
        };
        let http = leads(&|mode| mode == ListenerMode::Http);
        let passing = leads(&|mode| mode != ListenerMode::Http);
        if let Some(listener) = &passing {
            passes(read, service, listener, http.is_none());
        }
        if let (Some(listener), true) = (&http, service.pools.iter().any(sends_header)) {
            read.key.error(
                format!(
                    "`upstream.proxy_protocol` is not available for HTTP, which the listener {} \
                     speaks: requests of many clients share a connection",
                    quote(listener)
                ),
                "remove it: `X-Forwarded-For` tells endpoints who asks",
            );
        }
    }
}

fn sends_header(pool: &std::sync::Arc<Pool>) -> bool {
    pool.upstream.proxy_protocol.is_some()
}

fn passes(read: &ReadService<'_>, service: &Service, listener: &str, alone: bool) {
    let listener = quote(listener);
    let endpoints = || service.pools.iter().flat_map(|pool| &pool.endpoints);
    if endpoints().any(|endpoint| endpoint.scheme == Scheme::Https) {
        read.key.error(
            format!("its endpoints are https, but the listener {listener} passes bytes on"),
            "write them as `HOST:PORT`: its clients speak TLS with them themselves",
        );
    }
    if let Some(item) = &read.untyped_check {
        item.error(
            format!("this check has no `type`, and the listener {listener} carries any protocol"),
            "write `type: tcp`, `tls`, `http` or `https`",
        );
    }
    if alone && service.pools.iter().any(|pool| pool.upstream.warm > 0) {
        read.key.warn(
            format!("`warm` has no effect: the listener {listener} opens a connection for each"),
            "remove `warm`",
        );
    }
}
