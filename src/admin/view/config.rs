//! ● The configuration that runs, as JSON with the names of the file; secrets are left out.
//!
//! Keys and tokens are never shown: files are named instead, and what has no file says `(hidden)`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::view::protocols;
use crate::config::{
    Admin, CheckKind, Config, Failback, Failover, HealthCheck, HostPattern, Listener, ListenerMode,
    Output, Pool, ProxyVersion, Route, Service, TlsVersion, WhenNone,
};

const HIDDEN: &str = "(hidden)";

/// `GET /api/v1/config`: the values in force, defaults included.
pub fn of(config: &Config, generation: u64) -> Value {
    let services = config.services.iter();
    let access_log = config.logging.access_log.as_ref().map(|log| {
        let output = match &log.output {
            Output::Stdout => "stdout".into(),
            Output::Stderr => "stderr".into(),
            Output::File(path) => path.display().to_string(),
        };
        json!({ "output": output, "sample": percent(log.sample) })
    });
    json!({
        "generation": generation,
        "digest": config.digest,
        "admin": admin(&config.admin),
        "process": {
            "workers": config.process.workers.map_or_else(|| json!("auto"), |count| json!(count)),
            "lame_duck": duration(config.process.lame_duck),
            "drain_timeout": duration(config.process.drain_timeout),
            "state_file": config.process.state_file,
            "history_file": config.process.history_file,
        },
        "logging": {
            "level": format!("{:?}", config.logging.level).to_lowercase(),
            "format": format!("{:?}", config.logging.format).to_lowercase(),
            "access_log": access_log.unwrap_or(json!(false)),
        },
        "listeners": config.listeners.iter().map(|l| listener(l, config)).collect::<Vec<_>>(),
        "services": services.map(|s| (s.name.to_string(), service(s)))
            .collect::<serde_json::Map<_, _>>(),
    })
}

fn admin(admin: &Admin) -> Value {
    json!({
        "listen": admin.listen,
        "socket": admin.socket,
        "token": admin.token.as_ref().map(|_| HIDDEN),
    })
}

fn listener(listener: &Listener, config: &Config) -> Value {
    let tls = listener.tls.as_ref().map(|tls| {
        let certificates = tls.certificates.iter().map(|certificate| {
            json!({
                "cert_file": certificate.cert_file,
                "key_file": certificate.key_file,
                "names": certificate.names,
                "not_after": certificate.not_after,
            })
        });
        let version = match tls.min_version {
            TlsVersion::V1_2 => "1.2",
            TlsVersion::V1_3 => "1.3",
        };
        json!({ "min_version": version, "certificates": certificates.collect::<Vec<_>>() })
    });
    let limits = &listener.limits;
    json!({
        "name": &*listener.name,
        "bind": listener.bind,
        "protocols": protocols(listener.protocols),
        "mode": listener.mode.label(),
        "proxy_protocol": Some(&listener.proxy_protocol)
            .filter(|from| !from.is_empty()).map(|from| json!({ "from": from })),
        "tls": tls,
        "redirect": listener.redirect_https.then_some("https"),
        "trusted_proxies": listener.trusted_proxies,
        "limits": {
            "max_connections": limits.max_connections,
            "header_timeout": duration(limits.header_timeout),
            "idle_timeout": duration(limits.idle_timeout),
            "body_timeout": duration(limits.body_timeout),
            "max_header_size": limits.max_header_size,
            "max_headers": limits.max_headers,
            "max_uri": limits.max_uri,
            "max_body_size": limits.max_body_size,
            "max_concurrent_streams": limits.max_concurrent_streams,
        },
        "routes": listener.routes.iter().map(|r| route(r, listener, config)).collect::<Vec<_>>(),
    })
}

fn route(route: &Route, listener: &Listener, config: &Config) -> Value {
    let host = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Wildcard(suffix) => format!("*.{suffix}"),
    };
    if listener.mode != ListenerMode::Http {
        return json!({
            "sni": route.hosts.iter().map(host).collect::<Vec<_>>(),
            "alpn": route.alpn,
            "service": config.services.get(route.service as usize).map(|service| &*service.name),
        });
    }
    json!({
        "hosts": route.hosts.iter().map(host).collect::<Vec<_>>(),
        "path_prefix": route.path_prefix,
        "service": config.services.get(route.service as usize).map(|service| &*service.name),
        "idempotency_key": route.idempotency_key,
    })
}

fn service(service: &Service) -> Value {
    let timeouts = &service.timeouts;
    let outlier_detection = service
        .outlier_errors
        .map_or(json!(false), |errors| json!({ "consecutive_errors": errors }));
    json!({
        "balance": match service.balance {
            crate::config::Balance::RoundRobin => "round_robin",
            crate::config::Balance::LeastRequests => "least_requests",
            crate::config::Balance::Random => "random",
        },
        "failover": failover(&service.failover),
        "outlier_detection": outlier_detection,
        "retries": {
            "attempts": service.retries.attempts,
            "budget": percent(service.retries.budget),
        },
        "timeouts": {
            "connect": duration(timeouts.connect),
            "response_header": duration(timeouts.response_header),
            "idle": duration(timeouts.idle),
            "total": timeouts.total.map(duration),
            "silence": timeouts.silence.map(duration),
        },
        "pools": service.pools.iter().map(|p| pool(p)).collect::<Vec<_>>(),
    })
}

