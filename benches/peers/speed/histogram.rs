//! Latencies, counted in buckets at most 1.6 % wide.

/// Buckets per power of two, as a power of two.
const PRECISION: u32 = 6;

/// Counts of durations in nanoseconds.
pub(crate) struct Histogram {
    buckets: Vec<u32>,
    count: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; (64 - PRECISION as usize + 1) << PRECISION], count: 0 }
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.buckets[bucket(nanoseconds)] += 1;
        self.count += 1;
    }

    /// The smallest duration in nanoseconds that at least `share` (0 to 1) of all do not exceed,
    /// rounded down to its bucket; 0 if nothing was recorded.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let wanted = (share * self.count as f64).ceil() as u64;
        let mut seen = 0;
        for (index, &count) in self.buckets.iter().enumerate() {
            seen += u64::from(count);
            if count > 0 && seen >= wanted {
                return floor(index);
            }
        }
        0
    }
}

/// Values below 2^PRECISION have a bucket each; above, the top PRECISION+1 bits choose it.
fn bucket(value: u64) -> usize {
    let bits = 64 - value.leading_zeros();
    let shift = bits.saturating_sub(PRECISION + 1);
    ((shift as usize) << PRECISION) + (value >> shift) as usize
}

/// The smallest value that falls into a bucket; the inverse of [`bucket`].
fn floor(index: usize) -> u64 {
    let shift = (index >> PRECISION).saturating_sub(1);
    let mantissa = index - (shift << PRECISION);
    (mantissa as u64) << shift
}
