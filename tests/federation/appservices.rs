//! Spec: Application Service API, «Pushing events»: what happens in rooms of other servers.

use harness::{Bridge, Host, encode, json};

use crate::{
    guest::Guest,
    invitations::{in_room, makes_room},
    network::{Federated, on_each_host},
};

on_each_host![an_invitation_by_another_server_is_told];

fn an_invitation_by_another_server_is_told(host: Host) {
    let bridge = Bridge::starts();
    let here = Federated::starts_with(host, &[("APPSERVICES", &bridge.registration())]);
    let eve = Guest::starts(&here, "eve");
    let (create, room) = makes_room(&eve, 1);
    let ghost = format!("@_irc_bot:{}", here.name);
    here.server.anonymous().with_token("as-secret").get("/_matrix/client/v3/account/whoami").ok();
    let (id, event) = in_room(&eve, &room, "m.room.member", &ghost, json!({ "membership": "invite" }));
    let path = format!("/_matrix/federation/v2/invite/{}/{}", encode(&room), encode(&id));
    let body = json!({ "room_version": "12", "event": event, "invite_room_state": [create] });
    eve.asks("PUT", &path, Some(body)).ok();
    let invitation = bridge.hears(|event| event["content"]["membership"] == "invite");
    assert_eq!((&invitation["event_id"], &invitation["state_key"]), (&json!(id), &json!(ghost)));
    assert_eq!(invitation["room_id"], json!(room));
    assert_eq!(invitation["unsigned"]["invite_room_state"][0]["type"], "m.room.create");
    // It comes to nothing, by an event that names it.
    let mut end = in_room(&eve, &room, "m.room.member", &ghost, json!({ "membership": "leave" })).1;
    end["auth_events"] = json!([id]);
    eve.sends_event(&eve.completes(end).1);
    let end = bridge.hears(|event| event["content"]["membership"] == "leave");
    assert_eq!((&end["state_key"], &end["sender"]), (&json!(ghost), &json!(eve.id)));
}
