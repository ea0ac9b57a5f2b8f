//! Messages to devices, delivered once. Spec: "Send-to-Device messaging".
//!
//! A message stays until the device comes with a token from after it: an answer that was lost is told again, and
//! nothing is told twice to a device that follows its tokens. A sender's repeated transaction is recognised here, at
//! each receiver, so that a sender who heard nothing may repeat the whole.

use std::collections::{BTreeMap, VecDeque};

use domain::{Refusal, readable};
use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::{DeviceId, OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    NEXT_SLICE_MS, User,
    store::{self, to_device::Counted},
    sync_token::SyncToken,
};
use crate::{Call, Cx, Error, schedule};

/// Messages in one answer of `/sync`. Spec: "100 messages is recommended as a reasonable limit".
const MESSAGES_AT_ONCE: u64 = 100;
/// Bytes of contents after which an answer has no more messages.
const BYTES_AT_ONCE: usize = 512 * 1024;
/// Messages kept for one device: of more, the oldest are dropped. Whoever is away for so long has lost more.
const KEPT_MAX: u64 = if cfg!(test) { 250 } else { 10_000 };
/// Bytes of the messages kept for one device; the oldest that reaches them is kept.
const KEPT_BYTES_MAX: u64 = if cfg!(test) { 400_000 } else { 64 * 1024 * 1024 };
/// Messages looked at at once where the oldest are dropped.
const DROPPED_AT_ONCE: u64 = 16;
/// The largest content of a message, in bytes.
const CONTENT_BYTES_MAX: usize = 64 * 1024;
/// Transactions of one sending device that are remembered by each receiver.
const TRANSACTIONS_MAX: usize = 32;
/// How long they are, after the device's last message, in milliseconds: a day.
const REMEMBERED_MS: u64 = 24 * 60 * 60 * 1000;
/// When they are looked at, after the first of them or the last look, in milliseconds.
const LOOKED_AT_MS: u64 = 2 * REMEMBERED_MS;
/// Sending devices forgotten at once.
const SENDERS_AT_ONCE: u64 = if cfg!(test) { 3 } else { 1_000 };
/// The schedule's name for forgetting them.
pub(super) const SENDERS_DUE: &str = "to_device_senders";
/// Devices looked up one by one.
const LOOKED_UP_MAX: usize = 20;
/// All devices of the user.
const ALL_DEVICES: &str = "*";

/// Messages from another user's device, or from one of the user's own. A device that is not there gets none.
///
/// Repeated under the same transaction, it does nothing. Refused: `BadJson` for a content that is no object, or that
/// not everybody can read; `TooLarge`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReceiveToDevice {
    pub sender: OwnedUserId,
    pub sender_device: OwnedDeviceId,
    /// Unique for the sending device and the type.
    pub txn_id: String,
    #[serde(rename = "type")]
    pub event_type: String,
    /// Contents by device, or `*`.
    pub messages: BTreeMap<String, Box<RawValue>>,
}

impl Call for ReceiveToDevice {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "receive_to_device";
    type Reply = ();
}

/// A message as its device gets it.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToDeviceMessage {
    pub sender: String,
    #[serde(rename = "type")]
    pub event_type: String,
    pub content: Box<RawValue>,
}

impl User {
    pub(super) fn receive_to_device(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: ReceiveToDevice) -> Result<(), Error> {
        check_to_device(&call.messages)?;
        let (sender, from) = (call.sender.as_str(), &*call.sender_device);
        let known = store::to_device::transactions(&**tx, sender, from)?;
        let mut transactions: VecDeque<String> =
            known.map_or(Ok(VecDeque::new()), |json| serde_json::from_str(&json))?;
        // As JSON, or «a b» of the type «c» would be «a» of the type «b c».
        let transaction = serde_json::to_string(&(&call.txn_id, &call.event_type))?;
        if transactions.contains(&transaction) {
            return Ok(());
        }
        let mut last = None;
        for device_id in receiving(&**tx, &call.messages)? {
            let message = call.messages.get(device_id.as_str()).or_else(|| call.messages.get(ALL_DEVICES));
            let Some(content) = message else { continue };
            let position = self.own_position(&**tx, cx)?;
            keep(tx, &device_id, position, (sender, &call.event_type, content.get()))?;
            last = Some(position);
        }
        // What reached nobody may be repeated.
        let Some(position) = last else { return Ok(()) };
        transactions.push_front(transaction);
        transactions.truncate(TRANSACTIONS_MAX);
        let transactions = serde_json::to_string(&transactions)?;
        store::to_device::put_transactions(tx, (sender, from), position, &transactions)?;
        Ok(schedule::at(tx, cx, SENDERS_DUE, cx.now_ms.saturating_add(LOOKED_AT_MS))?)
    }

