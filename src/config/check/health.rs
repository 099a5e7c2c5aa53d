//! ● Health checks: a pool's keys lie over its service's.

use std::time::Duration;

use super::admin::{DAY, MILLI};
use crate::config::file::{self, Item, Layers, Table};
use crate::config::units::{Period, quote, wrong};
use crate::config::{CheckKind, HealthCheck, HttpCheck, Scheme, names};

/// What `type` can say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Https,
    Tcp,
    Tls,
}

/// One written `health_check`.
pub(super) type Check<'a> = Table<'a>;

/// A mapping, or a list with a single one.
pub(super) fn layer<'a>(item: &Item<'a>) -> Option<Check<'a>> {
    let item = if item.is_list() {
        let mut items = item.list()?;
        if items.len() > 1 {
            item.error(
                "more than one health check for a service is not available yet",
                "keep the one that matters most",
            );
        }
        items.swap_remove(0)
    } else {
        item.clone()
    };
    let table = item.table(&file::HEALTH_CHECK)?;
    for (key, alias) in [("unhealthy_threshold", "fall"), ("healthy_threshold", "rise")] {
        if let (true, Some(item)) = (table.has(key), table.key(alias)) {
            item.error(format!("`{alias}` is another name for `{key}`"), "keep one of them");
        }
    }
    let kind = table.get("type").and_then(|item| item.scalar());
    if let Some(kind @ ("tcp" | "tls")) = kind {
        for key in ["path", "host", "expect"] {
            if let Some(item) = table.key(key) {
                item.error(
                    format!("`{key}` has no meaning in a check of type `{kind}`"),
                    format!("remove `{key}`, or write `type: http`"),
                );
            }
        }
    }
    Some(table)
}

/// Reports wrong values of a service's check even where every pool overrides them.
pub(super) fn read_alone(check: &Check<'_>) {
    let layers = Layers(vec![check.clone()]);
    kind(&layers);
    http(&layers, false);
    times(&layers);
    thresholds(&layers);
}

/// The check of a pool whose endpoints have these schemes; none where none is written.
pub(super) fn check(layers: &Layers<'_>, schemes: &[Scheme]) -> Option<HealthCheck> {
    let place = layers.0.first()?.item.clone();
    let kind = kind(layers);
    let https = schemes.contains(&Scheme::Https);
    if kind.is_none() && https && schemes.contains(&Scheme::Http) {
        place.error(
            "this check has no `type`, and the endpoints of the pool are both http and https",
            "write all endpoints of a pool with the same scheme, or give the check a `type`",
        );
    }
    let kind = match kind {
        Some(Kind::Tcp) => CheckKind::Tcp,
        Some(Kind::Tls) => CheckKind::Tls,
        Some(Kind::Http) => CheckKind::Http(http(layers, false)),
        Some(Kind::Https) => CheckKind::Http(http(layers, true)),
        None => CheckKind::Http(http(layers, https)),
    };
    let (interval, timeout, fast_interval) = times_that_fit(layers);
    let (unhealthy_threshold, healthy_threshold) = thresholds(layers);
    Some(HealthCheck {
        kind,
        interval,
        timeout,
        fast_interval,
        unhealthy_threshold,
        healthy_threshold,
    })
}

pub(super) fn is_tls(check: &HealthCheck) -> bool {
    match &check.kind {
        CheckKind::Http(http) => http.tls,
        CheckKind::Tls => true,
        CheckKind::Tcp => false,
    }
}

fn kind(layers: &Layers<'_>) -> Option<Kind> {
    let kinds =
        [("http", Kind::Http), ("https", Kind::Https), ("tcp", Kind::Tcp), ("tls", Kind::Tls)];
    layers.get("type")?.choice(&kinds, &["grpc"])
}

