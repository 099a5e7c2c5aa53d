//! The peers and what they are told: each at its best, all doing the same work.
//!
//! One worker, connections kept to both sides, two endpoints in turn, `X-Forwarded-For` added, a
//! probe now and then, no access log, TLS 1.2 and 1.3 with the same ECDSA P-256 certificate.

use std::fmt;
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
    /// HAProxy as packaged by the distribution
    Haproxy,
    /// the same with `option splice-response`, for large plain bodies
    HaproxySplice,
    /// nginx as packaged by the distribution
    Nginx,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Standfast => "standfast",
            Self::Baseline => "baseline",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy-splice",
            Self::Nginx => "nginx",
        }
    }

    /// Is this peer measured under that load? Splicing is for large plain bodies alone.
    pub(crate) fn takes_part(self, workload: Workload) -> bool {
        self != Self::HaproxySplice || workload == Workload::W3
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
    pub(crate) endpoints: &'a [SocketAddr],
    /// A directory of this proxy's own, with `cert.pem`, `key.pem` and `both.pem`.
    pub(crate) dir: &'a Path,
    /// Descriptors a process may open.
    pub(crate) descriptors: u64,
    pub(crate) root: bool,
}

/// Client connections the peers are ready to hold; Standfast takes 50,000 unless told otherwise.
const MAX_CONNECTIONS: u32 = 16_000;

impl Site<'_> {
    /// The configuration file of a peer, and the name to give it.
    pub(crate) fn config(&self, peer: Peer) -> (&'static str, String) {
        match peer {
            Peer::Standfast | Peer::Baseline => ("standfast.yaml", self.standfast()),
            Peer::Haproxy => ("haproxy.cfg", self.haproxy("")),
            Peer::HaproxySplice => ("haproxy.cfg", self.haproxy("    option splice-response\n")),
            Peer::Nginx => ("nginx.conf", self.nginx()),
        }
    }

    fn standfast(&self) -> String {
        let endpoints: Vec<String> =
            self.endpoints.iter().map(|endpoint| format!("\"http://{endpoint}\"")).collect();
        format!(
            "\
process: {{ workers: 1 }}
logging: {{ level: warn, access_log: false }}
listeners:
  - name: plain
    bind: \"{plain}\"
    limits: {{ idle_timeout: 10m }}
    service: app
  - name: tls
    bind: \"{tls}\"
    limits: {{ idle_timeout: 10m }}
    tls: {{ cert_file: {dir}/cert.pem, key_file: {dir}/key.pem }}
    service: app
services:
  app:
    balance: round_robin
    health_check: {{ path: {HEALTH_PATH}, interval: 10s }}
    pools:
      - name: hot
        endpoints: [{endpoints}]
",
            plain = self.plain,
            tls = self.tls,
            dir = self.dir.display(),
            endpoints = endpoints.join(", "),
        )
    }

    fn haproxy(&self, option: &str) -> String {
        let mut text = format!(
            "\
global
    nbthread 1
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
    default_backend app

frontend tls
    bind {tls} backlog 4096 ssl crt {dir}/both.pem alpn http/1.1
    default_backend app

backend app
    option httpchk GET {HEALTH_PATH}
",
            descriptors = self.descriptors,
            plain = self.plain,
            tls = self.tls,
            dir = self.dir.display(),
        );
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            text.push_str(&format!("    server e{index} {endpoint} check inter 10s\n"));
        }
        text
    }

    /// nginx's own buffers hold a body of 1 MiB in eight parts, none of it on disk.
    fn nginx(&self) -> String {
        let dir = self.dir.display();
        let user = if self.root { "user root;\n" } else { "" };
        let servers: String =
            self.endpoints.iter().map(|e| format!("        server {e} max_fails=0;\n")).collect();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("    {kind}_temp_path {dir}/{kind};\n"))
            .concat();
        let location = "\
        location / {
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }
";
        format!(
            "\
{user}daemon off;
worker_processes 1;
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
    upstream app {{
{servers}        keepalive 4096;
        keepalive_requests 1000000000;
        keepalive_timeout 10m;
    }}
    server {{
        listen {plain} backlog=4096;
{location}    }}
    server {{
        listen {tls} ssl backlog=4096;
        ssl_certificate {dir}/cert.pem;
        ssl_certificate_key {dir}/key.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
{location}    }}
}}
",
            descriptors = self.descriptors,
            plain = self.plain,
            tls = self.tls,
        )
    }
}
