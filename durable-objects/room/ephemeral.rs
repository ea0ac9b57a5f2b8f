//! What a sync shows beside the log: who typed, who read how far. Spec: "Typing Notifications", "Receipts".

use std::collections::BTreeMap;

use platform::Sql;
use ruma_common::RoomId;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    EventFilter, Room, Typing,
    store::{self, log::Logged, receipts::Receipt},
};
use crate::{Cx, Error};

/// The most receipts of others in one answer, those that moved last: in a room of 20,000 the rest tells nobody
/// anything.
const RECEIPTS_MAX: u64 = 1_000;
/// The most receipts of the user's own; more than that takes as many threads.
const OWN_RECEIPTS_MAX: u64 = 1_000;

/// The ephemeral part of one room of one sync.
pub(super) struct Ephemeral {
    pub events: Vec<Box<RawValue>>,
    /// Who types, if that was asked for.
    pub typing: Option<Typing>,
}

/// What was asked for.
pub(super) struct Wanted<'a> {
    pub filter: &'a EventFilter,
    /// Receipts that moved in this span of the log.
    pub after: u64,
    pub up_to: u64,
    /// The version of the typing users seen last; `None`: no matter.
    pub typing: Option<u64>,
}

#[derive(Serialize)]
struct Event<'a, T> {
    #[serde(rename = "type")]
    event_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RoomId>,
    content: T,
}

#[derive(Serialize)]
struct TypingContent<'a> {
    user_ids: Vec<&'a str>,
}

/// By event, type and user.
type ReceiptContent<'a> = BTreeMap<&'a str, BTreeMap<&'a str, BTreeMap<&'a str, ShownReceipt<'a>>>>;

#[derive(Serialize)]
struct ShownReceipt<'a> {
    ts: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    thread_id: &'a str,
}

/// The user's own receipts, private ones included.
pub(super) fn own_receipts(sql: &dyn Sql, user_id: &str) -> Result<Vec<Receipt>, Error> {
    Ok(store::receipts::of_user(sql, user_id, OWN_RECEIPTS_MAX)?)
}

impl Room {
    pub(super) fn ephemeral(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        own: &[Receipt],
        wanted: &Wanted<'_>,
    ) -> Result<Ephemeral, Error> {
        let mut events = Vec::new();
        let typing = match wanted.typing {
            Some(seen) => {
                let mut typists = self.typists.borrow_mut();
                typists.expire(cx.now_ms);
                let typing = typists.told();
                if typing.version != seen && wanted.filter.allows_type("m.typing") {
                    let users = typists.users().map(|user| user.as_str());
                    let user_ids = users.filter(|user| wanted.filter.allows_sender(user)).collect();
                    let content = TypingContent { user_ids };
                    events.push(to_raw_value(&Event { event_type: "m.typing", room_id: None, content })?);
                }
                Some(typing)
            }
            None => None,
        };
        if wanted.filter.allows_type("m.receipt") {
            events.extend(receipts(sql, own, wanted)?);
        }
        // A filter's limit is not heeded: what it cuts off would come with no later sync.
        Ok(Ephemeral { events, typing })
    }
}

/// Spec: «receipts SHOULD be batched into one event per room and thread».
fn receipts(sql: &dyn Sql, own: &[Receipt], wanted: &Wanted<'_>) -> Result<Vec<Box<RawValue>>, Error> {
    if wanted.after >= wanted.up_to {
        return Ok(Vec::new());
    }
    let mut moved = store::receipts::public(sql, wanted.after, wanted.up_to, RECEIPTS_MAX)?;
    // The user's own are among the public ones, too; they are the same there.
    moved.extend(own.iter().filter(|receipt| receipt.position > wanted.after).cloned());
    moved.retain(|receipt| wanted.filter.allows_sender(&receipt.user_id));
    batched(&moved, None)
}

/// Receipts that moved in `(after, up_to]`, the user's own included, in one event: sliding sync has a place for one of
/// each room. Of all receipts, those for these events and the user's own. MSC3960.
pub(super) fn receipts_as_one(
    sql: &dyn Sql,
    own: &[Receipt],
    (after, up_to): (u64, u64),
    timeline: &[Logged],
) -> Result<Option<Box<RawValue>>, Error> {
    let mut moved = store::receipts::public(sql, after, up_to, RECEIPTS_MAX)?;
    if after == 0 {
        let is_shown = |receipt: &Receipt| timeline.iter().any(|event| event.pdu.event_id() == &*receipt.event_id);
        moved.retain(is_shown);
    }
    moved.extend(own.iter().filter(|receipt| receipt.position > after).cloned());
    // Where a user has several for one event, the one without a thread counts for all.
    moved.sort_by_key(|receipt| receipt.thread.is_empty());
    if moved.is_empty() {
        return Ok(None);
    }
    let mut content = ReceiptContent::new();
    moved.iter().for_each(|receipt| add(&mut content, receipt));
    Ok(Some(receipt_event(content, None)?))
}

/// Receipts as events that name their room. More than fit into one answer are those that moved last.
pub(super) fn receipts_between(
    sql: &dyn Sql,
    room_id: &RoomId,
    (after, up_to): (u64, u64),
    is_shown: impl Fn(&Receipt) -> bool,
) -> Result<Vec<Box<RawValue>>, Error> {
    let mut moved = store::receipts::moved(sql, after, up_to, RECEIPTS_MAX)?;
    moved.retain(is_shown);
    batched(&moved, Some(room_id))
}

fn batched(moved: &[Receipt], room_id: Option<&RoomId>) -> Result<Vec<Box<RawValue>>, Error> {
    let mut threads: BTreeMap<&str, ReceiptContent<'_>> = BTreeMap::new();
    for receipt in moved {
        add(threads.entry(&receipt.thread).or_default(), receipt);
    }
    threads.into_values().map(|content| receipt_event(content, room_id)).collect()
}

fn add<'a>(content: &mut ReceiptContent<'a>, receipt: &'a Receipt) {
    let shown = ShownReceipt { ts: receipt.ts_ms, thread_id: &receipt.thread };
    let of_event = content.entry(&receipt.event_id).or_default();
    of_event.entry(&receipt.kind).or_default().insert(&receipt.user_id, shown);
}

fn receipt_event(content: ReceiptContent<'_>, room_id: Option<&RoomId>) -> Result<Box<RawValue>, Error> {
    Ok(to_raw_value(&Event { event_type: "m.receipt", room_id, content })?)
}
