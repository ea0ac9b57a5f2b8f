//! Transaction ids: a request repeated after a lost answer gets the event it made the first time.
//!
//! The id stands in the event's own row. An index would cost a written row for each message, as much as a thousand rows
//! read: the room rather reads the recent ones from the log when it wakes, and remembers a digest of each.

use std::collections::HashMap;

use domain::Refusal;
use platform::{Fault, Sql};
use ruma_common::{DeviceId, EventId, OwnedEventId, TransactionId, UserId};
use sha2::{Digest as _, Sha256};

use super::{Room, store};
use crate::Cx;

/// How long a transaction id is remembered, in milliseconds: a day. What a telephone sent without hearing of it, it may
/// send again after a journey.
const WINDOW_MS: u64 = 24 * 60 * 60 * 1000;
/// The most transactions remembered; a room busier than that forgets the oldest.
const RECENT_MAX: usize = 10_000;
/// Events of the log that are looked at for them by a room that wakes, whoever they are of, and in one go.
const READ_MAX: usize = 2 * RECENT_MAX;
const READ_AT_ONCE: usize = 500;

/// The longest transaction id taken: each is remembered for a while.
const TRANSACTION_ID_BYTES_MAX: usize = 255;

/// What is remembered of a transaction's name: the start of its SHA-256.
type Digest = [u8; 16];

/// Where the recent transactions made their events.
pub(super) struct Recent(HashMap<Digest, u64>);

impl Recent {
    /// Reads the transactions in `(after, up_to]`, as many of the newest as are remembered.
    fn load(sql: &dyn Sql, after: u64, mut up_to: u64) -> Result<Self, Fault> {
        let mut recent = HashMap::new();
        for _page in 0..READ_MAX / READ_AT_ONCE {
            let page = store::log::transactions(sql, after, up_to, READ_AT_ONCE as u64)?;
            for (position, name) in &page {
                if let Some(name) = name
                    && recent.len() < RECENT_MAX
                {
                    recent.entry(digest(name)).or_insert(*position);
                }
            }
            let has_place = recent.len() < RECENT_MAX;
            match page.last() {
                Some((oldest, _)) if has_place && page.len() == READ_AT_ONCE => up_to = oldest.saturating_sub(1),
                _ => break,
            }
        }
        Ok(Self(recent))
    }

    fn insert(&mut self, name: &str, position: u64) {
        self.0.insert(digest(name), position);
    }

    /// Forgets what is too old or too many, once that is worth it.
    fn forget(&mut self, oldest: u64) {
        if self.0.len() <= RECENT_MAX.saturating_mul(2) {
            return;
        }
        self.0.retain(|_, position| *position > oldest);
        let mut positions: Vec<u64> = self.0.values().copied().collect();
        positions.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(cut) = positions.get(RECENT_MAX).copied() {
            self.0.retain(|_, position| *position > cut);
        }
    }
}

fn digest(name: &str) -> Digest {
    let hash: [u8; 32] = Sha256::digest(name).into();
    let (start, _) = hash.split_at(size_of::<Digest>());
    start.try_into().unwrap_or_default()
}

/// The name of a client's transaction. Its scope is the device and the endpoint; the path of the endpoint names the
/// room and the event type. Spec: "Transaction identifiers".
pub(super) fn of_client(
    sender: &UserId,
    device: &DeviceId,
    event_type: &str,
    transaction_id: &TransactionId,
) -> String {
    // The transaction id comes last: it alone may hold spaces.
    format!("{} {} {} {}", encoded(sender.as_str()), encoded(device.as_str()), encoded(event_type), transaction_id)
}

/// The name of a client's transaction of redacting an event; the path of that endpoint names the event.
pub(super) fn of_redaction(
    sender: &UserId,
    device: &DeviceId,
    event_id: &EventId,
    transaction_id: &TransactionId,
) -> String {
    of_client(sender, device, &format!("redact {event_id}"), transaction_id)
}

