//! Spec: client-server API, «Guest Access».

use harness::{PASSWORD, Server, User, Value, encode, json, on_each_host};

on_each_host![
    a_guest_comes_without_a_name,
    guests_come_only_where_they_may,
    a_guest_talks_in_a_room_for_guests,
    a_room_not_for_guests_lets_none_in,
    an_invitation_is_no_way_around,
    guests_leave_when_they_may_no_longer_stay,
    a_redacted_permission_is_none,
    a_guest_looks_into_a_world_readable_room,
    a_guest_keeps_to_what_is_for_guests,
    a_guest_has_a_display_name_and_nothing_else,
    a_guest_becomes_a_user_and_stays,
    who_was_a_guest_once_is_none_when_they_come_back,
];

const REGISTER: &str = "/_matrix/client/v3/register";

fn sets_guest_access(user: &User, room: &str, access: &str) -> Value {
    user.sets_state(room, "m.room.guest_access", "", json!({ "guest_access": access })).ok()
}

/// A public room that guests may join.
fn open_room(host: &User) -> String {
    let room = host.creates_room(json!({ "preset": "public_chat" }));
    sets_guest_access(host, &room, "can_join");
    room
}

fn membership(of: &User, room: &str, seen_by: &User) -> Value {
    seen_by.state(room, "m.room.member", &of.id).ok()["membership"].clone()
}

fn a_guest_comes_without_a_name(server: &Server) {
    let body = json!({
        "username": "alice", "password": 1, "device_id": "MINE", "inhibit_login": true, "refresh_token": true,
        "initial_device_display_name": "In the kitchen",
    });
    let account = server.anonymous().post(&format!("{REGISTER}?kind=guest"), body).ok();
    let guest = User::from_login(&server.anonymous(), &account);
    assert_ne!((guest.localpart(), guest.device_id.as_str()), ("alice", "MINE"));
    assert!(account.get("refresh_token").is_none(), "{account}");
    let whoami = guest.get("/account/whoami").ok();
    assert_eq!((&whoami["user_id"], &whoami["is_guest"]), (&json!(guest.id), &json!(true)));
    let device = guest.get(&format!("/devices/{}", guest.device_id)).ok();
    assert_eq!(device["display_name"], "In the kitchen");
    server.anonymous().send("POST", &format!("{REGISTER}?kind=guest"), None).ok();
    server.anonymous().post(&format!("{REGISTER}?kind=ghost"), json!({})).refused(400, "M_INVALID_PARAM");
}

fn guests_come_only_where_they_may(server: &Server) {
    let without = Server::with(server.host(), &[("ALLOW_GUESTS", "off")]);
    let guest = without.anonymous().post(&format!("{REGISTER}?kind=guest"), json!({}));
    guest.refused(403, "M_FORBIDDEN");
}

fn a_guest_talks_in_a_room_for_guests(server: &Server) {
    let (alice, guest) = (server.registers("alice"), server.registers_guest());
    let room = open_room(&alice);
    guest.joins(&room).ok();
    let since = alice.syncs().next_batch;
    guest.sends(&room, "hello");
    alice.syncs_until(&since, |sync| sync.has_message(&room, "hello"));
    guest.sees(|sync| sync.has_message(&room, "hello"));
    guest.state(&room, "m.room.create", "").ok();
    guest.get(&format!("/rooms/{}/members", encode(&room))).ok();
    guest.messages(&room, &[("dir", "b")]).ok();
    guest.leaves(&room).ok();
    assert_eq!(membership(&guest, &room, &alice), "leave");
    // By the name that clients use, too.
    guest.post(&format!("/join/{}", encode(&room)), json!({})).ok();
}

fn a_room_not_for_guests_lets_none_in(server: &Server) {
    let (alice, guest) = (server.registers("alice"), server.registers_guest());
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    guest.joins(&room).refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    let member = json!({ "membership": "join" });
    guest.sets_state(&room, "m.room.member", &guest.id, member).refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    alice.state(&room, "m.room.member", &guest.id).refused(404, "M_NOT_FOUND");
    sets_guest_access(&alice, &room, "can_join");
    guest.joins(&room).ok();
}

fn an_invitation_is_no_way_around(server: &Server) {
    let (alice, guest) = (server.registers("alice"), server.registers_guest());
    // `private_chat` lets guests join.
    let room = alice.creates_room(json!({ "preset": "private_chat" }));
    guest.joins(&room).refused(403, "M_FORBIDDEN");
    alice.invites(&room, &guest).ok();
    sets_guest_access(&alice, &room, "forbidden");
    guest.joins(&room).refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    sets_guest_access(&alice, &room, "can_join");
    guest.joins(&room).ok();
}

fn guests_leave_when_they_may_no_longer_stay(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let guests = [server.registers_guest(), server.registers_guest()];
    let room = open_room(&alice);
    bob.joins(&room).ok();
    for guest in &guests {
        guest.joins(&room).ok();
    }
    sets_guest_access(&alice, &room, "can_join");
    let since = guests[0].syncs().next_batch;
    sets_guest_access(&alice, &room, "forbidden");
    for guest in &guests {
        let member = alice.full_state(&room).ok();
        let member = member.as_array().expect("state").iter().find(|event| event["state_key"] == guest.id).cloned();
        let member = member.expect("the guest was there");
        assert_eq!((&member["content"]["membership"], &member["sender"]), (&json!("leave"), &json!(guest.id)));
        guest.says(&room, "still here").refused(403, "M_FORBIDDEN");
    }
    guests[0].syncs_until(&since, |sync| sync.left(&room).is_object());
    assert_eq!(membership(&bob, &room, &alice), "join");
    // Nobody comes back by itself.
    sets_guest_access(&alice, &room, "can_join");
    assert_eq!(membership(&guests[1], &room, &alice), "leave");
}

