//! A bounded table that forgets what was not used for longest.

use core::borrow::Borrow;
use core::hash::Hash;
use std::collections::HashMap;

/// A map of two generations. A new or used entry stands in the young one; when that is full, the
/// old one is dropped and the young one becomes it. Look-up and insertion cost one or two hash
/// look-ups, with no list to keep in order, and at most `limit` entries are held.
#[derive(Debug)]
pub struct Table<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Eq + Hash, V> Table<K, V> {
    /// An empty table of at most `limit` entries (at least 2).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: limit.div_ceil(2).max(1) }
    }

    /// The entry of `key`.
    pub fn get<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if !self.young.contains_key(key) {
            let (key, value) = self.old.remove_entry(key)?;
            self.insert(key, value);
        }
        self.young.get_mut(key)
    }

    /// Sets the entry of `key`. Returns whether others had to go for it.
    pub fn insert(&mut self, key: K, value: V) -> bool {
        let mut dropped = false;
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            dropped = !self.old.is_empty();
            self.old = core::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
        dropped
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len().saturating_add(self.old.len())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_the_limit_and_the_newest_stay() {
        let mut table = Table::new(8);
        for n in 0..100_u32 {
            table.insert(n, n);
            assert!(table.len() <= 8);
            for recent in n.saturating_sub(3)..=n {
                assert_eq!(table.get(&recent).copied(), Some(recent), "at {n}");
            }
        }
        assert_eq!(table.get(&50), None);
    }

    #[test]
    fn an_entry_in_use_survives_others() {
        let mut table = Table::new(8);
        table.insert(0, 'x');
        for n in 1..1000 {
            table.insert(n, 'y');
            assert_eq!(table.get(&0), Some(&mut 'x'), "at {n}");
        }
    }

    #[test]
    fn inserting_again_replaces() {
        let mut table = Table::new(4);
        table.insert("a".to_owned(), 1);
        table.insert("a".to_owned(), 2);
        assert_eq!((table.get("a").copied(), table.len()), (Some(2), 1));
    }
}
