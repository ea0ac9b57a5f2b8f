//! What one client knows, from its syncs alone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::devices::Devices;

#[derive(Default)]
pub(crate) struct View {
    pub(crate) user_id: String,
    pub(crate) since: Option<String>,
    pub(crate) joined: BTreeMap<String, RoomView>,
    pub(crate) invited: BTreeSet<String>,
    /// The ids of all events of timelines, by room.
    pub(crate) read: BTreeMap<String, BTreeSet<String>>,
    /// The devices of others as they were when it looked last, and whose it has to look at again.
    pub(crate) devices: BTreeMap<String, Devices>,
    pub(crate) outdated: BTreeSet<String>,
    /// The bodies of messages to the device.
    pub(crate) whispers: Vec<String>,
    /// Whether its server was put back to an older copy: then things may come again.
    pub(crate) may_repeat: bool,
    /// What no client should ever see, in words.
    pub(crate) complaints: Vec<String>,
}

#[derive(Default)]
pub(crate) struct RoomView {
    /// The event of each key of the state.
    pub(crate) state: BTreeMap<(String, String), String>,
    /// The ids of the events of the timeline since it was last cut.
    pub(crate) timeline: Vec<String>,
    /// Those of all events that were ever in it.
    seen: BTreeSet<String>,
}

impl View {
    /// Takes in the answer to a sync.
    pub(crate) fn takes(&mut self, answer: &Json) {
        for event in list(&answer["to_device"]["events"]) {
            self.whispers.push(text(&event["content"], "body"));
        }
        for user_id in list(&answer["device_lists"]["left"]).filter_map(Json::as_str) {
            self.outdated.remove(user_id);
            self.devices.remove(user_id);
        }
        for user_id in list(&answer["device_lists"]["changed"]).filter_map(Json::as_str) {
            self.outdated.insert(user_id.to_owned());
        }
        let rooms = &answer["rooms"];
        if self.since.is_none() {
            // Spec: `device_lists` is «only present on an incremental sync». At first a client looks at all members.
            let shown = entries(&rooms["join"])
                .flat_map(|(_, room)| list(&room["state_after"]["events"]).chain(list(&room["timeline"]["events"])));
            let joined =
                shown.filter(|event| event["type"] == "m.room.member" && event["content"]["membership"] == "join");
            let members = joined.map(|event| text(event, "state_key")).filter(|member| *member != self.user_id);
            self.outdated.extend(members);
        }
        for (room_id, room) in entries(&rooms["join"]) {
            self.invited.remove(room_id);
            let view = self.joined.entry(room_id.clone()).or_default();
            for complaint in view.takes(room, &self.user_id, self.may_repeat) {
                self.complaints.push(format!("{room_id}: {complaint}"));
            }
        }
        for (room_id, _) in entries(&rooms["invite"]) {
            self.joined.remove(room_id);
            self.invited.insert(room_id.clone());
        }
        for (room_id, _) in entries(&rooms["knock"]) {
            self.joined.remove(room_id);
            self.invited.remove(room_id);
        }
        for (room_id, room) in entries(&rooms["join"]).chain(entries(&rooms["leave"])) {
            // What became of their own membership is theirs to know, and may be known elsewhere only: an invitation is
            // turned down where the room is.
            let is_own =
                |event: &&Json| event["type"] == "m.room.member" && event["state_key"] == self.user_id.as_str();
            let read = list(&room["timeline"]["events"]).filter(|event| !is_own(event));
            self.read.entry(room_id.clone()).or_default().extend(read.map(|event| text(event, "event_id")));
        }
        for (room_id, _) in entries(&rooms["leave"]) {
            self.joined.remove(room_id);
            self.invited.remove(room_id);
        }
        match answer["next_batch"].as_str() {
            Some(next) => self.since = Some(next.to_owned()),
            None => self.complaints.push(format!("an answer without next_batch: {answer}")),
        }
    }
}

impl View {
    /// An actor of its server was put back to an older copy.
    pub(crate) fn may_repeat(&mut self) {
        self.may_repeat = true;
    }
}

impl RoomView {
    fn takes(&mut self, room: &Json, user_id: &str, may_repeat: bool) -> Vec<String> {
        let mut complaints = Vec::new();
        for event in list(&room["state_after"]["events"]) {
            let key = (text(event, "type"), text(event, "state_key"));
            self.state.insert(key, text(event, "event_id"));
        }
        let timeline = &room["timeline"];
        if timeline["limited"] == true {
            self.timeline.clear();
        }
        if list(&timeline["events"]).any(|event| event["state_key"] == user_id && event["type"] == "m.room.member") {
            // Who comes back sees again what there was.
            let shown: BTreeSet<String> = list(&timeline["events"]).map(|event| text(event, "event_id")).collect();
            if !self.seen.is_disjoint(&shown) {
                self.timeline.clear();
            }
            self.seen.clear();
        }
        for event in list(&timeline["events"]) {
            let event_id = text(event, "event_id");
            if !self.seen.insert(event_id.clone()) && !may_repeat {
                complaints.push(format!("{event_id} came twice"));
            }
            self.timeline.push(event_id);
        }
        complaints
    }
}

fn entries(object: &Json) -> impl Iterator<Item = (&String, &Json)> {
    object.as_object().into_iter().flatten()
}

fn list(array: &Json) -> impl Iterator<Item = &Json> {
    array.as_array().into_iter().flatten()
}

fn text(event: &Json, field: &str) -> String {
    event[field].as_str().unwrap_or_default().to_owned()
}
