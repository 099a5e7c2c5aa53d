//! ● Services: how they balance, fail over and retry.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use super::admin::{DAY, MILLI};
use super::reader::Reader;
use super::{health, pools};
use crate::config::file::{self, Item, Table};
use crate::config::units::{self, Period, quote, wrong};
use crate::config::{
    Balance, Failback, Failover, Hold, Retries, Service, Sessions, Timeouts, WhenNone, names,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A service as far as it could be read.
pub(super) struct ReadService<'a> {
    pub(super) name: &'a str,
    /// The place of its name.
    pub(super) key: Item<'a>,
    /// None where an error was reported that leaves nothing to build.
    pub(super) service: Option<Arc<Service>>,
    /// A route names it, be the route right or wrong.
    pub(super) is_named: Cell<bool>,
    /// Its health check, where nothing says of which type it is.
    pub(super) untyped_check: Option<Item<'a>>,
}

/// In the order of the file: routes refer to services by their index.
pub(super) fn services<'a>(reader: &Reader<'a>, top: &Table<'a>) -> Vec<ReadService<'a>> {
    let Some(item) = top.get("services") else { return Vec::new() };
    let entries = item.entries().unwrap_or_default();
    let read = entries.into_iter().map(|(key, item)| {
        let place = item.clone().at_key(key);
        if let Err(wrong) = names::name(&key.text) {
            place.error(wrong.message, wrong.remedy);
        }
        let table = item.table(&file::SERVICE);
        let untyped_check = table.as_ref().and_then(untyped_check);
        let service = table.and_then(|table| service(reader, &key.text, &table));
        let (name, service) = (key.text.as_str(), service.map(Arc::new));
        ReadService { name, key: place, service, is_named: Cell::new(false), untyped_check }
    });
    read.collect()
}

/// The place of a check that is of type http only because no other is written.
fn untyped_check<'a>(table: &Table<'a>) -> Option<Item<'a>> {
    let is_typed = |item: &Item<'_>| {
        let typed = |map: &Item<'_>| {
            let entries = map.is_map().then(|| map.entries()).flatten().unwrap_or_default();
            entries.iter().any(|(key, _)| key.text == "type")
        };
        let items = item.is_list().then(|| item.list()).flatten();
        typed(item) || items.unwrap_or_default().iter().any(typed)
    };
    let check = table.key("health_check").filter(|item| !is_typed(item));
    // A pool's own check may say it; then this one is what that lies over.
    let pools = table.key("pools").filter(Item::is_list).and_then(|item| item.list());
    let of_pools = pools.unwrap_or_default().into_iter().filter(Item::is_map).any(|pool| {
        let entries = pool.entries().unwrap_or_default();
        entries.iter().any(|(key, item)| key.text == "health_check" && is_typed(item))
    });
    check.filter(|_| !of_pools)
}

fn service(reader: &Reader<'_>, name: &str, table: &Table<'_>) -> Option<Service> {
    let policies = [
        ("least_requests", Balance::LeastRequests),
        ("round_robin", Balance::RoundRobin),
        ("random", Balance::Random),
    ];
    let balance = table.get("balance").and_then(|item| item.choice(&policies, &["hash"]));
    let outlier_errors =
        table.get("outlier_detection").map_or(Some(5), |item| outlier_errors(&item));
    let check = table.get("health_check").and_then(|item| health::layer(&item));
    if let Some(check) = &check {
        health::read_alone(check);
    }
    let failover_table = table.get("failover").and_then(|item| item.table(&file::FAILOVER));
    let need = failover_table.as_ref().and_then(|table| min_healthy(&table.get("min_healthy")?));
    let failover = failover(failover_table.as_ref());
    let retries = retries(table.get("retries"));
    let timeouts = timeouts(table.get("timeouts"));
    let shared = pools::Shared {
        check,
        upstream: table.get("upstream").and_then(|item| item.table(&file::UPSTREAM)),
        need: need.unwrap_or(MinHealthy::Count(1)),
        need_item: failover_table.and_then(|table| table.get("min_healthy")),
    };
    let pools = pools::pools(reader, table, &shared)?;
    Some(Service {
        name: name.into(),
        balance: balance.unwrap_or(Balance::LeastRequests),
        failover,
        outlier_errors,
        retries,
        timeouts,
        pools,
    })
}

/// A mapping, `true` for the default, or `false`: none.
fn outlier_errors(item: &Item<'_>) -> Option<u32> {
    const DEFAULT: Option<u32> = Some(5);
    if !item.is_map() {
        let read = item.parse(|text| match text {
            "true" => Ok(DEFAULT),
            "false" => Ok(None),
            _ => wrong(
                format!("expected a mapping or `false`, found {}", quote(text)),
                "write `{ consecutive_errors: 5 }`, or `false` to turn it off",
            ),
        });
        return read.unwrap_or(DEFAULT);
    }
    let errors = item.table(&file::OUTLIER_DETECTION)?.get("consecutive_errors");
    errors.and_then(|item| u32::try_from(item.integer(1..=1000)?).ok()).or(DEFAULT)
}

/// How many endpoints make a pool available.
#[derive(Clone, Copy)]
pub(super) enum MinHealthy {
    Count(u64),
    Share(f64),
}