    /// What a device repeats after a day is new: who sent nothing for so long is forgotten.
    pub(super) fn forget_senders(tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let before = cx.now_ms.saturating_sub(REMEMBERED_MS);
        let (forgotten, left) = store::to_device::forget_senders(tx, before, SENDERS_AT_ONCE)?;
        if forgotten == SENDERS_AT_ONCE {
            schedule::at(tx, cx, SENDERS_DUE, cx.now_ms.saturating_add(NEXT_SLICE_MS))?;
        } else if left > 1 {
            schedule::at(tx, cx, SENDERS_DUE, cx.now_ms.saturating_add(LOOKED_AT_MS))?;
        }
        Ok(())
    }

    /// How far a device has its messages that comes with this token. One from beyond the stream is of a stream that was
    /// lost: it says nothing of these messages.
    pub(super) fn had(&self, sql: &dyn Sql, since: Option<&SyncToken>) -> Result<u64, Error> {
        let head = self.with_moves(sql, |moves| Ok(moves.head))?;
        let had = since.map_or(0, |since| since.to_device.unwrap_or(since.own));
        Ok(if had <= head { had } else { 0 })
    }

    /// A device came with a token: what it had with it is dropped, whether or not there is news.
    pub(super) fn received(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        device_id: &DeviceId,
        since: Option<&SyncToken>,
    ) -> Result<(), Error> {
        let had = self.had(sql, since)?;
        if had > 0 && store::to_device::has_up_to(sql, device_id, had)? {
            *cx.user.received.borrow_mut() = Some((device_id.to_owned(), had));
        }
        Ok(())
    }

    /// The device's next messages, and where its token stands among them: at `own`, unless something else is named.
    pub(super) fn to_device_news(
        &self,
        sql: &dyn Sql,
        device_id: &DeviceId,
        since: Option<&SyncToken>,
        own: u64,
    ) -> Result<(Vec<ToDeviceMessage>, Option<u64>), Error> {
        let page = self.to_device_page(sql, device_id, self.had(sql, since)?, None)?;
        let reached = if page.more { page.reached } else { page.reached.max(own) };
        Ok((page.messages, (reached != own).then_some(reached)))
    }

    /// The messages of one answer, after a position: so many, or as usual.
    pub(super) fn to_device_page(
        &self,
        sql: &dyn Sql,
        device_id: &DeviceId,
        after: u64,
        limit: Option<u64>,
    ) -> Result<Page, Error> {
        let mut page = Page { messages: Vec::new(), reached: after, more: false };
        let mut bytes = 0_usize;
        let limit = limit.unwrap_or(MESSAGES_AT_ONCE).min(MESSAGES_AT_ONCE);
        for (position, message) in store::to_device::after(sql, device_id, after, limit.saturating_add(1))? {
            if page.messages.len() as u64 == limit || bytes >= BYTES_AT_ONCE {
                page.more = true;
                break;
            }
            bytes = bytes.saturating_add(message.content.get().len());
            page.messages.push(message);
            page.reached = position;
        }
        Ok(page)
    }
}

/// The user's devices that messages may be for. A few that are named are looked up, however many there are.
fn receiving(sql: &dyn Sql, messages: &BTreeMap<String, Box<RawValue>>) -> Result<Vec<OwnedDeviceId>, Fault> {
    let devices = if messages.contains_key(ALL_DEVICES) || messages.len() > LOOKED_UP_MAX {
        store::device::all(sql)?
    } else {
        let named = messages.keys().map(|id| store::device::get(sql, id.as_str().into()));
        named.filter_map(Result::transpose).collect::<Result<_, _>>()?
    };
    Ok(devices.into_iter().map(|device| device.device_id).collect())
}

