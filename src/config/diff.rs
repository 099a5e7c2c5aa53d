//! ● Two configurations → what a reload would change, in order.
//!
//! Listeners are the same where their bind is the same: their sockets stay open. Services, pools
//! and endpoints are the same where their names are: they keep health state and counters.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::{Config, Endpoint, Listener, ListenerMode, Pool, Service, Tls, view};

/// One step of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    ListenerBound {
        listener: String,
        bind: String,
    },
    /// The socket stays open; what is said applies to new connections and requests.
    ListenerChanged {
        listener: String,
        what: Vec<Difference>,
    },
    /// Files were replaced under the same or another name.
    CertificatesReplaced {
        listener: String,
        files: Vec<String>,
    },
    RouteAdded {
        listener: String,
        route: String,
        service: String,
    },
    RouteMoved {
        listener: String,
        route: String,
        from: String,
        to: String,
    },
    RouteChanged {
        listener: String,
        route: String,
        what: Vec<Difference>,
    },
    RouteRemoved {
        listener: String,
        route: String,
        service: String,
    },
    ServiceAdded {
        service: String,
    },
    ServiceChanged {
        service: String,
        what: Vec<Difference>,
    },
    PoolAdded {
        service: String,
        pool: String,
        endpoints: usize,
    },
    PoolChanged {
        service: String,
        pool: String,
        what: Vec<Difference>,
    },
    EndpointAdded {
        service: String,
        pool: String,
        endpoint: String,
    },
    EndpointChanged {
        service: String,
        pool: String,
        endpoint: String,
        what: Vec<Difference>,
    },
    /// Requests in flight end; no new ones are sent.
    EndpointRemoved {
        service: String,
        pool: String,
        endpoint: String,
    },
    /// As for each of its endpoints.
    PoolRemoved {
        service: String,
        pool: String,
        endpoints: usize,
    },
    ServiceRemoved {
        service: String,
    },
    /// Connections are closed once their requests are done.
    ListenerClosed {
        listener: String,
        bind: String,
    },
    /// A setting of the process that a reload applies.
    Setting(Difference),
    /// A setting that a reload leaves as it is.
    NeedsRestart(Difference),
}

/// A key below the thing that changed, and its values; `none` where there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub key: String,
    pub from: String,
    pub to: String,
}

/// What a reload from `old` to `new` would do, in the order it would do it.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    listeners(old, new, &mut changes);
    services(old, new, &mut changes);
    let gone = old.listeners.iter().filter(|listener| same_bind(new, listener).is_none());
    changes.extend(gone.map(|listener| Change::ListenerClosed {
        listener: listener.name.to_string(),
        bind: listener.bind.to_string(),
    }));
    settings(old, new, &mut changes);
    changes
}

/// The listener of `config` that owns the same socket. A port of 0 is another one at each bind, so
/// there the name decides.
fn same_bind<'c>(config: &'c Config, listener: &Listener) -> Option<&'c Arc<Listener>> {
    config.listeners.iter().find(|other| {
        other.bind == listener.bind && (other.bind.port() != 0 || other.name == listener.name)
    })
}

fn listeners(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    for listener in &new.listeners {
        let name = listener.name.to_string();
        let Some(before) = same_bind(old, listener) else {
            let bind = listener.bind.to_string();
            changes.push(Change::ListenerBound { listener: name, bind });
            continue;
        };
        let [from, to] = [before, listener].map(|listener| view::listener_settings(listener));
        let mut what = differences(&from, &to);
        // What a certificate says is no setting; that it is another one is said below.
        what.retain(|what| !what.key.ends_with(".not_after") && !what.key.ends_with(".names"));
        if !what.is_empty() {
            changes.push(Change::ListenerChanged { listener: name.clone(), what });
        }
        let files = replaced(before.tls.as_ref(), listener.tls.as_ref());
        if !files.is_empty() {
            changes.push(Change::CertificatesReplaced { listener: name.clone(), files });
        }
        routes(&name, (old, before), (new, listener), changes);
    }
}

