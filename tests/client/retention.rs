//! MSC1763, `m.room.retention`, as Synapse has it: what is said is not kept longer than the room wants.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Server, User, encode, event_ids, json, on_each_host};

on_each_host![what_is_old_is_gone_everywhere, nothing_goes_where_it_is_off];

/// Long after it is due, on a busy machine.
const GOES_WITHIN: Duration = Duration::from_secs(40);

fn shows(user: &User, room: &str, event: &str) -> u16 {
    user.get(&format!("/rooms/{}/event/{}", encode(room), encode(event))).status
}

fn what_is_old_is_gone_everywhere(server: &Server) {
    let server = Server::with(server.host(), &[("RETENTION", "on"), ("RETENTION_MIN", "1s"), ("RETENTION_MAX", "1h")]);
    let [alice, bob] = ["alice", "bob"].map(|name| server.registers(name));
    let room = alice.creates_room_with(&[&bob]);
    alice.sets_state(&room, "m.room.name", "", json!({ "name": "Tea" })).ok();
    alice.sets_state(&room, "m.room.retention", "", json!({ "max_lifetime": "1d" })).refused(400, "M_BAD_JSON");
    let backwards = json!({ "min_lifetime": 2, "max_lifetime": 1 });
    alice.sets_state(&room, "m.room.retention", "", backwards).refused(400, "M_BAD_JSON");
    let said = alice.sends(&room, "a secret kettle");
    let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": said, "key": "+" } });
    alice.sends_event(&room, "m.reaction", "r", reaction).ok();
    let searches = || {
        let criteria = json!({ "search_categories": { "room_events": { "search_term": "kettle" } } });
        bob.post("/search", criteria).ok()["search_categories"]["room_events"]["results"].as_array().map(Vec::len)
    };
    assert_eq!((shows(&bob, &room, &said), searches()), (200, Some(1)));
    assert_eq!(bob.syncs().joined(&room)["unread_notifications"]["notification_count"], 1);

    alice.sets_state(&room, "m.room.retention", "", json!({ "max_lifetime": 1 })).ok();
    let deadline = Instant::now() + GOES_WITHIN;
    while shows(&bob, &room, &said) != 404 {
        assert!(Instant::now() < deadline, "it is still shown");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(searches(), Some(0));
    let history = bob.pages_back(&room, None, 100);
    assert!(!event_ids(&history).contains(&said) && !format!("{history:?}").contains("kettle"));
    assert!(history.iter().any(|event| event["type"] == "m.room.name"), "state stays");
    bob.get(&format!("/rooms/{}/context/{}", encode(&room), encode(&said))).refused(404, "M_NOT_FOUND");
    let children = format!("/_matrix/client/v1/rooms/{}/relations/{}", encode(&room), encode(&said));
    bob.client().get(&children).refused(404, "M_NOT_FOUND");
    assert_eq!(bob.syncs().joined(&room)["unread_notifications"]["notification_count"], 0);
    // What is gone stays gone, whatever the room says later; what comes now comes after it.
    alice.sets_state(&room, "m.room.retention", "", json!({ "max_lifetime": 3_600_000 })).ok();
    let new = alice.sends(&room, "still here");
    assert_eq!((shows(&bob, &room, &said), shows(&bob, &room, &new)), (404, 200));
    server.dies_and_returns();
    assert_eq!((shows(&bob, &room, &said), shows(&bob, &room, &new)), (404, 200));
}

fn nothing_goes_where_it_is_off(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let said = alice.sends(&room, "kept");
    alice.sets_state(&room, "m.room.retention", "", json!({ "max_lifetime": "whatever" })).ok();
    alice.sends(&room, "and more");
    assert_eq!(shows(&alice, &room, &said), 200);
}
