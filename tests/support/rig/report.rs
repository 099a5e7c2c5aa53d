//! What came of a load: counts and latencies of any stretch of time.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Serialize;

use super::app::Delivery;
use super::load::{Outcome, Sample};
use super::{Pool, pool_of};

/// All samples of a finished load and all deliveries of its requests.
#[derive(Debug, Clone)]
pub struct Report {
    /// In the order of their numbers, which is the order in which they were due.
    pub samples: Vec<Sample>,
    /// In the order of their arrival at the applications.
    pub deliveries: Vec<Delivery>,
}

/// Of the requests due in a stretch of time. Latencies are those of the requests answered well, in
/// milliseconds, counted from the moment each was due.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    pub requests: usize,
    /// Got no 2xx.
    pub lost_get: usize,
    pub lost_post: usize,
    /// Why, with how often: a status, or `refused`, `cut`, `stale`, `timeout`,
    /// `never sent`.
    pub why: BTreeMap<String, usize>,
    /// Requests delivered more than once. For GET this is rescue at work, for POST it is a fault.
    pub twice_get: usize,
    pub twice_post: usize,
    /// Answered well by either pool.
    pub by_hot: usize,
    pub by_standby: usize,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    /// How late the client itself was at the 99.9 % quantile: what to take off the others in thought.
    pub client_late: f64,
}

impl Report {
    pub(super) fn new(mut samples: Vec<Sample>, mut deliveries: Vec<Delivery>) -> Self {
        samples.sort_by_key(|sample| sample.number);
        let (first, last) = match (samples.first(), samples.last()) {
            (Some(first), Some(last)) => (first.number, last.number),
            _ => (1, 0),
        };
        deliveries.retain(|delivery| (first..=last).contains(&delivery.number));
        Self { samples, deliveries }
    }

    /// Of the requests due from `from` until before `to`, both since the rig's origin.
    pub fn between(&self, from: Duration, to: Duration) -> Figures {
        let mut figures = Figures::default();
        let (mut latencies, mut late) = (Vec::new(), Vec::new());
        let times = self.times_delivered();
        let due = |sample: &&Sample| (from..to).contains(&sample.due);
        for sample in self.samples.iter().filter(due) {
            figures.requests += 1;
            late.push(sample.late);
            let post = sample.post;
            let twice = times.get(&sample.number).is_some_and(|&times| times > 1);
            figures.twice_get += usize::from(twice && !post);
            figures.twice_post += usize::from(twice && post);
            match sample.endpoint().map(pool_of) {
                Some(Pool::Hot) => figures.by_hot += 1,
                Some(Pool::Standby) => figures.by_standby += 1,
                None => {}
            }
            if sample.is_good() {
                latencies.push(sample.latency);
                continue;
            }
            figures.lost_get += usize::from(!post);
            figures.lost_post += usize::from(post);
            *figures.why.entry(why(sample.outcome)).or_default() += 1;
        }
        latencies.sort();
        late.sort();
        let ms = |sorted: &[Duration], part| quantile(sorted, part).as_secs_f64() * 1e3;
        figures.p50 = ms(&latencies, 0.5);
        figures.p99 = ms(&latencies, 0.99);
        figures.p999 = ms(&latencies, 0.999);
        figures.max = ms(&latencies, 1.0);
        figures.client_late = ms(&late, 0.999);
        figures
    }

    /// Of all requests.
    pub fn all(&self) -> Figures {
        self.between(Duration::ZERO, Duration::MAX)
    }

    /// From `after` until the first good answer of a pool to a request due after that.
    pub fn first_success(&self, after: Duration, pool: Pool) -> Option<Duration> {
        let late = self.samples.iter().filter(|sample| sample.due >= after);
        let good = late.filter(|sample| sample.endpoint().map(pool_of) == Some(pool));
        good.map(|sample| sample.done() - after).min()
    }

    /// From `after` until the first good answer of a pool after that, whenever its request was due.
    pub fn first_answer(&self, after: Duration, pool: Pool) -> Option<Duration> {
        let good = self.samples.iter().filter(|s| s.endpoint().map(pool_of) == Some(pool));
        good.map(Sample::done).filter(|&done| done >= after).min().map(|done| done - after)
    }

    /// The requests that got no 2xx, in their order.
    pub fn lost(&self) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| !sample.is_good()).collect()
    }

    /// Requests that reached an endpoint of this pool after `after`.
    pub fn delivered_to(&self, pool: Pool, after: Duration) -> usize {
        let of = |delivery: &&Delivery| pool_of(delivery.endpoint) == pool && delivery.at >= after;
        self.deliveries.iter().filter(of).count()
    }

    /// How often each request reached an application.
    pub fn times_delivered(&self) -> HashMap<u64, usize> {
        let mut times = HashMap::new();
        for delivery in &self.deliveries {
            *times.entry(delivery.number).or_default() += 1;
        }
        times
    }
}

/// In a word.
pub fn why(outcome: Outcome) -> String {
    match outcome {
        Outcome::Answer { status, .. } => status.to_string(),
        Outcome::Refused => "refused".to_owned(),
        Outcome::Cut => "cut".to_owned(),
        Outcome::Stale => "stale".to_owned(),
        Outcome::Timeout => "timeout".to_owned(),
        Outcome::NeverSent => "never sent".to_owned(),
    }
}

/// The least value that at least that part of all values does not exceed; zero if there is none.
pub fn quantile(sorted: &[Duration], part: f64) -> Duration {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}
