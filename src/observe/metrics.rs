//! ○ Every metric, its help and labels in one list; rendered for Prometheus from the Table.
//!
//! Nothing is kept between scrapes: each one fills an empty recorder from the table of the moment,
//! so that what a reload removed is gone from the next scrape without anybody having to forget it.
//! Histograms are counted in the workers' cells already and are written as text behind the rest.

mod histograms;
mod list;
mod process;
mod services;
mod text;

use std::sync::atomic::Ordering;
use std::time::Duration;

use metrics::Label;
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::config::ListenerMode;
use crate::table::counters::{Codes, Passed, Rejection};
use crate::table::{Listener, Table};

use list::*;
pub use list::{ALL, Kind, Metric};
use process::Process;

/// What a scrape is made from.
#[derive(Debug, Clone, Copy)]
pub struct Scrape<'a> {
    pub table: &'a Table,
    pub reloads: Reloads,
    /// Since the process's origin, and since 1970, at one moment.
    pub now: Duration,
    pub unix: Duration,
    pub files: Files,
}

/// How writing to files goes; `None` where there is no such file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Files {
    /// Lines.
    pub access_log_dropped: Option<u64>,
    pub history_dropped: Option<u64>,
    /// How often the state file was written, and how often that failed.
    pub state_writes: Option<[u64; 2]>,
}

/// How reloads went, as of the moment of the scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reloads {
    pub applied: u64,
    pub refused: u64,
    /// Of the last reload, or of the start.
    pub last_successful: bool,
    /// Unix seconds.
    pub last_success_at: u64,
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
        scrape.table.services.iter().for_each(|service| services::of_service(scrape, service));
    });
    let mut out = recorder.handle().render();
    out.push_str(&histograms::render(scrape, &process));
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
    count(&PANICS, &[], super::panics::count());
    gauge(&WORKERS, &[], scrape.table.identities.workers as f64);
    let Files { access_log_dropped, history_dropped, state_writes } = scrape.files;
    for (metric, dropped) in
        [(&ACCESS_LOG_DROPPED, access_log_dropped), (&HISTORY_DROPPED, history_dropped)]
    {
        if let Some(dropped) = dropped {
            count(metric, &[], dropped);
        }
    }
    if let Some([done, failed]) = state_writes {
        count(&STATE_FILE_WRITES, &["success"], done);
        count(&STATE_FILE_WRITES, &["failure"], failed);
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
    let reloads = scrape.reloads;
    count(&CONFIG_RELOADS, &["success"], reloads.applied);
    count(&CONFIG_RELOADS, &["failure"], reloads.refused);
    flag(&CONFIG_LAST_OK, &[], reloads.last_successful);
    gauge(&CONFIG_LAST_SUCCESS, &[], reloads.last_success_at as f64);
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
        if listener.config.mode != ListenerMode::Http {
            for (index, (_, result)) in Passed::ALL.iter().enumerate() {
                let connections = workers.sum(|cells| cells.connections[index].value());
                count(&TCP_CONNECTIONS, &[name, &service.config.name, result], connections);
            }
            continue;
        }
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

#[cfg(test)]
mod tests;
