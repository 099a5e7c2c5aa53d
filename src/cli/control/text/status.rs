//! ● `standfast status`: who serves, why, what comes next, and who could take over.

use std::fmt::Write;

use super::{Paint, clean, cut, duration, line, one, wrapped};
use crate::admin::view::outlook::{Coming, Share, Takeover};
use crate::admin::view::{Endpoint, Listener, Pool, Service, Status};

/// The widest column of endpoint names; longer ones are cut.
const MOST_NAME: usize = 26;

/// A status, each service with its pools and endpoints. Writing to a string cannot fail.
pub(crate) fn status(status: &Status, paint: Paint) -> String {
    let mut out = String::new();
    let Status { version, phase, generation, digest, .. } = status;
    let up = duration(status.uptime_seconds);
    line(&mut out, &format!("standfast {version}, {phase}, up {up}"));
    line(&mut out, &format!("configuration {generation} ({digest})"));
    for service in &status.services {
        out.push('\n');
        service_lines(&mut out, service, paint);
    }
    if !status.listeners.is_empty() {
        out.push('\n');
    }
    status.listeners.iter().for_each(|listener| listener_line(&mut out, listener));
    out
}

fn service_lines(out: &mut String, service: &Service, paint: Paint) {
    let Service { name, serving, why, since, .. } = service;
    let for_long = duration(service.since_seconds);
    let since = since.split_once('.').map_or(&**since, |(seconds, _)| seconds).replace('T', " ");
    let head = match service.none_available {
        true => format!("service {name}: NO POOL IS AVAILABLE ({serving} is assigned)"),
        false => format!("service {name}: {serving} serves"),
    };
    let headline = one(&head);
    out.push_str(&if service.none_available {
        paint.bad(&headline)
    } else {
        paint.bold(&headline)
    });
    line(out, &format!("  for {for_long}, since {since} UTC"));
    line(out, &format!("  because: {why}"));
    out.push_str(&outlook(service, paint));
    let (rescued, lost) = (service.requests_rescued_total, service.requests_lost_total);
    let (held, waiting) = (service.requests_held_total, service.requests_holding);
    let waiting = if waiting > 0 { format!(", {waiting} wait now") } else { String::new() };
    line(out, &format!("  requests rescued {rescued}, held {held}, lost {lost}{waiting}"));
    if let Some(last) = &service.last_failover {
        let (total, ago) = (service.failovers_total, duration(last.seconds_ago));
        let route = format!("{} to {} ({})", last.from, last.to, last.cause);
        line(out, &format!("  failovers {total}, the last {ago} ago: {route}"));
    }
    let endpoints = service.pools.iter().flat_map(|pool| &pool.endpoints);
    let widest = endpoints.map(|endpoint| endpoint.name.chars().count()).max().unwrap_or(0);
    service.pools.iter().for_each(|pool| pool_lines(out, pool, widest.min(MOST_NAME)));
}

/// What keeps a service where it is, what comes next, and who could take over.
pub(crate) fn outlook(service: &Service, paint: Paint) -> String {
    const INDENT: &str = "    ";
    let say = |text: &str| {
        let mut out = String::new();
        wrapped(&mut out, INDENT, text);
        out
    };
    let mut out = String::new();
    if service.held {
        let reason = service.order_reason.as_deref().unwrap_or("no reason is known any more");
        out.push_str(&paint.bad(&say(&format!("  HELD by an operator: {reason}"))));
    }
    if let Some(trouble) = service.trouble.as_ref().filter(|t| t.kind != "none_available") {
        out.push_str(&paint.bad(&say(&format!("  TROUBLE: {}", trouble.why))));
    }
    if let Some(share) = &service.share {
        let Share { pool, percent, complete_in_seconds, .. } = share;
        let complete = match complete_in_seconds {
            Some(seconds) => format!(", all of them in {}", duration(*seconds)),
            None => String::new(),
        };
        out.push_str(&say(&format!("  {percent} % of new requests go to {pool} first{complete}")));
    }
    if let Some(next) = &service.next {
        out.push_str(&say(&format!("  next: {}", coming(next))));
    }
    if let Some(Takeover { pool, ready, because }) = &service.takeover {
        let answer = if *ready { "yes" } else { "NO" };
        let told = say(&format!("  {pool} could take over now: {answer}, {because}"));
        out.push_str(&if *ready { told } else { paint.bad(&told) });
    }
    out
}

