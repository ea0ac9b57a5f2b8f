//! Failed logins, counted by the user who was tried, whether or not there is such a user.
//!
//! Counted here and not by users' actors, because those who do not exist have none: a limit that only some names have
//! tells who exists. The counts are of one process natively and of one isolate on Workers, and die with it.
//! Spec: "Rate limiting"; configured by `RC_LOGIN`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use domain::{Refusal, TokenBucket, config::RateLimit};
use ruma_common::UserId;

/// How many users are counted at a time. Beyond it the one tried longest ago is forgotten: for a guesser that costs as
/// many password hashes as this number.
const USERS_MAX: usize = 10_000;

/// How often each user was tried in vain of late.
pub(super) struct FailedLogins {
    buckets: Mutex<BTreeMap<String, TokenBucket>>,
}

impl FailedLogins {
    pub(super) const fn new() -> Self {
        Self { buckets: Mutex::new(BTreeMap::new()) }
    }

    /// Counts an attempt as failed before it is made, so that many at once are no way around the limit; what succeeds
    /// is [taken back](Self::succeeded).
    ///
    /// # Errors
    /// [`Refusal::LimitExceeded`].
    pub(super) fn attempt(&self, user_id: &UserId, limit: RateLimit, now_ms: u64) -> Result<(), Refusal> {
        if !limit.is_on() {
            return Ok(());
        }
        let mut buckets = self.buckets();
        let name = name(user_id);
        if buckets.len() >= USERS_MAX && !buckets.contains_key(&name) {
            let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.used_at_ms()).map(|(name, _)| name.clone());
            oldest.and_then(|oldest| buckets.remove(&oldest));
        }
        buckets.entry(name).or_default().take(limit, now_ms)
    }

    /// The last attempt was none to count.
    pub(super) fn succeeded(&self, user_id: &UserId) {
        if let Some(bucket) = self.buckets().get_mut(&name(user_id)) {
            bucket.give_back();
        }
    }

    fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, TokenBucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A login takes capitals for small letters.
fn name(user_id: &UserId) -> String {
    user_id.as_str().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use domain::{Refusal, config::RateLimit};
    use ruma_common::{OwnedUserId, UserId, user_id};

    use super::{FailedLogins, USERS_MAX};

    const LIMIT: RateLimit = RateLimit { per_second: 0.5, burst: 2 };

    #[test]
    fn only_what_fails_counts() {
        let failed = FailedLogins::new();
        let (alice, shouted) = (user_id!("@alice:localhost"), user_id!("@ALICE:localhost"));
        for _ in 0..10 {
            failed.attempt(alice, LIMIT, 0).unwrap();
            failed.succeeded(alice);
        }
        failed.attempt(alice, LIMIT, 0).unwrap();
        failed.attempt(shouted, LIMIT, 0).unwrap();
        let refused = Err(Refusal::LimitExceeded { retry_after_ms: 2_000 });
        assert_eq!(failed.attempt(alice, LIMIT, 0), refused);
        assert_eq!(failed.attempt(user_id!("@bob:localhost"), LIMIT, 0), Ok(()));
    }

    #[test]
    fn the_one_tried_longest_ago_is_forgotten() {
        let failed = FailedLogins::new();
        let user = |number: usize| -> OwnedUserId { UserId::parse(format!("@user{number}:localhost")).unwrap() };
        let slow = RateLimit { per_second: 0.000_001, burst: 1 };
        for number in 0..=USERS_MAX {
            failed.attempt(&user(number), slow, number as u64).unwrap();
        }
        assert_eq!(failed.buckets().len(), USERS_MAX);
        assert!(failed.attempt(&user(1), slow, 20_000).is_err());
        assert!(failed.attempt(&user(0), slow, 20_000).is_ok());
    }
}
