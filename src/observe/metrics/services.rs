//! ○ What a service, its pools and its endpoints show.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::list::*;
use super::{Scrape, count, flag, gauge};
use crate::failover::{Cause, Trouble};
use crate::health::Verdict;
use crate::table::counters::{Loss, Proof, SessionEnd, UpstreamError};
use crate::table::history::History;
use crate::table::{Endpoint, Mode, Pool, Service, ready};

/// Of a move.
const CAUSES: [Cause; 5] =
    [Cause::Health, Cause::Manual, Cause::Failback, Cause::Drill, Cause::Removed];

pub(super) fn of_service(scrape: &Scrape<'_>, service: &Service) {
    let name: &str = &service.config.name;
    let workers = &service.counters.workers;
    for (index, (_, proof)) in Proof::ALL.iter().enumerate() {
        count(&RESCUED, &[name, proof], workers.sum(|cells| cells.rescued[index].value()));
    }
    for (index, (_, reason)) in Loss::ALL.iter().enumerate() {
        count(&LOST, &[name, reason], workers.sum(|cells| cells.lost[index].value()));
    }
    for (index, (_, reason)) in SessionEnd::ALL.iter().enumerate() {
        let ended = workers.sum(|cells| cells.sessions_ended[index].value());
        count(&SESSIONS_ENDED, &[name, reason], ended);
    }
    count(&HELD, &[name], workers.sum(|cells| cells.held.value()));
    let holding = service.counters.holding.load(Ordering::Relaxed);
    gauge(&HOLDING, &[name], f64::from(holding));
    count(&HEDGES, &[name], workers.sum(|cells| cells.hedged.value()));
    count(&RETRIES, &[name], workers.sum(|cells| cells.retries.value()));
    count(&BUDGET_EXHAUSTED, &[name], workers.sum(|cells| cells.budget_exhausted.value()));
    of_failovers(scrape, service, &service.history);
    of_machine(service);
    for (priority, pool) in service.pools.iter().enumerate() {
        let labels = [name, &*pool.config.name, &*priority.to_string()];
        flag(&POOL_ACTIVE, &labels, priority == service.serving);
        flag(&POOL_AVAILABLE, &labels, pool.available);
        flag(&POOL_READY, &labels[..2], ready::is_ready(pool, scrape.now));
        gauge(&POOL_ENDPOINTS, &labels, pool.endpoints.len() as f64);
        let up = pool.verdicts.iter().filter(|verdict| **verdict == Verdict::Up).count();
        gauge(&POOL_ENDPOINTS_HEALTHY, &labels, up as f64);
        gauge(&FAILOVER_SHARE, &[name, &pool.config.name], share(service, priority));
        of_endpoints(scrape, name, pool);
    }
}

fn of_machine(service: &Service) {
    let name: &str = &service.config.name;
    flag(&FAILOVER_HOLD, &[name], service.failover.held);
    let trouble = service.failover.trouble.map(Trouble::label);
    for label in Trouble::LABELS {
        flag(&FAILOVER_TROUBLE, &[name, label], trouble == Some(label));
    }
}

/// The part of new requests that goes to a pool first, 0..=1.
fn share(service: &Service, pool: usize) -> f64 {
    let (other, permille) = match service.share {
        Some(share) => (Some(share.pool), share.permille.min(1000)),
        None => (None, 0),
    };
    let permille = match pool {
        _ if other == Some(pool) => permille,
        _ if pool == service.serving => 1000 - permille,
        _ => 0,
    };
    f64::from(permille) / 1e3
}

/// Moves that could happen are there with 0 before they do, so that the first one is an increase.
fn of_failovers(scrape: &Scrape<'_>, service: &Service, history: &History) {
    let name: &str = &service.config.name;
    for (from, pool) in service.pools.iter().enumerate() {
        for (to, other) in service.pools.iter().enumerate().filter(|(to, _)| *to != from) {
            for cause in CAUSES {
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
        flag(&ENDPOINT_DOUBTED, &labels, !endpoint.live.is_trusted());
        let mode = pool.modes.get(index).copied().unwrap_or_default();
        for known in Mode::ALL {
            let labels = [labels[0], labels[1], labels[2], known.label()];
            flag(&ENDPOINT_MODE, &labels, mode == known);
        }
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
    let timeouts = probes.timeouts.value();
    let results = [
        ("success", probes.successes.value()),
        // Timeouts are counted among the failures.
        ("failure", probes.failures.value().saturating_sub(timeouts)),
        ("timeout", timeouts),
        ("void", probes.voids.value()),
    ];
    for (result, probes) in results {
        count(&HEALTH_CHECKS, &[service, pool, name, result], probes);
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
    let sessions = workers.sum(|cells| u64::from(cells.sessions.load(Ordering::Relaxed)));
    gauge(&SESSIONS, &labels, sessions as f64);
    gauge(&UPSTREAM_IN_FLIGHT, &labels, f64::from(endpoint.in_flight()));
}