/// Certificates whose content is new under an old name.
fn replaced(old: Option<&Tls>, new: Option<&Tls>) -> Vec<String> {
    let (Some(old), Some(new)) = (old, new) else { return Vec::new() };
    let before: HashMap<_, _> =
        old.certificates.iter().map(|certificate| (&certificate.cert_file, certificate)).collect();
    let changed = new.certificates.iter().filter(|certificate| {
        before.get(&certificate.cert_file).is_some_and(|before| {
            before.chain_pem != certificate.chain_pem || before.key_pem != certificate.key_pem
        })
    });
    changed.map(|certificate| certificate.cert_file.display().to_string()).collect()
}

fn routes(
    listener: &str,
    (old, before): (&Config, &Listener),
    (new, after): (&Config, &Listener),
    changes: &mut Vec<Change>,
) {
    let [was, is] = [(old, before), (new, after)].map(|(config, listener)| pairs(config, listener));
    let earlier: HashMap<_, _> = was.iter().map(|(route, led)| (route, led)).collect();
    let later: HashSet<_> = is.iter().map(|(route, _)| route).collect();
    let listener = || listener.to_owned();
    for (route, to) in &is {
        let (route, service) = (route.clone(), to.service.to_owned());
        let Some(from) = earlier.get(&route) else {
            changes.push(Change::RouteAdded { listener: listener(), route, service });
            continue;
        };
        if from.idempotency_key != to.idempotency_key {
            let [was, is] = [from, &to].map(|led| led.idempotency_key.to_string());
            let what = vec![Difference { key: "idempotency_key".into(), from: was, to: is }];
            changes.push(Change::RouteChanged { listener: listener(), route: route.clone(), what });
        }
        if from.service != to.service {
            let (from, to) = (from.service.to_owned(), service);
            changes.push(Change::RouteMoved { listener: listener(), route, from, to });
        }
    }
    for (route, led) in was.iter().filter(|(route, _)| !later.contains(route)) {
        let (route, service) = (route.clone(), led.service.to_owned());
        changes.push(Change::RouteRemoved { listener: listener(), route, service });
    }
}

/// What becomes of a request that a route matches.
#[derive(Clone, Copy)]
struct Led<'c> {
    service: &'c str,
    idempotency_key: bool,
}

/// What is matched and where it leads, one pair for each host of each route.
fn pairs<'c>(config: &'c Config, listener: &Listener) -> Vec<(String, Led<'c>)> {
    let pairs = listener.routes.iter().flat_map(|route| {
        let (service, idempotency_key) = (view::service_name(route, config), route.idempotency_key);
        let led = Led { service, idempotency_key };
        let hosts = route.hosts.iter().map(view::host).collect::<Vec<_>>();
        let hosts = if hosts.is_empty() { vec!["*".to_owned()] } else { hosts };
        let path = match (listener.mode, &route.alpn[..]) {
            (ListenerMode::Http, _) => route.path_prefix.clone(),
            (_, []) => String::new(),
            (_, alpn) => format!(" {}", alpn.join(",")),
        };
        hosts.into_iter().map(move |host| (format!("{host}{path}"), led))
    });
    pairs.collect()
}

fn services(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    let earlier: HashMap<_, _> =
        old.services.iter().map(|service| (&service.name, service)).collect();
    let later: HashSet<_> = new.services.iter().map(|service| &service.name).collect();
    for service in &new.services {
        match earlier.get(&service.name) {
            None => changes.push(Change::ServiceAdded { service: service.name.to_string() }),
            Some(before) => self::service(before, service, changes),
        }
    }
    let gone = old.services.iter().filter(|service| !later.contains(&service.name));
    changes
        .extend(gone.map(|service| Change::ServiceRemoved { service: service.name.to_string() }));
}

