//! Spec: client-server API, «Push Notifications»; Push Gateway API.

use harness::{Gateway, PASSWORD, PerHost, Server, Sync, User, Value, encode, json, on_each_host};

on_each_host![
    a_pusher_comes_and_goes,
    what_cannot_be_is_refused,
    an_event_is_pushed_with_what_there_is_to_know,
    a_client_may_want_ids_alone,
    the_badge_counts_what_is_unread_everywhere,
    a_call_is_missed_until_it_is_answered,
    what_does_not_notify_is_not_pushed,
    tweaks_are_the_rules,
    an_invitation_is_pushed,
    a_user_whom_nobody_waits_for_is_told_all_the_same,
    a_rejected_pusher_is_removed,
    a_pusher_is_switched_off_and_on_from_another_device,
    a_pusher_goes_with_its_device,
    a_pusher_goes_with_a_changed_password,
    a_key_is_one_users,
    a_gateway_that_fails_gets_it_later,
    a_push_survives_the_servers_death,
];

const APP: &str = "org.example.app.ios";
const ENABLED: &str = "org.matrix.msc3881.enabled";
const DEVICE: &str = "org.matrix.msc3881.device_id";

/// A server that reaches gateways on this machine; shared by these stories.
fn ours(server: &Server) -> &'static Server {
    static SHARED: PerHost<Server> = PerHost::new();
    SHARED.of(server.host(), || Server::with_network(server.host(), &[]))
}

fn pusher(gateway: &Gateway, pushkey: &str) -> Value {
    json!({
        "kind": "http", "app_id": APP, "pushkey": pushkey, "app_display_name": "App", "device_display_name": "Phone",
        "profile_tag": "tag", "lang": "en", "data": { "url": gateway.url(), "org.example": [1] },
    })
}

fn sets(user: &User, pusher: &Value) {
    assert_eq!(user.post("/pushers/set", pusher.clone()).ok(), json!({}));
}

fn removes(user: &User, pushkey: &str) {
    sets(user, &json!({ "kind": null, "app_id": APP, "pushkey": pushkey }));
}

/// The user's pushers as they are shown: with what MSC3881 adds.
fn shown(user: &User) -> Vec<Value> {
    user.get("/pushers").ok()["pushers"].as_array().expect("a list").clone()
}

/// The user's pushers, as they were set.
fn pushers(user: &User) -> Vec<Value> {
    let mut pushers = shown(user);
    for pusher in pushers.iter_mut().filter_map(Value::as_object_mut) {
        let added = [pusher.remove(ENABLED), pusher.remove(DEVICE)];
        assert!(added.iter().all(Option::is_some), "{pusher:?}");
    }
    pushers
}

fn keys(user: &User) -> Vec<String> {
    pushers(user).iter().map(|pusher| pusher["pushkey"].as_str().expect("a key").to_owned()).collect()
}

/// Alice and Bob in a room with Carol, where nothing is special about two; Bob's notifications go to the gateway.
fn three(server: &Server, gateway: &Gateway) -> (User, User, String) {
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    let room = alice.creates_room_with(&[&bob, &carol]);
    sets(&bob, &pusher(gateway, &bob.id));
    (alice, bob, room)
}

fn a_pusher_comes_and_goes(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    assert_eq!(pushers(&alice), Vec::<Value>::new());
    let mut mine = pusher(&gateway, &alice.id);
    sets(&alice, &mine);
    sets(&alice, &mine);
    assert_eq!(pushers(&alice), [mine.clone()]);
    assert_eq!(pushers(&bob), Vec::<Value>::new());
    mine["lang"] = "de".into();
    sets(&alice, &mine);
    assert_eq!(pushers(&alice), [mine]);
    sets(&alice, &pusher(&gateway, "second"));
    assert_eq!(keys(&alice), [&*alice.id, "second"]);
    removes(&alice, "second");
    removes(&alice, "second");
    assert_eq!(keys(&alice), [&*alice.id]);
}