/// Refuses `InvalidParam` for a transaction id that is too long to be remembered.
pub(super) fn check_length(transaction_id: &TransactionId) -> Result<(), Refusal> {
    if transaction_id.as_str().len() > TRANSACTION_ID_BYTES_MAX {
        return Err(Refusal::InvalidParam(format!("A transaction id has at most {TRANSACTION_ID_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// The name of a call that a tier may repeat after a lost reply.
pub(super) fn of_call(call_id: &str) -> String {
    format!("call {call_id}")
}

/// The name of a call that changes a membership, whose content we write.
pub(super) fn of_membership(call_id: &str) -> String {
    format!("membership {call_id}")
}

/// Whether a membership made by that shows its user's profile, as opposed to what a client wrote there.
pub(super) fn shows_profile(name: Option<&str>) -> bool {
    name.is_none_or(|name| !name.starts_with("call "))
}

/// The name of what other servers asked us to bring into the room for their users: we tell all the others of it.
pub(super) const RELAYED: &str = "relayed";

/// The name of what other servers had of the room's history: it happened long ago.
pub(super) const HISTORY: &str = "history";

/// The name under which an upgrade closes the old room.
pub(super) const CLOSING: &str = "closing";

/// The name under which a profile that became so at that time is shown.
pub(super) fn of_refresh(changed_at_ms: u64) -> String {
    format!("refresh {changed_at_ms}")
}

/// The time in a name of [`of_refresh`].
pub(super) fn refreshed_at_ms(name: &str) -> Option<u64> {
    name.strip_prefix("refresh ")?.parse().ok()
}

/// The transaction id in a name, for the very device that used it.
pub(super) fn seen_by<'a>(name: &'a str, user: &UserId, device: &DeviceId) -> Option<&'a TransactionId> {
    let mut parts = name.splitn(4, ' ');
    let own = parts.next() == Some(&encoded(user.as_str())) && parts.next() == Some(&encoded(device.as_str()));
    let _event_type = parts.next();
    parts.next().filter(|_| own).map(<&TransactionId>::from)
}

fn encoded(part: &str) -> String {
    part.replace('%', "%25").replace(' ', "%20")
}

impl Room {
    /// The event that a transaction of this name already made.
    pub(super) fn made_by(&self, sql: &dyn Sql, cx: &Cx<'_>, name: &str) -> Result<Option<OwnedEventId>, Fault> {
        let mut recent = self.transactions.borrow_mut();
        let recent = match &mut *recent {
            Some(recent) => recent,
            None => recent.insert(Recent::load(sql, cx.now_ms.saturating_sub(WINDOW_MS), self.head(sql)?)?),
        };
        let Some(position) = recent.0.get(&digest(name)) else { return Ok(None) };
        // Only the name itself tells for certain.
        let made = store::log::one(sql, *position)?.filter(|event| event.txn.as_deref() == Some(name));
        if made.is_some() {
            // Whoever repeats may do so because of a crash, before anybody was told.
            cx.set_alarm(cx.now_ms.saturating_add(super::follow::NUDGE_CHECK_MS))?;
        }
        Ok(made.map(|event| event.pdu.event_id().to_owned()))
    }

    /// Remembers what an operation's events were made by, once it is committed.
    pub(super) fn remember_transactions(&self, cx: &Cx<'_>) {
        let mut recent = self.transactions.borrow_mut();
        // Not yet read from the log: then the log has these too.
        let Some(recent) = recent.as_mut() else { return };
        for (position, name) in cx.room.transactions.take() {
            recent.insert(&name, position);
        }
        recent.forget(cx.now_ms.saturating_sub(WINDOW_MS));
    }
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use platform::{ActorKind, Address};
    use ruma_common::{RoomId, device_id, user_id};
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::{room::SendEvent, world::World};

    /// A message of Alice's with a transaction id.
    fn says(world: &World, room_id: &RoomId, transaction_id: &str) -> OwnedEventId {
        let call = SendEvent {
            sender: user_id!("@alice:myelin.test").to_owned(),
            device: "PHONE".into(),
            transaction_id: Some(transaction_id.into()),
            call_id: None,
            event_type: "m.room.message".into(),
            content: to_raw_value(&json!({ "body": "hello" })).unwrap(),
            state_key: None,
            member_of: Vec::new(),
            at_ms: None,
            administrator: false,
        };
        world.call(room_id.as_str(), &call).unwrap()
    }

    #[test]
    fn a_busy_room_that_wakes_remembers_the_newest_transactions_and_loads_little() {
        let world = World::new(1);
        let room_id = world.creates_room(user_id!("@alice:myelin.test"), "11", Preset::PublicChat);
        let room = Address::new(ActorKind::Room, room_id.as_str());
        let sql = world.sql(&room);
        let first = says(&world, &room_id, "1");
        // Each a copy of the first, but for its transaction id.
        let said = RECENT_MAX + 1_000;
        sql.query(
            "INSERT INTO event (position, event_id, type, sender, json, txn)
             WITH RECURSIVE said (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM said WHERE n < ?1)
             SELECT position + n, printf('$said%d', n), type, sender, json, substr(txn, 1, length(txn) - 1) || n
             FROM said, event WHERE event_id = ?2",
            &[(said as u64).into(), first.as_str().into()],
        )
        .unwrap();
        world.evict(&room);
        sql.rows_at_once.set(0);
        assert_eq!(says(&world, &room_id, &said.to_string()).as_str(), format!("$said{said}"));
        let oldest = said - RECENT_MAX + 1;
        assert_eq!(says(&world, &room_id, &oldest.to_string()).as_str(), format!("$said{oldest}"));
        assert!(sql.rows_at_once.get() <= READ_AT_ONCE, "{} rows at once", sql.rows_at_once.get());
        let new = says(&world, &room_id, &(oldest - 1).to_string());
        assert!(!new.as_str().starts_with("$said"), "forgotten: the room is too busy");
        assert_eq!(says(&world, &room_id, &(oldest - 1).to_string()), new);
    }

    #[test]
    fn transactions_of_long_ago_are_not_read() {
        let world = World::new(1);
        let room_id = world.creates_room(user_id!("@alice:myelin.test"), "11", Preset::PublicChat);
        let first = says(&world, &room_id, "1");
        for (passed_ms, is_same) in [(WINDOW_MS - 60_000, true), (120_000, false)] {
            world.passes(passed_ms);
            world.evict(&Address::new(ActorKind::Room, room_id.as_str()));
            assert_eq!(says(&world, &room_id, "1") == first, is_same);
        }
    }

    #[test]
    fn the_name_in_the_log_tells_not_its_digest() {
        let world = World::new(1);
        let room_id = world.creates_room(user_id!("@alice:myelin.test"), "11", Preset::PublicChat);
        let first = says(&world, &room_id, "1");
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        sql.query("UPDATE event SET txn = 'another' WHERE event_id = ?1", &[first.as_str().into()]).unwrap();
        let second = says(&world, &room_id, "1");
        assert_ne!(second, first);
        assert_eq!(says(&world, &room_id, "1"), second);
    }

    #[test]
    fn the_oldest_are_forgotten_when_there_are_twice_as_many() {
        let mut recent = Recent(HashMap::new());
        let most = RECENT_MAX as u64 * 2 + 1;
        for position in 1..=most {
            recent.insert(&position.to_string(), position);
            recent.forget(0);
        }
        assert_eq!(recent.0.len(), RECENT_MAX);
        assert!(recent.0.values().all(|position| *position > most - RECENT_MAX as u64));
    }

    #[test]
    fn only_the_sending_device_sees_its_transaction_id() {
        let (alice, phone) = (user_id!("@alice:myelin.test"), device_id!("MY PHONE"));
        let name = of_client(alice, phone, "m.room.message", "txn 1".into());
        assert_eq!(seen_by(&name, alice, phone).map(TransactionId::as_str), Some("txn 1"));
        assert_eq!(seen_by(&name, alice, device_id!("LAPTOP")), None);
        assert_eq!(seen_by(&name, user_id!("@bob:a"), phone), None);
        assert_eq!(seen_by(&of_call("abc"), alice, phone), None);
        assert_eq!(seen_by(&of_membership("abc"), alice, phone), None);
    }
}
