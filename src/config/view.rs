//! ● A configuration as JSON in the shape of the file, defaults filled in and secrets struck out:
//! what `GET /api/v1/config` shows, and what two configurations are compared by.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::check::{Diagnostic, Severity};
use super::units::{Bytes, Period, date};
use super::{
    AccessLog, Balance, Certificate, CheckKind, Config, Endpoint, Failback, HealthCheck,
    HostPattern, IpNet, Level, Limits, Listener, ListenerMode, LogFormat, Output, Pool, Protocols,
    ProxyVersion, Route, Scheme, Service, Tls, TlsVersion, Upstream, WhenNone,
};

/// The whole configuration. No secret and no content of a file is in it.
pub fn redacted_json(config: &Config) -> Value {
    let listeners = config.listeners.iter().map(|listener| self::listener(listener, config));
    let services = config.services.iter();
    let services: Map<_, _> =
        services.map(|service| (service.name.to_string(), self::service(service))).collect();
    json!({
        "version": 1,
        "digest": config.digest,
        "admin": admin(config),
        "process": process(config),
        "logging": logging(config),
        "listeners": listeners.collect::<Vec<_>>(),
        "services": services,
    })
}

/// One diagnostic as `check --json` and a refused reload print it; `file` is the name to show.
pub fn diagnostic_json(diagnostic: &Diagnostic, file: &str) -> Value {
    let severity = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    json!({
        "severity": severity,
        "path": diagnostic.path,
        "file": file,
        "line": diagnostic.line,
        "column": diagnostic.column,
        "snippet": diagnostic.snippet,
        "message": diagnostic.message,
        "remedy": diagnostic.remedy,
    })
}

pub(super) fn admin(config: &Config) -> Value {
    json!({
        "listen": config.admin.listen.to_string(),
        "socket": path(config.admin.socket.as_deref()),
        "token": config.admin.token.as_ref().map(|_| "(secret)"),
    })
}

fn path(path: Option<&Path>) -> Option<String> {
    path.map(|path| path.display().to_string())
}

pub(super) fn process(config: &Config) -> Value {
    let workers = config.process.workers;
    json!({
        "workers": workers.map_or_else(|| json!("auto"), |workers| json!(workers)),
        "lame_duck": Period(config.process.lame_duck).to_string(),
        "drain_timeout": Period(config.process.drain_timeout).to_string(),
        "state_file": path(config.process.state_file.as_deref()),
        "history_file": path(config.process.history_file.as_deref()),
    })
}

pub(super) fn logging(config: &Config) -> Value {
    let level = match config.logging.level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    let format = match config.logging.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let access_log = config.logging.access_log.as_ref().map_or(json!(false), access_log);
    json!({ "level": level, "format": format, "access_log": access_log })
}

fn access_log(log: &AccessLog) -> Value {
    let output = match &log.output {
        Output::Stdout => "stdout".to_owned(),
        Output::Stderr => "stderr".to_owned(),
        Output::File(path) => path.display().to_string(),
    };
    json!({ "output": output, "sample": percent(log.sample) })
}

fn percent(share: f64) -> String {
    // Rounded to what a file can say, so that 0.07 is `7%` and not `7.000000000000001%`.
    format!("{}%", (share * 100.0 * 1e9).round() / 1e9)
}

fn listener(listener: &Listener, config: &Config) -> Value {
    let mut shown = listener_settings(listener);
    if let Value::Object(fields) = &mut shown {
        let routes = listener.routes.iter().map(|route| self::route(route, listener, config));
        fields.insert("routes".into(), routes.collect());
    }
    shown
}

/// All of a listener but its routes.
pub(super) fn listener_settings(listener: &Listener) -> Value {
    json!({
        "name": &*listener.name,
        "bind": listener.bind.to_string(),
        "protocols": protocols(listener.protocols),
        "mode": listener.mode.label(),
        "proxy_protocol": proxy_protocol(&listener.proxy_protocol),
        "tls": listener.tls.as_ref().map(tls),
        "redirect": listener.redirect_https.then_some("https"),
        "trusted_proxies":
            listener.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "limits": limits(&listener.limits),
    })
}

/// As they are written in a file.
pub fn protocols(protocols: Protocols) -> Vec<&'static str> {
    let names = [(protocols.http1, "http1"), (protocols.http2, "http2")];
    names.into_iter().filter_map(|(spoken, name)| spoken.then_some(name)).collect()
}

fn proxy_protocol(from: &[IpNet]) -> Value {
    match from {
        [] => Value::Null,
        from => json!({ "from": from.iter().map(ToString::to_string).collect::<Vec<_>>() }),
    }
}

fn tls(tls: &Tls) -> Value {
    let min_version = match tls.min_version {
        TlsVersion::V1_2 => "1.2",
        TlsVersion::V1_3 => "1.3",
    };
    let certificates: Vec<_> = tls.certificates.iter().map(certificate).collect();
    json!({ "min_version": min_version, "certificates": certificates })
}

fn certificate(certificate: &Certificate) -> Value {
    json!({
        "cert_file": certificate.cert_file.display().to_string(),
        "key_file": certificate.key_file.display().to_string(),
        "names": certificate.names,
        "not_after": date(certificate.not_after),
    })
}

fn limits(limits: &Limits) -> Value {
    json!({
        "max_connections": limits.max_connections,
        "header_timeout": Period(limits.header_timeout).to_string(),
        "idle_timeout": Period(limits.idle_timeout).to_string(),
        "body_timeout": Period(limits.body_timeout).to_string(),
        "max_header_size": Bytes(limits.max_header_size.into()).to_string(),
        "max_headers": limits.max_headers,
        "max_uri": Bytes(limits.max_uri.into()).to_string(),
        "max_body_size": limits.max_body_size.map(|size| Bytes(size).to_string()),
        "max_concurrent_streams": limits.max_concurrent_streams,
    })
}

