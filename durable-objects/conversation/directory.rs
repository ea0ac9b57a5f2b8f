//! Rooms of random conversations in the directory: in the end it shows each as it is.

use ruma_common::RoomId;
use serde_json::{Value, json, value::to_raw_value};

use super::{Story, past::secret};
use crate::room;

impl Story {
    /// The room is named anew, or published, or no longer.
    pub(super) fn moves_in_directory(&mut self, room_id: &RoomId) {
        match self.world.dice.roll(2) {
            0 => self.names_room(room_id),
            _ => self.publishes(room_id, self.world.dice.roll(2) == 0),
        }
    }

    fn names_room(&mut self, room_id: &RoomId) {
        self.sent += 1;
        let call = room::SendEvent {
            sender: self.rooms_creator(),
            device: "ANY".into(),
            transaction_id: None,
            call_id: Some(format!("n{}", self.sent)),
            event_type: "m.room.name".into(),
            content: to_raw_value(&json!({ "name": format!("Room {}", secret(self.sent)) })).unwrap(),
            state_key: Some(String::new()),
            member_of: Vec::new(),
            at_ms: None,
            administrator: false,
        };
        self.world.call(room_id.as_str(), &call).unwrap();
    }

    pub(super) fn publishes(&self, room_id: &RoomId, published: bool) {
        let call = room::SetPublished { user: self.rooms_creator(), admin: false, published };
        self.world.call(room_id.as_str(), &call).unwrap();
    }

    /// Metadata shows a room as it is, if it is published, and else nothing of it.
    pub(super) fn is_shown_truly(&self, room_id: &RoomId, seed: u64) {
        let user = self.rooms_creator();
        let published = self.world.call(room_id.as_str(), &room::IsPublished {}).unwrap();
        let shown = "SELECT entry FROM directory WHERE room_id = ?1 AND published = 1 AND entry != ''";
        let entry = self.world.shows(shown, &[room_id.as_str().into()]).pop().map(|mut row| row.text(0).unwrap());
        let Some(entry) = entry else { return assert!(!published, "seed {seed}: {room_id} is not in the directory") };
        assert!(published, "seed {seed}: {room_id} is in the directory");
        let entry: Value = serde_json::from_str(&entry).unwrap();
        let joined = room::GetJoinedMembers { user: user.clone(), appservice: None, after: None };
        let joined = self.world.call(room_id.as_str(), &joined).unwrap().joined;
        assert_eq!(entry["num_joined_members"], joined.len(), "seed {seed}: {room_id}");
        let name = room::GetStateEvent {
            user,
            device: "ANY".into(),
            event_type: "m.room.name".into(),
            state_key: String::new(),
        };
        let name = self.world.call(room_id.as_str(), &name).ok();
        let name = name.map(|found| serde_json::from_str::<Value>(found.content.get()).unwrap()["name"].clone());
        assert_eq!(entry["name"], name.unwrap_or_default(), "seed {seed}: {room_id}");
    }
}