/// Keeps a message for a device, in the place of the oldest where there are too many or too large ones. What that costs
/// does not depend on how many are waiting.
fn keep(
    tx: &Tx<'_>,
    device_id: &DeviceId,
    position: u64,
    message @ (_, event_type, content): (&str, &str, &str),
) -> Result<(), Error> {
    let before = store::to_device::last(&**tx, device_id)?.unwrap_or_default();
    let size = content.len().saturating_add(event_type.len()) as u64;
    let now = Counted { number: before.number.saturating_add(1), bytes: before.bytes.saturating_add(size) };
    store::to_device::put(tx, device_id, position, message, now)?;
    let kept_from = Counted {
        number: now.number.saturating_add(1).saturating_sub(KEPT_MAX),
        bytes: now.bytes.saturating_add(1).saturating_sub(KEPT_BYTES_MAX),
    };
    let is_beyond = |first: Counted| first.number < kept_from.number || first.bytes < kept_from.bytes;
    while store::to_device::first(&**tx, device_id)?.is_some_and(is_beyond) {
        store::to_device::drop_first(tx, device_id, kept_from, DROPPED_AT_ONCE)?;
    }
    Ok(())
}

/// Messages of one answer.
pub(super) struct Page {
    pub messages: Vec<ToDeviceMessage>,
    /// The position of the last one, or where the page begins.
    pub reached: u64,
    /// Whether there are more.
    pub more: bool,
}

/// Refuses what [`ReceiveToDevice`] refuses: the sender's side asks before anything is sent to anybody.
pub fn check_to_device(messages: &BTreeMap<String, Box<RawValue>>) -> Result<(), Refusal> {
    messages.values().try_for_each(|content| check_content(content))
}

/// Leaves out what [`ReceiveToDevice`] would refuse: another server sends it once, and to all devices of a user
/// together.
pub fn retain_to_device(messages: &mut BTreeMap<String, Box<RawValue>>) {
    messages.retain(|_, content| check_content(content).is_ok());
}

