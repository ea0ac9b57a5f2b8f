//! One works at what many want at once, and the others wait: for all in this process, on Workers in an isolate.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use domain::Refusal;

use super::thumbnail::Pictures;
use crate::Context;

/// Files that are remembered while they are fetched, and for a moment if they were not to be had.
const FILES_MAX: usize = 2_000;
/// Files that are fetched at the same time: on Workers each holds a part of itself, and all that an isolate does has
/// 128 MB. Who comes while so many are waits.
const FILES_AT_ONCE: usize = if cfg!(target_family = "wasm") { 4 } else { 64 };
/// URLs that are remembered while they are looked at, and for a while if there was nothing.
const URLS_MAX: usize = 1_000;
/// URLs that are looked at at the same time; an image that is found is as any file. Who comes while so many are is told
/// to try again; on Workers, where these are few, they wait.
const URLS_AT_ONCE: usize = if cfg!(target_family = "wasm") { 4 } else { 32 };
/// When to try again who comes while too many are at work, in milliseconds.
const RETRY_MS: u64 = 2_000;
/// How often one who waits looks, in milliseconds: the longer it takes, the less.
const LOOK_MS_MIN: u64 = 100;
const LOOK_MS_MAX: u64 = 1_000;

/// Who fetches which file of another server, who looks at which URL, and how many work on pictures.
pub struct MediaTurns {
    pub(super) files: Turns,
    pub(super) urls: Turns,
    pub(super) pictures: Pictures,
}

impl Default for MediaTurns {
    fn default() -> Self {
        let files = Turns { is_patient: true, ..Turns::new(FILES_MAX, FILES_AT_ONCE) };
        let urls = Turns { is_patient: cfg!(target_family = "wasm"), ..Turns::new(URLS_MAX, URLS_AT_ONCE) };
        Self { files, urls, pictures: Pictures::default() }
    }
}

/// What is being worked at, by one for each name, and what was refused a moment ago.
#[derive(Clone)]
pub(super) struct Turns {
    turns: Arc<Mutex<Remembered>>,
    remembered_max: usize,
    at_once_max: usize,
    /// Whether who comes while so many are at work waits.
    is_patient: bool,
}

#[derive(Default)]
struct Remembered {
    turns: HashMap<String, Turn>,
    /// How many there were.
    count: u64,
}

struct Turn {
    number: u64,
    /// After that it is over, however it went: nobody may have been left to say so.
    until_ms: u64,
    /// Why it came to nothing, if it did.
    refused: Option<Refusal>,
}

impl Turns {
    fn new(remembered_max: usize, at_once_max: usize) -> Self {
        Self { turns: Arc::default(), remembered_max, at_once_max, is_patient: false }
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the turn at something for a time, once nobody else has it.
    ///
    /// # Errors
    /// It was refused a moment ago; or too many are at work, where nobody waits for that.
    pub(super) async fn take(&self, cx: &Context, name: &str, lasts_ms: u64) -> Result<Taken, Refusal> {
        let mut look_ms = LOOK_MS_MIN;
        loop {
            if let Some(taken) = self.begin(name, cx.now_ms(), lasts_ms)? {
                return Ok(taken);
            }
            cx.pause(look_ms).await;
            look_ms = look_ms.saturating_mul(2).min(LOOK_MS_MAX);
        }
    }

    /// `None`: somebody else is at it, or so many are at work.
    fn begin(&self, name: &str, now_ms: u64, lasts_ms: u64) -> Result<Option<Taken>, Refusal> {
        let mut remembered = self.remembered();
        let Remembered { turns, count } = &mut *remembered;
        if let Some(turn) = turns.get(name).filter(|turn| now_ms < turn.until_ms) {
            return turn.refused.clone().map_or(Ok(None), Err);
        }
        turns.retain(|_, turn| now_ms < turn.until_ms);
        if turns.values().filter(|turn| turn.refused.is_none()).count() >= self.at_once_max {
            return if self.is_patient { Ok(None) } else { Err(Refusal::Unavailable { retry_after_ms: RETRY_MS }) };
        }
        if turns.len() >= self.remembered_max {
            turns.retain(|_, turn| turn.refused.is_none());
        }
        *count = count.saturating_add(1);
        let turn = Turn { number: *count, until_ms: now_ms.saturating_add(lasts_ms), refused: None };
        turns.insert(name.to_owned(), turn);
        Ok(Some(Taken { turns: self.clone(), name: name.to_owned(), number: *count }))
    }
}

/// A turn that was taken. Dropped, it is over.
pub(super) struct Taken {
    turns: Turns,
    name: String,
    number: u64,
}

impl Taken {
    /// Changes the turn, unless it is another's by now.
    fn change(&self, change: impl FnOnce(&mut Turn)) {
        let mut remembered = self.turns.remembered();
        if let Some(turn) = remembered.turns.get_mut(&self.name).filter(|turn| turn.number == self.number) {
            change(turn);
        }
    }

