//! Durations measured, and exact percentiles of them.

use std::time::Duration;

#[derive(Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The nearest-rank percentile in milliseconds: the smallest sample that `percent` of all do not exceed.
    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1000.0)
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_at_the_nearest_rank() {
        let samples: Samples = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!([1, 50, 99, 100].map(|percent| samples.percentile_ms(percent)), [2.0, 100.0, 198.0, 200.0]);
        let one: Samples = [Duration::from_millis(7)].into_iter().collect();
        assert_eq!((one.percentile_ms(1), one.percentile_ms(99)), (7.0, 7.0));
        assert!(Samples::default().percentile_ms(50).is_nan());
    }
}
