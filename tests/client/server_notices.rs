//! Spec: client-server API, «Server Notices»; Synapse's admin API, `send_server_notice`.

use harness::{PerHost, Server, User, Value, encode, json, on_each_host};

on_each_host![
    a_user_is_told_in_a_room_of_their_own,
    an_invitation_of_the_server_cannot_be_rejected,
    only_administrators_send_notices
];

const SEND: &str = "/_synapse/admin/v1/send_server_notice";

fn ours(server: &Server) -> &'static Server {
    static SHARED: PerHost<Server> = PerHost::new();
    SHARED.of(server.host(), || {
        Server::with(server.host(), &[("SERVER_NOTICES_LOCALPART", "notices"), ("SERVER_NOTICES_ROOM_NAME", "News")])
    })
}

fn administrator(server: &Server) -> User {
    let name = server.unique("operator");
    let account = server.registers_by_secret(&name, harness::SHARED_SECRET, true).ok();
    User::from_login(&server.anonymous(), &account)
}

fn tells(admin: &User, user: &User, text: &str) -> String {
    let content = json!({ "msgtype": "m.text", "body": text });
    let sent = admin.client().post(SEND, json!({ "user_id": user.id, "content": content })).ok();
    sent["event_id"].as_str().expect("an event id").to_owned()
}

fn invitation(user: &User) -> String {
    let synced = user.syncs().body;
    let invited = synced["rooms"]["invite"].as_object().expect("invitations");
    assert_eq!(invited.len(), 1, "{synced}");
    invited.keys().next().expect("a room").clone()
}

fn a_user_is_told_in_a_room_of_their_own(server: &Server) {
    let server = ours(server);
    let (admin, alice) = (administrator(server), server.registers("alice"));
    let first = tells(&admin, &alice, "The cellar is flooded");
    let room = invitation(&alice);
    alice.joins(&room).ok();
    let second = tells(&admin, &alice, "It is dry again");
    let history = alice.pages_back(&room, None, 100);
    let bodies: Vec<&Value> = history
        .iter()
        .filter(|event| event["type"] == "m.room.message")
        .map(|event| &event["content"]["body"])
        .collect();
    assert_eq!(bodies, [&json!("It is dry again"), &json!("The cellar is flooded")]);
    assert_ne!(first, second);
    let name = alice.get(&format!("/rooms/{}/state/m.room.name", encode(&room))).ok();
    assert_eq!(name["name"], "News");
    let tags = alice.get(&format!("/user/{}/rooms/{}/tags", encode(&alice.id), encode(&room))).ok();
    assert_eq!(tags["tags"], json!({ "m.server_notice": {} }));
    alice.says(&room, "thanks").refused(403, "M_FORBIDDEN");

    // Who left is invited again; who sends twice sends once.
    alice.leaves(&room).ok();
    let content = json!({ "msgtype": "m.text", "body": "Once" });
    let body = json!({ "user_id": alice.id, "content": content });
    let send = || admin.client().put(&format!("{SEND}/txn"), body.clone()).ok();
    assert_eq!(send(), send());
    let other = administrator(server);
    assert_ne!(other.client().put(&format!("{SEND}/txn"), body.clone()).ok(), send(), "another administrator's");
    assert_eq!(invitation(&alice), room);
    let bob = server.registers("bob");
    tells(&admin, &bob, "Hello");
    assert_ne!(invitation(&bob), room);
    // State, of whatever kind.
    let pinned = json!({ "user_id": bob.id, "type": "m.room.topic", "state_key": "", "content": { "topic": "News" } });
    admin.client().post(SEND, pinned).ok();
}

fn an_invitation_of_the_server_cannot_be_rejected(server: &Server) {
    let server = ours(server);
    let (admin, alice, bob) = (administrator(server), server.registers("alice"), server.registers("bob"));
    tells(&admin, &alice, "Read this");
    let room = invitation(&alice);
    alice.leaves(&room).refused(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM");
    let leaves = json!({ "membership": "leave" });
    let refused = alice.sets_state(&room, "m.room.member", &alice.id, leaves);
    refused.refused(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM");
    assert_eq!(invitation(&alice), room);
    alice.joins(&room).ok();
    alice.leaves(&room).ok();
    // Anybody else's invitation can.
    let room = bob.creates_room(json!({ "invite": [alice.id] }));
    alice.leaves(&room).ok();
}

fn only_administrators_send_notices(server: &Server) {
    let off = server;
    let server = ours(server);
    let (admin, alice) = (administrator(server), server.registers("alice"));
    let body = json!({ "user_id": alice.id, "content": { "msgtype": "m.text", "body": "hi" } });
    alice.client().post(SEND, body.clone()).refused(403, "M_FORBIDDEN");
    server.anonymous().post(SEND, body.clone()).refused(401, "M_MISSING_TOKEN");
    for nobody in ["@nobody:myelin.test", "@alice:elsewhere.test", "@notices:myelin.test"] {
        let body = json!({ "user_id": nobody, "content": {} });
        admin.client().post(SEND, body).refused(404, "M_NOT_FOUND");
    }
    admin.client().post(SEND, json!({ "user_id": alice.id })).refused(400, "M_BAD_JSON");
    admin.client().post(SEND, json!({ "user_id": alice.id, "content": [] })).refused(400, "M_BAD_JSON");
    assert!(alice.syncs().body["rooms"]["invite"].is_null());
    // The name is nobody's to take.
    let taken = json!({ "username": "notices", "password": "x", "auth": { "type": "m.login.dummy" } });
    server.anonymous().post("/_matrix/client/v3/register", taken).refused(400, "M_USER_IN_USE");
    let (admin, alice) = (administrator(off), off.registers("alice"));
    let body = json!({ "user_id": alice.id, "content": {} });
    admin.client().post(SEND, body).refused(400, "M_UNKNOWN");
}
