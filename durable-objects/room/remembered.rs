use std::{borrow::Borrow, collections::HashMap, hash::Hash};

/// What was of use lately: between `max` and twice as many entries, the rest is forgotten.
pub(super) struct Remembered<K, V> {
    max: usize,
    recent: HashMap<K, V>,
    older: HashMap<K, V>,
}

impl<K: Eq + Hash, V> Remembered<K, V> {
    pub(super) fn new(max: usize) -> Self {
        Self { max, recent: HashMap::new(), older: HashMap::new() }
    }

    /// Takes an entry out, to be put back if it is of further use.
    pub(super) fn take<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.recent.remove(key).or_else(|| self.older.remove(key))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.recent.values_mut().chain(self.older.values_mut())
    }

    pub(super) fn put(&mut self, key: K, value: V) {
        if self.recent.len() >= self.max {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::Remembered;

    #[test]
    fn what_is_used_stays() {
        let mut remembered = Remembered::new(3);
        for number in 0..100 {
            remembered.put(number, number);
            let first = remembered.take(&0).unwrap();
            remembered.put(0, first);
            assert!(remembered.recent.len() + remembered.older.len() <= 6);
        }
        assert_eq!((remembered.take(&99), remembered.take(&50)), (Some(99), None));
    }
}
