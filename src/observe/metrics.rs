//! ○ Every metric, its help and labels in one list; rendered for Prometheus from the Table.
//!
//! Nothing is kept between scrapes: each one fills an empty recorder from the table of the moment,
//! so that what a reload removed is gone from the next scrape without anybody having to forget it.
//! Histograms are counted in the workers' cells already and are written as text behind the rest.

mod list;
mod process;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use metrics::Label;
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::failover::Cause;
use crate::health::Verdict;
use crate::table::counters::{Codes, Histogram, Loss, Proof, Rejection, UpstreamError};
use crate::table::history::{Detection, History};
use crate::table::{Endpoint, Listener, Pool, Service, Table};

use list::*;
pub use list::{ALL, Kind, Metric};
use process::Process;
use text::Text;

/// What a scrape is made from.
#[derive(Debug, Clone, Copy)]
pub struct Scrape<'a> {
    pub table: &'a Table,
    pub reloads: &'a Reloads,
    /// Since the process's origin, and since 1970, at one moment.
    pub now: Duration,
    pub unix: Duration,
    /// `None`: there is no access log.
    pub access_log_dropped: Option<u64>,
}

/// How reloads went. Written by control, read at a scrape.
#[derive(Debug, Clone, Default)]
pub struct Reloads(Arc<ReloadCells>);

#[derive(Debug, Default)]
struct ReloadCells {
    succeeded: AtomicU64,
    failed: AtomicU64,
    last_failed: AtomicBool,
    /// Milliseconds since 1970.
    applied: AtomicU64,
}

impl Reloads {
    /// The configuration of the start was applied; no reload, but a success.
    pub fn started(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.applied.store(now.as_millis() as u64, Ordering::Relaxed);
        self.0.last_failed.store(false, Ordering::Relaxed);
    }

    pub fn succeeded(&self) {
        self.started();
        self.0.succeeded.fetch_add(1, Ordering::Relaxed);
    }

    pub fn failed(&self) {
        self.0.last_failed.store(true, Ordering::Relaxed);
        self.0.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// The scrape as text, format version 0.0.4.
pub fn render(scrape: &Scrape<'_>) -> String {
    let process = Process::read();
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        describe();
        of_process(scrape, &process);
        of_configuration(scrape);
        scrape.table.listeners.iter().for_each(|listener| of_listener(scrape.table, listener));
        scrape.table.services.iter().for_each(|service| of_service(scrape, service));
    });
    let mut out = recorder.handle().render();
    out.push_str(&histograms(scrape, &process));
    out
}

fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram | Kind::Summary => {}
        }
    }
}

fn labels(metric: &Metric, values: &[&str]) -> Vec<Label> {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let pairs = metric.labels.iter().zip(values);
    pairs.map(|(name, value)| Label::new(*name, (*value).to_owned())).collect()
}

fn count(metric: &Metric, values: &[&str], value: u64) {
    metrics::counter!(metric.name, labels(metric, values)).absolute(value);
}

fn gauge(metric: &Metric, values: &[&str], value: f64) {
    metrics::gauge!(metric.name, labels(metric, values)).set(value);
}

fn flag(metric: &Metric, values: &[&str], value: bool) {
    gauge(metric, values, f64::from(u8::from(value)));
}

