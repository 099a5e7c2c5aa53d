//! ● The JSON a status is made of, read from a Table.
//!
//! Names are stable; a reader must not mind new ones.

pub mod config;
pub mod outlook;

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::WhenNone;
use crate::failover::Cause;
use crate::health::Verdict;
use crate::observe::calendar;
use crate::table::{self, Mode, Table, counters};

use outlook::{Coming, Share, Stuck, Takeover};

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Since the process's origin.
    pub now: Duration,
    /// Since 1970.
    pub unix: Duration,
}

/// `GET /api/v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// `starting`, `ready` or `draining`.
    pub phase: String,
    /// Configurations applied since the start.
    pub generation: u64,
    /// Which configuration runs.
    pub digest: String,
    /// RFC 3339.
    pub started: String,
    pub uptime_seconds: f64,
    pub services: Vec<Service>,
    pub listeners: Vec<Listener>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    /// The pool that serves.
    pub serving: String,
    pub since: String,
    pub since_seconds: f64,
    /// `start`, `health`, `failback`, `manual`, `drill` or `removed`.
    pub cause: String,
    /// The same for people.
    pub why: String,
    /// No pool is available: requests go out unverified, or are answered with 503.
    pub none_available: bool,
    /// An operator holds the service: nothing moves by itself.
    pub held: bool,
    /// The words of the operator's order that holds or stands.
    pub order_reason: Option<String>,
    pub trouble: Option<Stuck>,
    pub share: Option<Share>,
    /// None where the first pool serves and nothing keeps it.
    pub next: Option<Coming>,
    /// None where there is one pool alone.
    pub takeover: Option<Takeover>,
    pub pools: Vec<Pool>,
    pub failovers_total: u64,
    pub last_failover: Option<Failover>,
    pub requests_rescued_total: u64,
    pub requests_lost_total: u64,
    pub requests_held_total: u64,
    /// Requests that wait for an endpoint now.
    pub requests_holding: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    pub name: String,
    /// 0 comes first.
    pub priority: usize,
    /// It serves now.
    pub active: bool,
    pub available: bool,
    pub min_healthy: u32,
    /// Active endpoints by verdict.
    pub up: usize,
    pub unknown: usize,
    pub down: usize,
    /// Endpoints an operator drains or has turned off.
    pub off: usize,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    pub name: String,
    /// `unknown`, `up` or `down`.
    pub verdict: String,
    /// What the operator ordered: `active`, `drain` or `off`.
    pub mode: String,
    /// When and why it was taken out of use; none while it is active.
    pub mode_since: Option<String>,
    pub mode_since_seconds: Option<f64>,
    pub mode_reason: Option<String>,
    /// Requests just met silence or gateway errors there; new ones avoid it for the moment.
    pub doubted: bool,
    pub since: String,
    pub since_seconds: f64,
    /// What the probe saw that led to the verdict.
    pub reason: Option<String>,
    pub weight: u16,
    pub in_flight: u32,
    pub idle_connections: u64,
    pub last_probe: Option<Probe>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub success: bool,
    pub at: String,
    pub seconds_ago: f64,
    pub duration_ms: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failover {
    pub from: String,
    pub to: String,
    pub cause: String,
    pub reason: String,
    pub at: String,
    pub seconds_ago: f64,
    /// From the first evidence until all workers could see the move.
    pub detection_seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    pub name: String,
    pub bind: String,
    /// `http`, `tcp` or `tls-passthrough`.
    #[serde(default)]
    pub mode: String,
    pub tls: bool,
    pub connections_active: u32,
    pub connections_total: u64,
}

impl Moment {
    /// A moment since the process's origin, as RFC 3339 with milliseconds in UTC.
    fn rfc3339(self, moment: Duration) -> String {
        let unix = (self.unix + moment).saturating_sub(self.now);
        let mut out = Vec::with_capacity(24);
        calendar::date(&mut out, unix.as_secs());
        out.push(b'.');
        calendar::digits(&mut out, u64::from(unix.subsec_millis()), 3);
        out.push(b'Z');
        String::from_utf8_lossy(&out).into_owned()
    }

    fn seconds_until(self, moment: Duration) -> f64 {
        rounded(moment.saturating_sub(self.now))
    }

    fn seconds_since(self, moment: Duration) -> f64 {
        rounded(self.now.saturating_sub(moment))
    }
}

/// Seconds with milliseconds, without a tail of binary fractions.
fn rounded(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1e3
}

