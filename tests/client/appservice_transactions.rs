//! Spec: Application Service API, «Pushing events».

use harness::{Bridge, Client, Server, encode, json, on_each_host, query};

on_each_host![
    it_is_told_what_happens_where_its_users_are,
    it_hears_who_types_and_who_read,
    a_room_with_its_alias_is_its_own,
    a_transaction_is_repeated_until_it_is_taken,
];

struct Bridged {
    server: Server,
    bridge: Bridge,
}

fn starts(host: harness::Host) -> Bridged {
    let bridge = Bridge::starts();
    let server = Server::with(host, &[("APPSERVICES", &bridge.registration())]);
    Bridged { server, bridge }
}

impl Bridged {
    fn client(&self) -> Client {
        self.server.anonymous().with_token("as-secret")
    }

    /// A new user of the bridge.
    fn ghost(&self) -> String {
        let username = self.server.unique("_irc_ghost");
        let body = json!({ "type": "m.login.application_service", "username": username, "inhibit_login": true });
        self.client().post("/_matrix/client/v3/register", body).ok()["user_id"].as_str().expect("an id").to_owned()
    }

    fn joins(&self, ghost: &str, room: &str) {
        let path = format!("/_matrix/client/v3/join/{}{}", encode(room), query(&[("user_id", ghost)]));
        self.client().post(&path, json!({})).ok();
    }
}

fn it_is_told_what_happens_where_its_users_are(server: &Server) {
    let home = starts(server.host());
    let (alice, ghost) = (home.server.registers("alice"), home.ghost());
    let unheard = alice.creates_room(json!({}));
    alice.sends(&unheard, "unheard");
    let room = alice.creates_room(json!({ "name": "Den" }));
    alice.sends(&room, "before");
    alice.post(&format!("/rooms/{}/invite", encode(&room)), json!({ "user_id": ghost })).ok();
    let invitation = home.bridge.hears(|_| true);
    assert_eq!((&invitation["content"]["membership"], &invitation["state_key"]), (&json!("invite"), &json!(ghost)));
    assert_eq!((&invitation["room_id"], &invitation["sender"]), (&json!(room), &json!(alice.id)));
    let shown = invitation["unsigned"]["invite_room_state"].as_array().expect("it is shown the room");
    assert!(shown.iter().any(|event| event["content"]["name"] == "Den"), "{shown:?}");
    home.joins(&ghost, &room);
    let event_id = alice.sends(&room, "hello");
    assert_eq!(home.bridge.hears(|event| event["content"]["membership"] == "join")["state_key"], json!(ghost));
    let message = home.bridge.hears(|_| true);
    assert_eq!((&message["event_id"], &message["content"]["body"]), (&json!(event_id), &json!("hello")));
    assert!(message["unsigned"]["age"].is_number() && message.get("state_key").is_none(), "{message}");
    alice.sends_numbers(&room, 1..=5);
    for number in 1..=5 {
        assert_eq!(home.bridge.hears_message(), number.to_string());
    }
    let kick = json!({ "user_id": ghost });
    alice.post(&format!("/rooms/{}/kick", encode(&room)), kick).ok();
    alice.sends(&room, "alone");
    home.joins(&ghost, &alice.creates_room(json!({ "preset": "public_chat" })));
    assert_eq!(home.bridge.hears(|_| true)["content"]["membership"], "leave");
    assert_eq!(home.bridge.hears(|_| true)["content"]["membership"], "join", "nothing between");
}

fn it_hears_who_types_and_who_read(server: &Server) {
    let home = starts(server.host());
    let (alice, ghost) = (home.server.registers("alice"), home.ghost());
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    home.joins(&ghost, &room);
    let event_id = alice.sends(&room, "hello");
    alice.types(&room, json!({ "typing": true, "timeout": 30000 })).ok();
    let typing = home.bridge.hears(|event| event["type"] == "m.typing");
    assert_eq!((&typing["room_id"], &typing["content"]["user_ids"]), (&json!(room), &json!([alice.id])));
    alice.reads(&room, "m.read", &event_id, json!({})).ok();
    let receipt = home.bridge.hears(|event| event["type"] == "m.receipt");
    assert_eq!(receipt["room_id"], json!(room));
    assert!(receipt["content"][&event_id]["m.read"][&alice.id]["ts"].is_number(), "{receipt}");
    alice.sets_presence(json!({ "presence": "unavailable", "status_msg": "tea" })).ok();
    let presence = home.bridge.hears(|event| event["content"]["status_msg"] == "tea");
    assert_eq!((&presence["type"], &presence["sender"]), (&json!("m.presence"), &json!(alice.id)));
}

fn a_room_with_its_alias_is_its_own(server: &Server) {
    let home = starts(server.host());
    let alice = home.server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.sends(&room, "before");
    let alias = format!("/directory/room/{}", encode(&format!("#_irc_a:{}", harness::SERVER_NAME)));
    alice.put(&alias, json!({ "room_id": room })).ok();
    alice.sends(&room, "named");
    assert_eq!(home.bridge.hears_message(), "named");
    alice.delete(&alias, json!({})).ok();
    alice.sends(&room, "after");
    alice.put(&alias, json!({ "room_id": room })).ok();
    alice.sends(&room, "again");
    assert_eq!(home.bridge.hears_message(), "again");
}

/// The bridge is away, and so is the server for a moment.
fn a_transaction_is_repeated_until_it_is_taken(server: &Server) {
    let home = starts(server.host());
    let (alice, ghost) = (home.server.registers("alice"), home.ghost());
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    home.joins(&ghost, &room);
    home.bridge.hears(|event| event["content"]["membership"] == "join");
    home.bridge.refuses(true);
    alice.sends(&room, "one");
    let (id, body) = home.bridge.next_transaction();
    let ids = |body: &harness::Value| {
        let events = body["events"].as_array().expect("events").iter();
        events.map(|event| event["event_id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(body["events"][0]["content"]["body"], "one");
    alice.sends(&room, "two");
    let (again, same) = home.bridge.next_transaction();
    assert_eq!((&again, ids(&same)), (&id, ids(&body)));
    home.server.dies_and_returns();
    let (again, same) = home.bridge.next_transaction();
    assert_eq!((&again, ids(&same)), (&id, ids(&body)));
    home.bridge.refuses(false);
    // It says that it is back.
    home.client().post("/_matrix/client/v1/appservice/IRC%20Bridge/ping", json!({})).ok();
    assert_eq!((home.bridge.hears_message(), home.bridge.hears_message()), ("one".to_owned(), "two".to_owned()));
}
