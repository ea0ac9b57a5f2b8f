use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many pictures are worked on at once. On Workers everything that an isolate does has 128 MB.
const AT_ONCE_MAX: usize = if cfg!(target_family = "wasm") { 1 } else { 2 };
/// Whoever has a place for longer is gone, in milliseconds.
const HELD_MS_MAX: u64 = 60_000;

/// Places for those who work on pictures, which need much memory: of a process, of an isolate's own on Workers.
#[derive(Clone, Default)]
pub(in crate::media) struct Pictures(Arc<Mutex<[u64; AT_ONCE_MAX]>>);

impl Pictures {
    /// Takes a place, if one is free.
    pub(super) fn place(&self, now_ms: u64) -> Option<Place> {
        let until_ms = now_ms.saturating_add(HELD_MS_MAX);
        let (number, held) =
            self.held().iter_mut().enumerate().find(|(_, held)| **held <= now_ms).map(|(number, held)| {
                *held = until_ms;
                (number, *held)
            })?;
        Some(Place { pictures: self.clone(), number, held })
    }

    fn held(&self) -> MutexGuard<'_, [u64; AT_ONCE_MAX]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, until it is dropped.
pub(super) struct Place {
    pictures: Pictures,
    number: usize,
    /// Until when it is held: what tells it from the place of whoever came after.
    held: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(held) = self.pictures.held().get_mut(self.number).filter(|held| **held == self.held) {
            *held = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AT_ONCE_MAX, HELD_MS_MAX, Pictures};

    #[test]
    fn places_are_few_and_come_back() {
        let pictures = Pictures::default();
        let mut held: Vec<_> = (0..AT_ONCE_MAX).map(|_| pictures.place(1).unwrap()).collect();
        assert!(pictures.place(2).is_none());
        held.pop();
        held.push(pictures.place(3).unwrap());
        assert!(pictures.place(HELD_MS_MAX).is_none());
        let late = pictures.place(HELD_MS_MAX + 1);
        drop(held);
        assert!(late.is_some() && (1..AT_ONCE_MAX).all(|_| pictures.place(9).is_some()));
    }
}
