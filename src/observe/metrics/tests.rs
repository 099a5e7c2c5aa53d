use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;

use super::*;
use crate::failover::{Cause, Trouble};
use crate::health::Verdict;
use crate::observe::fixture;
use crate::table::Share;
use crate::table::counters::{Loss, Proof};
use crate::table::history::Moved;
use crate::table::live::Doubt;

type Labels = BTreeMap<String, String>;

/// One family as the exposition format has it: type, help, and samples by full name and labels.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    samples: BTreeMap<(String, Labels), f64>,
}

/// Reads the text strictly: heads before samples, every family in one piece, no series twice.
fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'));
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut open = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(head) = line.strip_prefix("# ") {
            let (word, rest) = head.split_once(' ').unwrap();
            let (name, value) = rest.split_once(' ').unwrap();
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.samples.is_empty(), "{line}: in two pieces");
            let place = if word == "HELP" { &mut family.help } else { &mut family.kind };
            assert_eq!(std::mem::replace(place, value.to_owned()), "", "{line}: twice");
            open = name.to_owned();
        } else {
            let (name, labels, value) = sample(line);
            let suffix = name.strip_prefix(&open).unwrap_or_else(|| panic!("{line}: no head"));
            let family = families.get_mut(&open).unwrap();
            let suffixes: &[&str] = match &*family.kind {
                "histogram" => &["_bucket", "_sum", "_count"],
                "summary" => &["_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.contains(&suffix), "{line}");
            assert_eq!(family.samples.insert((name, labels), value), None, "{line}: twice");
        }
    }
    families
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    assert!(name.chars().all(legal) && !name.starts_with(|c: char| c.is_ascii_digit()), "{line}");
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(label.chars().all(legal), "{line}");
            let (value, after) = quoted(after);
            assert_eq!(labels.insert(label.to_owned(), value), None, "{line}");
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    (name.to_owned(), labels, rest.strip_prefix(' ').unwrap().parse().unwrap())
}

/// A label's value up to its closing quote, and what follows it.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match characters.next().unwrap().1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    panic!("{text}: not closed");
}

const RELOADS: Reloads =
    Reloads { applied: 0, refused: 0, last_successful: true, last_success_at: 1_000_000 };

fn scrape(table: &Table, reloads: Reloads) -> BTreeMap<String, Family> {
    let now = Duration::from_secs(100);
    let unix = Duration::from_secs(1_000_100);
    let files =
        Files { access_log_dropped: Some(3), history_dropped: Some(4), state_writes: Some([5, 6]) };
    parse(&render(&Scrape { table, reloads, now, unix, files }))
}

fn value(families: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
    let family = families.get(name).or_else(|| families.get(base?))?;
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    family.samples.get(&(name.to_owned(), labels.collect())).copied()
}

#[test]
fn what_is_rendered_is_on_the_list_with_its_kind_help_and_labels() {
    let mut table = fixture::table();
    moved(&mut table);
    let mut config = (*table.config).clone();
    let mut passing = (*config.listeners[0]).clone();
    (passing.name, passing.mode) = ("passing".into(), ListenerMode::Tcp);
    passing.bind.set_port(6443);
    config.listeners.push(passing.into());
    let built = crate::table::build::first(config.into(), 1, Duration::ZERO);
    table.listeners = built.listeners;
    table.services[0].pools[0].endpoints[0]
        .counters
        .probes
        .last_success_millis
        .store(1, Ordering::Relaxed);
    let families = scrape(&table, RELOADS);
    let names: BTreeSet<&str> = families.keys().map(String::as_str).collect();
    assert_eq!(names, ALL.iter().map(|metric| metric.name).collect());
    for metric in ALL {
        let family = &families[metric.name];
        assert_eq!((&*family.kind, &*family.help), (metric.kind.name(), metric.help));
        assert!(!family.samples.is_empty(), "{}", metric.name);
        for (_, labels) in family.samples.keys() {
            let labels: BTreeSet<&str> = labels.keys().map(String::as_str).collect();
            let mut listed: BTreeSet<&str> = metric.labels.iter().copied().collect();
            listed.extend(labels.get("le"));
            assert_eq!(labels, listed, "{}", metric.name);
        }
    }
}