impl Status {
    /// The status at `moment`.
    pub fn of(table: &Table, phase: &str, moment: Moment) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: phase.to_owned(),
            generation: table.generation,
            digest: table.config.digest.clone(),
            started: moment.rfc3339(Duration::ZERO),
            uptime_seconds: rounded(moment.now),
            services: table.services.iter().map(|service| Service::of(service, moment)).collect(),
            listeners: table.listeners.iter().map(|listener| Listener::of(listener)).collect(),
        }
    }
}

impl Status {
    /// Of a process that started at `started` since its origin, and not with it.
    #[must_use]
    pub fn started_at(self, started: Duration, moment: Moment) -> Self {
        let uptime_seconds = moment.seconds_since(started);
        Self { started: moment.rfc3339(started), uptime_seconds, ..self }
    }
}

impl Service {
    fn of(service: &table::Service, moment: Moment) -> Self {
        let workers = &service.counters.workers;
        let total = |of: fn(&counters::ServiceCells) -> &[counters::Counter]| {
            workers.sum(|cells| of(cells).iter().map(counters::Counter::value).sum())
        };
        let history = &service.history;
        let pools = service.pools.iter().enumerate();
        Self {
            name: service.config.name.to_string(),
            serving: serving(service).to_owned(),
            since: moment.rfc3339(service.since),
            since_seconds: moment.seconds_since(service.since),
            cause: service.cause.label().to_owned(),
            why: why(service),
            none_available: service.none_available,
            held: service.failover.held,
            order_reason: outlook::order_reason(service),
            trouble: outlook::stuck(service),
            share: outlook::share(service, moment),
            next: outlook::coming(service, moment),
            takeover: outlook::takeover(service, moment.now),
            pools: pools
                .map(|(priority, pool)| {
                    Pool::of(pool, priority, priority == service.serving, moment)
                })
                .collect(),
            failovers_total: history.counts.iter().map(|counted| counted.count).sum(),
            last_failover: history.last.as_ref().map(|last| Failover::of(last, moment)),
            requests_rescued_total: total(|cells| &cells.rescued),
            requests_lost_total: total(|cells| &cells.lost),
            requests_held_total: workers.sum(|cells| cells.held.value()),
            requests_holding: service.counters.holding.load(Ordering::Relaxed),
        }
    }
}

fn serving(service: &table::Service) -> &str {
    service.pools.get(service.serving).map_or("", |pool| &pool.config.name)
}

/// Why the serving pool serves, in words.
fn why(service: &table::Service) -> String {
    if service.none_available {
        let fate = match service.config.failover.when_none {
            WhenNone::TryAll => "requests are tried on every endpoint",
            WhenNone::Unavailable => "requests are answered with 503",
        };
        return format!("no pool is available; {fate}");
    }
    let last = service.history.last.as_ref();
    let moved = last.filter(|last| *last.to == *serving(service) && last.cause == service.cause);
    match (service.cause, moved) {
        (Cause::Start, _) => "first in priority".to_owned(),
        (Cause::Health, Some(last)) => format!("{} failed: {}", last.from, last.reason),
        (Cause::Health, None) => "the pool before failed".to_owned(),
        (Cause::Failback, _) => "available again for long enough".to_owned(),
        (Cause::Manual, Some(last)) => format!("ordered: {}", last.reason),
        (Cause::Manual, None) => "ordered".to_owned(),
        (Cause::Drill, _) => "a drill".to_owned(),
        (Cause::Removed, _) => "the pool that served was removed from the configuration".to_owned(),
    }
}

impl Pool {
    fn of(pool: &table::Pool, priority: usize, active: bool, moment: Moment) -> Self {
        let in_use = |mode: &Mode| *mode == Mode::Active;
        let with = |verdict| {
            let known = pool.verdicts.iter().zip(&pool.modes);
            known.filter(|(known, mode)| **known == verdict && in_use(mode)).count()
        };
        Self {
            name: pool.config.name.to_string(),
            priority,
            active,
            available: pool.available,
            min_healthy: pool.config.min_healthy,
            up: with(Verdict::Up),
            unknown: with(Verdict::Unknown),
            down: with(Verdict::Down),
            off: pool.modes.iter().filter(|mode| !in_use(mode)).count(),
            endpoints: (0..pool.endpoints.len())
                .map(|index| Endpoint::of(pool, index, moment))
                .collect(),
        }
    }
}

