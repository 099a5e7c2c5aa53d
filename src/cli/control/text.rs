//! ● What the control commands print for people, in 80 columns.

use std::fmt::Write;

use serde_json::Value;

use crate::admin::view::{Endpoint, Listener, Pool, Service, Status};

const COLUMNS: usize = 80;
/// The widest column of endpoint names; longer ones are cut.
const MOST_NAME: usize = 26;

/// A status, each service with its pools and endpoints. Writing to a string cannot fail.
pub(super) fn status(status: &Status) -> String {
    let mut out = String::new();
    let Status { version, phase, generation, digest, .. } = status;
    let up = duration(status.uptime_seconds);
    line(&mut out, &format!("standfast {version}, {phase}, up {up}"));
    line(&mut out, &format!("configuration {generation} ({digest})"));
    for service in &status.services {
        out.push('\n');
        service_lines(&mut out, service);
    }
    if !status.listeners.is_empty() {
        out.push('\n');
    }
    status.listeners.iter().for_each(|listener| listener_line(&mut out, listener));
    out
}

fn service_lines(out: &mut String, service: &Service) {
    let Service { name, serving, why, since, .. } = service;
    let held = duration(service.since_seconds);
    let since = since.split_once('.').map_or(&**since, |(seconds, _)| seconds).replace('T', " ");
    if service.none_available {
        line(out, &format!("service {name}: NO POOL IS AVAILABLE ({serving} is assigned)"));
    } else {
        line(out, &format!("service {name}: {serving} serves"));
    }
    line(out, &format!("  for {held}, since {since} UTC"));
    line(out, &format!("  because: {why}"));
    let (rescued, lost) = (service.requests_rescued_total, service.requests_lost_total);
    line(out, &format!("  requests rescued {rescued}, lost {lost}"));
    if let Some(last) = &service.last_failover {
        let (total, ago) = (service.failovers_total, duration(last.seconds_ago));
        let route = format!("{} to {} ({})", last.from, last.to, last.cause);
        line(out, &format!("  failovers {total}, the last {ago} ago: {route}"));
    }
    let endpoints = service.pools.iter().flat_map(|pool| &pool.endpoints);
    let widest = endpoints.map(|endpoint| endpoint.name.chars().count()).max().unwrap_or(0);
    service.pools.iter().for_each(|pool| pool_lines(out, pool, widest.min(MOST_NAME)));
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
    let Pool { name, up, min_healthy, .. } = pool;
    let count = pool.endpoints.len();
    line(
        out,
        &format!("  {mark} pool {name}: {available}, {up} of {count} up, needs {min_healthy}"),
    );
    pool.endpoints.iter().for_each(|endpoint| endpoint_line(out, endpoint, width));
}

fn endpoint_line(out: &mut String, endpoint: &Endpoint, width: usize) {
    let name = cut(&clean(&endpoint.name), width);
    let held = duration(endpoint.since_seconds);
    let mut told = format!("      {name:width$}  {} for {held}", endpoint.verdict);
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
    wrapped(out, &told);
}

fn listener_line(out: &mut String, listener: &Listener) {
    let Listener { name, bind, connections_active, connections_total, .. } = listener;
    let protocol = if listener.tls { "https" } else { "http" };
    let at = if name == bind { bind.clone() } else { format!("{name} at {bind}") };
    let connections = format!("{connections_active} connections, {connections_total} in total");
    line(out, &format!("listener {at}: {protocol}, {connections}"));
}

/// What a reload changed.
pub(super) fn reloaded(told: &Value) -> String {
    let mut out = format!("configuration {} is in force\n", told["generation"]);
    let changes = told["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if changes.is_empty() {
        out.push_str("nothing changed\n");
    }
    for change in changes.iter().filter_map(Value::as_str) {
        let _ = writeln!(out, "  {}", clean(change));
    }
    let warnings = diagnostics(&told["warnings"]);
    if !warnings.is_empty() {
        let _ = writeln!(out, "{}", warnings.trim_start());
    }
    out
}

/// Each with its place, its line and its remedy; begins with a line end unless there is none.
pub(super) fn diagnostics(found: &Value) -> String {
    let mut out = String::new();
    for diagnostic in found.as_array().into_iter().flatten() {
        let text = |key: &str| clean(diagnostic[key].as_str().unwrap_or_default());
        let (severity, path, message) = (text("severity"), text("path"), text("message"));
        let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
        let _ = write!(out, "\n{severity}: {place}{message}");
        // What no line of the file is to blame for has no snippet.
        if !text("snippet").trim().is_empty() {
            let _ = write!(out, " (line {}, column {})", diagnostic["line"], diagnostic["column"]);
        }
        for (mark, text) in [("|", text("snippet")), ("=", text("remedy"))] {
            if !text.trim().is_empty() {
                let _ = write!(out, "\n  {mark} {text}");
            }
        }
    }
    out
}

/// Two units at most: `0.3 s`, `42 s`, `3 m 12 s`, `2 h 5 m`, `12 d 3 h`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3_600 => format!("{} m {} s", whole / 60, whole % 60),
        3_600..86_400 => format!("{} h {} m", whole / 3_600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3_600 % 24),
    }
}

/// Without what would speak to the terminal: names and reasons come from elsewhere.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn line(out: &mut String, text: &str) {
    out.push_str(cut(&clean(text), COLUMNS).trim_end());
    out.push('\n');
}

/// As [`line`], but what does not fit goes on in lines of its own: the end of a reason often is the
/// part that matters.
fn wrapped(out: &mut String, text: &str) {
    const INDENT: &str = "        ";
    let mut rest = clean(text);
    while let Some((end, _)) = rest.char_indices().nth(COLUMNS) {
        // A break within the indent would take nothing.
        let Some(at) = rest[..=end].rfind(' ').filter(|at| *at > INDENT.len()) else { break };
        line(out, &rest[..at]);
        rest = format!("{INDENT}{}", &rest[at + 1..]);
    }
    line(out, &rest);
}

/// The first `width` characters, the last of them `…` if there were more.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}