impl MinHealthy {
    /// Of a pool with so many endpoints: rounded up, at least one.
    pub(super) fn of(self, endpoints: usize) -> u64 {
        match self {
            Self::Count(count) => count,
            // Endpoints are few, so the product is exact enough: 50% of 4 is 2.
            Self::Share(share) => ((endpoints as f64 * share - 1e-9).ceil() as u64).max(1),
        }
    }
}

fn min_healthy(item: &Item<'_>) -> Option<MinHealthy> {
    item.parse(|text| {
        let found = if text.ends_with('%') {
            units::percentage(text).map(MinHealthy::Share)?
        } else if let (Ok(count), true) = (text.parse(), text.bytes().all(|b| b.is_ascii_digit())) {
            MinHealthy::Count(count)
        } else {
            return wrong(
                format!("{} is neither a number of endpoints nor a share of them", quote(text)),
                "write e.g. `1` or `50%`",
            );
        };
        match found {
            MinHealthy::Count(0) | MinHealthy::Share(0.0) => {
                wrong("a pool without a healthy endpoint cannot be available", "write at least `1`")
            }
            found => Ok(found),
        }
    })
}

fn failover(table: Option<&Table<'_>>) -> Failover {
    let get = |key| table?.get(key);
    let when_none = [("try_all", WhenNone::TryAll), ("unavailable", WhenNone::Unavailable)];
    let failback = get("failback").and_then(|item: Item<'_>| item.table(&file::FAILBACK));
    Failover {
        failback: self::failback(failback.as_ref()),
        when_none: get("when_none")
            .and_then(|item| item.choice(&when_none, &[]))
            .unwrap_or(WhenNone::TryAll),
        hold: hold(get("hold")),
        sessions: sessions(get("sessions")),
    }
}

fn failback(table: Option<&Table<'_>>) -> Failback {
    let get = |key| table?.get(key);
    let manual = get("mode").and_then(|item: Item<'_>| {
        let modes = [("auto", false), ("manual", true)];
        item.choice(&modes, &[])
    });
    let time = |key| {
        let item = get(key)?;
        if manual == Some(true) {
            item.warn(
                format!("`{key}` has no effect with `mode: manual`"),
                format!("remove `{key}`"),
            );
        }
        Some((item.duration(Duration::ZERO..=DAY)?, item))
    };
    let (stable_for, ramp) = (time("stable_for"), time("ramp"));
    if manual == Some(true) {
        return Failback::Manual;
    }
    let stable_for = stable_for.map_or(Duration::from_secs(5 * 60), |(time, _)| time);
    let default = (stable_for / 5).min(MINUTE);
    let ramp = ramp.map_or(default, |(ramp, item)| {
        if ramp > stable_for {
            let (ramp, stable_for) = (Period(ramp), Period(stable_for));
            item.warn(
                format!("`ramp` {ramp} is longer than `stable_for` {stable_for}"),
                "a pool should prove itself for longer than it takes to return: lengthen \
                 `stable_for`, or shorten `ramp`",
            );
        }
        ramp
    });
    Failback::Auto { stable_for, ramp }
}

fn hold(item: Option<Item<'_>>) -> Hold {
    let table = item.and_then(|item| item.table(&file::HOLD));
    let get = |key| table.as_ref()?.get(key);
    let default = Hold::default();
    let time = get("time").and_then(|item| item.duration(Duration::ZERO..=MINUTE));
    let requests = get("requests").and_then(|item| {
        if time == Some(Duration::ZERO) {
            item.warn("`requests` has no effect with `time: 0s`", "remove `requests`");
        }
        u32::try_from(item.integer(1..=100_000)?).ok()
    });
    let (time, requests) = (time.unwrap_or(default.time), requests.unwrap_or(default.requests));
    Hold { time, requests }
}

fn sessions(item: Option<Item<'_>>) -> Sessions {
    let table = item.and_then(|item| item.table(&file::SESSIONS));
    let get = |key| table.as_ref()?.get(key)?.duration(Duration::ZERO..=DAY);
    let default = Sessions::default();
    Sessions {
        close_after: get("close_after").unwrap_or(default.close_after),
        spread: get("spread").unwrap_or(default.spread),
    }
}

fn retries(item: Option<Item<'_>>) -> Retries {
    let table = item.and_then(|item| item.table(&file::RETRIES));
    let get = |key| table.as_ref()?.get(key);
    let attempts = get("attempts").and_then(|item| item.integer(0..=10));
    Retries {
        attempts: attempts.and_then(|attempts| attempts.try_into().ok()).unwrap_or(2),
        budget: get("budget").and_then(|item| item.parse(units::percentage)).unwrap_or(0.2),
    }
}

fn timeouts(item: Option<Item<'_>>) -> Timeouts {
    let table = item.and_then(|item| item.table(&file::TIMEOUTS));
    let get = |key| table.as_ref()?.get(key)?.duration(MILLI..=DAY);
    let idle = get("idle");
    Timeouts {
        connect: get("connect").unwrap_or(Duration::from_secs(1)),
        response_header: get("response_header").unwrap_or(Duration::from_secs(30)),
        idle: idle.unwrap_or(Duration::from_secs(60)),
        total: get("total"),
        silence: idle,
    }
}