fn times<'a>(layers: &Layers<'a>) -> [Option<(Duration, Item<'a>)>; 3] {
    ["interval", "timeout", "fast_interval"].map(|key| {
        let item = layers.get(key)?;
        Some((item.duration(MILLI..=DAY)?, item))
    })
}

/// Interval, timeout and fast interval. A default that is not written gives way to a shorter
/// interval; a written one that does not fit is an error.
fn times_that_fit(layers: &Layers<'_>) -> (Duration, Duration, Duration) {
    let [interval, timeout, fast] = times(layers);
    let written = interval.is_some();
    let interval = interval.map_or(Duration::from_secs(1), |(interval, _)| interval);
    let suffix = if written { "" } else { " (the default)" };
    if let Some((value, item)) = &timeout
        && *value >= interval
    {
        item.error(
            format!(
                "`timeout` {} is not shorter than `interval` {}{suffix}",
                Period(*value),
                Period(interval)
            ),
            "a probe must have ended before the next one is due: shorten `timeout` or lengthen \
             `interval`",
        );
    }
    if let Some((value, item)) = &fast
        && *value > interval
    {
        item.error(
            format!(
                "`fast_interval` {} is longer than `interval` {}{suffix}",
                Period(*value),
                Period(interval)
            ),
            "shorten `fast_interval`, or remove it",
        );
    }
    let timeout = timeout.map(|(value, _)| value);
    let fast = fast.map(|(value, _)| value);
    (
        interval,
        timeout.unwrap_or_else(|| (interval * 4 / 5).min(Duration::from_millis(800))),
        fast.unwrap_or_else(|| interval.min(Duration::from_millis(100))),
    )
}

/// Failures until down, successes until up.
fn thresholds(layers: &Layers<'_>) -> (u32, u32) {
    let count = |key: &str, alias: &str| {
        // The pool's `fall` goes before the service's `unhealthy_threshold`.
        let item = layers.0.iter().find_map(|table| table.get(key).or_else(|| table.get(alias)))?;
        u32::try_from(item.integer(1..=100)?).ok()
    };
    let down = count("unhealthy_threshold", "fall").unwrap_or(3);
    (down, count("healthy_threshold", "rise").unwrap_or(2))
}

fn http(layers: &Layers<'_>, tls: bool) -> HttpCheck {
    let expect = layers.under("expect", &file::EXPECT);
    let path = layers.get("path").and_then(|item| item.parse(names::probe_path));
    let body = expect.get("body_contains").and_then(|item| item.text());
    HttpCheck {
        tls,
        path: path.unwrap_or_else(|| "/".into()),
        host: layers.get("host").and_then(|item| item.parse(names::authority)),
        status: expect
            .get("status")
            .and_then(|item| status(&item))
            .unwrap_or_else(|| vec![(200, 299)]),
        body_contains: body.map(str::to_owned),
        headers: expect.get("header").and_then(|item| headers(&item)).unwrap_or_default(),
    }
}

/// One range, or a list of them.
fn status(item: &Item<'_>) -> Option<Vec<(u16, u16)>> {
    let items = if item.is_list() { item.list()? } else { vec![item.clone()] };
    items.iter().map(|item| item.parse(status_range)).collect()
}

fn status_range(text: &str) -> Result<(u16, u16), crate::config::units::Wrong> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        let code = digits.then(|| text.parse().ok()).flatten();
        code.filter(|code| (100..=599).contains(code))
    };
    match (code(from.trim()), code(to.trim())) {
        (Some(from), Some(to)) if from <= to => Ok((from, to)),
        _ => wrong(
            format!("{} is not a range of status codes", quote(text)),
            "write e.g. `200`, `200-299` or `[200, 204]`",
        ),
    }
}

/// Name in lower case → exact value.
fn headers(item: &Item<'_>) -> Option<Vec<(String, String)>> {
    let header = |(key, item): (&crate::config::parse::Key, Item<'_>)| {
        let name = key.text.to_ascii_lowercase();
        if !is_token(&name) {
            item.clone().at_key(key).error(
                format!("{} is not the name of a header", quote(&key.text)),
                "use letters, digits and `-`",
            );
        }
        let value = item.text()?;
        if !value.chars().all(|letter| matches!(letter, ' '..='~')) {
            item.error("this value cannot stand in a header", "use visible ASCII");
        }
        Some((name, value.to_owned()))
    };
    item.entries()?.into_iter().map(header).collect()
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(fits)
}
