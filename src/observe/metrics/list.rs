//! ● Every metric: name, kind, labels, help. What is rendered is on this list, and nothing else.

/// One family of series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// In the order in which values are given.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// A sum and a count, without quantiles.
    Summary,
}

impl Kind {
    /// As the exposition format calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $constant: Metric = Metric {
            name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help,
        };)*

        /// All of them, in the order of the headline first.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    // Failover: who serves, who could, what moved.
    POOL_ACTIVE: Gauge "standfast_pool_active" ["service", "pool", "priority"]
        "1 for the pool that serves the service now";
    POOL_AVAILABLE: Gauge "standfast_pool_available" ["service", "pool", "priority"]
        "1 while at least min_healthy endpoints of the pool are up";
    POOL_READY: Gauge "standfast_pool_ready" ["service", "pool"]
        "1 while the pool could take over now: available, trusted, freshly probed, warm if asked";
    POOL_ENDPOINTS: Gauge "standfast_pool_endpoints" ["service", "pool", "priority"]
        "Endpoints the pool has";
    POOL_ENDPOINTS_HEALTHY: Gauge "standfast_pool_endpoints_healthy"
        ["service", "pool", "priority"] "Endpoints of the pool that are up";
    FAILOVERS: Counter "standfast_failovers_total" ["service", "from", "to", "cause"]
        "Moves of a service from one pool to another";
    FAILOVER_DETECTION: Histogram "standfast_failover_detection_seconds" ["service"]
        "Time from the first evidence against a pool to the move away from it";
    FAILOVER_LAST: Gauge "standfast_failover_last_timestamp_seconds" ["service"]
        "When the service last moved, in Unix time";
    FAILOVER_HOLD: Gauge "standfast_failover_hold" ["service"]
        "1 while an operator holds the service: nothing moves by itself";
    FAILOVER_SHARE: Gauge "standfast_failover_share" ["service", "pool"]
        "Part of new requests that goes to the pool first, 0 to 1";
    FAILOVER_TROUBLE: Gauge "standfast_failover_trouble" ["service", "trouble"]
        "1 for the reason why a pool that is lost is not left";
    RESCUED: Counter "standfast_requests_rescued_total" ["service", "proof"]
        "Requests that failed at one endpoint and were safely sent to another";
    LOST: Counter "standfast_requests_lost_total" ["service", "reason"]
        "Requests lost through no fault of their clients";
    HELD: Counter "standfast_requests_held_total" ["service"]
        "Requests that had to wait for an endpoint, however that ended";
    HOLDING: Gauge "standfast_requests_holding" ["service"]
        "Requests that wait for an endpoint now";
    HEDGES: Counter "standfast_upstream_hedges_total" ["service"]
        "Connections that stayed silent, so that another endpoint was dialled as well";
    RETRIES: Counter "standfast_upstream_retries_total" ["service"]
        "Times a request was sent again after it may have been sent";
    BUDGET_EXHAUSTED: Counter "standfast_upstream_retry_budget_exhausted_total" ["service"]
        "Retries that were not made because the budget was used up";

    // Endpoints and their health.
    ENDPOINT_UP: Gauge "standfast_endpoint_up" ["service", "pool", "endpoint"]
        "1 for an endpoint that is up, 0 while down or not yet known";
    ENDPOINT_STATE: Gauge "standfast_endpoint_state" ["service", "pool", "endpoint", "state"]
        "1 for the verdict the endpoint has now: unknown, up or down";
    ENDPOINT_MODE: Gauge "standfast_endpoint_mode" ["service", "pool", "endpoint", "mode"]
        "1 for what the operator ordered for the endpoint: active, drain or off";
    ENDPOINT_DOUBTED: Gauge "standfast_endpoint_doubted" ["service", "pool", "endpoint"]
        "1 while new requests avoid the endpoint because others just met silence or errors there";
    ENDPOINT_WEIGHT: Gauge "standfast_endpoint_weight" ["service", "pool", "endpoint"]
        "Configured weight";
    ENDPOINT_TRANSITIONS: Counter "standfast_endpoint_transitions_total"
        ["service", "pool", "endpoint", "to"] "Changes of the endpoint's verdict";
    HEALTH_CHECKS: Counter "standfast_health_checks_total" ["service", "pool", "endpoint", "result"]
        "Probes by result: success, failure, timeout, or void where the fault was ours";
    HEALTH_CHECK_DURATION: Summary "standfast_health_check_duration_seconds" ["service", "pool"]
        "Time that probes of the pool took";
    HEALTH_CHECK_LAST_SUCCESS: Gauge "standfast_health_check_last_success_timestamp_seconds"
        ["service", "pool", "endpoint"] "When a probe last succeeded, in Unix time";

    // Requests.
    HTTP_REQUESTS: Counter "standfast_http_requests_total" ["listener", "service", "code"]
        "Requests answered, by status code; without a service where the listener itself answered";
    HTTP_DURATION: Histogram "standfast_http_request_duration_seconds" ["listener", "service"]
        "Time from a request's head to the end of its response";

    TCP_CONNECTIONS: Counter "standfast_tcp_connections_total" ["listener", "service", "result"]
        "Connections that were to be passed on: served, refused, or left before by the client";

    // Connections to endpoints.
    UPSTREAM_REQUESTS: Counter "standfast_upstream_requests_total"
        ["service", "pool", "endpoint", "code_class"] "Responses by class of their status";
    UPSTREAM_IN_FLIGHT: Gauge "standfast_upstream_requests_in_flight"
        ["service", "pool", "endpoint"] "Requests in flight at the endpoint";
    UPSTREAM_CONNECTIONS: Counter "standfast_upstream_connections_total"
        ["service", "pool", "endpoint"] "Connections opened to the endpoint";
    UPSTREAM_IDLE: Gauge "standfast_upstream_connections_idle" ["service", "pool", "endpoint"]
        "Idle connections kept to the endpoint";
    SESSIONS: Gauge "standfast_sessions_active" ["service", "pool", "endpoint"]
        "WebSockets and TCP connections open to the endpoint";
    SESSIONS_ENDED: Counter "standfast_sessions_ended_total" ["service", "reason"]
        "WebSockets and TCP connections that ended, by what ended them";
    UPSTREAM_ERRORS: Counter "standfast_upstream_errors_total"
        ["service", "pool", "endpoint", "reason"] "Requests and connections that went wrong";

    // Listeners.
    CONNECTIONS: Counter "standfast_listener_connections_total" ["listener"]
        "Connections accepted";
    CONNECTIONS_ACTIVE: Gauge "standfast_listener_connections_active" ["listener"]
        "Connections open now";
    CONNECTIONS_REJECTED: Counter "standfast_listener_connections_rejected_total"
        ["listener", "reason"] "Connections turned away or ended by us";
    RECEIVED_BYTES: Counter "standfast_listener_received_bytes_total" ["listener"]
        "Bytes received from clients";
    SENT_BYTES: Counter "standfast_listener_sent_bytes_total" ["listener"]
        "Bytes sent to clients";
    ACCEPT_ERRORS: Counter "standfast_accept_errors_total" ["listener"]
        "Connections that could not be accepted, for want of descriptors for example";
    HANDSHAKES: Counter "standfast_tls_handshakes_total" ["listener", "resumed"]
        "TLS handshakes completed";
    CERTIFICATE_NOT_AFTER: Gauge "standfast_tls_certificate_not_after_timestamp_seconds"
        ["certificate"] "When the certificate of this file expires, in Unix time";

    // Configuration and process.
    CONFIG_RELOADS: Counter "standfast_config_reloads_total" ["result"]
        "Reloads by result: success or failure";
    CONFIG_LAST_OK: Gauge "standfast_config_last_reload_successful" []
        "1 if the last reload, or the start, was successful";
    CONFIG_LAST_SUCCESS: Gauge "standfast_config_last_reload_success_timestamp_seconds" []
        "When a configuration was last applied, in Unix time";
    CONFIG_GENERATION: Gauge "standfast_config_generation" []
        "Configurations applied since the start";
    CONFIG_INFO: Gauge "standfast_config_info" ["digest"]
        "1; the digest names the configuration that runs";
    PANICS: Counter "standfast_panics_total" []
        "Panics, each a defect that ended one connection or one task";
    ACCESS_LOG_DROPPED: Counter "standfast_access_log_dropped_total" []
        "Lines of the access log that were not written";
    STATE_FILE_WRITES: Counter "standfast_state_file_writes_total" ["result"]
        "Writes of the state file by result: success or failure";
    HISTORY_DROPPED: Counter "standfast_history_dropped_total" []
        "Lines of the probe history that were not written";
    BUILD_INFO: Gauge "standfast_build_info" ["version"] "1; the version that runs";
    WORKERS: Gauge "standfast_workers" [] "Data threads";
    CPU_SECONDS: Counter "process_cpu_seconds_total" []
        "User and system CPU time spent";
    RESIDENT_BYTES: Gauge "process_resident_memory_bytes" [] "Resident memory size";
    OPEN_FDS: Gauge "process_open_fds" [] "Open file descriptors";
    MAX_FDS: Gauge "process_max_fds" [] "Most file descriptors this process may open";
    START_TIME: Gauge "process_start_time_seconds" [] "Start of the process in Unix time";
}