fn service(old: &Service, new: &Service, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    let name = new.name.to_string();
    let [from, to] = [old, new].map(view::service_settings);
    let mut what = differences(&from, &to);
    what.extend(priority(old, new));
    if !what.is_empty() {
        changes.push(Change::ServiceChanged { service: name.clone(), what });
    }
    for pool in &new.pools {
        match old.pools.iter().find(|before| before.name == pool.name) {
            None => changes.push(Change::PoolAdded {
                service: name.clone(),
                pool: pool.name.to_string(),
                endpoints: pool.endpoints.len(),
            }),
            Some(before) => self::pool(&name, before, pool, changes),
        }
    }
    let gone = old.pools.iter().filter(|pool| new.pools.iter().all(|now| now.name != pool.name));
    changes.extend(gone.map(|pool| Change::PoolRemoved {
        service: name.clone(),
        pool: pool.name.to_string(),
        endpoints: pool.endpoints.len(),
    }));
}

/// The order of the pools that both have.
fn priority(old: &Service, new: &Service) -> Option<Difference> {
    let shared = |one: &Service, other: &Service| {
        let both = one.pools.iter().filter(|pool| other.pools.iter().any(|p| p.name == pool.name));
        both.map(|pool| pool.name.to_string()).collect::<Vec<_>>().join(", ")
    };
    let (from, to) = (shared(old, new), shared(new, old));
    (from != to).then(|| Difference { key: "order of pools".into(), from, to })
}

fn pool(service: &str, old: &Pool, new: &Pool, changes: &mut Vec<Change>) {
    let (service, pool) = (service.to_owned(), new.name.to_string());
    let [from, to] = [old, new].map(view::pool_settings);
    let mut what = differences(&from, &to);
    let [was, is] = [old, new].map(|pool| pool.upstream.tls.ca.as_ref());
    if let (Some(was), Some(is)) = (was, is)
        && was.path == is.path
        && was.pem != is.pem
    {
        let (from, to) = ("the old content".into(), "the new one".into());
        what.push(Difference { key: "upstream.tls.ca_file".into(), from, to });
    }
    if !what.is_empty() {
        changes.push(Change::PoolChanged { service: service.clone(), pool: pool.clone(), what });
    }
    endpoints(&service, &pool, (old, new), changes);
}

fn endpoints(service: &str, pool: &str, (old, new): (&Pool, &Pool), changes: &mut Vec<Change>) {
    let named =
        |endpoint: &Endpoint| (service.to_owned(), pool.to_owned(), endpoint.name.to_string());
    // A pool may have thousands.
    let earlier: HashMap<_, _> = old.endpoints.iter().map(|known| (&known.name, known)).collect();
    let later: HashSet<_> = new.endpoints.iter().map(|known| &known.name).collect();
    for endpoint in &new.endpoints {
        let (service, pool, name) = named(endpoint);
        let Some(before) = earlier.get(&endpoint.name) else {
            changes.push(Change::EndpointAdded { service, pool, endpoint: name });
            continue;
        };
        let [from, to] = [before, endpoint].map(|endpoint| view::endpoint(endpoint));
        let what = differences(&from, &to);
        if !what.is_empty() {
            changes.push(Change::EndpointChanged { service, pool, endpoint: name, what });
        }
    }
    for endpoint in old.endpoints.iter().filter(|old| !later.contains(&old.name)) {
        let (service, pool, endpoint) = named(endpoint);
        changes.push(Change::EndpointRemoved { service, pool, endpoint });
    }
}

/// Threads and the admin server are set up once, at the start, and so are the logs.
fn settings(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    for (section, show) in [
        ("admin", view::admin as fn(&Config) -> Value),
        ("process", view::process),
        ("logging", view::logging),
    ] {
        for mut difference in differences(&show(old), &show(new)) {
            let live = matches!(difference.key.as_str(), "lame_duck" | "drain_timeout");
            difference.key = format!("{section}.{}", difference.key);
            changes.push(match live {
                true => Change::Setting(difference),
                false => Change::NeedsRestart(difference),
            });
        }
    }
    if let (Some(was), Some(is)) = (&old.admin.token, &new.admin.token)
        && was != is
    {
        let (from, to) = ("(secret)".into(), "(another secret)".into());
        changes.push(Change::NeedsRestart(Difference { key: "admin.token".into(), from, to }));
    }
}

