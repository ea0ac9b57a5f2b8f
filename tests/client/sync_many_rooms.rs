//! Spec: client-server API, «Syncing», for an account in more rooms than are told in one piece.

use harness::{Server, Sync, Value, encode, json, on_each_host};

on_each_host![many_rooms_are_told_like_few];

/// More than the server reads at a time, twice.
const ROOMS: usize = 140;
const LEFT: usize = 3;

fn many_rooms_are_told_like_few(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let rooms: Vec<String> =
        (0..ROOMS).map(|number| alice.creates_room(json!({ "name": number.to_string() }))).collect();
    let left = &rooms[..LEFT];
    for room in left {
        alice.leaves(room).ok();
    }
    let invitation = bob.creates_room(json!({ "invite": [alice.id] }));
    let (tagged, last) = (&rooms[LEFT], &rooms[ROOMS - 1]);
    let data = |path: &str| format!("/user/{}/{path}", encode(&alice.id));
    let of_room = data(&format!("rooms/{}/account_data/org.example.colour", encode(tagged)));
    alice.put(&of_room, json!({ "colour": "blue" })).ok();
    alice.put(&data("account_data/org.example.colour"), json!({ "colour": "red" })).ok();

    let filter = json!({ "room": { "include_leave": true } }).to_string();
    let first = Sync::from(alice.asks_sync(&[("filter", &filter), ("timeout", "0")]));
    let sections = &first.body["rooms"];
    let count = |section: &str| sections[section].as_object().map_or(0, |rooms| rooms.len());
    assert_eq!((count("join"), count("leave"), count("invite")), (ROOMS - LEFT, LEFT, 1));
    for (number, room) in rooms.iter().enumerate() {
        let section = if number < LEFT { "leave" } else { "join" };
        let events = sections[section][room]["timeline"]["events"].as_array().expect("a timeline");
        let state = sections[section][room]["state"]["events"].as_array().expect("state");
        let name = events.iter().chain(state).find(|event| event["type"] == "m.room.name");
        assert_eq!(name.expect("a name")["content"]["name"], number.to_string());
    }
    assert!(sections["invite"][&invitation]["invite_state"]["events"].is_array());
    let colour = |events: &Value| events[0]["content"]["colour"].clone();
    assert_eq!(colour(&sections["join"][tagged]["account_data"]["events"]), "blue");
    let own = first.body["account_data"]["events"].as_array().expect("account data");
    assert!(own.iter().any(|event| event["content"]["colour"] == "red"), "{own:?}");

    // The token stands where it should: what comes next is only what is new.
    let event_id = alice.sends(last, "news");
    let second = alice.syncs_until(&first.next_batch, |sync| sync.has_message(last, "news"));
    let told: Vec<_> = second.body["rooms"]["join"].as_object().expect("rooms").keys().collect();
    assert!(told.iter().all(|room| [last, tagged].contains(room)), "{told:?}");
    assert!(second.body["rooms"]["leave"].is_null(), "{}", second.body);
    let timeline = second.joined(last)["timeline"]["events"].as_array().expect("a timeline").clone();
    assert_eq!(timeline.iter().map(|event| &event["event_id"]).collect::<Vec<_>>(), [&event_id]);

    // As a whole again, on demand.
    let again = Sync::from(alice.asks_sync(&[("since", &second.next_batch), ("full_state", "true"), ("timeout", "0")]));
    assert_eq!(again.body["rooms"]["join"].as_object().map_or(0, |rooms| rooms.len()), ROOMS - LEFT);
}
