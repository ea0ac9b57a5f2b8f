use std::sync::{Arc, Mutex};

use domain::Refusal;

use super::known_servers::lock;
use crate::recent::Recent;

/// How many files are remembered for certain.
const FILES_MAX: usize = 2_000;
/// Whoever fetches a file and has got nothing for so long, in milliseconds, may be gone: then somebody else may.
const SILENT_MS_MAX: u64 = 90_000;
/// A file that was not to be had is not asked for again so soon, in milliseconds.
const ASK_AGAIN_MS: u64 = 10_000;

/// Which files of other servers are being fetched, by one who asks for each, and which were not to be had a moment ago.
#[derive(Default)]
pub(crate) struct Fetches(Mutex<Recent<String, Fetch, FILES_MAX>>);

#[derive(Default)]
struct Fetch {
    /// Somebody fetches it.
    until_ms: u64,
    /// Why it was not to be had, and until when that holds.
    refused: Option<(Refusal, u64)>,
}

/// Who fetches a file.
pub(crate) enum Turn {
    /// The caller does.
    Mine(Fetching),
    /// Somebody else is about to.
    Others,
    /// Nobody, so shortly after it was refused.
    Refused(Refusal),
}

impl Fetches {
    /// Takes the turn to fetch a file.
    pub(crate) fn begin(self: &Arc<Self>, file: &str, now_ms: u64) -> Turn {
        let mut all = lock(&self.0);
        let fetch = all.of(file.to_owned());
        if now_ms < fetch.until_ms {
            return Turn::Others;
        }
        if let Some((refusal, _)) = fetch.refused.as_ref().filter(|(_, until_ms)| now_ms < *until_ms) {
            return Turn::Refused(refusal.clone());
        }
        *fetch = Fetch { until_ms: now_ms.saturating_add(SILENT_MS_MAX), refused: None };
        Turn::Mine(Fetching { fetches: self.clone(), file: file.to_owned() })
    }

    /// Whether somebody fetches a file.
    pub(crate) fn is_under_way(&self, file: &str, now_ms: u64) -> bool {
        lock(&self.0).get(file).is_some_and(|fetch| now_ms < fetch.until_ms)
    }
}

/// A turn to fetch a file. Dropped, it is another's.
pub(crate) struct Fetching {
    fetches: Arc<Fetches>,
    file: String,
}

impl Fetching {
    /// More of it has come.
    pub(crate) fn goes_on(&self, now_ms: u64) {
        lock(&self.fetches.0).of(self.file.clone()).until_ms = now_ms.saturating_add(SILENT_MS_MAX);
    }

    /// It was not to be had: those who wait are told the same.
    pub(crate) fn is_refused(&self, refusal: &Refusal, now_ms: u64) {
        let until_ms = now_ms.saturating_add(ASK_AGAIN_MS);
        lock(&self.fetches.0).of(self.file.clone()).refused = Some((refusal.clone(), until_ms));
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        let mut all = lock(&self.fetches.0);
        let fetch = all.of(self.file.clone());
        fetch.until_ms = 0;
        if fetch.refused.is_none() {
            all.remove(&self.file);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::Refusal;

    use super::{ASK_AGAIN_MS, Fetches, SILENT_MS_MAX, Turn};

    #[test]
    fn one_at_a_time_fetches() {
        let fetches = Arc::new(Fetches::default());
        let Turn::Mine(first) = fetches.begin("a/1", 0) else { panic!() };
        assert!(matches!(fetches.begin("a/1", 1), Turn::Others));
        assert!(matches!(fetches.begin("a/2", 1), Turn::Mine(_)));
        first.goes_on(50);
        assert!(fetches.is_under_way("a/1", SILENT_MS_MAX + 49));
        assert!(matches!(fetches.begin("a/1", SILENT_MS_MAX + 50), Turn::Mine(_)), "it was silent for too long");
        drop(first);
        assert!(matches!(fetches.begin("a/1", 60), Turn::Mine(_)), "it was given up");
    }

    #[test]
    fn a_refusal_holds_for_a_moment() {
        let fetches = Arc::new(Fetches::default());
        let Turn::Mine(first) = fetches.begin("a/1", 0) else { panic!() };
        first.is_refused(&Refusal::NotYetUploaded, 5);
        drop(first);
        let again = fetches.begin("a/1", ASK_AGAIN_MS + 4);
        assert!(matches!(again, Turn::Refused(Refusal::NotYetUploaded)));
        assert!(matches!(fetches.begin("a/1", ASK_AGAIN_MS + 5), Turn::Mine(_)));
    }
}
