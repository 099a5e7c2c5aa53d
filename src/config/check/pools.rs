//! ● Pools and their endpoints.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::health::{self, Check};
use super::reader::Reader;
use super::services::MinHealthy;
use super::tls;
use crate::config::file::{self, Item, Layers, Table};
use crate::config::names::{self, Target};
use crate::config::units::quote;
use crate::config::{Endpoint, Pool, ProxyVersion, Scheme, Upstream};

/// What the pools of a service have in common, and may narrow for themselves.
pub(super) struct Shared<'a> {
    pub(super) check: Option<Check<'a>>,
    pub(super) upstream: Option<Table<'a>>,
    pub(super) need: MinHealthy,
    pub(super) need_item: Option<Item<'a>>,
}

/// What was met in the pools of a service so far.
#[derive(Default)]
struct Met<'a> {
    /// A pool's name → its line.
    names: HashMap<Arc<str>, usize>,
    /// An endpoint's name → its pool and line.
    endpoints: HashMap<Arc<str>, (Arc<str>, usize)>,
    without_check: Vec<Table<'a>>,
    pool_with_tls: bool,
}

pub(super) fn pools(
    reader: &Reader<'_>,
    service: &Table<'_>,
    shared: &Shared<'_>,
) -> Option<Vec<Arc<Pool>>> {
    let remedy = "add a list of pools in order of priority, each with `name` and `endpoints`";
    let items = service.need("pools", remedy)?.list()?;
    if let Some(upstream) = &shared.upstream {
        // Read by itself too, so that a value every pool overrides is still checked.
        self::upstream(reader, &Layers(vec![upstream.clone()]));
    }
    let mut met = Met::default();
    let read = items.iter().map(|item| {
        let table = item.table(&file::POOL)?;
        if !table.has("health_check") {
            met.without_check.push(table.clone());
        }
        pool(reader, &table, shared, &mut met).map(Arc::new)
    });
    // All of them are read before one that failed is missed.
    let read: Vec<_> = read.collect();
    if shared.check.is_none() && items.len() > 1 {
        checks_are_missing(service, &met.without_check, items.len());
    }
    let read: Option<Vec<_>> = read.into_iter().collect();
    let tls = shared.upstream.as_ref().and_then(|table| table.key("tls"));
    if let (Some(item), Some(_), false) = (tls, &read, met.pool_with_tls) {
        tls_has_no_effect(&item);
    }
    read
}

/// Of a service with so many pools, two or more. `need` keeps silent where a mistyped key was
/// probably meant to be this one.
fn checks_are_missing(service: &Table<'_>, without: &[Table<'_>], pools: usize) {
    if without.len() == pools {
        service.need(
            "health_check",
            "add e.g. `health_check: { path: /healthz }`: with two pools or more, something must \
             tell when to leave the first",
        );
        return;
    }
    for pool in without {
        pool.need(
            "health_check",
            "add one here or to the service, e.g. `health_check: { path: /healthz }`: a pool that \
             nobody probes is never found available, so the service could not move to it",
        );
    }
}

fn tls_has_no_effect(item: &Item<'_>) {
    item.warn(
        "`tls` has no effect: no endpoint here is https",
        "write the endpoints as `https://…`, or remove `tls`",
    );
}

fn pool(
    reader: &Reader<'_>,
    table: &Table<'_>,
    shared: &Shared<'_>,
    met: &mut Met,
) -> Option<Pool> {
    let name = pool_name(table, met);
    let remedy = "add a list of addresses, e.g. `endpoints: [http://10.0.1.10:80]`";
    let items = table.need("endpoints", remedy).and_then(|item| item.list());
    let min_healthy = items.as_ref().map(|items| enough(shared, &name, items.len()));
    let endpoints = items.and_then(|items| {
        let read = items.iter().map(|item| endpoint(reader, item, &name, met));
        read.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>()
    });
    let own = table.get("upstream").and_then(|item| item.table(&file::UPSTREAM));
    let own_tls = own.as_ref().and_then(|table| table.key("tls"));
    let layers = Layers(own.into_iter().chain(shared.upstream.clone()).collect());
    let upstream = upstream(reader, &layers);
    let own = table.get("health_check").and_then(|item| health::layer(&item));
    let check = own.into_iter().chain(shared.check.clone()).collect::<Vec<_>>();
    let schemes: Vec<_> = endpoints.iter().flatten().map(|endpoint| endpoint.scheme).collect();
    let health_check = health::check(&Layers(check), &schemes);
    let endpoints = endpoints?;
    let is_tls =
        schemes.contains(&Scheme::Https) || health_check.as_ref().is_some_and(health::is_tls);
    met.pool_with_tls |= is_tls;
    if let (false, Some(item)) = (is_tls, own_tls) {
        tls_has_no_effect(&item);
    }
    Some(Pool { name, min_healthy: min_healthy?, health_check, upstream, endpoints })
}