fn a_redacted_permission_is_none(server: &Server) {
    let (alice, guest) = (server.registers("alice"), server.registers_guest());
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    let permission = sets_guest_access(&alice, &room, "can_join");
    guest.joins(&room).ok();
    let event_id = encode(permission["event_id"].as_str().expect("an event id"));
    alice.put(&format!("/rooms/{}/redact/{event_id}/1", encode(&room)), json!({})).ok();
    assert_eq!(membership(&guest, &room, &alice), "leave");
}

fn a_guest_looks_into_a_world_readable_room(server: &Server) {
    let (alice, guest) = (server.registers("alice"), server.registers_guest());
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    let said = alice.sends(&room, "hidden");
    let path = format!("/rooms/{}/event/{}", encode(&room), encode(&said));
    guest.get(&path).refused(404, "M_NOT_FOUND");
    let visibility = json!({ "history_visibility": "world_readable" });
    alice.sets_state(&room, "m.room.history_visibility", "", visibility).ok();
    let said = alice.sends(&room, "shown");
    let path = format!("/rooms/{}/event/{}", encode(&room), encode(&said));
    assert_eq!(guest.get(&path).ok()["content"]["body"], "shown");
}

fn a_guest_keeps_to_what_is_for_guests(server: &Server) {
    let (alice, guest) = (server.registers("alice"), server.registers_guest());
    let room = open_room(&alice);
    guest.joins(&room).ok();
    let refused = |answer: harness::Answer| answer.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    refused(guest.invites(&room, &server.registers("bob")));
    refused(guest.kicks(&room, &alice));
    refused(guest.post("/createRoom", json!({})));
    refused(guest.post(&format!("/knock/{}", encode(&room)), json!({})));
    refused(guest.post("/account/password", json!({ "new_password": "x" })));
    refused(guest.post("/delete_devices", json!({ "devices": [] })));
    refused(guest.get("/joined_rooms"));
    guest.get("/devices").ok();
    guest.put(&format!("/devices/{}", guest.device_id), json!({ "display_name": "Mine" })).ok();
    // A user's token that is made to look like a guest's is neither.
    let forged = alice.token.replacen("mye_", "myg_", 1);
    let whoami = server.anonymous().with_token(&forged).get("/_matrix/client/v3/account/whoami");
    whoami.refused(401, "M_UNKNOWN_TOKEN");
    let forged = guest.token.replacen("myg_", "mye_", 1);
    let creates = server.anonymous().with_token(&forged).post("/_matrix/client/v3/createRoom", json!({}));
    creates.refused(401, "M_UNKNOWN_TOKEN");
}

fn a_guest_has_a_display_name_and_nothing_else(server: &Server) {
    let guest = server.registers_guest();
    let field = |name: &str| format!("/profile/{}/{name}", guest.id);
    guest.put(&field("displayname"), json!({ "displayname": "Guest" })).ok();
    assert_eq!(guest.get(&field("displayname")).ok()["displayname"], "Guest");
    let avatar = json!({ "avatar_url": "mxc://myelin.test/a" });
    guest.put(&field("avatar_url"), avatar).refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    guest.delete(&field("displayname"), json!({})).ok();
    guest.delete(&field("avatar_url"), json!({})).refused(403, "M_GUEST_ACCESS_FORBIDDEN");
}

fn a_guest_becomes_a_user_and_stays(server: &Server) {
    let (alice, guest, other) = (server.registers("alice"), server.registers_guest(), server.registers_guest());
    let room = open_room(&alice);
    guest.joins(&room).ok();
    other.joins(&room).ok();
    let body = |username: &str| {
        let auth = json!({ "type": "m.login.dummy" });
        json!({ "username": username, "password": PASSWORD, "guest_access_token": guest.token, "auth": auth })
    };
    let nobody = server.anonymous();
    nobody.post(REGISTER, body("somebody-else")).refused(403, "M_FORBIDDEN");
    let user = User::from_login(&nobody, &nobody.post(REGISTER, body(guest.localpart())).ok());
    assert_eq!(user.id, guest.id);
    assert!(user.get("/account/whoami").ok().get("is_guest").is_none_or(|guest| guest == false));
    guest.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
    user.logs_in_again().post("/createRoom", json!({})).ok();
    // Then guests go, and the user stays.
    let since = user.syncs().next_batch;
    sets_guest_access(&alice, &room, "forbidden");
    user.syncs_until(&since, |sync| {
        sync.timeline(&room)
            .iter()
            .any(|event| event["state_key"] == other.id && event["content"]["membership"] == "leave")
    });
    user.sends(&room, "still here");
}

fn who_was_a_guest_once_is_none_when_they_come_back(server: &Server) {
    let (alice, guest, other) = (server.registers("alice"), server.registers_guest(), server.registers_guest());
    let room = open_room(&alice);
    guest.joins(&room).ok();
    guest.leaves(&room).ok();
    other.joins(&room).ok();
    let auth = json!({ "type": "m.login.dummy" });
    let body = json!({
        "username": guest.localpart(), "password": PASSWORD, "guest_access_token": guest.token, "auth": auth,
    });
    let nobody = server.anonymous();
    let user = User::from_login(&nobody, &nobody.post(REGISTER, body).ok());
    user.sets_state(&room, "m.room.member", &user.id, json!({ "membership": "join" })).ok();
    sets_guest_access(&alice, &room, "forbidden");
    assert_eq!(membership(&other, &room, &alice), "leave");
    assert_eq!(membership(&user, &room, &alice), "join");
}
