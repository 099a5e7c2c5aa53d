//! Configurations for tests and benches, written as values.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::config::{
    Admin, Balance, CheckKind, Config, Endpoint, Failback, Failover, HealthCheck, Level, Limits,
    Listener, LogFormat, Logging, Pool, Process, Protocols, Retries, Route, Scheme, Service,
    Timeouts, Upstream, UpstreamTls, WhenNone,
};

/// The defaults, with failback after five minutes and tcp probes.
pub(crate) fn check() -> HealthCheck {
    HealthCheck {
        kind: CheckKind::Tcp,
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(800),
        fast_interval: Duration::from_millis(100),
        unhealthy_threshold: 3,
        healthy_threshold: 2,
    }
}

pub(crate) fn endpoint(name: &str, weight: u16) -> Arc<Endpoint> {
    let address: SocketAddr = name.parse().unwrap();
    let host = address.ip().to_string();
    Arc::new(Endpoint { name: name.into(), scheme: Scheme::Http, host, address, weight })
}

pub(crate) fn pool(name: &str, endpoints: &[&str]) -> Arc<Pool> {
    let tls = UpstreamTls { server_name: None, ca: None, verify: true };
    Arc::new(Pool {
        name: name.into(),
        min_healthy: 1,
        health_check: Some(check()),
        upstream: Upstream { tls, max_requests: 1024, warm: 0, proxy_protocol: None },
        endpoints: endpoints.iter().map(|name| endpoint(name, 1)).collect(),
    })
}

pub(crate) fn service_of(name: &str, when_none: WhenNone, pools: Vec<Arc<Pool>>) -> Arc<Service> {
    Arc::new(Service {
        name: name.into(),
        balance: Balance::RoundRobin,
        failover: Failover {
            failback: Failback::Auto { stable_for: Duration::from_secs(300), ramp: Duration::ZERO },
            when_none,
            hold: <_>::default(),
            sessions: <_>::default(),
        },
        outlier_errors: Some(5),
        retries: Retries { attempts: 2, budget: 0.2 },
        timeouts: Timeouts {
            connect: Duration::from_secs(1),
            response_header: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            total: None,
            silence: None,
        },
        pools,
    })
}

pub(crate) fn listener(name: &str, bind: &str, services: &[u32]) -> Arc<Listener> {
    let route = |service: &u32| Route {
        hosts: Vec::new(),
        path_prefix: "/".into(),
        alpn: Vec::new(),
        service: *service,
        idempotency_key: false,
    };
    Arc::new(Listener {
        name: name.into(),
        bind: bind.parse().unwrap(),
        protocols: Protocols { http1: true, http2: false },
        tls: None,
        redirect_https: false,
        mode: <_>::default(),
        proxy_protocol: Vec::new(),
        trusted_proxies: Vec::new(),
        limits: Limits {
            max_connections: 1,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            max_header_size: 65_536,
            max_headers: 128,
            max_uri: 16_384,
            max_body_size: None,
            max_concurrent_streams: 128,
        },
        routes: services.iter().map(route).collect(),
    })
}

pub(crate) fn config(listeners: Vec<Arc<Listener>>, services: Vec<Arc<Service>>) -> Arc<Config> {
    Arc::new(Config {
        admin: Admin {
            listen: "127.0.0.1:9090".parse().unwrap(),
            listen_is_explicit: false,
            socket: None,
            token: None,
        },
        process: Process {
            workers: None,
            lame_duck: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            state_file: None,
            history_file: None,
        },
        logging: Logging { level: Level::Info, format: LogFormat::Text, access_log: None },
        listeners,
        services,
        digest: "0".repeat(16),
    })
}
