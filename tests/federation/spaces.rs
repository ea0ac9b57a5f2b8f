//! Spec: server-server API, «Spaces»: spaces with rooms of two servers.

use harness::{Answer, Host, User, Value, encode, json, query};

use crate::network::{Federated, on_each_host};

on_each_host![
    a_space_with_rooms_of_another_server_is_shown,
    a_space_of_another_server_is_shown_to_who_may_know_of_it,
    a_room_of_another_server_in_a_few_words,
];

fn hierarchy(user: &User, space: &str, pairs: &[(&str, &str)]) -> Answer {
    user.client().get(&format!("/_matrix/client/v1/rooms/{}/hierarchy{}", encode(space), query(pairs)))
}

fn names(page: &Value) -> Vec<&str> {
    page["rooms"].as_array().unwrap().iter().map(|room| room["name"].as_str().unwrap_or("?")).collect()
}

fn space(user: &User, name: &str) -> String {
    user.creates_room(json!({ "preset": "public_chat", "name": name, "creation_content": { "type": "m.space" } }))
}

fn room(user: &User, name: &str, join_rule: Value) -> String {
    let initial_state = json!([{ "type": "m.room.join_rules", "content": join_rule }]);
    user.creates_room(json!({ "preset": "private_chat", "name": name, "initial_state": initial_state }))
}

#[track_caller]
fn adds(user: &User, space: &str, child: &str, order: &str, via: &Federated) {
    let content = json!({ "via": [via.name], "order": order, "suggested": order < "n" });
    user.sets_state(space, "m.space.child", child, content).ok();
}

fn a_space_with_rooms_of_another_server_is_shown(host: Host) {
    let (here, there) = (Federated::starts(host), Federated::starts(Host::Native));
    for (at, from) in [(&here, &there), (&there, &here)] {
        let (alice, bob) = (at.server.registers("alice"), from.server.registers("bob"));
        // Bob's space, with rooms of his server, is in alice's.
        let (root, sub) = (space(&alice, "Root"), space(&bob, "Sub"));
        let open = room(&bob, "Open", json!({ "join_rule": "public" }));
        let closed = room(&bob, "Closed", json!({ "join_rule": "invite" }));
        let of_root = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": root }] });
        let of_members = room(&alice, "Members", of_root);
        adds(&alice, &root, &sub, "a", from);
        adds(&alice, &root, &of_members, "b", at);
        adds(&bob, &sub, &closed, "a", from);
        adds(&bob, &sub, &open, "z", from);
        adds(&bob, &sub, &of_members, "c", at);
        from.takes_received();
        let page = hierarchy(&alice, &root, &[]).ok();
        assert_eq!(names(&page), ["Root", "Sub", "Members", "Open"], "{page}");
        assert_eq!(page["rooms"][1]["children_state"].as_array().unwrap().len(), 3);
        assert_eq!(names(&hierarchy(&alice, &root, &[]).ok()), names(&page));
        let asked = from.takes_received();
        let asked: Vec<&str> =
            asked.iter().map(|request| request.uri.as_str()).filter(|uri| uri.contains("/hierarchy/")).collect();
        assert_eq!(asked.len(), 1, "it tells of its rooms with the space, and is remembered: {asked:?}");
        assert_eq!(names(&hierarchy(&alice, &root, &[("suggested_only", "true")]).ok()), ["Root", "Sub", "Members"]);
        // Page by page, it is the same.
        let first = hierarchy(&alice, &root, &[("limit", "2")]).ok();
        let from_token = first["next_batch"].as_str().unwrap();
        let rest = hierarchy(&alice, &root, &[("limit", "2"), ("from", from_token)]).ok();
        assert_eq!((names(&first), names(&rest)), (vec!["Root", "Sub"], vec!["Members", "Open"]));
    }
}

fn a_space_of_another_server_is_shown_to_who_may_know_of_it(host: Host) {
    let (here, there) = (Federated::starts(host), Federated::starts(Host::Native));
    for (at, from) in [(&here, &there), (&there, &here)] {
        let (alice, bob, carol) =
            (at.server.registers("alice"), from.server.registers("bob"), from.server.registers("carol"));
        let root = space(&alice, "Root");
        let of_root = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": root }] });
        adds(&alice, &root, &room(&alice, "Members", of_root), "a", at);
        let guarded = room(&alice, "Invited", json!({ "join_rule": "invite" }));
        adds(&alice, &root, &guarded, "b", at);
        bob.post(&format!("/join/{}?via={}", encode(&root), encode(&at.name)), json!({})).ok();
        alice.invites(&guarded, &bob).ok();
        bob.sees(|sync| !sync.invite_state(&guarded).is_empty());
        // Both rooms may be told to their server, and only bob has to do with them.
        assert_eq!(names(&hierarchy(&bob, &root, &[]).ok()), ["Root", "Members", "Invited"]);
        assert_eq!(names(&hierarchy(&carol, &root, &[]).ok()), ["Root"]);
        // Nobody of that server is in this space, and a token of no room is none of its business.
        let hidden = alice.creates_room(json!({ "preset": "private_chat", "creation_content": { "type": "m.space" } }));
        hierarchy(&bob, &hidden, &[]).refused(403, "M_FORBIDDEN");
    }
}

fn a_room_of_another_server_in_a_few_words(host: Host) {
    let (here, there) = (Federated::starts(host), Federated::starts(Host::Native));
    for (at, from) in [(&here, &there), (&there, &here)] {
        let (alice, bob) = (at.server.registers("alice"), from.server.registers("bob"));
        let room = alice.creates_room(json!({
            "preset": "public_chat", "name": "Far", "room_alias_name": "far", "room_version": "11",
        }));
        let private = alice.creates_room(json!({ "preset": "private_chat", "name": "Den" }));
        let summary = |named: &str, via: &str| {
            let path = format!("/_matrix/client/v1/room_summary/{}{via}", encode(named));
            bob.client().get(&path)
        };
        let by_alias = summary(&format!("#far:{}", at.name), "").ok();
        let shown = |field: &str| by_alias[field].as_str().unwrap_or("?").to_owned();
        assert_eq!([shown("name"), shown("membership"), shown("room_version")], ["Far", "leave", "11"]);
        let via = format!("?via={}", encode(&at.name));
        assert_eq!(summary(&room, &via).ok(), by_alias);
        summary(&private, &via).refused(404, "M_NOT_FOUND");
        alice.invites(&private, &bob).ok();
        bob.sees(|sync| !sync.invite_state(&private).is_empty());
        let invited = summary(&private, "").ok();
        assert_eq!((&invited["name"], &invited["membership"]), (&json!("Den"), &json!("invite")));
    }
}