fn route(route: &Route, listener: &Listener, config: &Config) -> Value {
    let hosts: Vec<_> = route.hosts.iter().map(host).collect();
    if listener.mode != ListenerMode::Http {
        let service = service_name(route, config);
        return json!({ "sni": hosts, "alpn": route.alpn, "service": service });
    }
    json!({
        "hosts": hosts,
        "path_prefix": route.path_prefix,
        "service": service_name(route, config),
        "idempotency_key": route.idempotency_key,
    })
}

pub(super) fn host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Wildcard(parent) => format!("*.{parent}"),
    }
}

/// The name of a route's service; a checked configuration has one for every index.
pub(super) fn service_name<'a>(route: &Route, config: &'a Config) -> &'a str {
    let service = usize::try_from(route.service).ok().and_then(|n| config.services.get(n));
    service.map_or("", |service| &service.name)
}

fn service(service: &Service) -> Value {
    let mut shown = service_settings(service);
    if let Value::Object(fields) = &mut shown {
        fields.insert("pools".into(), service.pools.iter().map(|pool| self::pool(pool)).collect());
    }
    shown
}

/// All of a service but its pools.
pub(super) fn service_settings(service: &Service) -> Value {
    let balance = match service.balance {
        Balance::RoundRobin => "round_robin",
        Balance::LeastRequests => "least_requests",
        Balance::Random => "random",
    };
    let failback = match service.failover.failback {
        Failback::Manual => json!({ "mode": "manual" }),
        Failback::Auto { stable_for, ramp } => json!({
            "mode": "auto",
            "stable_for": Period(stable_for).to_string(),
            "ramp": Period(ramp).to_string(),
        }),
    };
    let when_none = match service.failover.when_none {
        WhenNone::TryAll => "try_all",
        WhenNone::Unavailable => "unavailable",
    };
    let (hold, sessions) = (&service.failover.hold, &service.failover.sessions);
    let outlier_detection = service
        .outlier_errors
        .map_or(json!(false), |errors| json!({ "consecutive_errors": errors }));
    let (retries, timeouts) = (&service.retries, &service.timeouts);
    json!({
        "balance": balance,
        "failover": {
            "failback": failback,
            "when_none": when_none,
            "hold": { "time": Period(hold.time).to_string(), "requests": hold.requests },
            "sessions": {
                "close_after": Period(sessions.close_after).to_string(),
                "spread": Period(sessions.spread).to_string(),
            },
        },
        "outlier_detection": outlier_detection,
        "retries": { "attempts": retries.attempts, "budget": percent(retries.budget) },
        "timeouts": {
            "connect": Period(timeouts.connect).to_string(),
            "response_header": Period(timeouts.response_header).to_string(),
            "idle": Period(timeouts.idle).to_string(),
            "total": timeouts.total.map(|total| Period(total).to_string()),
            "silence": timeouts.silence.map(|silence| Period(silence).to_string()),
        },
    })
}

fn pool(pool: &Pool) -> Value {
    let mut shown = pool_settings(pool);
    if let Value::Object(fields) = &mut shown {
        fields.insert("name".into(), json!(&*pool.name));
        let endpoints = pool.endpoints.iter().map(|endpoint| self::endpoint(endpoint));
        fields.insert("endpoints".into(), endpoints.collect());
    }
    shown
}

/// All of a pool but its name and endpoints.
pub(super) fn pool_settings(pool: &Pool) -> Value {
    json!({
        "min_healthy": pool.min_healthy,
        "health_check": pool.health_check.as_ref().map(health_check),
        "upstream": upstream(&pool.upstream),
    })
}

fn health_check(check: &HealthCheck) -> Value {
    let mut shown = json!({
        "type": "tcp",
        "interval": Period(check.interval).to_string(),
        "timeout": Period(check.timeout).to_string(),
        "fast_interval": Period(check.fast_interval).to_string(),
        "unhealthy_threshold": check.unhealthy_threshold,
        "healthy_threshold": check.healthy_threshold,
    });
    if check.kind == CheckKind::Tls {
        shown["type"] = json!("tls");
    }
    if let (CheckKind::Http(http), Value::Object(fields)) = (&check.kind, &mut shown) {
        let status = http.status.iter().map(|(from, to)| format!("{from}-{to}"));
        let headers: Map<_, _> =
            http.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        fields.insert("type".into(), json!(if http.tls { "https" } else { "http" }));
        fields.insert("path".into(), json!(http.path));
        fields.insert("host".into(), json!(http.host));
        let expect = json!({
            "status": status.collect::<Vec<_>>(),
            "body_contains": http.body_contains,
            "header": headers,
        });
        fields.insert("expect".into(), expect);
    }
    shown
}

fn upstream(upstream: &Upstream) -> Value {
    json!({
        "proxy_protocol": upstream.proxy_protocol.map(ProxyVersion::label),
        "max_requests": upstream.max_requests,
        "warm": upstream.warm,
        "tls": {
            "server_name": upstream.tls.server_name,
            "ca_file": upstream.tls.ca.as_ref().map(|ca| ca.path.display().to_string()),
            "verify": upstream.tls.verify,
        },
    })
}

pub(super) fn endpoint(endpoint: &Endpoint) -> Value {
    let scheme = match endpoint.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    json!({
        "url": format!("{scheme}://{}", endpoint.name),
        "address": endpoint.address.to_string(),
        "weight": endpoint.weight,
    })
}
