//! What people do in random conversations.

use platform::{ActorKind, Address};
use ruma_common::{OwnedEventId, RoomId, UserId};
use serde_json::value::to_raw_value;

use super::{Story, past::secret};
use crate::{
    CallError,
    room::{self, MembershipAction},
    user,
};

impl Story {
    pub(super) fn message(&mut self, sender: &UserId) -> room::SendEvent {
        self.sent += 1;
        room::SendEvent {
            sender: sender.to_owned(),
            device: "PHONE".into(),
            transaction_id: Some(format!("t{}", self.sent).into()),
            call_id: None,
            event_type: "m.room.message".into(),
            content: to_raw_value(&serde_json::json!({ "body": secret(self.sent), "msgtype": "m.text" })).unwrap(),
            state_key: None,
            member_of: Vec::new(),
            at_ms: None,
            administrator: false,
        }
    }

    pub(super) fn sends(&mut self, sender: &UserId, room_id: &RoomId) -> Result<OwnedEventId, CallError> {
        let call = self.message(sender);
        let first = self.world.call(room_id.as_str(), &call);
        if self.world.dice.roll(4) == 0 {
            // The answer was lost: the client repeats, perhaps to a room that was evicted meanwhile.
            if self.world.dice.roll(2) == 0 {
                self.world.evict(&Address::new(ActorKind::Room, room_id.as_str()));
            }
            let again = self.world.call(room_id.as_str(), &call);
            assert_eq!(first.as_ref().ok(), again.as_ref().ok(), "a repeated transaction made another event");
        }
        if let Ok(event_id) = &first {
            self.messages.entry(room_id.to_owned()).or_default().push(event_id.clone());
        }
        first
    }

    pub(super) fn reads(&mut self, user: &UserId, room_id: &RoomId) {
        let Some(messages) = self.messages.get(room_id) else { return };
        let (index, kind) = (self.world.dice.roll(messages.len() as u64) as usize, self.world.dice.roll(2));
        let kind = if kind == 0 { room::ReceiptKind::Public } else { room::ReceiptKind::Private };
        let thread = (self.world.dice.roll(3) == 0).then(|| "main".to_owned());
        let event_id = messages[index].clone();
        let call = room::MarkRead {
            user: user.to_owned(),
            device: "PHONE".into(),
            receipts: vec![room::NewReceipt { kind, event_id: event_id.clone(), thread: thread.clone(), at_ms: None }],
            fully_read: None,
            marker: None,
        };
        if self.world.call(room_id.as_str(), &call).is_err() {
            return;
        }
        let kind = serde_json::to_value(kind).unwrap().as_str().unwrap().to_owned();
        let receipts = self.receipts.entry(room_id.to_owned()).or_default();
        let read = receipts.entry((user.to_owned(), kind, thread.unwrap_or_default())).or_insert(event_id.clone());
        if messages.iter().position(|message| message == read) < Some(index) {
            *read = event_id;
        }
    }

    pub(super) fn types(&self, user: &UserId, room_id: &RoomId) {
        let timeout_ms = (self.world.dice.roll(3) > 0).then_some(30_000);
        // Whoever is not in the room is refused.
        drop(self.world.call(room_id.as_str(), &room::SetTyping { user: user.to_owned(), timeout_ms }));
    }

    pub(super) fn changes(
        &mut self,
        user: &UserId,
        room_id: &RoomId,
        action: MembershipAction,
    ) -> Result<(), CallError> {
        self.sent += 1;
        let call = room::ChangeMembership::new(format!("c{}", self.sent), user.to_owned(), user.to_owned(), action);
        self.world.call(room_id.as_str(), &call)
    }

    pub(super) fn invites(&mut self, user: &UserId, target: &UserId, room_id: &RoomId) {
        self.sent += 1;
        let call = room::ChangeMembership::new(
            format!("c{}", self.sent),
            user.to_owned(),
            target.to_owned(),
            MembershipAction::Invite,
        );
        self.world.call(room_id.as_str(), &call).unwrap();
    }

    /// Whoever may do everything does something to somebody. What makes no sense just then is refused.
    pub(super) fn moderates(&self, target: &UserId, room_id: &RoomId) {
        use MembershipAction::{Ban, Invite, Kick, Unban};
        let action = [Kick, Ban, Unban, Unban, Invite][self.world.dice.roll(5) as usize];
        drop(self.world.changes(&self.rooms_creator(), room_id, target, action));
    }

    /// A client is restored from an older copy of all it knew, and syncs on from there.
    pub(super) fn goes_back(&mut self) {
        let index = self.world.dice.roll(self.devices.len() as u64) as usize;
        let copies = &self.copies[index];
        if !copies.is_empty() {
            self.devices[index] = copies[self.world.dice.roll(copies.len() as u64) as usize].clone();
        }
    }

    pub(super) fn renames(&mut self, user: &UserId) {
        self.sent += 1;
        let call = user::SetProfileField {
            token_hash: format!("{}0", user.localpart()),
            field: "displayname".to_owned(),
            value: Some(format!("{} {}", user.localpart(), self.sent).into()),
        };
        self.world.call(user.as_str(), &call).unwrap();
    }
}