fn failover(failover: &Failover) -> Value {
    let (mode, stable_for, ramp) = match failover.failback {
        Failback::Auto { stable_for, ramp } => ("auto", Some(stable_for), Some(ramp)),
        Failback::Manual => ("manual", None, None),
    };
    let (hold, sessions) = (&failover.hold, &failover.sessions);
    json!({
        "failback": {
            "mode": mode,
            "stable_for": stable_for.map(duration),
            "ramp": ramp.map(duration),
        },
        "when_none": match failover.when_none {
            WhenNone::TryAll => "try_all",
            WhenNone::Unavailable => "unavailable",
        },
        "hold": { "time": duration(hold.time), "requests": hold.requests },
        "sessions": {
            "close_after": duration(sessions.close_after),
            "spread": duration(sessions.spread),
        },
    })
}

fn pool(pool: &Pool) -> Value {
    let tls = &pool.upstream.tls;
    let endpoints = pool.endpoints.iter().map(|endpoint| {
        let scheme = format!("{:?}", endpoint.scheme).to_lowercase();
        json!({
            "url": format!("{scheme}://{}", endpoint.name),
            "address": endpoint.address,
            "weight": endpoint.weight,
        })
    });
    json!({
        "name": &*pool.name,
        "min_healthy": pool.min_healthy,
        "health_check": pool.health_check.as_ref().map(health_check),
        "upstream": {
            "tls": {
                "server_name": tls.server_name,
                "ca_file": tls.ca.as_ref().map(|ca| &ca.path),
                "verify": tls.verify,
            },
            "proxy_protocol": pool.upstream.proxy_protocol.map(ProxyVersion::label),
            "max_requests": pool.upstream.max_requests,
            "warm": pool.upstream.warm,
        },
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn health_check(check: &HealthCheck) -> Value {
    let mut value = json!({
        "type": "tcp",
        "interval": duration(check.interval),
        "timeout": duration(check.timeout),
        "fast_interval": duration(check.fast_interval),
        "unhealthy_threshold": check.unhealthy_threshold,
        "healthy_threshold": check.healthy_threshold,
    });
    if check.kind == CheckKind::Tls {
        value["type"] = json!("tls");
    }
    if let CheckKind::Http(http) = &check.kind {
        let range = |(from, to): &(u16, u16)| format!("{from}-{to}");
        let headers = http.headers.iter().map(|(name, value)| (name.clone(), json!(value)));
        value["type"] = json!(if http.tls { "https" } else { "http" });
        value["path"] = json!(http.path);
        value["host"] = json!(http.host);
        value["expect"] = json!({
            "status": http.status.iter().map(range).collect::<Vec<_>>().join(","),
            "body_contains": http.body_contains,
        });
        value["expect"]["header"] = Value::Object(headers.collect());
    }
    value
}

/// As the file writes it: the largest unit that fits exactly.
fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis > 0 && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") }
}

/// A share as a percentage, to a thousandth.
fn percent(share: f64) -> String {
    format!("{}%", (share * 1e5).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::observe::fixture;

    #[test]
    fn secrets_are_hidden_and_files_are_named() {
        let mut config = fixture::config();
        config.admin.token = Some(Secret(b"the token".to_vec()));
        let text = of(&config, 7).to_string();
        for secret in ["the private key", "the token"] {
            assert!(!text.contains(secret), "{secret}");
        }
        for shown in ["certs/app.key", "(hidden)", "\"generation\":7"] {
            assert!(text.contains(shown), "{shown}");
        }
    }

    #[test]
    fn values_are_written_as_in_the_file() {
        let config = of(&fixture::config(), 1);
        let app = &config["services"]["app"];
        assert_eq!(app["retries"]["budget"], "20%");
        assert_eq!(app["failover"]["failback"]["stable_for"], "5m");
        assert_eq!(app["pools"][0]["health_check"]["timeout"], "800ms");
        let check = &app["pools"][0]["health_check"];
        assert_eq!(check["expect"]["header"]["x-cluster-id"], "hot");
        assert_eq!(app["pools"][0]["endpoints"][0]["url"], "http://10.0.1.10:80");
        assert_eq!(config["listeners"][0]["routes"][0]["service"], "app");
        assert_eq!(config["process"]["lame_duck"], "0s");
    }

    #[test]
    fn what_decides_a_failover_is_shown_as_it_is_written() {
        let mut config = fixture::config();
        config.process.state_file = Some("/var/lib/standfast/state.json".into());
        let shown = of(&config, 1);
        assert_eq!(shown["process"]["state_file"], "/var/lib/standfast/state.json");
        assert_eq!(shown["process"]["history_file"], Value::Null);
        assert_eq!(shown["listeners"][0]["routes"][0]["idempotency_key"], false);
        let app = &shown["services"]["app"];
        let failback = json!({ "mode": "auto", "stable_for": "5m", "ramp": "0s" });
        assert_eq!(app["failover"]["failback"], failback);
        assert_eq!(app["failover"]["hold"], json!({ "time": "2s", "requests": 1000 }));
        assert_eq!(app["failover"]["sessions"], json!({ "close_after": "30s", "spread": "10s" }));
        assert_eq!(app["outlier_detection"], json!({ "consecutive_errors": 5 }));
        assert_eq!(app["pools"][0]["upstream"]["warm"], 0);
    }
}
