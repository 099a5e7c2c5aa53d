//! ● A table for tests of what is seen from outside: `app` with a hot and a standby pool of two
//! endpoints each behind one listener, two workers.

use std::sync::Arc;
use std::time::Duration;

use crate::config::*;
use crate::control::ReloadCounters;
use crate::failover::record::{ConfigName, Cost, Evidence, Phases, Source, Stamp, Times};
use crate::failover::{Cause, Record};
use crate::table::{Table, build};

pub(crate) fn config() -> Config {
    Config {
        admin: Admin {
            listen: ([127, 0, 0, 1], 0).into(),
            listen_is_explicit: true,
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
        listeners: vec![Arc::new(listener())],
        services: vec![Arc::new(service())],
        digest: "0123456789abcdef".to_owned(),
    }
}

pub(crate) fn table() -> Table {
    build::first(Arc::new(config()), 2, Duration::from_secs(1))
}

/// The table after `app` moved to standby, with its record.
pub(crate) fn table_with_record() -> Table {
    let mut table = table();
    let service = &table.services[0];
    let mut history = (*service.history).clone();
    history.keep(Arc::new(record(1)));
    let mut state = crate::failover::State::start(2, Duration::from_secs(50));
    (state.serving, state.cause) = (1, Cause::Health);
    let service = build::service(service, &state, None, Arc::new(history), &|_| <_>::default());
    table.services[0] = Arc::new(service);
    table
}

/// 2026-11-20 21:28:01.800 UTC, when the first connection to hot was refused.
pub(crate) const FIRST: u64 = 1_795_210_081_800_000;

/// `app-N`: hot was killed, and nothing but three POSTs in flight was lost.
pub(crate) fn record(number: u64) -> Record {
    let at = |micros: u64| Stamp(FIRST + micros);
    let count = |pairs: &[(&str, u64)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
    let rules = [("min_healthy", "1"), ("unhealthy_threshold", "3"), ("when_none", "try_all")];
    let seen = |pool: &str, endpoint: &str, source, result: &str, success, micros| Evidence {
        pool: pool.to_owned(),
        endpoint: endpoint.to_owned(),
        source,
        result: result.to_owned(),
        success,
        count: 1,
        at: Stamp((FIRST as i64 + micros) as u64),
        phases: None,
    };
    let phases = |connect, first_byte, total| {
        Some(Phases { connect: Some(connect), tls: None, first_byte, total })
    };
    let refused = "connection refused";
    let evidence = vec![
        Evidence {
            phases: phases(210, Some(1_100), 1_400),
            ..seen("hot", "10.0.1.10:80", Source::Probe, "200", true, -412_000)
        },
        Evidence { count: 37, ..seen("hot", "10.0.1.10:80", Source::Live, refused, false, 42_000) },
        seen("hot", "10.0.1.10:80", Source::Confirm, refused, false, 800),
        seen("hot", "10.0.1.10:80", Source::Confirm, refused, false, 21_000),
        seen("hot", "10.0.1.11:80", Source::Confirm, refused, false, 41_300),
        Evidence {
            phases: phases(190, Some(900), 1_200),
            ..seen("standby", "10.0.2.10:80", Source::Confirm, "200", true, 2_100)
        },
    ];
    Record {
        id: format!("app-{number}"),
        service: "app".to_owned(),
        from: "hot".to_owned(),
        to: "standby".to_owned(),
        cause: Cause::Health,
        reason: "connection refused; 0 of 2 endpoints up, needs 1".to_owned(),
        forced: false,
        held: false,
        aborted: None,
        evidence,
        rules: rules.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        config: ConfigName { generation: 4, digest: "0123456789abcdef".to_owned() },
        times: Times {
            first_evidence: at(0),
            first_failure: Some(at(800)),
            decided: at(42_600),
            published: at(42_900),
            first_success: Some(at(3_400)),
            completed: Some(at(1_200_000)),
        },
        cost: Cost {
            requests: 3_210,
            in_flight: 6,
            rescued: count(&[("idempotent", 40), ("not_sent", 895)]),
            held: 12,
            lost: count(&[("not_idempotent", 3)]),
            added_latency_mean_micros: 1_240,
            added_latency_most_micros: 8_310,
        },
        waiting: None,
        complete: true,
    }
}

/// A start, and nothing since.
pub(crate) fn reloads() -> ReloadCounters {
    ReloadCounters {
        applied: 0.into(),
        refused: 0.into(),
        last_successful: true.into(),
        last_success_at: 1_700_000_000.into(),
    }
}

fn listener() -> Listener {
    let certificate = Certificate {
        cert_file: "certs/app.crt".into(),
        key_file: "certs/app.key".into(),
        chain_pem: b"chain".to_vec(),
        key_pem: Secret(b"the private key".to_vec()),
        names: vec!["app.example.com".to_owned()],
        not_after: 1_800_000_000,
    };
    Listener {
        name: "https".into(),
        bind: ([127, 0, 0, 1], 8443).into(),
        protocols: Protocols { http1: true, http2: true },
        tls: Some(Tls { min_version: TlsVersion::V1_2, certificates: vec![certificate] }),
        redirect_https: false,
        mode: <_>::default(),
        proxy_protocol: Vec::new(),
        trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
        limits: Limits {
            max_connections: 50_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            max_header_size: 65_536,
            max_headers: 128,
            max_uri: 16_384,
            max_body_size: None,
            max_concurrent_streams: 128,
        },
        routes: vec![Route {
            hosts: Vec::new(),
            alpn: Vec::new(),
            path_prefix: "/".to_owned(),
            service: 0,
            idempotency_key: false,
        }],
    }
}

fn service() -> Service {
    Service {
        name: "app".into(),
        balance: Balance::LeastRequests,
        failover: Failover {
            failback: Failback::Auto { stable_for: Duration::from_secs(300), ramp: Duration::ZERO },
            when_none: WhenNone::TryAll,
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
        pools: vec![Arc::new(pool("hot", 1)), Arc::new(pool("standby", 2))],
    }
}

fn pool(name: &str, net: u8) -> Pool {
    let http = HttpCheck {
        tls: false,
        path: "/healthz".to_owned(),
        host: None,
        status: vec![(200, 299)],
        body_contains: None,
        headers: vec![("x-cluster-id".to_owned(), "hot".to_owned())],
    };
    let check = HealthCheck {
        kind: CheckKind::Http(http),
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(800),
        fast_interval: Duration::from_millis(100),
        unhealthy_threshold: 3,
        healthy_threshold: 2,
    };
    let endpoint = |host: u8| {
        let address = std::net::SocketAddr::from(([10, 0, net, host], 80));
        let (name, host) = (address.to_string().into(), address.ip().to_string());
        Arc::new(Endpoint { name, scheme: Scheme::Http, host, address, weight: 1 })
    };
    Pool {
        name: name.into(),
        min_healthy: 1,
        health_check: Some(check),
        upstream: Upstream {
            tls: UpstreamTls { server_name: None, ca: None, verify: true },
            max_requests: 1024,
            warm: 0,
            proxy_protocol: None,
        },
        endpoints: vec![endpoint(10), endpoint(11)],
    }
}