impl Endpoint {
    fn of(pool: &table::Pool, index: usize, moment: Moment) -> Self {
        let endpoint = &pool.endpoints[index];
        let detail = pool.details.get(index).cloned().unwrap_or_default();
        let order = detail.taken_out.as_ref();
        let configured = pool.config.endpoints.get(index).unwrap_or(&endpoint.config);
        let workers = &endpoint.counters.workers;
        Self {
            name: endpoint.config.name.to_string(),
            verdict: pool.verdicts.get(index).copied().unwrap_or_default().to_string(),
            mode: pool.modes.get(index).copied().unwrap_or_default().label().to_owned(),
            mode_since: order.map(|order| moment.rfc3339(order.at)),
            mode_since_seconds: order.map(|order| moment.seconds_since(order.at)),
            mode_reason: order.map(|order| order.reason.to_string()),
            doubted: !endpoint.live.is_trusted(),
            since: moment.rfc3339(detail.since),
            since_seconds: moment.seconds_since(detail.since),
            reason: detail.reason.map(|reason| reason.to_string()),
            weight: configured.weight,
            in_flight: endpoint.in_flight(),
            idle_connections: workers.sum(|cells| cells.idle.load(Ordering::Relaxed).into()),
            last_probe: Probe::of(&endpoint.counters.probes, moment),
        }
    }
}

impl Probe {
    fn of(cells: &counters::ProbeCells, moment: Moment) -> Option<Self> {
        let success = cells.last_success_millis.load(Ordering::Relaxed);
        let failure = cells.last_failure_millis.load(Ordering::Relaxed);
        // Zero means never; otherwise one is added.
        let at = Duration::from_millis(success.max(failure).checked_sub(1)?);
        Some(Self {
            success: success > failure,
            at: moment.rfc3339(at),
            seconds_ago: moment.seconds_since(at),
            duration_ms: cells.last_duration_micros.load(Ordering::Relaxed) as f64 / 1e3,
        })
    }
}

impl Failover {
    fn of(moved: &table::history::Moved, moment: Moment) -> Self {
        Self {
            from: moved.from.to_string(),
            to: moved.to.to_string(),
            cause: moved.cause.label().to_owned(),
            reason: moved.reason.to_string(),
            at: moment.rfc3339(moved.published),
            seconds_ago: moment.seconds_since(moved.published),
            detection_seconds: rounded(moved.published.saturating_sub(moved.first_evidence)),
        }
    }
}

impl Listener {
    fn of(listener: &table::Listener) -> Self {
        let counters = &listener.counters;
        Self {
            name: listener.config.name.to_string(),
            bind: listener.config.bind.to_string(),
            mode: listener.config.mode.label().to_owned(),
            tls: listener.config.tls.is_some(),
            connections_active: counters.connections_active.load(Ordering::Relaxed),
            connections_total: counters.workers.sum(|cells| cells.connections.value()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::fixture;

    const MOMENT: Moment =
        Moment { now: Duration::from_millis(61_500), unix: Duration::from_secs(1_700_000_000) };

    #[test]
    fn a_process_is_younger_than_its_origin() {
        let status = Status::of(&fixture::table(), "ready", MOMENT);
        let status = status.started_at(Duration::from_millis(60_000), MOMENT);
        assert_eq!(status.started, "2023-11-14T22:13:18.500Z");
        assert_eq!(status.uptime_seconds, 1.5);
    }

    #[test]
    fn a_status_says_who_serves_since_when_and_why() {
        let status = Status::of(&fixture::table(), "ready", MOMENT);
        let service = &status.services[0];
        let told = (&*service.serving, &*service.cause, &*service.why, service.since_seconds);
        assert_eq!(told, ("hot", "start", "first in priority", 60.5));
        assert_eq!(service.since, "2023-11-14T22:12:19.500Z");
        assert_eq!(status.started, "2023-11-14T22:12:18.500Z");
        let pool = &service.pools[1];
        assert_eq!((pool.priority, pool.active, pool.unknown), (1, false, 2));
        assert_eq!(service.pools[0].endpoints[1].name, "10.0.1.11:80");
        assert_eq!(service.pools[0].endpoints[1].last_probe, None);
    }

    #[test]
    fn the_later_of_success_and_failure_is_the_last_probe() {
        let table = fixture::table();
        let cells = &table.services[0].pools[0].endpoints[0].counters.probes;
        cells.last_success_millis.store(60_001, Ordering::Relaxed);
        cells.last_failure_millis.store(61_001, Ordering::Relaxed);
        cells.last_duration_micros.store(1_234, Ordering::Relaxed);
        let probe = Probe::of(cells, MOMENT).unwrap();
        assert_eq!((probe.success, probe.seconds_ago, probe.duration_ms), (false, 0.5, 1.234));
        assert_eq!(probe.at, "2023-11-14T22:13:19.500Z");
    }

    #[test]
    fn a_status_can_be_read_back() {
        let status = Status::of(&fixture::table(), "ready", MOMENT);
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    }
}