fn what_cannot_be_is_refused(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let alice = server.registers("alice");
    let good = pusher(&gateway, "k");
    let refused = |change: &dyn Fn(&mut Value), errcode: &str| {
        let mut pusher = good.clone();
        change(&mut pusher);
        alice.post("/pushers/set", pusher).refused(400, errcode)
    };
    for field in ["kind", "app_id", "pushkey", "app_display_name", "device_display_name", "lang", "data"] {
        let said = refused(&|pusher| drop(pusher.as_object_mut().expect("an object").remove(field)), "M_MISSING_PARAM");
        assert!(said["error"].as_str().is_some_and(|error| error.contains(field)), "{said}");
    }
    refused(&|pusher| pusher["data"] = json!({}), "M_MISSING_PARAM");
    for url in [
        "http://localhost/_matrix/push/v1/notify",
        "https://localhost/",
        "https://localhost/_matrix/push/v1/notify/",
        "/_matrix/push/v1/notify",
    ] {
        refused(&|pusher| pusher["data"]["url"] = url.into(), "M_INVALID_PARAM");
    }
    refused(&|pusher| pusher["app_id"] = "a".repeat(65).into(), "M_INVALID_PARAM");
    refused(&|pusher| pusher["pushkey"] = "k".repeat(513).into(), "M_INVALID_PARAM");
    refused(&|pusher| pusher["kind"] = "pigeon".into(), "M_INVALID_PARAM");
    let said = refused(&|pusher| pusher["kind"] = "email".into(), "M_INVALID_PARAM");
    assert!(said["error"].as_str().is_some_and(|error| error.contains("mail")), "{said}");
    refused(&|pusher| pusher["lang"] = 1.into(), "M_BAD_JSON");
    assert_eq!(pushers(&alice), Vec::<Value>::new());
    server.anonymous().get("/_matrix/client/v3/pushers").refused(401, "M_MISSING_TOKEN");
    server.anonymous().post("/_matrix/client/v3/pushers/set", good).refused(401, "M_MISSING_TOKEN");
}

fn an_event_is_pushed_with_what_there_is_to_know(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let (alice, bob, room) = three(server, &gateway);
    alice.put(&format!("/profile/{}/displayname", alice.id), json!({ "displayname": "Alice L." })).ok();
    alice.sets_state(&room, "m.room.name", "", json!({ "name": "Tea" })).ok();
    let event_id = alice.sends(&room, "hello");
    let mut told = gateway.takes();
    let pushkey_ts = told["devices"][0]["pushkey_ts"].take().as_u64().expect("a time");
    assert!((1_700_000_000..10_000_000_000).contains(&pushkey_ts), "{pushkey_ts} in seconds");
    let expected = json!({
        "event_id": event_id, "room_id": room, "type": "m.room.message", "sender": alice.id,
        "sender_display_name": "Alice L.", "room_name": "Tea", "prio": "low",
        "content": { "msgtype": "m.text", "body": "hello" },
        "counts": { "unread": 1 },
        "devices": [{ "app_id": APP, "pushkey": bob.id, "pushkey_ts": null, "data": { "org.example": [1] } }],
    });
    assert_eq!(told, expected);
}

fn a_client_may_want_ids_alone(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let (alice, bob, room) = three(server, &gateway);
    let mut pusher = pusher(&gateway, &bob.id);
    pusher["data"]["format"] = "event_id_only".into();
    sets(&bob, &pusher);
    let event_id = alice.sends(&room, "hello");
    let told = gateway.takes();
    let fields: Vec<_> = told.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(fields, ["counts", "devices", "event_id", "prio", "room_id"]);
    assert_eq!((&told["event_id"], &told["room_id"]), (&json!(event_id), &json!(room)));
    assert_eq!(told["devices"][0]["data"], json!({ "format": "event_id_only", "org.example": [1] }));
}

