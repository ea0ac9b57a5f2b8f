//! How long whoever fails is left alone.

/// Twice as long after each failure as after the one before, and no longer than `max_ms`; after the first one,
/// `first_ms`.
pub fn pause_ms(first_ms: u64, failures_before: u32, max_ms: u64) -> u64 {
    first_ms.saturating_mul(1 << failures_before.min(32)).min(max_ms)
}

#[cfg(test)]
mod tests {
    use super::pause_ms;

    #[test]
    fn pauses_double_until_they_are_long_enough() {
        let pauses: Vec<u64> = [0, 1, 2, 9, 10, 32, u32::MAX].map(|failures| pause_ms(5, failures, 5_000)).into();
        assert_eq!(pauses, [5, 10, 20, 2_560, 5_000, 5_000, 5_000]);
    }
}
