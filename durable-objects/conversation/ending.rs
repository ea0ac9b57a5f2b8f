//! How a random conversation has to end, whatever went wrong on the way.

use ruma_common::{OwnedEventId, RoomId, UserId};
use serde::Deserialize;

use super::Story;
use crate::{room, user};

impl Story {
    /// Faults end, alarms ring, everyone syncs until nothing comes: then every device has seen everything.
    pub(super) fn ends_well(&mut self, seed: u64) {
        self.world.lost_calls.set(0);
        self.world.broken_statements.set(0);
        for _ in 0..10 {
            self.world.passes(60_000);
        }
        for index in 0..self.devices.len() {
            let mut rounds = 0;
            while self.syncs(index, false) {
                rounds += 1;
                assert!(rounds < 20, "seed {seed}: a device syncs for ever");
                self.world.settle();
            }
        }
        for room_id in &self.rooms {
            self.is_shown_truly(room_id, seed);
        }
        for room_id in &self.rooms {
            for _ in 0..2 {
                self.is_read_truly(&self.somebody(), room_id);
            }
        }
        for device in &self.devices {
            let joined = self
                .world
                .call(device.user.as_str(), &user::JoinedRooms { token_hash: device.token_hash.clone() })
                .unwrap();
            let mut kept = self.account_data.get(&device.user).cloned().unwrap_or_default();
            kept.retain(|(room_id, _), _| room_id.as_ref().is_none_or(|room_id| joined.contains(room_id)));
            kept.insert((None, "m.push_rules".to_owned()), self.kept(device, "m.push_rules"));
            assert_eq!(device.account_data, kept, "seed {seed}: {} lacks account data", device.token_hash);
            for room_id in &self.rooms {
                let since_join = self.since_join(room_id, &device.user);
                assert_eq!(
                    joined.contains(room_id),
                    since_join.is_some(),
                    "seed {seed}: {} and {room_id} disagree on membership",
                    device.user
                );
                // A redacted membership shows no name, until there is another one.
                if since_join.is_some()
                    && let Some(name) = self.name_in(room_id, &device.user)
                {
                    assert_eq!(name, self.name_of(&device.user), "seed {seed}");
                }
                let Some(expected) = since_join else {
                    assert!(
                        !device.rooms.contains_key(room_id),
                        "seed {seed}: {} still shows a left room",
                        device.user
                    );
                    continue;
                };
                let known = device.rooms.get(room_id).map_or(&[][..], Vec::as_slice);
                let seen: Vec<_> = known.iter().filter(|event| expected.contains(event)).collect();
                assert_eq!(
                    seen,
                    expected.iter().collect::<Vec<_>>(),
                    "seed {seed}: {} has not seen all of {room_id} in order",
                    device.token_hash
                );
                let mut receipts = self.receipts.get(room_id).cloned().unwrap_or_default();
                receipts.retain(|(user, kind, _), _| kind == "m.read" || *user == device.user);
                let known = device.receipts.get(room_id).cloned().unwrap_or_default();
                assert_eq!(known, receipts, "seed {seed}: the receipts of {room_id} at {}", device.token_hash);
                for (user, member) in &device.members[room_id] {
                    // What a redaction takes away, clients take away themselves.
                    if let Some(is) = self.member_in(room_id, user) {
                        assert_eq!(*member, is, "seed {seed}: at {}", device.token_hash);
                    }
                }
                let unread = self.unread(device, room_id);
                assert_eq!(device.unread.get(room_id), Some(&unread), "seed {seed}: {}", device.token_hash);
                let typing = device.typing.get(room_id).map_or(&[][..], Vec::as_slice);
                assert!(typing.is_empty(), "seed {seed}: {} shows {typing:?} typing for ever", device.token_hash);
            }
        }
    }

    fn name_of(&self, user: &UserId) -> serde_json::Value {
        self.world.call(user.as_str(), &user::GetProfile {}).unwrap().remove("displayname").unwrap_or_default()
    }

    fn name_in(&self, room_id: &RoomId, user: &UserId) -> Option<serde_json::Value> {
        self.member_in(room_id, user.as_str()).map(|member| member["displayname"].clone())
    }

    /// What a membership event says; `None` for one that was redacted.
    fn member_in(&self, room_id: &RoomId, user: &str) -> Option<serde_json::Value> {
        let member = self.member_event_in(room_id, user);
        let event: serde_json::Value = serde_json::from_str(member.event.get()).unwrap();
        event["unsigned"]["redacted_because"].is_null().then(|| event["content"].clone())
    }

    fn member_event_in(&self, room_id: &RoomId, user: &str) -> room::StateEvent {
        let call = room::GetStateEvent {
            user: self.rooms_creator(),
            device: "ANY".into(),
            event_type: "m.room.member".into(),
            state_key: user.to_owned(),
        };
        self.world.call(room_id.as_str(), &call).unwrap()
    }

    /// The room's log from the user's last join on; `None` if they are not in it.
    fn since_join(&self, room_id: &RoomId, user: &UserId) -> Option<Vec<OwnedEventId>> {
        #[derive(Deserialize)]
        struct Event {
            event_id: OwnedEventId,
            state_key: Option<String>,
            content: serde_json::Value,
        }
        let call = room::Messages {
            user: self.rooms_creator(),
            device: "ANY".into(),
            ignored: Vec::new(),
            from: None,
            to: None,
            direction: room::Direction::Forwards,
            filter: room::EventFilter { limit: Some(1_000), ..room::EventFilter::default() },
            past_gaps: false,
        };
        let page = self.world.call(room_id.as_str(), &call).unwrap();
        assert!(page.end.is_none());
        let mut since = None;
        for event in page.chunk {
            let event: Event = serde_json::from_str(event.get()).unwrap();
            if event.state_key.as_deref() == Some(user.as_str()) {
                let joined = event.content["membership"] == "join";
                since = if joined { since.or_else(|| Some(Vec::new())) } else { None };
            }
            if let Some(since) = &mut since {
                since.push(event.event_id);
            }
        }
        since
    }
}