fn the_badge_counts_what_is_unread_everywhere(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    let [here, there] = [(); 2].map(|()| alice.creates_room_with(&[&bob, &carol]));
    // Unread before there was a pusher.
    alice.sends(&there, "before");
    sets(&bob, &pusher(&gateway, &bob.id));
    let first = alice.sends(&here, "1");
    gateway.takes_event(&first);
    let second = alice.sends(&here, "2");
    let told = gateway.takes();
    assert_eq!((&told["event_id"], &told["counts"]), (&json!(second), &json!({ "unread": 3 })));
    bob.reads(&here, "m.read.private", &second, json!({})).ok();
    let told = gateway.takes();
    assert_eq!((told.get("event_id"), &told["counts"]), (None, &json!({ "unread": 1 })), "{told}");
    assert_eq!(told["devices"][0]["pushkey"], bob.id);
    // Whoever answers has read.
    bob.sends(&there, "an answer");
    assert_eq!(gateway.takes()["counts"], json!({ "unread": 0 }));
    let third = alice.sends(&here, "3");
    assert_eq!(gateway.takes()["counts"], json!({ "unread": 1 }));
    bob.reads(&here, "m.read", &third, json!({})).ok();
    assert_eq!(gateway.takes()["counts"], json!({ "unread": 0 }));
    // A room that was left has nothing to be read.
    alice.sends(&there, "4");
    assert_eq!(gateway.takes()["counts"], json!({ "unread": 1 }));
    bob.leaves(&there).ok();
    assert_eq!(gateway.takes()["counts"], json!({ "unread": 0 }));
}

fn a_call_is_missed_until_it_is_answered(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let (alice, bob, room) = three(server, &gateway);
    let call = json!({ "call_id": "1", "version": "1", "party_id": "p", "lifetime": 60_000, "offer": { "type": "offer", "sdp": "" } });
    alice.sends_event(&room, "m.call.invite", "call", call).ok();
    let told = gateway.takes();
    assert_eq!((&told["type"], &told["prio"]), (&json!("m.call.invite"), &json!("high")));
    assert_eq!(told["devices"][0]["tweaks"], json!({ "sound": "ring" }));
    assert_eq!(told["counts"], json!({ "unread": 1, "missed_calls": 1 }));
    let answer = json!({ "call_id": "1", "version": "1", "party_id": "q", "answer": { "type": "answer", "sdp": "" } });
    bob.sends_event(&room, "m.call.answer", "answer", answer).ok();
    assert_eq!(gateway.takes()["counts"], json!({ "unread": 0 }));
}

fn what_does_not_notify_is_not_pushed(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    let (room, muted) = (alice.creates_room_with(&[&bob, &carol]), alice.creates_room_with(&[&bob]));
    sets(&bob, &pusher(&gateway, &bob.id));
    bob.put(&format!("/pushrules/global/room/{}", encode(&muted)), json!({ "actions": [] })).ok();
    let hush = json!({ "kind": "event_match", "key": "content.body", "pattern": "hush" });
    bob.put("/pushrules/global/override/hush", json!({ "actions": [], "conditions": [hush] })).ok();
    alice.sends(&muted, "nobody hears this");
    alice.sends(&room, "hush");
    alice.sends_content(&room, json!({ "msgtype": "m.notice", "body": "a bot" }));
    alice.sets_state(&room, "m.room.topic", "", json!({ "topic": "t" })).ok();
    bob.sends(&room, "of their own");
    bob.ignores(&carol);
    carol.sends(&room, "not wanted");
    let last = alice.sends(&room, "this");
    let told = gateway.takes();
    assert_eq!((&told["event_id"], &told["counts"]), (&json!(last), &json!({ "unread": 1 })), "{told}");
}

fn tweaks_are_the_rules(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let (alice, bob, room) = three(server, &gateway);
    let actions = json!(["notify", { "set_tweak": "sound", "value": "cakealarm.wav" }, { "set_tweak": "org.example", "value": 1 }]);
    bob.put("/pushrules/global/content/cake", json!({ "pattern": "cake", "actions": actions })).ok();
    alice.sends(&room, "let them eat cake");
    let told = gateway.takes();
    assert_eq!(told["devices"][0]["tweaks"], json!({ "sound": "cakealarm.wav", "org.example": 1 }));
    assert_eq!(told["prio"], "high");
    alice.sends_content(&room, json!({ "msgtype": "m.text", "body": "you", "m.mentions": { "user_ids": [bob.id] } }));
    let told = gateway.takes();
    assert_eq!(told["devices"][0]["tweaks"], json!({ "sound": "default", "highlight": true }));
    assert_eq!(told["prio"], "high");
}

