use std::{borrow::Borrow, collections::HashMap, hash::Hash};

/// Values by key, of which the `MAX` used last are kept for certain, and at most twice as many.
pub(crate) struct Recent<K, V, const MAX: usize> {
    newer: HashMap<K, V>,
    older: HashMap<K, V>,
}

impl<K, V, const MAX: usize> Default for Recent<K, V, MAX> {
    fn default() -> Self {
        Self { newer: HashMap::new(), older: HashMap::new() }
    }
}

impl<K: Eq + Hash, V: Default, const MAX: usize> Recent<K, V, MAX> {
    /// The value of a key, made if there is none.
    pub(crate) fn of(&mut self, key: K) -> &mut V {
        if !self.newer.contains_key(&key) {
            if self.newer.len() >= MAX {
                self.older = std::mem::take(&mut self.newer);
            }
            let value = self.older.remove(&key).unwrap_or_default();
            return self.newer.entry(key).or_insert(value);
        }
        self.newer.entry(key).or_default()
    }

    /// The value of a key, without counting as a use of it.
    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.newer.get(key).or_else(|| self.older.get(key))
    }

    /// Forgets a key. Answers whether it was there.
    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        let (newer, older) = (self.newer.remove(key), self.older.remove(key));
        newer.is_some() || older.is_some()
    }

    /// How many are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.newer.len() + self.older.len()
    }
}
