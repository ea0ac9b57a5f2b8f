//! What a /sync answered.

use serde_json::Value;

use crate::{Answer, User};

/// One answer of /sync.
#[derive(Clone, Debug)]
pub struct Sync {
    pub next_batch: String,
    pub body: Value,
}

impl From<Answer> for Sync {
    #[track_caller]
    fn from(answer: Answer) -> Self {
        let body = answer.ok();
        let next_batch = body["next_batch"].as_str().expect("next_batch is required").to_owned();
        Self { next_batch, body }
    }
}

impl Sync {
    /// The room's part under `join`, `null` where it has none.
    pub fn joined(&self, room: &str) -> &Value {
        &self.body["rooms"]["join"][room]
    }

    /// What the newest presence event of this user says.
    pub fn presence(&self, user_id: &str) -> Option<Value> {
        let events = list(&self.body["presence"]["events"]);
        let of_user = events.into_iter().rfind(|event| event["type"] == "m.presence" && event["sender"] == *user_id);
        of_user.map(|event| event["content"].clone())
    }

    /// Whether the user's presence is told and is this.
    pub fn shows(&self, user: &User, presence: &str) -> bool {
        self.presence(&user.id).is_some_and(|content| content["presence"] == *presence)
    }

    /// The room's part under `leave`.
    pub fn left(&self, room: &str) -> &Value {
        &self.body["rooms"]["leave"][room]
    }

    /// The room's stripped state under `invite`, empty where it has none.
    pub fn invite_state(&self, room: &str) -> Vec<Value> {
        list(&self.body["rooms"]["invite"][room]["invite_state"]["events"])
    }

    /// The room's stripped state under `knock`, empty where it has none.
    pub fn knock_state(&self, room: &str) -> Vec<Value> {
        list(&self.body["rooms"]["knock"][room]["knock_state"]["events"])
    }

    /// Events of the joined room's timeline.
    pub fn timeline(&self, room: &str) -> Vec<Value> {
        list(&self.joined(room)["timeline"]["events"])
    }

    /// Events of the joined room's state before the timeline.
    pub fn state(&self, room: &str) -> Vec<Value> {
        list(&self.joined(room)["state"]["events"])
    }

    /// Ephemeral events of the joined room of one type.
    pub fn ephemeral(&self, room: &str, kind: &str) -> Vec<Value> {
        let mut events = list(&self.joined(room)["ephemeral"]["events"]);
        events.retain(|event| event["type"] == kind);
        events
    }

    /// The joined room's receipts of one type, as (user, event, thread), in their order; the thread is empty for an
    /// unthreaded one.
    pub fn receipts(&self, room: &str, kind: &str) -> Vec<(String, String, String)> {
        let mut receipts = Vec::new();
        for event in self.ephemeral(room, "m.receipt") {
            for (event_id, kinds) in event["content"].as_object().expect("a content") {
                for (user, receipt) in kinds[kind].as_object().into_iter().flatten() {
                    assert!(receipt["ts"].is_u64(), "{receipt}");
                    let thread = receipt["thread_id"].as_str().unwrap_or_default();
                    receipts.push((user.clone(), event_id.clone(), thread.to_owned()));
                }
            }
        }
        receipts.sort();
        receipts
    }

    /// Who types in the joined room, if this answer says so.
    pub fn typing(&self, room: &str) -> Option<Vec<String>> {
        let event = self.ephemeral(room, "m.typing").pop()?;
        let users = event["content"]["user_ids"].as_array().expect("user_ids").clone();
        Some(users.iter().filter_map(|user| user.as_str().map(str::to_owned)).collect())
    }

    pub fn is_limited(&self, room: &str) -> bool {
        self.joined(room)["timeline"]["limited"] == true
    }

    #[track_caller]
    pub fn prev_batch(&self, room: &str) -> &str {
        let timeline = &self.joined(room)["timeline"];
        timeline["prev_batch"].as_str().unwrap_or_else(|| panic!("no prev_batch in {timeline}"))
    }

    /// Bodies of the messages in the joined room's timeline.
    pub fn messages(&self, room: &str) -> Vec<String> {
        bodies(&self.timeline(room))
    }

    /// Whether the joined room's timeline has this message.
    pub fn has_message(&self, room: &str, body: &str) -> bool {
        self.messages(room).iter().any(|message| message == body)
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// The bodies of the m.room.message events among these.
pub fn bodies(events: &[Value]) -> Vec<String> {
    let messages = events.iter().filter(|event| event["type"] == "m.room.message");
    messages.filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
}

pub fn event_ids(events: &[Value]) -> Vec<String> {
    events.iter().filter_map(|event| event["event_id"].as_str().map(str::to_owned)).collect()
}
