//! What rooms told about who types in them. Memory only, and lost without harm: a device whose token names another set
//! than the one known here reads the room, which knows.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::room::Typing;

/// The most rooms of which a token says who typed. A device shows no typing users of further rooms.
pub(super) const LISTED_MAX: usize = 24;
/// Rooms after which those are forgotten whose word holds no longer.
const KEPT_MAX: usize = 64;

/// The versions of the typing users a device saw last, by the user's number of the room; it saw nobody in the others.
pub(super) type Seen = BTreeMap<u64, u64>;

/// What the plan of a sync says of a room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTyping {
    /// The version that the device saw last.
    pub seen: u64,
    /// The one known here.
    pub known: u64,
}

/// What the room said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadTyping {
    /// As in the plan.
    pub known: u64,
    pub now: Typing,
}

/// Who types where, by the user's number of the room.
#[derive(Default)]
pub(super) struct KnownTyping(HashMap<u64, Typing>);

impl KnownTyping {
    /// The version known of a room, as long as it holds.
    pub(super) fn version(&self, room: u64, now_ms: u64) -> u64 {
        self.0.get(&room).filter(|typing| typing.until_ms > now_ms).map_or(0, |typing| typing.version)
    }

    /// A device that has seen all that is known; of many rooms, a few.
    pub(super) fn seen(&self, now_ms: u64) -> Seen {
        let typing = self.0.iter().filter(|(_, typing)| typing.until_ms > now_ms);
        typing.map(|(room, typing)| (*room, typing.version)).take(LISTED_MAX).collect()
    }

    /// Until when at most the same type in all these rooms, in milliseconds since the Unix epoch; `None` without rooms.
    pub(super) fn until_ms(&self, seen: &Seen, now_ms: u64) -> Option<u64> {
        seen.keys().map(|room| self.0.get(room).map_or(now_ms, |typing| typing.until_ms)).min()
    }

    /// A room said so. Answers whether it is another set than the one known.
    pub(super) fn heard(&mut self, room: u64, typing: Typing, now_ms: u64) -> bool {
        let before = self.version(room, now_ms);
        if self.0.len() >= KEPT_MAX {
            self.0.retain(|_, typing| typing.until_ms > now_ms);
        }
        if typing.version == 0 {
            self.0.remove(&room);
        } else {
            self.0.insert(room, typing);
        }
        before != typing.version
    }

    /// A device read the room. Unless the room was heard meanwhile, what it read is what is known: this mends what
    /// either side forgot.
    pub(super) fn was_read(&mut self, room: u64, read: ReadTyping, now_ms: u64) {
        if self.version(room, now_ms) == read.known {
            self.heard(room, read.now, now_ms);
        }
    }

    /// The rooms in which a device would see others typing than it saw last.
    pub(super) fn moved(&self, seen: &Seen, now_ms: u64) -> Vec<u64> {
        let ended = seen.iter().filter(|(room, version)| self.version(**room, now_ms) != **version);
        let others = self.0.iter().filter(|(room, typing)| {
            // A token that names as many as it can has no place for more.
            seen.len() < LISTED_MAX && !seen.contains_key(room) && typing.until_ms > now_ms
        });
        ended.map(|(room, _)| *room).chain(others.map(|(room, _)| *room)).collect()
    }
}

/// What a device has seen once it read a room.
pub(super) fn see(seen: &mut Seen, room: u64, now: Typing) {
    if now.version == 0 {
        seen.remove(&room);
    } else if seen.len() < LISTED_MAX || seen.contains_key(&room) {
        seen.insert(room, now.version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typing(version: u64) -> Typing {
        Typing { version, until_ms: 100 }
    }

    #[test]
    fn a_device_reads_where_it_would_see_others() {
        let mut known = KnownTyping::default();
        assert!(known.heard(1, typing(7), 0));
        assert!(!known.heard(1, Typing { version: 7, until_ms: 120 }, 50), "the same for longer");
        let mut seen = Seen::new();
        assert_eq!(known.moved(&seen, 50), [1]);
        see(&mut seen, 1, typing(7));
        assert!(known.moved(&seen, 50).is_empty());
        assert_eq!(known.until_ms(&seen, 50), Some(120));
        assert_eq!(known.moved(&seen, 120), [1], "its time is over");
        see(&mut seen, 1, Typing::default());
        assert!(known.moved(&seen, 120).is_empty());
        assert_eq!(known.until_ms(&seen, 120), None);
    }

    #[test]
    fn what_a_device_reads_mends_what_was_forgotten() {
        let (mut known, mut seen) = (KnownTyping::default(), Seen::from([(1, 7)]));
        assert_eq!(known.moved(&seen, 0), [1], "this user forgot");
        known.was_read(1, ReadTyping { known: 0, now: typing(7) }, 0);
        assert!(known.moved(&seen, 0).is_empty());
        // The room forgot: it says that nobody types.
        known.was_read(1, ReadTyping { known: 7, now: Typing::default() }, 0);
        see(&mut seen, 1, Typing::default());
        assert!(known.moved(&seen, 0).is_empty());
        // What was heard while the device read is newer.
        known.heard(1, typing(9), 0);
        known.was_read(1, ReadTyping { known: 0, now: Typing::default() }, 0);
        assert_eq!(known.moved(&seen, 0), [1]);
    }

    #[test]
    fn a_full_token_takes_no_more() {
        let (mut known, mut seen) = (KnownTyping::default(), Seen::new());
        for room in 0..=LISTED_MAX as u64 {
            known.heard(room, typing(room + 1), 0);
            see(&mut seen, room, typing(room + 1));
        }
        assert_eq!(seen.len(), LISTED_MAX);
        assert!(known.moved(&seen, 0).is_empty());
    }
}