fn an_invitation_is_pushed(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    sets(&bob, &pusher(&gateway, &bob.id));
    let room = alice.creates_room(json!({ "name": "Tea" }));
    alice.invites(&room, &bob).ok();
    let told = gateway.takes();
    assert_eq!((&told["type"], &told["user_is_target"]), (&json!("m.room.member"), &json!(true)), "{told}");
    assert_eq!(
        (&told["room_id"], &told["room_name"], &told["sender"]),
        (&json!(room), &json!("Tea"), &json!(alice.id))
    );
    assert_eq!(told["content"]["membership"], "invite");
    assert_eq!((&told["devices"][0]["tweaks"], &told["counts"]), (&json!({ "sound": "default" }), &json!({})));
    let members = alice.full_state(&room).ok();
    let members = members.as_array().expect("a list").iter();
    let invitation = members.clone().find(|event| event["state_key"] == bob.id).expect("the invitation");
    assert_eq!(told["event_id"], invitation["event_id"]);
    // What is said once they are in comes, too.
    bob.joins(&room).ok();
    let event_id = alice.sends(&room, "welcome");
    assert_eq!(gateway.takes()["event_id"], event_id);
}

/// Rooms had been told that Bob is away.
fn a_user_whom_nobody_waits_for_is_told_all_the_same(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    let room = alice.creates_room_with(&[&bob, &carol]);
    alice.sends_numbers(&room, 1..=3);
    sets(&bob, &pusher(&gateway, &bob.id));
    for n in 1..=3 {
        let event_id = alice.sends(&room, &format!("pushed {n}"));
        assert_eq!(gateway.takes_event(&event_id)["counts"], json!({ "unread": 3 + n }));
    }
    // And a client that comes misses nothing for it.
    let sync: Sync = bob.syncs();
    assert_eq!(sync.messages(&room).last().map(String::as_str), Some("pushed 3"));
}

fn a_rejected_pusher_is_removed(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let (alice, bob, room) = three(server, &gateway);
    let other = Gateway::starts();
    sets(&bob, &pusher(&other, "stays"));
    gateway.will_answer(200, json!({ "rejected": [bob.id] }));
    let event_id = alice.sends(&room, "hello");
    assert_eq!(gateway.takes()["event_id"], event_id);
    assert_eq!(other.takes()["event_id"], event_id);
    let event_id = alice.sends(&room, "again");
    assert_eq!(other.takes()["event_id"], event_id);
    assert_eq!(keys(&bob), ["stays"]);
    // Set anew, it is told of what comes then, and the other was told all along.
    sets(&bob, &pusher(&gateway, &bob.id));
    gateway.takes_event(&alice.sends(&room, "anew"));
}

/// MSC3881: a device may be silent without losing its pusher.
fn a_pusher_is_switched_off_and_on_from_another_device(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let (alice, bob, room) = three(server, &gateway);
    let laptop = bob.logs_in_again();
    let of_laptop = format!("laptop of {}", bob.id);
    sets(&laptop, &pusher(&gateway, &of_laptop));
    let phones = shown(&laptop).remove(0);
    assert_eq!((&phones[ENABLED], &phones[DEVICE]), (&json!(true), &json!(bob.device_id)));
    let switches = |enabled: bool| {
        let mut pusher = phones.clone();
        pusher[ENABLED] = enabled.into();
        sets(&laptop, &pusher);
        server.evicts("user", &bob.id);
        let mut expected = phones.clone();
        expected[ENABLED] = enabled.into();
        assert!(shown(&bob).contains(&expected), "it is the phone's still: {:?}", shown(&bob));
    };
    let told_of = |event_id: &str| {
        let told = gateway.takes_event(event_id);
        told["devices"].as_array().expect("devices").iter().map(|it| it["pushkey"].clone()).collect::<Vec<_>>()
    };
    switches(false);
    let silent = alice.sends(&room, "silent");
    assert_eq!(told_of(&silent), [json!(of_laptop)]);
    let mut laptops = pusher(&gateway, &of_laptop);
    laptops[ENABLED] = false.into();
    sets(&laptop, &laptops);
    switches(true);
    let heard = alice.sends(&room, "heard");
    assert_eq!(told_of(&heard), [json!(bob.id)]);
    let mut odd = phones.clone();
    odd[ENABLED] = "no".into();
    laptop.post("/pushers/set", odd).refused(400, "M_BAD_JSON");
    // Whatever else is changed of it makes it the laptop's.
    let mut mine = phones;
    mine["lang"] = "de".into();
    sets(&laptop, &mine);
    let devices: Vec<_> = shown(&bob).iter().map(|pusher| pusher[DEVICE].clone()).collect();
    assert_eq!(devices, [json!(laptop.device_id), json!(laptop.device_id)]);
}