#[test]
fn names_follow_the_conventions() {
    for metric in ALL {
        let is_counter = metric.kind == Kind::Counter;
        assert_eq!(metric.name.ends_with("_total"), is_counter, "{}", metric.name);
        let prefixed = ["standfast_", "process_"].iter().any(|p| metric.name.starts_with(p));
        assert!(prefixed && !metric.name.ends_with("_ms"), "{}", metric.name);
    }
}

#[test]
fn headline_series_exist_with_zero_from_the_start() {
    let families = scrape(&fixture::table(), RELOADS);
    for (_, proof) in Proof::ALL {
        let labels = [("service", "app"), ("proof", proof)];
        assert_eq!(value(&families, "standfast_requests_rescued_total", &labels), Some(0.0));
    }
    for (_, reason) in Loss::ALL {
        let labels = [("service", "app"), ("reason", reason)];
        assert_eq!(value(&families, "standfast_requests_lost_total", &labels), Some(0.0));
    }
    let failovers = |from, to, cause| {
        let labels = [("service", "app"), ("from", from), ("to", to), ("cause", cause)];
        value(&families, "standfast_failovers_total", &labels)
    };
    assert_eq!(failovers("hot", "standby", "health"), Some(0.0));
    assert_eq!(failovers("standby", "hot", "failback"), Some(0.0));
    assert_eq!(failovers("hot", "standby", "failback"), None);
    assert_eq!(failovers("hot", "standby", "drill"), Some(0.0));
    assert_eq!(failovers("hot", "standby", "removed"), Some(0.0));
    for name in ["requests_held_total", "upstream_hedges_total", "failover_hold"] {
        let name = format!("standfast_{name}");
        assert_eq!(value(&families, &name, &[("service", "app")]), Some(0.0), "{name}");
    }
    assert_eq!(value(&families, "standfast_config_last_reload_successful", &[]), Some(1.0));
    let priority = |pool, priority| [("service", "app"), ("pool", pool), ("priority", priority)];
    let active = |labels: [_; 3]| value(&families, "standfast_pool_active", &labels);
    assert_eq!(active(priority("hot", "0")), Some(1.0));
    assert_eq!(active(priority("standby", "1")), Some(0.0));
}

/// The history of `app` after one move.
fn moved(table: &mut Table) {
    let service = &table.services[0];
    let mut history = (*service.history).clone();
    history.record(Moved {
        from: "hot".into(),
        to: "standby".into(),
        cause: Cause::Health,
        reason: "0 of 2 endpoints up, needs 1".into(),
        first_evidence: Duration::from_secs(50),
        decided: Duration::from_secs(50),
        published: Duration::from_millis(50_300),
    });
    let standing =
        |_| crate::table::build::Standing { verdict: Verdict::Down, ..Default::default() };
    let mut state = crate::failover::State::start(2, Duration::from_secs(50));
    state.serving = 1;
    let service = crate::table::build::service(service, &state, None, Arc::new(history), &standing);
    table.services[0] = Arc::new(service);
}

#[test]
fn a_failover_is_counted_timed_and_dated() {
    let mut table = fixture::table();
    moved(&mut table);
    let families = scrape(&table, RELOADS);
    let app = ("service", "app");
    let labels = [app, ("from", "hot"), ("to", "standby"), ("cause", "health")];
    assert_eq!(value(&families, "standfast_failovers_total", &labels), Some(1.0));
    let detection = |end: &str, labels: &[(&str, &str)]| {
        value(&families, &format!("standfast_failover_detection_seconds{end}"), labels)
    };
    assert_eq!(detection("_sum", &[app]), Some(0.3));
    assert_eq!(detection("_bucket", &[app, ("le", "0.25")]), Some(0.0));
    assert_eq!(detection("_bucket", &[app, ("le", "0.5")]), Some(1.0));
    assert_eq!(detection("_bucket", &[app, ("le", "+Inf")]), Some(1.0));
    let last = value(&families, "standfast_failover_last_timestamp_seconds", &[app]);
    assert_eq!(last, Some(1_000_050.3));
    let endpoint = [app, ("pool", "hot"), ("endpoint", "10.0.1.10:80")];
    assert_eq!(value(&families, "standfast_endpoint_up", &endpoint), Some(0.0));
    let state = |state| {
        let labels = [endpoint[0], endpoint[1], endpoint[2], ("state", state)];
        value(&families, "standfast_endpoint_state", &labels).unwrap()
    };
    assert_eq!([state("unknown"), state("up"), state("down")], [0.0, 0.0, 1.0]);
}