fn coming(next: &Coming) -> String {
    let Coming { kind, to, in_seconds, why, .. } = next;
    let to = to.as_deref().unwrap_or_default();
    match (&**kind, in_seconds) {
        ("return", Some(0.0)) => format!("back to {to} at once, {why}"),
        ("return", Some(seconds)) => format!("back to {to} in {}, {why}", duration(*seconds)),
        ("returning", Some(seconds)) => {
            format!("{to} serves all requests in {}; {why} until then", duration(*seconds))
        }
        ("none_higher", _) => format!("back to {to} {why}"),
        _ => why.clone(),
    }
}

fn pool_lines(out: &mut String, pool: &Pool, width: usize) {
    let mark = if pool.active { '*' } else { ' ' };
    let available = match pool.available {
        true => "available",
        false if pool.unknown > 0 && pool.up + pool.unknown >= pool.min_healthy as usize => {
            "not known yet"
        }
        false => "NOT available",
    };
    let Pool { name, up, min_healthy, off, .. } = pool;
    let count = pool.endpoints.len();
    let off = if *off > 0 { format!(" ({off} drained or off)") } else { String::new() };
    let told = format!("{available}, {up} of {count} up{off}, needs {min_healthy}");
    line(out, &format!("  {mark} pool {name}: {told}"));
    pool.endpoints.iter().for_each(|endpoint| endpoint_line(out, endpoint, width));
}

fn endpoint_line(out: &mut String, endpoint: &Endpoint, width: usize) {
    let name = cut(&clean(&endpoint.name), width);
    let for_long = duration(endpoint.since_seconds);
    let mode = match &*endpoint.mode {
        "active" => String::new(),
        mode => {
            let since = endpoint.mode_since_seconds.map(duration);
            let since = since.map_or(String::new(), |since| format!(" for {since}"));
            let why =
                endpoint.mode_reason.as_ref().map_or(String::new(), |why| format!(" ({why})"));
            format!("{}{since}{why}, ", mode.to_uppercase())
        }
    };
    let mut told = format!("      {name:width$}  {mode}{} for {for_long}", endpoint.verdict);
    if endpoint.doubted {
        told.push_str(", avoided for the moment");
    }
    if endpoint.in_flight > 0 || endpoint.verdict == "up" {
        let _ = write!(told, ", {} in flight", endpoint.in_flight);
    }
    match (&endpoint.reason, &endpoint.last_probe) {
        (Some(reason), _) if endpoint.verdict == "down" => {
            let _ = write!(told, ": {reason}");
        }
        (_, Some(probe)) if probe.success => {
            let _ = write!(told, ", probe {:.1} ms", probe.duration_ms);
        }
        (_, Some(_)) => told.push_str(", probe failed"),
        (_, None) => told.push_str(", not probed"),
    }
    wrapped(out, "        ", &told);
}

fn listener_line(out: &mut String, listener: &Listener) {
    let Listener { name, bind, connections_active, connections_total, .. } = listener;
    let protocol = match &*listener.mode {
        "tcp" | "tls-passthrough" => &listener.mode,
        _ if listener.tls => "https",
        _ => "http",
    };
    let at = if name == bind { bind.clone() } else { format!("{name} at {bind}") };
    let connections = format!("{connections_active} connections, {connections_total} in total");
    line(out, &format!("listener {at}: {protocol}, {connections}"));
}