fn a_pusher_goes_with_its_device(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let bob = server.registers("bob");
    let (phone, tablet) = (bob.logs_in_again(), bob.logs_in_again());
    for (user, key) in [(&bob, "laptop"), (&phone, "phone"), (&tablet, "tablet")] {
        sets(user, &pusher(&gateway, &format!("{key} of {}", bob.id)));
    }
    phone.post("/logout", json!({})).ok();
    assert_eq!(keys(&bob), [format!("laptop of {}", bob.id), format!("tablet of {}", bob.id)]);
    bob.delete(&format!("/devices/{}", tablet.device_id), json!({ "auth": bob.proof(PASSWORD) })).ok();
    assert_eq!(keys(&bob), [format!("laptop of {}", bob.id)]);
}

fn a_pusher_goes_with_a_changed_password(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let bob = server.registers("bob");
    let phone = bob.logs_in_again();
    sets(&bob, &pusher(&gateway, &format!("laptop of {}", bob.id)));
    sets(&phone, &pusher(&gateway, &format!("phone of {}", bob.id)));
    bob.post("/account/password", json!({ "new_password": "another", "auth": bob.proof(PASSWORD) })).ok();
    assert_eq!(keys(&bob), [format!("laptop of {}", bob.id)]);
}

fn a_key_is_one_users(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    let key = format!("key of {}", alice.id);
    sets(&alice, &pusher(&gateway, &key));
    let mut appended = pusher(&gateway, &key);
    appended["append"] = true.into();
    sets(&bob, &appended);
    assert_eq!([&alice, &bob].map(keys), [[key.clone()], [key.clone()]]);
    sets(&carol, &pusher(&gateway, &key));
    assert_eq!([&alice, &bob, &carol].map(|user| keys(user).len()), [0, 0, 1]);
}

fn a_gateway_that_fails_gets_it_later(server: &Server) {
    let (server, gateway) = (ours(server), Gateway::starts());
    let (alice, _bob, room) = three(server, &gateway);
    gateway.will_answer(502, json!({}));
    let first = alice.sends(&room, "1");
    assert_eq!(gateway.takes()["event_id"], first);
    let second = alice.sends(&room, "2");
    assert_eq!(gateway.takes()["event_id"], first, "it was not taken");
    assert_eq!(gateway.takes()["event_id"], second);
    // One that is not wanted is not sent again.
    gateway.will_answer(400, json!({}));
    let third = alice.sends(&room, "3");
    assert_eq!(gateway.takes()["event_id"], third);
    let fourth = alice.sends(&room, "4");
    assert_eq!(gateway.takes()["event_id"], fourth);
}

fn a_push_survives_the_servers_death(server: &Server) {
    let server = Server::with_network(server.host(), &[]);
    let gateway = Gateway::starts();
    let (alice, _bob, room) = three(&server, &gateway);
    gateway.will_answer(503, json!({}));
    let event_id = alice.sends(&room, "hello");
    assert_eq!(gateway.takes()["event_id"], event_id);
    server.dies_and_returns();
    assert_eq!(gateway.takes()["event_id"], event_id);
}