    /// It takes so long from now.
    pub(super) fn goes_on(&self, now_ms: u64, lasts_ms: u64) {
        self.change(|turn| turn.until_ms = now_ms.saturating_add(lasts_ms));
    }

    /// It came to nothing: who waits is told so, and who asks for a while.
    pub(super) fn is_refused(&self, refusal: &Refusal, now_ms: u64, held_ms: u64) {
        self.change(|turn| {
            (turn.until_ms, turn.refused) = (now_ms.saturating_add(held_ms), Some(refusal.clone()));
        });
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut remembered = self.turns.remembered();
        let is_over = |turn: &Turn| turn.number == self.number && turn.refused.is_none();
        if remembered.turns.get(&self.name).is_some_and(is_over) {
            remembered.turns.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::Refusal;

    use super::{FILES_AT_ONCE, MediaTurns, Taken, Turns, URLS_AT_ONCE, URLS_MAX};

    fn first(turns: &Turns, name: &str, now_ms: u64) -> Taken {
        turns.begin(name, now_ms, 100).unwrap().unwrap()
    }

    fn is_others(turns: &Turns, name: &str, now_ms: u64) -> bool {
        turns.begin(name, now_ms, 100).unwrap().is_none()
    }

    #[test]
    fn one_works_and_the_others_wait() {
        let MediaTurns { files: turns, .. } = MediaTurns::default();
        let taken = first(&turns, "a", 0);
        assert!(is_others(&turns, "a", 99));
        drop(first(&turns, "b", 1));
        taken.goes_on(50, 100);
        assert!(is_others(&turns, "a", 149));
        drop(taken);
        drop(first(&turns, "a", 60));
    }

    #[test]
    fn who_is_silent_for_too_long_has_no_turn_to_end() {
        let MediaTurns { files: turns, .. } = MediaTurns::default();
        let silent = first(&turns, "a", 0);
        let next = first(&turns, "a", 100);
        silent.goes_on(110, 1_000);
        silent.is_refused(&Refusal::MissingToken, 110, 1_000);
        drop(silent);
        assert!(is_others(&turns, "a", 120));
        drop(next);
        drop(first(&turns, "a", 130));
    }

    #[test]
    fn a_refusal_holds_for_a_while() {
        let MediaTurns { files: turns, .. } = MediaTurns::default();
        let taken = first(&turns, "a", 0);
        taken.is_refused(&Refusal::NotYetUploaded, 5, 50);
        drop(taken);
        assert_eq!(turns.begin("a", 54, 100).err(), Some(Refusal::NotYetUploaded));
        drop(first(&turns, "a", 55));
    }

    #[test]
    fn nobody_makes_us_look_at_everything_or_remember_it() {
        let MediaTurns { urls: turns, .. } = MediaTurns::default();
        for number in 0..2 * URLS_MAX {
            first(&turns, &number.to_string(), 0).is_refused(&Refusal::MissingToken, 0, 60_000);
            assert!(turns.remembered().turns.len() <= URLS_MAX);
        }
        let MediaTurns { urls: turns, .. } = MediaTurns::default();
        let taken: Vec<_> = (0..URLS_AT_ONCE).map(|number| first(&turns, &number.to_string(), 0)).collect();
        assert!(matches!(turns.begin("one more", 0, 100).err(), Some(Refusal::Unavailable { .. })));
        drop(taken);
        drop(first(&turns, "one more", 0));
    }

    #[test]
    fn of_many_files_some_wait() {
        let MediaTurns { files: turns, .. } = MediaTurns::default();
        let mut taken: Vec<_> = (0..FILES_AT_ONCE).map(|number| first(&turns, &number.to_string(), 0)).collect();
        assert!(is_others(&turns, "one more", 0));
        taken.pop();
        drop(first(&turns, "one more", 0));
        // Nobody may have been left to say that it is over.
        drop(first(&turns, "much later", 100));
    }
}
