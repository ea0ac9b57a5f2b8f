//! Whom and what an operation is asked about: alice, who asks, bob in a room with her, mallory, who is nobody there,
//! and of hers as much as the operation names.

use std::collections::BTreeMap;

use harness::{PASSWORD, SHARED_SECRET, Server, User, Value, encode, json, pictures};
use image::ImageFormat;

use super::{Case, Operation};

/// A backup of keys. Spec: `POST /room_keys/version`.
const BACKUP: &str =
    r#"{"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2","auth_data":{"public_key":"k","signatures":{}}}"#;
/// A key in it.
const KEY: &str = r#"{"first_message_index":0,"forwarded_count":0,"is_verified":false,"session_data":{}}"#;

pub(super) struct Fixture {
    pub asker: User,
    pub stranger: User,
    /// What stands for the variables of the path, and for `%names%` in queries and bodies.
    values: BTreeMap<&'static str, String>,
}

impl Fixture {
    pub(super) fn of(server: &Server, operation: &Operation, case: &Case) -> Self {
        let [alice, bob, mallory] = ["alice", "bob", "mallory"].map(|name| server.registers(name));
        let is_of_administrators = operation.path.contains("/client/v1/admin/");
        let asker = if is_of_administrators { administrator(server) } else { alice };
        let of_bob = is_of_administrators || operation.id == "reportUser";
        let values = BTreeMap::from([
            ("userId", if of_bob { bob.id.clone() } else { asker.id.clone() }),
            ("bob", bob.id.clone()),
            ("mallory", mallory.id.clone()),
            ("deviceId", asker.device_id.clone()),
            ("proof", asker.proof(PASSWORD).to_string()),
            ("new", server.unique("new")),
            ("backup", BACKUP.to_owned()),
            ("key", KEY.to_owned()),
        ]);
        let mut fixture = Self { asker, stranger: mallory, values };
        let mentions = |names: &[&str]| names.iter().any(|name| case.mentions(operation, name));
        if mentions(&["roomId", "roomIdOrAlias", "roomAlias", "eventId"]) {
            fixture.has_a_room(operation.id, &bob);
        }
        if mentions(&["roomAlias"]) {
            fixture.has_an_alias(operation.id, server);
        }
        if mentions(&["version"]) || operation.id == "getRoomKeysVersionCurrent" {
            fixture.has_a_backup(mentions(&["sessionId"]));
        }
        if mentions(&["mediaId"]) {
            fixture.has_media(operation.id);
        }
        if mentions(&["deviceId"]) && operation.path.contains("device") {
            let other = fixture.asker.logs_in_again().device_id;
            fixture.values.insert("deviceId", other);
        }
        if mentions(&["since"]) {
            let since = fixture.asker.syncs().next_batch;
            fixture.values.insert("since", since);
        }
        fixture.has_small_things(operation);
        fixture
    }

    fn has_a_room(&mut self, id: &str, bob: &User) {
        let room = if id == "knockRoom" {
            let rule = json!([{ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } }]);
            bob.creates_room(json!({ "initial_state": rule }))
        } else {
            let room = self.asker.creates_room(json!({ "name": "A room", "invite": [bob.id] }));
            bob.joins(&room).ok();
            let event_id = self.asker.sends(&room, "hello");
            self.values.insert("eventId", event_id);
            room
        };
        match id {
            "forgetRoom" => drop(self.asker.leaves(&room).ok()),
            "unban" => drop(self.asker.bans(&room, bob).ok()),
            _ => {}
        }
        self.values.insert("roomId", room.clone());
        self.values.insert("roomIdOrAlias", room);
    }

    fn has_an_alias(&mut self, id: &str, server: &Server) {
        let alias = format!("#{}:myelin.test", server.unique("alias"));
        if id != "setRoomAlias" {
            let room = json!({ "room_id": self.values["roomId"] });
            self.asker.put(&format!("/directory/room/{}", encode(&alias)), room).ok();
        }
        self.values.insert("roomAlias", alias);
    }

    fn has_a_backup(&mut self, with_a_key: bool) {
        let parsed = |text: &str| harness::serde_json::from_str::<Value>(text).expect("JSON");
        let made = self.asker.post("/room_keys/version", parsed(BACKUP)).ok();
        let version = made["version"].as_str().expect("a version").to_owned();
        if with_a_key {
            let room = encode(&self.values["roomId"]);
            // Where little is allowed, this may be too much.
            let _ = self.asker.put(&format!("/room_keys/keys/{room}/session?version={version}"), parsed(KEY));
        }
        self.values.insert("version", version);
        self.values.insert("sessionId", "session".to_owned());
    }

    fn has_media(&mut self, id: &str) {
        let mxc = if id == "uploadContentToMXC" {
            let made = self.asker.client().post("/_matrix/media/v1/create", json!({})).ok();
            made["content_uri"].as_str().expect("a URI").trim_start_matches("mxc://").to_owned()
        } else {
            let picture = pictures::encoded(&pictures::two_colours(64, 64), ImageFormat::Png);
            self.asker.uploads("image/png", None, picture)
        };
        let (server_name, media_id) = mxc.split_once('/').expect("two parts");
        self.values.insert("serverName", server_name.to_owned());
        self.values.insert("mediaId", media_id.to_owned());
    }

    fn has_small_things(&mut self, operation: &Operation) {
        let user = encode(&self.asker.id);
        if operation.path.ends_with("/filter/{filterId}") {
            let made = self.asker.post(&format!("/user/{user}/filter"), json!({})).ok();
            self.values.insert("filterId", made["filter_id"].as_str().expect("an id").to_owned());
        }
        if operation.path.contains("/account_data/") {
            self.values.insert("type", "org.test.kept".to_owned());
            let in_room = self.values.get("roomId").map(|room| format!("/rooms/{}", encode(room))).unwrap_or_default();
            self.asker.put(&format!("/user/{user}{in_room}/account_data/org.test.kept"), json!({ "kept": 0 })).ok();
        }
        if operation.path.contains("{ruleId}") && operation.id != "setPushRule" {
            let rule = json!({ "conditions": [], "actions": [] });
            self.asker.put("/pushrules/global/override/org.test.rule", rule).ok();
        }
        self.values.insert("ruleId", "org.test.rule".to_owned());
        if operation.id == "getProfileField" {
            self.asker.put(&format!("/profile/{user}/displayname"), json!({ "displayname": "Alice" })).ok();
        }
    }

    /// What stands for a variable, or a name; `None`: nobody has made such a thing.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        self.values.get(name).cloned()
    }
}

fn administrator(server: &Server) -> User {
    let account = server.registers_by_secret(&server.unique("admin"), SHARED_SECRET, true).ok();
    User::from_login(&server.anonymous(), &account)
}
