//! Rate limits, in an actor's memory: an eviction forgets them, which takes about as long as a bucket to fill.

use std::cell::Cell;

use domain::{Refusal, config::RateLimit};

/// How much of one limit is used up.
#[derive(Default)]
pub(crate) struct TokenBucket {
    /// Tokens left, and when that was, in milliseconds since the Unix epoch; `None` while it is full.
    level: Cell<Option<(f64, u64)>>,
}

impl TokenBucket {
    /// Takes one token, or refuses with `LimitExceeded` until there is one. A limit that is off refuses nobody.
    pub(crate) fn take(&self, limit: RateLimit, now_ms: u64) -> Result<(), Refusal> {
        if !limit.is_on() {
            return Ok(());
        }
        let burst = f64::from(limit.burst);
        let level = self.level.get().map_or(burst, |(level, at_ms)| {
            let passed_ms = u32::try_from(now_ms.saturating_sub(at_ms)).unwrap_or(u32::MAX);
            burst.min(level + f64::from(passed_ms) / 1000.0 * limit.per_second)
        });
        if level < 1.0 {
            self.level.set(Some((level, now_ms)));
            // Never negative and far below 2^53: the cast is exact.
            let retry_after_ms = ((1.0 - level) / limit.per_second * 1000.0).ceil() as u64;
            return Err(Refusal::LimitExceeded { retry_after_ms });
        }
        self.level.set(Some((level - 1.0, now_ms)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use domain::{Refusal, config::RateLimit};

    use super::TokenBucket;

    #[test]
    fn a_burst_then_so_many_a_second() {
        let (bucket, limit) = (TokenBucket::default(), RateLimit { per_second: 0.5, burst: 2 });
        let refused = |retry_after_ms| Err(Refusal::LimitExceeded { retry_after_ms });
        for (now_ms, outcome) in [
            (0, Ok(())),
            (0, Ok(())),
            (0, refused(2_000)),
            (500, refused(1_500)),
            (2_000, Ok(())),
            (2_000, refused(2_000)),
            (1_000_000, Ok(())),
            (1_000_000, Ok(())),
            (1_000_000, refused(2_000)),
        ] {
            assert_eq!(bucket.take(limit, now_ms), outcome, "at {now_ms}");
        }
        let off = RateLimit { per_second: 0.0, burst: 0 };
        assert_eq!(bucket.take(off, 1_000_000), Ok(()));
    }
}
