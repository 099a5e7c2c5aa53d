//! ● The text exposition format, as far as we write it ourselves.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>, version 0.0.4.

use std::fmt::Write;

use super::list::Metric;

/// Families written one after the other. Writing to a string cannot fail.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// Opens a family; all of its samples follow.
    pub(super) fn head(&mut self, metric: &Metric) {
        let Metric { name, kind, help, .. } = metric;
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {}", kind.name());
    }

    /// One sample of `metric`, whose name ends in `suffix`.
    pub(super) fn sample(&mut self, metric: &Metric, suffix: &str, values: &[&str], value: f64) {
        self.line(metric, suffix, values, None, value);
    }

    /// `buckets` are not cumulative and one more than `bounds`: the last is everything above.
    pub(super) fn histogram(
        &mut self,
        metric: &Metric,
        values: &[&str],
        bounds: impl IntoIterator<Item = f64>,
        buckets: impl IntoIterator<Item = u64>,
        sum: f64,
    ) {
        let bounds = bounds.into_iter().map(|bound| bound.to_string());
        let mut count = 0;
        for (bound, bucket) in bounds.chain(["+Inf".to_owned()]).zip(buckets) {
            count += bucket;
            self.line(metric, "_bucket", values, Some(&bound), count as f64);
        }
        self.line(metric, "_sum", values, None, sum);
        self.line(metric, "_count", values, None, count as f64);
    }

    pub(super) fn finish(self) -> String {
        self.0
    }

    fn line(
        &mut self,
        metric: &Metric,
        suffix: &str,
        values: &[&str],
        bound: Option<&str>,
        value: f64,
    ) {
        let _ = write!(self.0, "{}{suffix}", metric.name);
        let pairs = metric.labels.iter().copied().zip(values.iter().copied());
        let mut before = '{';
        for (name, value) in pairs.chain(bound.map(|bound| ("le", bound))) {
            let _ = write!(self.0, "{before}{name}=\"");
            self.escape(value);
            self.0.push('"');
            before = ',';
        }
        self.0.push_str(if before == ',' { "} " } else { " " });
        let _ = writeln!(self.0, "{value}");
    }

    fn escape(&mut self, value: &str) {
        for character in value.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
    }
}