fn check_content(content: &RawValue) -> Result<(), Refusal> {
    if !content.get().starts_with('{') {
        return Err(Refusal::BadJson("The content of a message is an object".to_owned()));
    }
    if content.get().len() > CONTENT_BYTES_MAX {
        return Err(Refusal::TooLarge(format!("The content of a message can have at most {CONTENT_BYTES_MAX} bytes")));
    }
    readable::check(content.get().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, rc::Rc};

    use platform::{ActorKind, Address, Sql};
    use serde_json::{json, value::to_raw_value};

    use super::{
        KEPT_BYTES_MAX, KEPT_MAX, LOOKED_AT_MS, MESSAGES_AT_ONCE, NEXT_SLICE_MS, REMEMBERED_MS, ReceiveToDevice,
    };
    use crate::{
        user::{Closed, Create, DeleteDevices, LogIn, NewDevice, SyncClose, SyncPlan},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    /// With two devices, whose tokens are their names in small letters.
    fn alice() -> Rc<World> {
        let world = World::new(5);
        let device = Some(NewDevice::new("ONE", "one"));
        let create = Create { password_hash: Some("h".to_owned()), call_id: "a".to_owned(), ..Create::default() };
        world.call(ALICE, &Create { device, ..create }).unwrap();
        let device = NewDevice::new("TWO", "two");
        world.call(ALICE, &LogIn { password_hash: "h".to_owned(), device }).unwrap();
        world
    }

    fn sends(world: &World, txn_id: &str, to: &str) {
        let messages = BTreeMap::from([(to.to_owned(), to_raw_value(&json!({ "txn": txn_id })).unwrap())]);
        let call = ReceiveToDevice {
            sender: "@bob:myelin.test".try_into().unwrap(),
            sender_device: "BOB".into(),
            txn_id: txn_id.to_owned(),
            event_type: "m.test".to_owned(),
            messages,
        };
        world.call(ALICE, &call).unwrap();
    }

    /// The next answer; `None` if there is nothing.
    fn syncs(world: &World, token: &str, since: Option<&str>) -> Option<Closed> {
        let (token_hash, since) = (token.to_owned(), since.map(ToOwned::to_owned));
        let plan = SyncPlan { token_hash: token_hash.clone(), since: since.clone(), ..SyncPlan::default() };
        let plan = world.call(ALICE, &plan).unwrap();
        let close = SyncClose {
            token_hash,
            since,
            position: plan.position,
            rooms: vec![],
            rooms_told: false,
            presence: None,
            without_messages: false,
        };
        (!plan.quiet).then(|| world.call(ALICE, &close).unwrap())
    }

    fn told(closed: &Closed) -> Vec<String> {
        let txn = |content: &str| {
            serde_json::from_str::<serde_json::Value>(content).unwrap()["txn"].as_str().unwrap().to_owned()
        };
        closed.to_device.iter().map(|message| txn(message.content.get())).collect()
    }

    #[test]
    fn a_message_is_told_until_its_device_has_it() {
        let world = alice();
        let first = syncs(&world, "one", None).unwrap();
        let other = syncs(&world, "two", None).unwrap();
        sends(&world, "1", "ONE");
        sends(&world, "2", "*");
        sends(&world, "1", "ONE");
        sends(&world, "3", "NONE");
        let mut next = first.next_batch.clone();
        for _ in 0..2 {
            // The answer was lost.
            let again = syncs(&world, "one", Some(&first.next_batch)).unwrap();
            assert_eq!(told(&again), ["1", "2"]);
            world.evict(&Address::new(ActorKind::User, ALICE));
            next = again.next_batch;
        }
        assert!(syncs(&world, "one", Some(&next)).is_none_or(|closed| told(&closed).is_empty()));
        let two = syncs(&world, "two", Some(&other.next_batch)).unwrap();
        assert_eq!(told(&two), ["2"]);
        // It had them, they are gone: now a repetition is still none, and an old token finds nothing.
        let done =
            syncs(&world, "two", Some(&two.next_batch)).map_or(two.next_batch.clone(), |closed| closed.next_batch);
        sends(&world, "4", "*");
        world.evict(&Address::new(ActorKind::User, ALICE));
        assert_eq!(told(&syncs(&world, "two", Some(&done)).unwrap()), ["4"]);
        sends(&world, "2", "*");
        assert_eq!(told(&syncs(&world, "two", Some(&done)).unwrap()), ["4"]);
    }

    /// Rows of a table.
    fn rows(world: &World, table: &str) -> u64 {
        let sql = world.sql(&Address::new(ActorKind::User, ALICE));
        sql.query(&format!("SELECT count(*) FROM {table}"), &[]).unwrap().pop().unwrap().unsigned(0).unwrap()
    }

    #[test]
    fn large_messages_push_out_the_oldest() {
        let world = alice();
        let content = |size: usize| to_raw_value(&json!({ "x": "x".repeat(size) })).unwrap();
        let sends = |txn_id: String, size| {
            let call = ReceiveToDevice {
                sender: "@bob:myelin.test".try_into().unwrap(),
                sender_device: "BOB".into(),
                txn_id,
                event_type: "m.test".to_owned(),
                messages: BTreeMap::from([("ONE".to_owned(), content(size))]),
            };
            world.call(ALICE, &call).unwrap();
        };
        (0..100).for_each(|number| sends(format!("small {number}"), 10));
        let size = 60_000;
        (0..20).for_each(|number| sends(format!("large {number}"), size));
        // As many as there is room for, and the one that reached it.
        assert_eq!(rows(&world, "to_device"), KEPT_BYTES_MAX / size as u64 + 1);
        (0..KEPT_MAX - 4).for_each(|number| sends(format!("small again {number}"), 10));
        assert_eq!(rows(&world, "to_device"), KEPT_MAX);
    }

    #[test]
    fn a_full_inbox_costs_no_more_than_an_empty_one() {
        let world = alice();
        let address = Address::new(ActorKind::User, ALICE);
        let sql = world.sql(&address);
        let costs = |txn_id: &str| {
            let (steps, rows) = (sql.steps.get(), world.rows_of(&address));
            sends(&world, txn_id, "ONE");
            (sql.steps.get() - steps, world.rows_of(&address) - rows)
        };
        sends(&world, "first", "ONE");
        let (steps, rows) = costs("second");
        assert_eq!(rows, 2, "the message and its transaction");
        (0..KEPT_MAX - 3).for_each(|number| sends(&world, &format!("more {number}"), "ONE"));
        let (full_steps, rows) = costs("last");
        assert_eq!(rows, 2);
        assert!(full_steps < steps * 2, "{full_steps} after {steps}");
        for number in 0..3 {
            let (steps_beyond, rows) = costs(&format!("beyond {number}"));
            assert_eq!(rows, 3, "and the oldest message goes");
            assert!(steps_beyond < steps * 4, "{steps_beyond} after {steps}");
        }
    }

    #[test]
    fn senders_are_forgotten_after_a_day() {
        let world = alice();
        let from = |device: &str, txn_id: &str| {
            let call = ReceiveToDevice {
                sender: "@bob:myelin.test".try_into().unwrap(),
                sender_device: device.into(),
                txn_id: txn_id.to_owned(),
                event_type: "m.test".to_owned(),
                messages: BTreeMap::from([("ONE".to_owned(), to_raw_value(&json!({ "txn": txn_id })).unwrap())]),
            };
            world.call(ALICE, &call).unwrap();
        };
        (0..8).for_each(|number| from(&format!("BOB{number}"), "1"));
        world.passes(LOOKED_AT_MS - REMEMBERED_MS / 2);
        from("LATE", "1");
        world.passes(REMEMBERED_MS / 4);
        assert_eq!(rows(&world, "to_device_sender"), 9);
        world.passes(REMEMBERED_MS / 4);
        for left in [6, 3, 1] {
            assert_eq!(rows(&world, "to_device_sender"), left, "slice by slice");
            world.passes(NEXT_SLICE_MS);
        }
        from("LATE", "1");
        for _ in 0..4 {
            world.passes(LOOKED_AT_MS);
        }
        assert_eq!(rows(&world, "due WHERE what = 'to_device_senders'"), 0, "there is nothing to do");
        let last = syncs(&world, "one", None).unwrap();
        assert_eq!(told(&last).len(), 9, "each once");
        world.evict(&Address::new(ActorKind::User, ALICE));
        from("BOB0", "1");
        assert_eq!(told(&syncs(&world, "one", Some(&last.next_batch)).unwrap()), ["1"], "after what was there before");
    }

    #[test]
    fn a_transaction_is_of_its_type() {
        let world = alice();
        for (txn_id, event_type) in [("a b", "c"), ("a", "b c"), ("a", "b c")] {
            let call = ReceiveToDevice {
                sender: "@bob:myelin.test".try_into().unwrap(),
                sender_device: "BOB".into(),
                txn_id: txn_id.to_owned(),
                event_type: event_type.to_owned(),
                messages: BTreeMap::from([("ONE".to_owned(), to_raw_value(&json!({ "txn": txn_id })).unwrap())]),
            };
            world.call(ALICE, &call).unwrap();
        }
        assert_eq!(told(&syncs(&world, "one", None).unwrap()), ["a b", "a"]);
    }

    #[test]
    fn many_messages_come_in_slices_and_in_order() {
        let world = alice();
        let count = MESSAGES_AT_ONCE * 2 + 5;
        for number in 0..count {
            sends(&world, &number.to_string(), "ONE");
        }
        let (mut all, mut since) = (Vec::new(), None);
        for _ in 0..3 {
            let closed = syncs(&world, "one", since.as_deref()).unwrap();
            assert!(closed.to_device.len() as u64 <= MESSAGES_AT_ONCE);
            all.extend(told(&closed));
            since = Some(closed.next_batch);
        }
        assert_eq!(all, (0..count).map(|number| number.to_string()).collect::<Vec<_>>());
        assert!(syncs(&world, "one", since.as_deref()).is_none_or(|closed| closed.to_device.is_empty()));
        for number in 0..=KEPT_MAX {
            sends(&world, &format!("more {number}"), "TWO");
        }
        assert_eq!(told(&syncs(&world, "two", None).unwrap())[0], "more 1", "the oldest went");
        let call =
            DeleteDevices { token_hash: "one".to_owned(), password_hash: "h".to_owned(), devices: vec!["TWO".into()] };
        world.call(ALICE, &call).unwrap();
        let device = NewDevice::new("TWO", "two");
        world.call(ALICE, &LogIn { password_hash: "h".to_owned(), device }).unwrap();
        assert_eq!(told(&syncs(&world, "two", None).unwrap()), [""; 0], "they went with the device");
    }
}
