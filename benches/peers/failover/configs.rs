//! What the peers are told, in two hands: as their documentation starts one off, with their default
//! timers; and as somebody would who knows the peer well and has only this rig in mind (a timeout of
//! 300 ms for an answer, for one, is more than most real applications can bear).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use crate::rig::endpoint::nginx_head;
use crate::rig::proxy::FRONT;

/// What a configuration is made from.
pub(crate) struct Site<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) hot: &'a [SocketAddr],
    pub(crate) standby: &'a [SocketAddr],
    pub(crate) tuned: bool,
}

impl Site<'_> {
    pub(crate) fn haproxy(&self) -> String {
        let dir = self.dir.display();
        let (timeouts, options, checks) = if self.tuned {
            (
                "timeout connect 50ms\n    timeout server 300ms\n    timeout check 100ms\n    \
                 timeout tunnel 1h",
                "option redispatch 1\n    retries 3\n    \
                 retry-on conn-failure empty-response response-timeout junk-response 502 503 504\n    \
                 http-request disable-l7-retry if METH_POST",
                "inter 100ms fastinter 50ms downinter 100ms fall 2 rise 2 \
                 observe layer4 error-limit 1 on-error mark-down",
            )
        } else {
            ("timeout connect 5s\n    timeout server 50s", "", "")
        };
        let mut text = format!(
            "\
global
    stats socket {dir}/admin.sock level admin expose-fd listeners
    maxconn 8000
defaults
    mode http
    timeout client 50s
    {timeouts}
frontend front
    bind {FRONT}
    default_backend app
backend app
    option httpchk GET /healthz
    option allbackups
    {options}
    default-server check {checks}
"
        );
        for (name, address) in self.named() {
            let backup = if name.starts_with("standby") { "backup" } else { "" };
            let _ = writeln!(text, "    server {name} {address} {backup}");
        }
        text
    }

    /// `swapped`: the standby serves, and hot is the backup.
    pub(crate) fn nginx(&self, swapped: bool) -> String {
        let dir = self.dir.display();
        let mut servers = String::new();
        for (name, address) in self.named() {
            let backup = if name.starts_with("hot") == swapped { " backup" } else { "" };
            let _ = writeln!(servers, "        server {address}{backup};");
        }
        let tuned = if self.tuned {
            "proxy_connect_timeout 50ms; proxy_read_timeout 300ms; proxy_send_timeout 300ms;
            proxy_next_upstream error timeout invalid_header http_502 http_503 http_504;
            proxy_next_upstream_tries 6;"
        } else {
            ""
        };
        // With a zone the workers share what they learned of a server.
        let zone = if self.tuned { "zone app 256k;" } else { "" };
        let head = nginx_head(&dir, "auto");
        format!(
            "{head}
    upstream app {{
        {zone}
{servers}        keepalive 128;
    }}
    server {{
        listen {FRONT} backlog=4096;
        location /ws {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $or_upgrade;
        }}
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $or_upgrade;
            {tuned}
        }}
    }}
}}
"
        )
    }

    pub(crate) fn envoy(&self) -> String {
        let dir = self.dir.display();
        let (connect, cluster, checks, routes) = if self.tuned {
            ("0.05s", ENVOY_CLUSTER, ENVOY_CHECKS, ENVOY_ROUTES)
        } else {
            (
                "5s",
                "",
                "timeout: 1s, interval: 2s, unhealthy_threshold: 3, healthy_threshold: 2,",
                "- { match: { prefix: / }, route: { cluster: app } }",
            )
        };
        let manager = "type.googleapis.com/envoy.extensions.filters.network.\
                       http_connection_manager.v3.HttpConnectionManager";
        format!(
            "\
node: {{ id: rig, cluster: rig }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 9901 }} }} }}
static_resources:
  listeners:
  - name: front
    address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": {manager}
          stat_prefix: front
          route_config:
            virtual_hosts:
            - name: app
              domains: [\"*\"]
              routes:
              {routes}
          upgrade_configs: [{{ upgrade_type: websocket }}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: app
    type: EDS
    connect_timeout: {connect}
    eds_cluster_config: {{ eds_config: {{ path_config_source: {{ path: {dir}/eds.yaml }} }} }}
    health_checks:
    - {{ {checks} http_health_check: {{ path: /healthz }} }}
{cluster}
",
            ip = FRONT.ip(),
            port = FRONT.port(),
        )
    }

    /// The endpoints as Envoy reads them from a file of their own; `swapped`: the standby comes first.
    pub(crate) fn envoy_endpoints(&self, swapped: bool) -> String {
        let [first, second] =
            if swapped { [self.standby, self.hot] } else { [self.hot, self.standby] };
        let mut text = String::from(
            "resources:\n- \"@type\": \
             type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  \
             cluster_name: app\n",
        );
        if self.tuned {
            // One endpoint of three carries all, before any request goes to the next priority.
            text.push_str("  policy: { overprovisioning_factor: 400 }\n");
        }
        text.push_str("  endpoints:\n");
        for (priority, addresses) in [first, second].into_iter().enumerate() {
            let _ = writeln!(text, "  - priority: {priority}\n    lb_endpoints:");
            for address in addresses {
                let (ip, port) = (address.ip(), address.port());
                let _ = writeln!(
                    text,
                    "    - endpoint: {{ address: {{ socket_address: \
                     {{ address: {ip}, port_value: {port} }} }} }}"
                );
            }
        }
        text
    }

    /// `hot1` to `standby3`, with their addresses.
    fn named(&self) -> impl Iterator<Item = (String, SocketAddr)> {
        let named = |pool: &'static str, addresses: &[SocketAddr]| {
            let named = addresses.iter().enumerate();
            let named = named.map(|(index, &address)| (format!("{pool}{}", index + 1), address));
            named.collect::<Vec<_>>()
        };
        named("hot", self.hot).into_iter().chain(named("standby", self.standby))
    }
}

