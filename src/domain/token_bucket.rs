//! Rate limits.

use crate::{RateLimit, Refusal};

/// How much of one limit is used up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TokenBucket {
    /// Tokens left, and when that was, in milliseconds since the Unix epoch; `None` while it is full.
    level: Option<(f64, u64)>,
}

impl TokenBucket {
    /// Takes one token, or refuses with `LimitExceeded` until there is one. A limit that is off refuses nobody.
    ///
    /// # Errors
    /// [`Refusal::LimitExceeded`].
    pub fn take(&mut self, limit: RateLimit, now_ms: u64) -> Result<(), Refusal> {
        if !limit.is_on() {
            return Ok(());
        }
        let burst = f64::from(limit.burst);
        let level = self.level.map_or(burst, |(level, at_ms)| {
            let passed_ms = u32::try_from(now_ms.saturating_sub(at_ms)).unwrap_or(u32::MAX);
            burst.min(level + f64::from(passed_ms) / 1000.0 * limit.per_second)
        });
        if level < 1.0 {
            self.level = Some((level, now_ms));
            // Never negative and far below 2^53: the cast is exact.
            let retry_after_ms = ((1.0 - level) / limit.per_second * 1000.0).ceil() as u64;
            return Err(Refusal::LimitExceeded { retry_after_ms });
        }
        self.level = Some((level - 1.0, now_ms));
        Ok(())
    }

    /// Puts back a token that was taken.
    pub fn give_back(&mut self) {
        if let Some((level, _)) = &mut self.level {
            *level += 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TokenBucket;
    use crate::{RateLimit, Refusal};

    #[test]
    fn a_burst_then_so_many_a_second() {
        let (mut bucket, limit) = (TokenBucket::default(), RateLimit { per_second: 0.5, burst: 2 });
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

    #[test]
    fn what_is_given_back_was_never_taken() {
        let (mut bucket, limit) = (TokenBucket::default(), RateLimit { per_second: 0.5, burst: 1 });
        for _ in 0..10 {
            assert_eq!(bucket.take(limit, 0), Ok(()));
            bucket.give_back();
        }
        assert_eq!(bucket.take(limit, 0), Ok(()));
        assert_eq!(bucket.take(limit, 0), Err(Refusal::LimitExceeded { retry_after_ms: 2_000 }));
    }
}
