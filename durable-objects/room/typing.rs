//! Who is typing. Spec: "Typing Notifications".
//!
//! Memory only: no row is written for it, and no position taken. The set of those who type has a *version*, new with
//! every change and 0 while it is empty; versions start at random when the room wakes, so that a set is never taken
//! for one of before. Followers are told {version, until when it holds}; what they or this room forget heals, because
//! a device that last saw another version than the one it could see now reads the room.

use std::collections::BTreeMap;

use domain::Refusal;
use platform::{ActorKind, Sql};
use ruma_common::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::{Room, store};
use crate::{Call, Cx, Error};

/// The longest that one notification holds, in milliseconds: clients repeat them every 20 to 30 seconds.
const TYPING_MS_MAX: u64 = 120_000;
/// The most who type at once; whoever comes later is not shown.
const TYPING_USERS_MAX: usize = 100;

/// A user types, or does no longer.
///
/// Refused: `Forbidden` for who is not in the room.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetTyping {
    pub user: OwnedUserId,
    /// For how many milliseconds; `None`: they stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl Call for SetTyping {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "set_typing";
    type Reply = ();
}

/// A set of typing users, as followers know it: not who, but which set, and until when it is that one at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Typing {
    /// 0: nobody types.
    pub version: u64,
    /// In milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// Those who type.
#[derive(Default)]
pub(super) struct Typists {
    /// Each with the moment at which they no longer do, in milliseconds since the Unix epoch.
    users: BTreeMap<OwnedUserId, u64>,
    /// The last version used; `None`: none since the room woke.
    last_version: Option<u64>,
    /// What followers are told.
    told: Typing,
    told_at_ms: u64,
}

impl Typists {
    pub(super) fn users(&self) -> impl Iterator<Item = &OwnedUserId> {
        self.users.keys()
    }

    /// Each with the moment at which they no longer do, in milliseconds since the Unix epoch.
    pub(super) fn until(&self) -> impl Iterator<Item = (&OwnedUserId, u64)> {
        self.users.iter().map(|(user, until_ms)| (user, *until_ms))
    }

    /// What followers are to be told.
    pub(super) fn told(&self) -> Typing {
        self.told
    }

    /// Forgets those whose time is over.
    pub(super) fn expire(&mut self, now_ms: u64) {
        if self.users.values().any(|until_ms| *until_ms <= now_ms) {
            self.users.retain(|_, until_ms| *until_ms > now_ms);
            self.is_another_set(now_ms);
        } else if self.told.version != 0 && self.told.until_ms <= now_ms {
            // What was told is over, and they type on.
            (self.told.until_ms, self.told_at_ms) = (self.until_ms(), now_ms);
        }
    }

    /// A user types until then, or stopped. `epoch` is where versions start, if none was used yet.
    fn set(&mut self, user: OwnedUserId, until_ms: Option<u64>, now_ms: u64, epoch: u64) {
        self.last_version.get_or_insert(epoch);
        let changed = match until_ms.filter(|until_ms| *until_ms > now_ms) {
            Some(_) if self.users.len() >= TYPING_USERS_MAX && !self.users.contains_key(&user) => false,
            Some(until_ms) => self.users.insert(user, until_ms).is_none(),
            None => self.users.remove(&user).is_some(),
        };
        if changed {
            self.is_another_set(now_ms);
            return;
        }
        // The same set for longer: that is told only when half of what was told has passed, and wakes nobody.
        let until_ms = self.until_ms();
        let half_ms = self.told.until_ms.saturating_sub(self.told_at_ms) / 2;
        let is_due = now_ms >= self.told_at_ms.saturating_add(half_ms);
        if until_ms < self.told.until_ms || (until_ms > self.told.until_ms && is_due) {
            (self.told.until_ms, self.told_at_ms) = (until_ms, now_ms);
        }
    }

    fn is_another_set(&mut self, now_ms: u64) {
        let version = self.last_version.unwrap_or(0).saturating_add(1);
        self.last_version = Some(version);
        self.told =
            if self.users.is_empty() { Typing::default() } else { Typing { version, until_ms: self.until_ms() } };
        self.told_at_ms = now_ms;
    }

    /// When the first of them stops.
    fn until_ms(&self) -> u64 {
        self.users.values().copied().min().unwrap_or(0)
    }
}

