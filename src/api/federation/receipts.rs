//! What users of other servers have read. Spec: Server-Server API, "Receipts".
//!
//! All that a transaction tells of a room goes to it in one call. What makes no sense is left out, and so is what is
//! more than a server has reason to tell at once: the next receipt says all that one before it did.

use std::collections::BTreeMap;

use actors::room::{HearReceipts, NewReceipt, ReceiptKind, is_thread};
use futures_util::{StreamExt, TryStreamExt, stream};
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedUserId, ServerName};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::edus::{Edu, settled};
use crate::{Context, Failure};

/// The most rooms that one transaction tells receipts of, and the most of these in all. A server tells of a room at
/// once what its users have read there meanwhile.
const ROOMS_MAX: usize = 200;
const RECEIPTS_MAX: usize = 2_000;
/// Rooms that are told at the same time.
const ROOMS_AT_ONCE: usize = 8;

#[derive(Deserialize)]
struct Receipts {
    #[serde(default, rename = "m.read")]
    read: BTreeMap<String, Box<RawValue>>,
}

#[derive(Deserialize)]
struct ReadUpTo {
    event_ids: Vec<OwnedEventId>,
    #[serde(default)]
    data: ReceiptData,
}

#[derive(Default, Deserialize)]
struct ReceiptData {
    thread_id: Option<String>,
    /// «When the user read the event.»
    ts: Option<u64>,
}

pub(super) type ByRoom = BTreeMap<OwnedRoomId, Vec<(OwnedUserId, NewReceipt)>>;

/// Takes in the receipts of a transaction.
pub(super) async fn take_in(cx: &Context, origin: &ServerName, edus: &[Edu]) -> Result<(), Failure> {
    let tells = async |(room_id, receipts): (OwnedRoomId, _)| {
        settled(cx.room(&room_id).call(&HearReceipts { server: origin.to_owned(), receipts }).await)
    };
    let told = stream::iter(by_room(origin, edus, cx.now_ms())).map(tells);
    told.buffer_unordered(ROOMS_AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
}

pub(super) fn by_room(origin: &ServerName, edus: &[Edu], now_ms: u64) -> ByRoom {
    let mut told = ByRoom::new();
    let mut left = RECEIPTS_MAX;
    for edu in edus.iter().filter(|edu| edu.is_receipt()) {
        let rooms: BTreeMap<String, Box<RawValue>> = serde_json::from_str(edu.content()).unwrap_or_default();
        for (room_id, receipts) in rooms {
            let Ok(room_id) = OwnedRoomId::try_from(room_id) else { continue };
            let Ok(receipts) = serde_json::from_str::<Receipts>(receipts.get()) else { continue };
            if left == 0 || (told.len() >= ROOMS_MAX && !told.contains_key(&room_id)) {
                continue;
            }
            let read = receipts.read.into_iter();
            let read = read.filter_map(|(user, read)| receipt(origin, user, &read, now_ms));
            let read: Vec<_> = read.take(left).collect();
            if !read.is_empty() {
                left = left.saturating_sub(read.len());
                told.entry(room_id).or_default().extend(read);
            }
        }
    }
    told
}

fn receipt(origin: &ServerName, user: String, read: &RawValue, now_ms: u64) -> Option<(OwnedUserId, NewReceipt)> {
    let user = OwnedUserId::try_from(user).ok().filter(|user| user.server_name() == origin)?;
    let ReadUpTo { event_ids, data } = serde_json::from_str(read.get()).ok()?;
    let event_id = event_ids.into_iter().next()?;
    let ReceiptData { thread_id: thread, ts } = data;
    if thread.as_deref().is_some_and(|thread| !is_thread(thread)) {
        return None;
    }
    let at_ms = ts.map(|at_ms| at_ms.min(now_ms));
    Some((user, NewReceipt { kind: ReceiptKind::Public, event_id, thread, at_ms }))
}

#[cfg(test)]
mod tests {
    use ruma_common::server_name;
    use serde_json::{Map, Value, json};

    use super::{ByRoom, Edu, RECEIPTS_MAX, ROOMS_MAX, by_room};

    fn read(edus: &[Value]) -> ByRoom {
        let edu = |content| json!({ "edu_type": "m.receipt", "content": content });
        let edus: Vec<Edu> = edus.iter().map(|content| serde_json::from_value(edu(content)).unwrap()).collect();
        by_room(server_name!("b.test"), &edus, 1_000)
    }

    fn of(users: impl Iterator<Item = String>) -> Value {
        let read = |user| (user, json!({ "event_ids": ["$e"], "data": { "ts": 5_000 } }));
        json!({ "m.read": users.map(read).collect::<Map<_, _>>() })
    }

    fn one(user: &str) -> Value {
        of([user.to_owned()].into_iter())
    }

    #[test]
    fn a_room_is_told_of_a_transactions_receipts_at_once() {
        let told = read(&[
            json!({ "!a:x": one("@bob:b.test"), "!b:x": one("@bob:b.test"), "nowhere": one("@bob:b.test"), "!c:x": 5 }),
            json!([]),
            json!({ "!a:x": one("@zoe:b.test"), "!c:x": one("@max:other.test") }),
        ]);
        assert_eq!(told.keys().collect::<Vec<_>>(), ["!a:x", "!b:x"]);
        let in_a = &told[<&ruma_common::RoomId>::try_from("!a:x").unwrap()];
        assert_eq!(in_a.iter().map(|(user, _)| user.as_str()).collect::<Vec<_>>(), ["@bob:b.test", "@zoe:b.test"]);
        assert_eq!(in_a[0].1.at_ms, Some(1_000), "nobody reads in the future");
    }

    #[test]
    fn a_transaction_tells_of_so_many_rooms_and_receipts() {
        let many = |rooms: usize| {
            json!((0..rooms).map(|room| (format!("!{room}:x"), one("@bob:b.test"))).collect::<Map<_, _>>())
        };
        assert_eq!(read(&[many(ROOMS_MAX)]).len(), ROOMS_MAX);
        assert_eq!(read(&[many(10_000), json!({ "!other:x": one("@bob:b.test") })]).len(), ROOMS_MAX);
        let crowd = |count: usize| of((0..count).map(|number| format!("@u{number}:b.test")));
        let count = |told: ByRoom| told.values().map(Vec::len).sum::<usize>();
        assert_eq!(
            count(read(&[json!({ "!a:x": crowd(RECEIPTS_MAX - 1) }), json!({ "!b:x": crowd(1) })])),
            RECEIPTS_MAX
        );
        assert_eq!(count(read(&[json!({ "!a:x": crowd(9_000), "!b:x": crowd(9_000) })])), RECEIPTS_MAX);
    }
}