#[test]
fn the_cells_of_all_workers_are_added_up() {
    let table = fixture::table();
    let listener = &table.listeners[0];
    for worker in 0..2 {
        let cells = listener.targets[0].counters.workers.of(worker);
        cells.codes.increment(200);
        cells.duration.observe(700 + 1_000 * worker as u64);
        listener.counters.workers.of(worker).own_answers.increment(404);
    }
    let families = scrape(&table, RELOADS);
    let (https, app) = (("listener", "https"), ("service", "app"));
    let requests = |service, code| {
        let labels = [https, ("service", service), ("code", code)];
        value(&families, "standfast_http_requests_total", &labels)
    };
    assert_eq!((requests("app", "200"), requests("", "404")), (Some(2.0), Some(2.0)));
    let duration = |end: &str, labels: &[(&str, &str)]| {
        value(&families, &format!("standfast_http_request_duration_seconds{end}"), labels)
    };
    assert_eq!(duration("_bucket", &[https, app, ("le", "0.0005")]), Some(0.0));
    assert_eq!(duration("_bucket", &[https, app, ("le", "0.001")]), Some(1.0));
    assert_eq!(duration("_bucket", &[https, app, ("le", "0.0025")]), Some(2.0));
    assert_eq!(duration("_count", &[https, app]), Some(2.0));
    assert_eq!(duration("_sum", &[https, app]), Some(0.0024));
}

#[test]
fn a_timeout_is_a_result_of_its_own_and_each_probe_has_one() {
    let table = fixture::table();
    let cells = &table.services[0].pools[0].endpoints[0].counters.probes;
    cells.successes.add(5);
    // As control counts: timeouts are failures.
    cells.failures.add(3);
    cells.timeouts.add(2);
    cells.voids.add(4);
    cells.duration_sum_micros.add(8_000);
    let families = scrape(&table, RELOADS);
    let (app, hot) = (("service", "app"), ("pool", "hot"));
    let result = |result| {
        let labels = [app, hot, ("endpoint", "10.0.1.10:80"), ("result", result)];
        value(&families, "standfast_health_checks_total", &labels).unwrap()
    };
    assert_eq!(["success", "failure", "timeout", "void"].map(result), [5.0, 1.0, 2.0, 4.0]);
    let count = "standfast_health_check_duration_seconds_count";
    assert_eq!(value(&families, count, &[app, hot]), Some(8.0));
}

#[test]
fn what_keeps_a_service_and_where_its_requests_go_can_be_alerted_on() {
    let mut table = fixture::table();
    let mut state = crate::failover::State::start(2, Duration::ZERO);
    (state.serving, state.held, state.trouble) = (1, true, Some(Trouble::Held));
    let service = &table.services[0];
    let standing = |_| Default::default();
    let history = Arc::clone(&service.history);
    let mut service = crate::table::build::service(service, &state, None, history, &standing);
    service.share = Some(Share { pool: 0, permille: 250 });
    service.counters.holding.store(7, Ordering::Relaxed);
    service.counters.workers.of(1).held.add(9);
    let endpoint = &service.pools[0].endpoints[0];
    endpoint.live.doubt(Doubt::Silent, Duration::from_secs(1));
    table.services[0] = Arc::new(service);
    let families = scrape(&table, RELOADS);
    let app = ("service", "app");
    let of = |name: &str, labels: &[(&str, &str)]| {
        let labels: Vec<_> = [app].iter().chain(labels).copied().collect();
        value(&families, &format!("standfast_{name}"), &labels)
    };
    assert_eq!(of("failover_hold", &[]), Some(1.0));
    assert_eq!(of("failover_trouble", &[("trouble", "held")]), Some(1.0));
    assert_eq!(of("failover_trouble", &[("trouble", "unproved")]), Some(0.0));
    assert_eq!(of("failover_share", &[("pool", "hot")]), Some(0.25));
    assert_eq!(of("failover_share", &[("pool", "standby")]), Some(0.75));
    assert_eq!(
        (of("requests_holding", &[]), of("requests_held_total", &[])),
        (Some(7.0), Some(9.0))
    );
    let endpoint = [("pool", "hot"), ("endpoint", "10.0.1.10:80")];
    assert_eq!(of("endpoint_doubted", &endpoint), Some(1.0));
    let mode = |mode| of("endpoint_mode", &[endpoint[0], endpoint[1], ("mode", mode)]);
    assert_eq!([mode("active"), mode("drain"), mode("off")], [Some(1.0), Some(0.0), Some(0.0)]);
}

