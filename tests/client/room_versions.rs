//! Every room version, 1 to 12. Spec: «Room Versions».

use harness::{Host, SERVER_NAME, Server, json, run};

macro_rules! on_each_host_and_version {
    ($($name:ident $version:literal),*) => {
        mod native {
            $(#[test] fn $name() { super::run(super::Host::Native, |server| super::a_conversation_in_version(server, $version)); })*
        }
        mod worker {
            $(#[test] fn $name() { super::run(super::Host::Worker, |server| super::a_conversation_in_version(server, $version)); })*
        }
    };
}

on_each_host_and_version![
    v1 "1", v2 "2", v3 "3", v4 "4", v5 "5", v6 "6", v7 "7", v8 "8", v9 "9", v10 "10", v11 "11", v12 "12"
];

fn a_conversation_in_version(server: &Server, version: &str) {
    let number: u32 = version.parse().expect("a number");
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room(json!({ "room_version": version, "name": "Versioned", "preset": "private_chat" }));

    // Since v12 the room id is the create event's hash and names no server.
    assert_eq!(room.ends_with(&format!(":{SERVER_NAME}")), number < 12, "{room}");
    let create = alice.state(&room, "m.room.create", "").ok();
    assert_eq!(create["room_version"].as_str().unwrap_or("1"), version);
    // Since v11 the creator is the sender of the create event alone.
    assert_eq!(create["creator"].is_string(), number < 11, "{create}");
    // Since v12 creators stand above all levels and may not be listed.
    let levels = alice.state(&room, "m.room.power_levels", "").ok();
    assert_eq!(levels["users"][&alice.id] == 100, number < 12, "{levels}");
    if number >= 12 {
        let tombstone = levels["events"]["m.room.tombstone"].as_i64().expect("a level");
        assert!(tombstone > levels["state_default"].as_i64().unwrap_or(50), "{levels}");
    }

    carol.joins(&room).refused(403, "M_FORBIDDEN");
    alice.invites(&room, &bob).ok();
    bob.joins(&room).ok();
    let event_id = bob.sends(&room, "hello");
    // v1 and v2: ids the server made up. Since v3: hashes, url-safe since v4.
    assert_eq!(event_id.ends_with(&format!(":{SERVER_NAME}")), number < 3, "{event_id}");
    if number >= 4 {
        assert!(!event_id.contains(['+', '/']), "{event_id}");
    }

    let sync = alice.syncs();
    assert!(sync.has_message(&room, "hello"), "{}", sync.body);
    bob.sets_state(&room, "m.room.name", "", json!({ "name": "Bob's" })).refused(403, "M_FORBIDDEN");
    alice.kicks(&room, &bob).ok();
    bob.says(&room, "not any more").refused(403, "M_FORBIDDEN");
    alice.bans(&room, &bob).ok();
    alice.invites(&room, &bob).refused(403, "M_FORBIDDEN");
    let first = alice.pages_back(&room, None, 100).pop().expect("an event");
    assert_eq!(first["type"], "m.room.create");
}
