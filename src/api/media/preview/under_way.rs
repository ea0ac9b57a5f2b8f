use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use domain::Refusal;

/// How long a failure is remembered, in milliseconds.
const FAILED_MS: u64 = 60_000;
/// URLs that are looked at at the same time.
const UNDER_WAY_MAX: usize = 32;
/// Attempts that are remembered.
const REMEMBERED_MAX: usize = 1_000;
/// When to try again who comes while too many are under way, in milliseconds.
const RETRY_MS: u64 = 2_000;

/// Which URLs this process is looking at, on Workers an isolate, and which failed just now.
#[derive(Default)]
pub struct UrlPreviewer(Mutex<HashMap<String, Attempt>>);

struct Attempt {
    /// After that it is over, however it went: nobody may have been left to say so.
    until_ms: u64,
    /// How it went, if it is over.
    failed: Option<Refusal>,
}

pub(super) enum Begun<'a> {
    /// Nobody else is looking.
    First(UnderWay<'a>),
    /// Somebody else is, and soon it will be known what there is.
    After,
}

/// An attempt that is under way until this is dropped.
pub(super) struct UnderWay<'a> {
    previewer: &'a UrlPreviewer,
    key: String,
}

impl UrlPreviewer {
    fn attempts(&self) -> MutexGuard<'_, HashMap<String, Attempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to look at a URL, unless somebody else does.
    ///
    /// # Errors
    /// It failed a moment ago; or too many are looked at.
    pub(super) fn begin(&self, key: &str, now_ms: u64, lasts_ms: u64) -> Result<Begun<'_>, Refusal> {
        let mut attempts = self.attempts();
        if let Some(attempt) = attempts.get(key).filter(|attempt| attempt.until_ms > now_ms) {
            return attempt.failed.clone().map_or(Ok(Begun::After), Err);
        }
        attempts.retain(|_, attempt| attempt.until_ms > now_ms);
        if attempts.values().filter(|attempt| attempt.failed.is_none()).count() >= UNDER_WAY_MAX {
            return Err(Refusal::Unavailable { retry_after_ms: RETRY_MS });
        }
        if attempts.len() >= REMEMBERED_MAX {
            attempts.retain(|_, attempt| attempt.failed.is_none());
        }
        attempts.insert(key.to_owned(), Attempt { until_ms: now_ms.saturating_add(lasts_ms), failed: None });
        Ok(Begun::First(UnderWay { previewer: self, key: key.to_owned() }))
    }
}

impl UnderWay<'_> {
    /// Tells everybody who asks for a while that it failed.
    pub(super) fn fails(self, refusal: Refusal, now_ms: u64) {
        let attempt = Attempt { until_ms: now_ms.saturating_add(FAILED_MS), failed: Some(refusal) };
        self.previewer.attempts().insert(self.key.clone(), attempt);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut attempts = self.previewer.attempts();
        if attempts.get(&self.key).is_some_and(|attempt| attempt.failed.is_none()) {
            attempts.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::Refusal;

    use super::{Begun, FAILED_MS, REMEMBERED_MAX, UNDER_WAY_MAX, UrlPreviewer};

    fn first<'a>(previewer: &'a UrlPreviewer, key: &str, now_ms: u64) -> super::UnderWay<'a> {
        match previewer.begin(key, now_ms, 100) {
            Ok(Begun::First(under_way)) => under_way,
            _ => panic!("somebody else is looking at {key}"),
        }
    }

    #[test]
    fn one_looks_and_the_others_wait() {
        let previewer = UrlPreviewer::default();
        let under_way = first(&previewer, "a", 0);
        assert!(matches!(previewer.begin("a", 99, 100), Ok(Begun::After)));
        let other = first(&previewer, "b", 0);
        drop(other);
        drop(under_way);
        let under_way = first(&previewer, "a", 0);
        // Nobody was left to end it.
        std::mem::forget(under_way);
        drop(first(&previewer, "a", 100));
    }

    #[test]
    fn a_failure_is_told_for_a_while() {
        let previewer = UrlPreviewer::default();
        let refusal = Refusal::NotFound("x".to_owned());
        first(&previewer, "a", 0).fails(refusal.clone(), 50);
        assert_eq!(previewer.begin("a", 49 + FAILED_MS, 100).err(), Some(refusal));
        drop(first(&previewer, "a", 50 + FAILED_MS));
    }

    #[test]
    fn nobody_makes_us_look_at_everything_or_remember_it() {
        let previewer = UrlPreviewer::default();
        for number in 0..2 * REMEMBERED_MAX {
            first(&previewer, &number.to_string(), 0).fails(Refusal::MissingToken, 0);
            assert!(previewer.attempts().len() <= REMEMBERED_MAX);
        }
        let previewer = UrlPreviewer::default();
        let under_way: Vec<_> = (0..UNDER_WAY_MAX).map(|number| first(&previewer, &number.to_string(), 0)).collect();
        assert!(matches!(previewer.begin("one more", 0, 100).err(), Some(Refusal::Unavailable { .. })));
        drop(under_way);
        drop(first(&previewer, "one more", 0));
    }
}