impl Room {
    pub(super) fn set_typing(&self, sql: &dyn Sql, cx: &Cx<'_>, call: SetTyping) -> Result<(), Error> {
        if store::members::membership(sql, call.user.as_str())?.as_deref() != Some("join") {
            return Err(Refusal::Forbidden(format!("{} is not in this room", call.user)).into());
        }
        let until_ms = call.timeout_ms.map(|timeout_ms| cx.now_ms.saturating_add(timeout_ms.min(TYPING_MS_MAX)));
        cx.room.typing.borrow_mut().push((call.user, until_ms));
        Ok(())
    }

    /// What an operation did to the set, once it is committed; answers what followers are to be told.
    pub(super) fn typing_committed(&self, cx: &Cx<'_>) -> Result<Typing, Error> {
        let mut typists = self.typists.borrow_mut();
        typists.expire(cx.now_ms);
        for (user, until_ms) in cx.room.typing.take() {
            if until_ms.is_none() && typists.users.is_empty() {
                continue;
            }
            // Below 2^40, so that tokens stay short.
            let epoch = u64::from(u32::from_be_bytes(cx.random()?)) << 8;
            typists.set(user, until_ms, cx.now_ms, epoch);
        }
        Ok(typists.told())
    }
}

#[cfg(test)]
mod tests {
    use ruma_common::{OwnedUserId, owned_user_id};

    use super::{TYPING_USERS_MAX, Typists};

    const EPOCH: u64 = 1_000;

    fn alice() -> OwnedUserId {
        owned_user_id!("@alice:a")
    }

    fn bob() -> OwnedUserId {
        owned_user_id!("@bob:a")
    }

    #[test]
    fn every_set_has_a_version_of_its_own_and_none_is_0() {
        let mut typists = Typists::default();
        assert_eq!(typists.told().version, 0);
        typists.set(alice(), Some(30), 0, EPOCH);
        let first = typists.told();
        assert_eq!((first.version, first.until_ms), (EPOCH + 1, 30));
        typists.set(bob(), Some(20), 1, EPOCH);
        let second = typists.told();
        assert_eq!((second.version, second.until_ms), (EPOCH + 2, 20), "it holds until the first of them stops");
        typists.set(bob(), None, 2, EPOCH);
        typists.set(alice(), None, 3, EPOCH);
        assert_eq!((typists.told().version, typists.told().until_ms), (0, 0));
        typists.set(alice(), None, 4, EPOCH);
        typists.set(alice(), Some(30), 5, EPOCH);
        assert_eq!(typists.told().version, EPOCH + 5);
    }

    #[test]
    fn a_repetition_is_told_when_half_the_time_is_over() {
        let mut typists = Typists::default();
        typists.set(alice(), Some(100), 0, EPOCH);
        let first = typists.told();
        typists.set(alice(), Some(149), 49, EPOCH);
        assert_eq!(typists.told(), first);
        typists.set(alice(), Some(150), 50, EPOCH);
        assert_eq!((typists.told().version, typists.told().until_ms), (first.version, 150));
    }

    #[test]
    fn who_types_on_is_told_anew_when_what_was_told_is_over() {
        let mut typists = Typists::default();
        typists.set(alice(), Some(100), 0, EPOCH);
        typists.set(alice(), Some(149), 49, EPOCH);
        typists.expire(99);
        assert_eq!(typists.told().until_ms, 100);
        typists.expire(100);
        assert_eq!((typists.told().version, typists.told().until_ms), (EPOCH + 1, 149));
    }

    #[test]
    fn time_ends_it() {
        let mut typists = Typists::default();
        typists.set(alice(), Some(30), 0, EPOCH);
        typists.set(bob(), Some(20), 0, EPOCH);
        let both = typists.told();
        typists.expire(19);
        assert_eq!(typists.told(), both);
        typists.expire(20);
        assert_eq!(typists.users().collect::<Vec<_>>(), [&alice()]);
        assert_ne!(typists.told().version, both.version);
        typists.expire(30);
        assert_eq!(typists.told().version, 0);
    }

    #[test]
    fn a_crowd_is_bounded() {
        let mut typists = Typists::default();
        for number in 0..=TYPING_USERS_MAX {
            typists.set(format!("@u{number}:a").try_into().unwrap(), Some(9), 0, EPOCH);
        }
        assert_eq!(typists.users().count(), TYPING_USERS_MAX);
    }
}
