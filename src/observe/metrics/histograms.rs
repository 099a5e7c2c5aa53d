//! ○ What the recorder cannot hold: histograms counted elsewhere, and seconds with a fraction.

use super::Scrape;
use super::list::*;
use super::process::Process;
use super::text::Text;
use crate::config::ListenerMode;
use crate::table::counters::Histogram;
use crate::table::history::Detection;
use crate::table::{Pool, Service};

/// To be appended to what the recorder renders.
pub(super) fn render(scrape: &Scrape<'_>, process: &Process) -> String {
    let table = scrape.table;
    let mut text = Text::default();
    if let Some(seconds) = process.cpu_seconds {
        text.head(&CPU_SECONDS);
        text.sample(&CPU_SECONDS, "", &[], seconds);
    }
    text.head(&HTTP_DURATION);
    let listeners = table.listeners.iter();
    for listener in listeners.filter(|listener| listener.config.mode == ListenerMode::Http) {
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
        probes += cells.successes.value() + cells.failures.value();
        micros += cells.duration_sum_micros.value();
    }
    let labels = [&*service.config.name, &*pool.config.name];
    text.sample(&HEALTH_CHECK_DURATION, "_sum", &labels, micros as f64 / 1e6);
    text.sample(&HEALTH_CHECK_DURATION, "_count", &labels, probes as f64);
}
