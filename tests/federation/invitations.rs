//! Spec: server-server API, «Inviting to a room», «Knocking upon a room»: what is shown of a room that is elsewhere.

use harness::{Answer, Host, User, Value, encode, json};

use crate::{
    guest::Guest,
    network::{Federated, on_each_host},
};

on_each_host![
    what_is_shown_of_a_room_is_of_that_room,
    a_knock_is_answered_with_whole_events,
    whom_one_ignores_invites_in_vain,
];

/// A room of version 12 that is on the guest's server: the event that made it, and its id.
pub fn makes_room(guest: &Guest, number: u64) -> (Value, String) {
    let mut create = guest.draft("m.room.create", Some(""), json!({ "room_version": "12", "number": number }));
    for field in ["prev_events", "auth_events"] {
        create[field] = json!([]);
    }
    create.as_object_mut().unwrap().remove("room_id");
    let (id, create) = guest.completes(create);
    (create, id.replacen('$', "!", 1))
}

/// A state event of such a room, and its id.
pub fn in_room(guest: &Guest, room: &str, kind: &str, key: &str, content: Value) -> (String, Value) {
    let mut event = guest.draft(kind, Some(key), content);
    event["room_id"] = room.into();
    event["prev_events"] = json!([room.replacen('!', "$", 1)]);
    event["auth_events"] = json!([]);
    guest.completes(event)
}

fn names(guest: &Guest, room: &str, name: &str) -> Value {
    in_room(guest, room, "m.room.name", "", json!({ "name": name })).1
}

fn invites(guest: &Guest, room: &str, invited: &User, state: Value) -> Answer {
    let (id, event) = in_room(guest, room, "m.room.member", &invited.id, json!({ "membership": "invite" }));
    let path = format!("/_matrix/federation/v2/invite/{}/{}", encode(room), encode(&id));
    guest.asks("PUT", &path, Some(json!({ "room_version": "12", "event": event, "invite_room_state": state })))
}

fn what_is_shown_of_a_room_is_of_that_room(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let eve = Guest::starts(&here, "eve");
    let (create, room) = makes_room(&eve, 1);
    let (other_create, other) = makes_room(&eve, 2);
    let stripped = |event: &Value| json!({ "type": event["type"], "state_key": "", "sender": event["sender"], "content": event["content"] });
    let mut unsigned = create.clone();
    unsigned.as_object_mut().unwrap().remove("signatures");
    let name = names(&eve, &room, "Den");
    for (case, state) in [
        ("nothing", json!([])),
        ("not how it began", json!([name])),
        ("how another began", json!([other_create, name])),
        ("a name of another", json!([create, names(&eve, &other, "Lair")])),
        ("in a few words", json!([stripped(&create), stripped(&name)])),
        ("not signed", json!([unsigned])),
        ("too much", json!(vec![create.clone(); 65])),
    ] {
        let answer = invites(&eve, &room, &alice, state);
        assert_eq!((answer.status, &answer.body["errcode"]), (400, &json!("M_INVALID_PARAM")), "{case}");
    }
    assert!(alice.syncs().invite_state(&room).is_empty(), "she hears of none of these");
    // Besides the event that made the room others may be told in a few words, as Synapse does.
    for (room, state) in [(&room, json!([create, name])), (&other, json!([other_create, stripped(&name)]))] {
        let signed = invites(&eve, room, &alice, state).ok()["event"].clone();
        assert!(signed["signatures"][&here.name].is_object(), "{signed}");
        let shown = alice.sees(|sync| !sync.invite_state(room).is_empty()).invite_state(room);
        assert!(shown.iter().any(|event| event["content"]["name"] == "Den"), "{shown:?}");
        assert!(shown.iter().all(|event| event.get("signatures").is_none()), "stripped: {shown:?}");
    }
}

fn a_knock_is_answered_with_whole_events(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let rule = json!([{ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } }]);
    let room = alice
        .creates_room(json!({ "preset": "private_chat", "name": "Den", "room_version": "11", "initial_state": rule }));
    let zoe = Guest::starts(&here, "zoe");
    let path = format!("/_matrix/federation/v1/make_knock/{}/{}?ver=11", encode(&room), encode(&zoe.id));
    let (id, knock) = zoe.completes(zoe.asks("GET", &path, None).ok()["event"].clone());
    let path = format!("/_matrix/federation/v1/send_knock/{}/{}", encode(&room), encode(&id));
    let answer = zoe.asks("PUT", &path, Some(knock)).ok();
    let shown = answer["knock_room_state"].as_array().unwrap();
    assert!(shown.iter().any(|event| event["type"] == "m.room.create"), "{shown:?}");
    assert!(shown.iter().any(|event| event["content"]["name"] == "Den"), "{shown:?}");
    for event in shown {
        assert!(event["signatures"].is_object() && event["room_id"] == room.as_str(), "{event}");
    }
}

fn whom_one_ignores_invites_in_vain(host: Host) {
    let here = Federated::starts(host);
    let (alice, bob) = (here.server.registers("alice"), here.server.registers("bob"));
    let eve = Guest::starts(&here, "eve");
    let path = format!("/user/{}/account_data/m.ignored_user_list", encode(&alice.id));
    let ignores = |ignored: Value| drop(alice.put(&path, json!({ "ignored_users": ignored })).ok());
    ignores(json!({ (eve.id.as_str()): {}, (bob.id.as_str()): {} }));
    let since = alice.syncs().next_batch;
    let (create, elsewhere) = makes_room(&eve, 1);
    // What is shown of the room says that somebody else invites.
    let mut forged = eve.draft("m.room.member", Some(&alice.id), json!({ "membership": "invite" }));
    forged["sender"] = format!("@friend:{}", eve.homeserver.name).into();
    forged["room_id"] = elsewhere.as_str().into();
    forged["prev_events"] = json!([elsewhere.replacen('!', "$", 1)]);
    forged["auth_events"] = json!([]);
    let (_, forged) = eve.completes(forged);
    invites(&eve, &elsewhere, &alice, json!([create, forged])).ok();
    let room = bob.creates_room(json!({ "preset": "private_chat" }));
    bob.invites(&room, &alice).ok();
    // Somebody else's invitation comes after these.
    let carol = here.server.registers("carol");
    let other = carol.creates_room(json!({ "preset": "private_chat" }));
    carol.invites(&other, &alice).ok();
    let seen = alice.syncs_until(&since, |sync| !sync.invite_state(&other).is_empty());
    let whole = alice.syncs();
    for sync in [&seen, &whole] {
        for hidden in [&room, &elsewhere] {
            assert!(sync.invite_state(hidden).is_empty(), "{}", sync.body["rooms"]);
        }
    }
    ignores(json!({}));
    let whole = alice.syncs();
    for shown in [&room, &elsewhere, &other] {
        assert!(!whole.invite_state(shown).is_empty(), "{}", whole.body["rooms"]);
    }
    let former = alice.get("/initialSync").ok();
    let of = former["rooms"].as_array().unwrap().iter().find(|room| room["room_id"] == elsewhere.as_str()).unwrap();
    assert_eq!(of["invite"]["sender"], eve.id.as_str(), "{of}");
}