/// Empty where the name is missing or wrong, which is reported here.
fn pool_name(table: &Table<'_>, met: &mut Met) -> Arc<str> {
    let item = table.need("name", "name the pool, e.g. `name: hot`");
    let name: Option<Arc<str>> =
        item.as_ref().and_then(|item| item.parse(names::name)).map(Arc::from);
    let (Some(item), Some(name)) = (item, name) else { return Arc::from("") };
    if let Some(line) = met.names.insert(name.clone(), item.line()) {
        item.error(
            format!("two pools are named {} (the first on line {line})", quote(&name)),
            "give each pool of a service a name of its own",
        );
    }
    name
}

/// Endpoints that must be up, with an error where there are not that many.
fn enough(shared: &Shared<'_>, pool: &str, endpoints: usize) -> u32 {
    let need = shared.need.of(endpoints);
    if need > endpoints as u64
        && let Some(item) = &shared.need_item
    {
        item.error(
            format!(
                "{need} endpoints must be up, but the pool {} has only {endpoints}",
                quote(pool)
            ),
            format!("write at most `{endpoints}`, or a share such as `50%`"),
        );
    }
    u32::try_from(need).unwrap_or(u32::MAX)
}

fn upstream(reader: &Reader<'_>, layers: &Layers<'_>) -> Upstream {
    let protocols = [("auto", ()), ("http1", ())];
    layers.get("protocol").and_then(|item| item.choice(&protocols, &["http2"]));
    let most = |key| {
        let item = layers.get(key)?;
        u32::try_from(item.integer(1..=1_000_000)?).ok()
    };
    let limits = [most("max_connections"), most("max_requests")];
    let max_requests = limits.into_iter().flatten().min().unwrap_or(1024);
    let warm = layers.get("warm").and_then(|item| {
        let warm = u32::try_from(item.integer(0..=64)?).ok()?;
        if warm > max_requests {
            item.warn(
                format!("`warm` keeps {warm} connections where {max_requests} may be in use"),
                format!("write at most `{max_requests}`, or allow more requests"),
            );
        }
        Some(warm)
    });
    let versions = [("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)];
    let proxy_protocol = layers.get("proxy_protocol").and_then(|item| item.choice(&versions, &[]));
    Upstream {
        proxy_protocol,
        tls: tls::of_upstream(reader, &layers.under("tls", &file::UPSTREAM_TLS)),
        max_requests,
        warm: warm.unwrap_or(0),
    }
}

fn endpoint(
    reader: &Reader<'_>,
    item: &Item<'_>,
    pool: &Arc<str>,
    met: &mut Met,
) -> Option<Arc<Endpoint>> {
    let (url, weight) = if item.is_map() {
        let table = item.table(&file::ENDPOINT)?;
        let weight = table.get("weight").and_then(|item| item.integer(1..=1000));
        (table.need("url", "write the address, e.g. `url: http://10.0.1.10:80`")?, weight)
    } else {
        (item.clone(), None)
    };
    let target = url.parse(names::endpoint)?;
    let name: Arc<str> = target.name().into();
    match met.endpoints.get(&name) {
        Some((other, line)) if other == pool => url.error(
            format!("{} is an endpoint of this pool already (line {line})", quote(&name)),
            "remove one of them; a larger share is written as `weight`",
        ),
        Some((other, line)) => url.warn(
            format!(
                "{} is an endpoint of the pool {} too (line {line})",
                quote(&name),
                quote(other)
            ),
            "pools that share an endpoint fail together: give each its own",
        ),
        None => {
            met.endpoints.insert(name.clone(), (pool.clone(), url.line()));
        }
    }
    let address = address(reader, &url, &target)?;
    let weight = weight.and_then(|weight| weight.try_into().ok()).unwrap_or(1);
    Some(Arc::new(Endpoint { name, scheme: target.scheme, host: target.host, address, weight }))
}

fn address(reader: &Reader<'_>, item: &Item<'_>, target: &Target) -> Option<SocketAddr> {
    if let Ok(address) = target.host.parse::<IpAddr>() {
        return Some((address, target.port).into());
    }
    let found = reader.world.resolve(&target.host, target.port);
    let host = quote(&target.host);
    let reason = match found {
        Ok(addresses) => match addresses.split_first() {
            None => "it has no address".to_owned(),
            Some((first, rest)) => {
                if !rest.is_empty() {
                    item.warn(
                        format!("{host} has {} addresses; {} is used", rest.len() + 1, first.ip()),
                        "write each address as an endpoint of its own",
                    );
                }
                return Some(*first);
            }
        },
        Err(error) => error.to_string(),
    };
    item.error(
        format!("{host} cannot be resolved: {reason}"),
        "correct the name, or write the address itself",
    );
    None
}