const ENVOY_CHECKS: &str = "timeout: 0.25s, interval: 0.1s, no_traffic_interval: 0.1s, \
    unhealthy_interval: 0.1s, unhealthy_threshold: 2, healthy_threshold: 2,";

/// 500 ejects nobody: one bad URI must not. Without the merge window of zero Envoy sits on a change
/// of health for up to a second; a good probe does not bring back who answers users with 503.
const ENVOY_CLUSTER: &str =
    "    common_lb_config: { healthy_panic_threshold: { value: 0 }, update_merge_window: 0s }
    circuit_breakers:
      thresholds:
      - max_connections: 10000
        max_pending_requests: 10000
        max_requests: 10000
        max_retries: 10000
    outlier_detection:
      split_external_local_origin_errors: true
      consecutive_local_origin_failure: 3
      enforcing_consecutive_local_origin_failure: 100
      consecutive_gateway_failure: 3
      enforcing_consecutive_gateway_failure: 100
      enforcing_consecutive_5xx: 0
      enforcing_success_rate: 0
      enforcing_local_origin_success_rate: 0
      interval: 0.1s
      base_ejection_time: 1s
      max_ejection_time: 2s
      max_ejection_percent: 100
      successful_active_health_check_uneject_host: false";

const ENVOY_ROUTES: &str = "\
- { match: { prefix: /ws }, route: { cluster: app, timeout: 0s } }
              - match: { prefix: /, headers: [{ name: \":method\", string_match: { exact: POST } }] }
                route:
                  cluster: app
                  retry_policy:
                    retry_on: connect-failure,refused-stream
                    num_retries: 5
                    retry_back_off: { base_interval: 0.001s, max_interval: 0.01s }
                    retry_priority: &priority
                      name: envoy.retry_priorities.previous_priorities
                      typed_config:
                        \"@type\": type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig
                        update_frequency: 2
              - match: { prefix: / }
                route:
                  cluster: app
                  hedge_policy: { hedge_on_per_try_timeout: true }
                  retry_policy:
                    retry_on: connect-failure,refused-stream,reset,gateway-error
                    num_retries: 5
                    per_try_timeout: 0.1s
                    retry_back_off: { base_interval: 0.001s, max_interval: 0.01s }
                    retry_priority: *priority";
