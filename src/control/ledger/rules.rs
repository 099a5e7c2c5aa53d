//! ● Which values of the configuration decided a move.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Told;
use crate::config::{self, Failback};
use crate::failover::Cause;

/// The values that decided, by the names of their keys.
pub(super) fn rules(service: &config::Service, told: &Told<'_>) -> BTreeMap<String, String> {
    let mut rules = BTreeMap::new();
    let mut rule = |name: &str, value: String| rules.insert(name.to_owned(), value);
    let returned = told.cause == Cause::Failback;
    let pool = if returned { &told.to.config } else { &told.from.config };
    if matches!(told.cause, Cause::Start | Cause::Removed) {
        return rules;
    }
    rule("min_healthy", pool.min_healthy.to_string());
    if let Some(check) = pool.health_check.as_ref().filter(|_| returned) {
        rule("healthy_threshold", check.healthy_threshold.to_string());
    }
    if let (true, Failback::Auto { stable_for, ramp }) = (returned, service.failover.failback) {
        rule("stable_for", period(stable_for));
        rule("ramp", period(ramp));
    }
    let lost = pool.health_check.as_ref().filter(|_| told.cause == Cause::Health);
    if let Some(check) = lost {
        rule("unhealthy_threshold", check.unhealthy_threshold.to_string());
        rule("healthy_threshold", check.healthy_threshold.to_string());
        rule("interval", period(check.interval));
        rule("fast_interval", period(check.fast_interval));
        rule("timeout", period(check.timeout));
    }
    if let (Cause::Health, Some(errors)) = (told.cause, service.outlier_errors) {
        rule("consecutive_errors", errors.to_string());
    }
    rules
}

/// As an operator would write it.
fn period(time: Duration) -> String {
    let millis = time.as_millis();
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    match units.iter().find(|(_, unit)| millis > 0 && millis.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", millis / unit),
        None => format!("{millis}ms"),
    }
}