fn of_process(scrape: &Scrape<'_>, process: &Process) {
    gauge(&BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    gauge(&WORKERS, &[], scrape.table.identities.workers as f64);
    if let Some(dropped) = scrape.access_log_dropped {
        count(&ACCESS_LOG_DROPPED, &[], dropped);
    }
    let known = [
        (&RESIDENT_BYTES, process.resident_bytes),
        (&OPEN_FDS, process.open_fds),
        (&MAX_FDS, process.max_fds),
        (&START_TIME, process.start_time),
    ];
    for (metric, value) in known {
        if let Some(value) = value {
            gauge(metric, &[], value);
        }
    }
}

fn of_configuration(scrape: &Scrape<'_>) {
    let cells = &scrape.reloads.0;
    count(&CONFIG_RELOADS, &["success"], cells.succeeded.load(Ordering::Relaxed));
    count(&CONFIG_RELOADS, &["failure"], cells.failed.load(Ordering::Relaxed));
    flag(&CONFIG_LAST_OK, &[], !cells.last_failed.load(Ordering::Relaxed));
    let applied = cells.applied.load(Ordering::Relaxed);
    if applied > 0 {
        gauge(&CONFIG_LAST_SUCCESS, &[], Duration::from_millis(applied).as_secs_f64());
    }
    gauge(&CONFIG_GENERATION, &[], scrape.table.generation as f64);
    gauge(&CONFIG_INFO, &[&scrape.table.config.digest], 1.0);
    let listeners = scrape.table.config.listeners.iter();
    for tls in listeners.filter_map(|listener| listener.tls.as_ref()) {
        for certificate in &tls.certificates {
            let file = certificate.cert_file.to_string_lossy();
            gauge(&CERTIFICATE_NOT_AFTER, &[&file], certificate.not_after as f64);
        }
    }
}

fn of_listener(table: &Table, listener: &Listener) {
    let name: &str = &listener.config.name;
    let counters = &listener.counters;
    let workers = &counters.workers;
    count(&CONNECTIONS, &[name], workers.sum(|cells| cells.connections.value()));
    let active = counters.connections_active.load(Ordering::Relaxed);
    gauge(&CONNECTIONS_ACTIVE, &[name], f64::from(active));
    for (index, (_, reason)) in Rejection::ALL.iter().enumerate() {
        let rejected = workers.sum(|cells| cells.rejected[index].value());
        count(&CONNECTIONS_REJECTED, &[name, reason], rejected);
    }
    count(&RECEIVED_BYTES, &[name], workers.sum(|cells| cells.received_bytes.value()));
    count(&SENT_BYTES, &[name], workers.sum(|cells| cells.sent_bytes.value()));
    count(&ACCEPT_ERRORS, &[name], workers.sum(|cells| cells.accept_errors.value()));
    if listener.config.tls.is_some() {
        let resumed = workers.sum(|cells| cells.handshakes_resumed.value());
        let all = workers.sum(|cells| cells.handshakes.value());
        count(&HANDSHAKES, &[name, "true"], resumed);
        count(&HANDSHAKES, &[name, "false"], all.saturating_sub(resumed));
    }
    of_codes(name, "", |code| workers.sum(|cells| cells.own_answers.value(code)));
    for target in &listener.targets {
        let Some(service) = table.services.get(target.service as usize) else { continue };
        let workers = &target.counters.workers;
        let requests = |code| workers.sum(|cells| cells.codes.value(code));
        of_codes(name, &service.config.name, requests);
    }
}

/// Codes that were answered, and 200 in any case, so that a rate has something to start from.
fn of_codes(listener: &str, service: &str, requests: impl Fn(usize) -> u64) {
    for (index, code) in Codes::LABELS.iter().enumerate() {
        let requests = requests(index);
        if requests > 0 || (*code == "200" && !service.is_empty()) {
            count(&HTTP_REQUESTS, &[listener, service, code], requests);
        }
    }
}

fn of_service(scrape: &Scrape<'_>, service: &Service) {
    let name: &str = &service.config.name;
    let workers = &service.counters.workers;
    for (index, (_, proof)) in Proof::ALL.iter().enumerate() {
        count(&RESCUED, &[name, proof], workers.sum(|cells| cells.rescued[index].value()));
    }
    for (index, (_, reason)) in Loss::ALL.iter().enumerate() {
        count(&LOST, &[name, reason], workers.sum(|cells| cells.lost[index].value()));
    }
    count(&RETRIES, &[name], workers.sum(|cells| cells.retries.value()));
    count(&BUDGET_EXHAUSTED, &[name], workers.sum(|cells| cells.budget_exhausted.value()));
    of_failovers(scrape, service, &service.history);
    for (priority, pool) in service.pools.iter().enumerate() {
        let labels = [name, &*pool.config.name, &*priority.to_string()];
        flag(&POOL_ACTIVE, &labels, priority == service.serving);
        flag(&POOL_AVAILABLE, &labels, pool.available);
        gauge(&POOL_ENDPOINTS, &labels, pool.endpoints.len() as f64);
        let up = pool.verdicts.iter().filter(|verdict| **verdict == Verdict::Up).count();
        gauge(&POOL_ENDPOINTS_HEALTHY, &labels, up as f64);
        of_endpoints(scrape, name, pool);
    }
}

/// Moves that could happen are there with 0 before they do, so that the first one is an increase.
fn of_failovers(scrape: &Scrape<'_>, service: &Service, history: &History) {
    let name: &str = &service.config.name;
    for (from, pool) in service.pools.iter().enumerate() {
        for (to, other) in service.pools.iter().enumerate().filter(|(to, _)| *to != from) {
            for cause in [Cause::Health, Cause::Manual, Cause::Failback] {
                if cause != Cause::Failback || to < from {
                    let names = [name, &pool.config.name, &other.config.name, cause.label()];
                    count(&FAILOVERS, &names, 0);
                }
            }
        }
    }
    for counted in &history.counts {
        let labels = [name, &counted.from, &counted.to, counted.cause.label()];
        count(&FAILOVERS, &labels, counted.count);
    }
    if let Some(last) = &history.last {
        let at = unix(scrape, last.published);
        gauge(&FAILOVER_LAST, &[name], at);
    }
}

/// A moment since the process's origin in Unix time.
fn unix(scrape: &Scrape<'_>, moment: Duration) -> f64 {
    (scrape.unix + moment).saturating_sub(scrape.now).as_secs_f64()
}

fn of_endpoints(scrape: &Scrape<'_>, service: &str, pool: &Pool) {
    for (index, endpoint) in pool.endpoints.iter().enumerate() {
        let labels = [service, &*pool.config.name, &*endpoint.config.name];
        let verdict = pool.verdicts.get(index).copied().unwrap_or_default();
        let weight = pool.config.endpoints.get(index).map_or(endpoint.config.weight, |e| e.weight);
        gauge(&ENDPOINT_WEIGHT, &labels, f64::from(weight));
        of_health(scrape, labels, endpoint, verdict);
        of_upstream(labels, endpoint);
    }
}

fn of_health(scrape: &Scrape<'_>, labels: [&str; 3], endpoint: &Endpoint, verdict: Verdict) {
    let [service, pool, name] = labels;
    flag(&ENDPOINT_UP, &labels, verdict == Verdict::Up);
    for state in [Verdict::Unknown, Verdict::Up, Verdict::Down] {
        let labels = [service, pool, name, &state.to_string()];
        flag(&ENDPOINT_STATE, &labels, verdict == state);
    }
    let probes = &endpoint.counters.probes;
    for (to, flips) in [("up", &probes.to_up), ("down", &probes.to_down)] {
        count(&ENDPOINT_TRANSITIONS, &[service, pool, name, to], flips.value());
    }
    let results = [
        ("success", &probes.successes),
        ("failure", &probes.failures),
        ("timeout", &probes.timeouts),
    ];
    for (result, probes) in results {
        count(&HEALTH_CHECKS, &[service, pool, name, result], probes.value());
    }
    if let Some(millis) = probes.last_success_millis.load(Ordering::Relaxed).checked_sub(1) {
        let at = unix(scrape, Duration::from_millis(millis));
        gauge(&HEALTH_CHECK_LAST_SUCCESS, &labels, at);
    }
}

fn of_upstream(labels: [&str; 3], endpoint: &Endpoint) {
    let [service, pool, name] = labels;
    let workers = &endpoint.counters.workers;
    for (index, class) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate() {
        let responses = workers.sum(|cells| cells.responses[index].value());
        count(&UPSTREAM_REQUESTS, &[service, pool, name, class], responses);
    }
    for (index, (_, reason)) in UpstreamError::ALL.iter().enumerate() {
        let errors = workers.sum(|cells| cells.errors[index].value());
        count(&UPSTREAM_ERRORS, &[service, pool, name, reason], errors);
    }
    count(&UPSTREAM_CONNECTIONS, &labels, workers.sum(|cells| cells.connects.value()));
    let idle = workers.sum(|cells| u64::from(cells.idle.load(Ordering::Relaxed)));
    gauge(&UPSTREAM_IDLE, &labels, idle as f64);
    gauge(&UPSTREAM_IN_FLIGHT, &labels, f64::from(endpoint.in_flight()));
}

/// What the recorder cannot hold: histograms counted elsewhere, and seconds with a fraction.
fn histograms(scrape: &Scrape<'_>, process: &Process) -> String {
    let table = scrape.table;
    let mut text = Text::default();
    if let Some(seconds) = process.cpu_seconds {
        text.head(&CPU_SECONDS);
        text.sample(&CPU_SECONDS, "", &[], seconds);
    }
    text.head(&HTTP_DURATION);
    for listener in table.listeners.iter() {
        for target in &listener.targets {
            let Some(service) = table.services.get(target.service as usize) else { continue };
            let workers = &target.counters.workers;
            let buckets = (0..=Histogram::BOUNDS_MICROS.len())
                .map(|bucket| workers.sum(|cells| cells.duration.bucket(bucket)));
            let bounds = Histogram::BOUNDS_MICROS.iter().map(|micros| *micros as f64 / 1e6);
            let sum = workers.sum(|cells| cells.duration.sum_micros()) as f64 / 1e6;
            let labels = [&*listener.config.name, &*service.config.name];
            text.histogram(&HTTP_DURATION, &labels, bounds, buckets, sum);
        }
    }
    text.head(&FAILOVER_DETECTION);
    for service in &table.services {
        let detection = &service.history.detection;
        let (bounds, buckets) = (Detection::BOUNDS, detection.buckets);
        let sum = detection.sum.as_secs_f64();
        text.histogram(&FAILOVER_DETECTION, &[&service.config.name], bounds, buckets, sum);
    }
    text.head(&HEALTH_CHECK_DURATION);
    for service in &table.services {
        service.pools.iter().for_each(|pool| probe_durations(&mut text, service, pool));
    }
    text.finish()
}

fn probe_durations(text: &mut Text, service: &Service, pool: &Pool) {
    let mut probes = 0;
    let mut micros = 0;
    for endpoint in &pool.endpoints {
        let cells = &endpoint.counters.probes;
        probes += cells.successes.value() + cells.failures.value() + cells.timeouts.value();
        micros += cells.duration_sum_micros.value();
    }
    let labels = [&*service.config.name, &*pool.config.name];
    text.sample(&HEALTH_CHECK_DURATION, "_sum", &labels, micros as f64 / 1e6);
    text.sample(&HEALTH_CHECK_DURATION, "_count", &labels, probes as f64);
}

#[cfg(test)]
mod tests;
