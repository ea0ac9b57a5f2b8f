//! What becomes of rooms and their past: it is opened and closed, redacted, forgotten, and left for a successor.

use ruma_common::{RoomId, UserId};
use serde_json::json;

use super::{Story, visibility::Log};
use crate::room;

/// The most rooms there are.
const ROOMS_MAX: usize = 5;

impl Story {
    pub(super) fn something_becomes_of(&mut self, user: &UserId, room_id: &RoomId) {
        match self.world.dice.roll(12) {
            0..=3 => self.opens(room_id),
            4..=7 => self.redacts(user, room_id),
            8..=10 => self.forgets(user, room_id),
            _ => self.upgrades(room_id),
        }
    }

    fn opens(&self, room_id: &RoomId) {
        let settings = ["world_readable", "shared", "invited", "joined", "org.test.unheard"];
        let content = json!({ "history_visibility": settings[self.world.dice.roll(5) as usize] });
        let sender = self.rooms_creator();
        self.world.sends(&sender, room_id, "m.room.history_visibility", Some(""), &content).unwrap();
    }

    /// Somebody, or whoever may do everything, redacts some event.
    fn redacts(&mut self, user: &UserId, room_id: &RoomId) {
        self.sent += 1;
        let log = Log::of(&self.world, room_id);
        let entry = &log.entries()[self.world.dice.roll(log.entries().len() as u64) as usize];
        let call = room::RedactEvent {
            sender: if self.world.dice.roll(3) == 0 { user.to_owned() } else { self.rooms_creator() },
            device: "PHONE".into(),
            transaction_id: format!("r{}", self.sent).into(),
            event_id: entry.event_id.as_str().try_into().unwrap(),
            reason: Some(format!("reason {}", self.sent)),
            administrator: false,
            own_only: false,
        };
        if self.world.call(room_id.as_str(), &call).is_ok() {
            self.redacted.entry(room_id.to_owned()).or_default().extend(secrets(&entry.json));
        }
    }

    fn forgets(&mut self, user: &UserId, room_id: &RoomId) {
        // Whoever is in the room is refused.
        if self.world.call(room_id.as_str(), &room::Forget { user: user.to_owned() }).is_ok() {
            let log = Log::of(&self.world, room_id);
            self.forgotten.insert((room_id.to_owned(), user.to_owned()), log.entries().len());
        }
    }

    fn upgrades(&mut self, room_id: &RoomId) {
        if self.rooms.len() >= ROOMS_MAX {
            return;
        }
        self.sent += 1;
        let user = self.rooms_creator();
        let prepare = room::PrepareUpgrade {
            user: user.clone(),
            profile: room::MemberProfile::default(),
            version: ["10", "11", "12"][self.world.dice.roll(3) as usize].to_owned(),
            additional_creators: None,
            room_id: Some(RoomId::parse(format!("!successor{}:myelin.test", self.sent)).unwrap()),
            call_id: format!("u{}", self.sent),
        };
        let successor = self.world.call(room_id.as_str(), &prepare).unwrap();
        // Upgraded before to the same version, it has a successor.
        let Some(create) = successor.create else { return };
        self.world.call(successor.room_id.as_str(), &create).unwrap();
        let complete = room::CompleteUpgrade { user, successor: successor.room_id.clone() };
        self.world.call(room_id.as_str(), &complete).unwrap();
        self.rooms.push(successor.room_id);
    }
}

/// What is said nowhere else, so that nobody may find it once it is redacted.
pub(super) fn secret(number: u64) -> String {
    format!("secret {number};")
}

/// What is said in an event.
fn secrets(json: &str) -> Vec<String> {
    let secrets = json.split("secret ").skip(1).filter_map(|rest| rest.split_once(';'));
    secrets.filter_map(|(number, _)| number.parse().ok()).map(secret).collect()
}
