//! ● How long answers usually take: a small histogram that forgets, and its 99th percentile.

use std::time::Duration;

/// Times to the head of an answer, the more recent the more they count. Fixed in size, a few
/// nanoseconds a time.
#[derive(Debug)]
pub struct Latency {
    /// One for everything below [`Self::FINEST`], then four to a doubling.
    buckets: [u16; Self::BUCKETS],
    count: u16,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: [0; Self::BUCKETS], count: 0 }
    }
}

impl Latency {
    const BUCKETS: usize = 1 + 4 * Self::DOUBLINGS as usize;
    /// Up to 131 s.
    const DOUBLINGS: u32 = 14;
    /// Milliseconds, a power of two. Who is this fast is fast enough: nobody asks how fast.
    const FINEST: u64 = 8;
    /// As many times count; half of them are forgotten then.
    const MOST: u16 = 1024;
    /// From as many times on there is an answer.
    const LEAST: u16 = 20;

    pub fn record(&mut self, took: Duration) {
        self.buckets[index(took)] += 1;
        self.count += 1;
        if self.count == Self::MOST {
            self.buckets.iter_mut().for_each(|bucket| *bucket /= 2);
            self.count = self.buckets.iter().sum();
        }
    }

    /// The time that one in a hundred exceeds, at most a quarter too long (or [`Self::FINEST`]);
    /// `None` while too few are known.
    pub fn p99(&self) -> Option<Duration> {
        if self.count < Self::LEAST {
            return None;
        }
        let mut above = 0;
        let slowest = self.buckets.iter().rposition(|bucket| {
            above += bucket;
            above > self.count / 100
        })?;
        Some(upper_bound(slowest))
    }
}

fn index(took: Duration) -> usize {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if millis < Latency::FINEST {
        return 0;
    }
    let doubling = millis.ilog2();
    let quarter = (millis >> (doubling - 2)) & 3;
    let index = 1 + 4 * (doubling - Latency::FINEST.ilog2()) as usize + quarter as usize;
    index.min(Latency::BUCKETS - 1)
}

fn upper_bound(index: usize) -> Duration {
    let Some(above) = index.checked_sub(1) else {
        return Duration::from_millis(Latency::FINEST);
    };
    let (doubling, quarter) = (above / 4, above % 4);
    Duration::from_millis((Latency::FINEST / 4 * (5 + quarter as u64)) << doubling)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(millis: impl IntoIterator<Item = u64>) -> Latency {
        let mut latency = Latency::default();
        millis.into_iter().for_each(|millis| latency.record(Duration::from_millis(millis)));
        latency
    }

    #[test]
    fn too_few_times_are_no_answer() {
        assert_eq!(of(vec![30; 19]).p99(), None);
        assert!(of(vec![30; 20]).p99().is_some());
    }

    #[test]
    fn one_slow_answer_in_a_hundred_is_usual_and_one_in_two_hundred_is_not() {
        let mixed = |every: u64| of((1..=400).map(|n| if n % every == 0 { 900 } else { 1 }));
        assert!(mixed(70).p99().unwrap() >= Duration::from_millis(900));
        assert_eq!(mixed(200).p99(), Some(Duration::from_millis(8)));
    }

    #[test]
    fn what_was_usual_long_ago_is_forgotten() {
        let mut latency = of(vec![900; 1000]);
        for _ in 0..12_000 {
            latency.record(Duration::from_millis(1));
        }
        assert_eq!(latency.p99(), Some(Duration::from_millis(8)));
    }

    #[test]
    fn a_time_beyond_all_measure_counts_as_the_longest() {
        assert_eq!(of(vec![u64::MAX; 30]).p99(), Some(Duration::from_millis(131_072)));
    }

    proptest! {
        #[test]
        fn the_percentile_is_never_too_short_and_at_most_a_quarter_too_long(
            mut millis in prop::collection::vec(0..100_000u64, 20..1000),
        ) {
            let found = of(millis.iter().copied()).p99().unwrap();
            millis.sort_unstable();
            let exact = millis[millis.len() - 1 - millis.len() / 100];
            prop_assert!(found > Duration::from_millis(exact));
            let most = Duration::from_millis((exact * 5).div_ceil(4).max(Latency::FINEST) + 1);
            prop_assert!(found <= most, "{found:?}, exactly {exact} ms");
        }
    }
}