/// What Prometheus would be told to watch.
#[derive(Debug, serde::Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Debug, serde::Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    alert: String,
    expr: String,
    #[serde(default, rename = "for")]
    _for: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[test]
fn every_alert_watches_metrics_and_labels_there_are() {
    let text = include_str!("../../../config/prometheus-alerts.yaml");
    let rules: Rules = serde_yaml::from_str(text).unwrap();
    let rules: Vec<&Rule> = rules.groups.iter().flat_map(|group| &group.rules).collect();
    for wanted in ["StandfastStandbyUnavailable", "StandfastNoPoolAvailable"] {
        assert!(rules.iter().any(|rule| rule.alert == wanted), "{wanted}");
    }
    for rule in rules {
        let name = &rule.alert;
        assert!(name.starts_with("Standfast"), "{name}");
        assert!(rule.annotations["summary"].len() > 20 && rule.labels.contains_key("severity"));
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let metrics: Vec<&Metric> = rule
            .expr
            .split(word)
            .filter(|word| word.starts_with("standfast_"))
            .map(|word| {
                let found = ALL.iter().find(|metric| metric.name == word);
                found.unwrap_or_else(|| panic!("{name}: no metric {word}"))
            })
            .collect();
        assert!(!metrics.is_empty(), "{name}");
        let known = |label: &str| {
            // What Prometheus adds to each series itself.
            ["instance", "job"].contains(&label)
                || metrics.iter().any(|metric| metric.labels.contains(&label))
        };
        let selected =
            rule.expr.split('{').skip(1).filter_map(|rest| rest.split(['=', '!']).next());
        let shown = rule.annotations.values().flat_map(|text| text.split("$labels.").skip(1));
        let shown = shown.filter_map(|rest| rest.split(word).next());
        for label in selected.chain(shown) {
            assert!(known(label), "{name}: no label {label}");
        }
    }
}

#[test]
fn what_was_not_written_to_a_file_shows() {
    let families = scrape(&fixture::table(), RELOADS);
    let of = |name: &str, labels: &[_]| value(&families, &format!("standfast_{name}"), labels);
    assert_eq!(of("access_log_dropped_total", &[]), Some(3.0));
    assert_eq!(of("history_dropped_total", &[]), Some(4.0));
    let result = |result| of("state_file_writes_total", &[("result", result)]);
    assert_eq!((result("success"), result("failure")), (Some(5.0), Some(6.0)));
}

#[test]
fn a_failed_reload_shows() {
    let reloads = Reloads { applied: 2, refused: 1, last_successful: false, ..RELOADS };
    let families = scrape(&fixture::table(), reloads);
    let result = |result| value(&families, "standfast_config_reloads_total", &[("result", result)]);
    assert_eq!((result("success"), result("failure")), (Some(2.0), Some(1.0)));
    let of_config = |name: &str| value(&families, &format!("standfast_config_{name}"), &[]);
    assert_eq!(of_config("last_reload_successful"), Some(0.0));
    assert_eq!(of_config("last_reload_success_timestamp_seconds"), Some(1_000_000.0));
}

#[test]
fn names_from_the_configuration_are_escaped() {
    let mut config = fixture::config();
    let odd = "a\"b\\c\nd";
    let mut listener = (*config.listeners[0]).clone();
    listener.name = odd.into();
    config.listeners[0] = Arc::new(listener);
    let table = crate::table::build::first(Arc::new(config), 1, Duration::ZERO);
    let families = scrape(&table, RELOADS);
    let active = [("listener", odd)];
    assert_eq!(value(&families, "standfast_listener_connections_active", &active), Some(0.0));
    let count = [("listener", odd), ("service", "app")];
    assert_eq!(
        value(&families, "standfast_http_request_duration_seconds_count", &count),
        Some(0.0)
    );
}