/// The leaves in which two values differ.
fn differences(from: &Value, to: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(String::new(), from, to, &mut found);
    found
}

fn compare(key: String, from: &Value, to: &Value, found: &mut Vec<Difference>) {
    if let (Value::Object(from), Value::Object(to)) = (from, to) {
        let keys = from.keys().chain(to.keys().filter(|key| !from.contains_key(*key)));
        for below in keys {
            let dot = if key.is_empty() { "" } else { "." };
            let (from, to) = (from.get(below), to.get(below));
            let [from, to] = [from, to].map(|value| value.unwrap_or(&Value::Null));
            compare(format!("{key}{dot}{below}"), from, to, found);
        }
    } else if let (Value::Array(from), Value::Array(to)) = (from, to)
        && from.iter().chain(to).any(Value::is_object)
    {
        for index in 0..from.len().max(to.len()) {
            let (from, to) = (from.get(index), to.get(index));
            let [from, to] = [from, to].map(|value| value.unwrap_or(&Value::Null));
            compare(format!("{key}[{index}]"), from, to, found);
        }
    } else if from != to {
        found.push(Difference { key, from: shown(from), to: shown(to) });
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".into(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| format!("{key}: {}", shown(value)));
            format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} → {}", self.key, self.from, self.to)
    }
}

/// One line, the verb first, in columns.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |what: &[Difference]| {
            what.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        match self {
            Self::ListenerBound { listener, bind } => {
                write!(f, "bind     listener {}", on(listener, bind))
            }
            Self::ListenerChanged { listener, what } => {
                write!(f, "change   listener {listener}: {}", join(what))
            }
            Self::CertificatesReplaced { listener, files } => {
                write!(f, "change   listener {listener}: new certificate in {}", files.join(", "))
            }
            Self::RouteAdded { listener, route, service } => {
                write!(f, "route    {listener} {route}: to {service} (new)")
            }
            Self::RouteMoved { listener, route, from, to } => {
                write!(f, "route    {listener} {route}: from {from} to {to}")
            }
            Self::RouteChanged { listener, route, what } => {
                write!(f, "change   route {listener} {route}: {}", join(what))
            }
            Self::RouteRemoved { listener, route, service } => {
                write!(f, "unroute  {listener} {route}: no longer to {service}")
            }
            Self::ServiceAdded { service } => write!(f, "add      service {service}"),
            Self::ServiceChanged { service, what } => {
                write!(f, "change   service {service}: {}", join(what))
            }
            Self::PoolAdded { service, pool, endpoints } => {
                write!(f, "add      pool {service}/{pool} with {}", Endpoints(*endpoints))
            }
            Self::PoolChanged { service, pool, what } => {
                write!(f, "change   pool {service}/{pool}: {}", join(what))
            }
            Self::EndpointAdded { service, pool, endpoint } => {
                write!(f, "add      endpoint {service}/{pool}/{endpoint}")
            }
            Self::EndpointChanged { service, pool, endpoint, what } => {
                write!(f, "change   endpoint {service}/{pool}/{endpoint}: {}", join(what))
            }
            Self::EndpointRemoved { service, pool, endpoint } => {
                write!(f, "drain    endpoint {service}/{pool}/{endpoint}")
            }
            Self::PoolRemoved { service, pool, endpoints } => {
                write!(f, "drain    pool {service}/{pool} with {}", Endpoints(*endpoints))
            }
            Self::ServiceRemoved { service } => write!(f, "drain    service {service}"),
            Self::ListenerClosed { listener, bind } => {
                write!(f, "close    listener {}", on(listener, bind))
            }
            Self::Setting(difference) => write!(f, "set      {difference}"),
            Self::NeedsRestart(difference) => {
                write!(f, "restart  {difference} (at a restart only)")
            }
        }
    }
}

/// A listener without a name of its own is called as its address.
fn on(listener: &str, bind: &str) -> String {
    if listener == bind { bind.to_owned() } else { format!("{listener} on {bind}") }
}

struct Endpoints(usize);

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} endpoint{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}
