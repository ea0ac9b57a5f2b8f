//! Spec: server-server API, «Backfilling and retrieving missing events»: what happened in a room before a server was in
//! it, or while it heard nothing, between two servers of ours and with Synapse.

use harness::{Host, PASSWORD, User, Value, bodies, encode, event_ids, json};

use crate::{
    network::{Federated, on_each_host},
    synapse::Neighbour,
};

on_each_host![
    what_was_before_the_join_is_read_as_the_room_allows,
    nobody_answers_and_what_is_here_is_shown,
    servers_that_come_later_get_nothing_of_what_an_erased_user_said,
    an_event_of_a_time_before_the_join_is_found,
    synapse_reads_our_history_and_we_read_its,
    what_synapse_does_not_send_again_is_asked_for,
];

fn joins_by(user: &User, room: &str, via: &str) -> harness::Answer {
    user.post(&format!("/join/{}?server_name={}&via={}", encode(room), encode(via), encode(via)), json!({}))
}

/// A room with this history visibility from the first, and messages in it, oldest first.
fn talks(user: &User, visibility: &str, version: &str, messages: u32) -> (String, Vec<String>) {
    let setting = json!({ "history_visibility": visibility });
    let initial = json!([{ "type": "m.room.history_visibility", "state_key": "", "content": setting }]);
    let create = json!({ "preset": "public_chat", "room_version": version, "initial_state": initial });
    let room = user.creates_room(create);
    let said: Vec<String> = (1..=messages).map(|number| format!("message {number}")).collect();
    for (number, body) in said.iter().enumerate() {
        if number == 3 {
            user.sets_state(&room, "m.room.topic", "", json!({ "topic": "history" })).ok();
        }
        user.sends(&room, body);
    }
    (room, said)
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().expect("a type")).collect()
}

/// Reads all that came before somebody joined, and compares.
fn reads_history(reader: &User, room: &str, visibility: &str, said: &[String]) {
    let events = reader.pages_back(room, None, 20);
    let mut read = bodies(&events);
    read.reverse();
    if visibility == "joined" {
        assert_eq!(read, Vec::<String>::new());
        return;
    }
    assert_eq!(read, said, "{visibility}");
    assert_eq!(types(&events).last(), Some(&"m.room.create"), "it ends where the room begins");
    // Pages again, without anybody being asked: the same.
    assert_eq!(bodies(&reader.pages_back(room, None, 50)).len(), said.len());
    let middle = events.iter().find(|event| event["content"]["body"] == *said[said.len() / 2]).expect("a message");
    let id = middle["event_id"].as_str().expect("an id");
    let around = reader.context(room, id, &[("limit", "4")]).ok();
    assert_eq!(around["events_before"].as_array().expect("a list").len(), 2);
    let state = around["state"].as_array().expect("a state");
    assert!(state.iter().all(|event| event["state_key"] != reader.id.as_str()), "nobody had heard of the reader");
    assert!(state.iter().any(|event| event["content"]["topic"] == "history"));
}

fn what_was_before_the_join_is_read_as_the_room_allows(host: Host) {
    let (here, there) = (Federated::starts(host), Federated::starts(Host::Native));
    for (visibility, version, count, at, from) in [
        ("shared", "12", 110, &there, &here),
        ("world_readable", "10", 12, &here, &there),
        ("joined", "11", 5, &there, &here),
        ("shared", "6", 12, &here, &there),
    ] {
        let (alice, bob) = (at.server.registers("alice"), from.server.registers("bob"));
        let (room, said) = talks(&alice, visibility, version, count);
        joins_by(&bob, &room, &at.name).ok();
        let sync = bob.syncs();
        assert_eq!(sync.timeline(&room).len(), 1, "history is not news");
        assert!(sync.is_limited(&room));
        if visibility != "joined" {
            // From where the sync says.
            let from = sync.prev_batch(&room);
            let page = bob.messages(&room, &[("dir", "b"), ("limit", "3"), ("from", from)]).ok();
            let bodies = bodies(page["chunk"].as_array().expect("a chunk"));
            assert_eq!(bodies, said.iter().rev().take(3).cloned().collect::<Vec<_>>());
        }
        reads_history(&bob, &room, visibility, &said);
        assert_eq!(bob.syncs_since(&sync.next_batch).timeline(&room).len(), 0, "nor is it later");
        alice.sends(&room, "and now");
        bob.sees(|sync| sync.has_message(&room, "and now"));
    }
}

fn nobody_answers_and_what_is_here_is_shown(host: Host) {
    let (here, there) = (Federated::starts(host), Federated::starts(Host::Native));
    let (alice, bob) = (there.server.registers("alice"), here.server.registers("bob"));
    let (room, said) = talks(&alice, "shared", "12", 3);
    joins_by(&bob, &room, &there.name).ok();
    bob.sends(&room, "anybody?");
    there.is_cut_off();
    let page = bob.messages(&room, &[("dir", "b")]).ok();
    assert_eq!(bodies(page["chunk"].as_array().expect("a chunk")), ["anybody?"]);
    let end = page["end"].as_str().expect("it is not the beginning").to_owned();
    let beyond = bob.messages(&room, &[("dir", "b"), ("from", &end)]).ok();
    assert_eq!((&beyond["chunk"], beyond.get("end")), (&json!([]), None), "who pages back comes to an end");
    there.is_back();
    // Whoever is heard of is tried again at once.
    alice.sends(&room, "me");
    bob.sees(|sync| sync.has_message(&room, "me"));
    let mut rest = bodies(&bob.pages_back(&room, Some(&end), 20));
    rest.reverse();
    assert_eq!(rest, said);
}

fn servers_that_come_later_get_nothing_of_what_an_erased_user_said(host: Host) {
    let (here, there) = (Federated::starts(host), Federated::starts(Host::Native));
    let [alice, bob] = [here.server.registers("alice"), here.server.registers("bob")];
    let room = bob.creates_room(json!({ "preset": "public_chat" }));
    alice.joins(&room).ok();
    alice.sends(&room, "a secret");
    bob.sends(&room, "an answer");
    alice.post("/account/deactivate", json!({ "erase": true, "auth": alice.proof(PASSWORD) })).ok();
    let carol = there.server.registers("carol");
    joins_by(&carol, &room, &here.name).ok();
    let events = carol.pages_back(&room, None, 20);
    assert_eq!(bodies(&events), ["an answer"]);
    let said = events.iter().find(|event| event["type"] == "m.room.message" && event["sender"] == alice.id);
    assert_eq!(said.expect("that something was said")["content"], json!({}));
}

fn an_event_of_a_time_before_the_join_is_found(host: Host) {
    let (here, there) = (Federated::starts(host), Federated::starts(Host::Native));
    for (at, from) in [(&there, &here), (&here, &there)] {
        let (alice, bob) = (at.server.registers("alice"), from.server.registers("bob"));
        let (room, said) = talks(&alice, "shared", "12", 30);
        let wanted = alice.pages_back(&room, None, 50).into_iter().find(|event| event["content"]["body"] == *said[9]);
        let wanted = wanted.expect("it was said");
        let time = wanted["origin_server_ts"].as_u64().expect("a time");
        let expected = alice.event_at(&room, time, "f").ok();
        joins_by(&bob, &room, &at.name).ok();
        assert_eq!(bob.event_at(&room, time, "f").ok(), expected);
        let event_id = expected["event_id"].as_str().expect("an id");
        let context = bob.context(&room, event_id, &[("limit", "4")]).ok();
        let before = alice.context(&room, event_id, &[("limit", "4")]).ok();
        let ids = |context: &Value| event_ids(context["events_before"].as_array().expect("a list"));
        assert_eq!(ids(&context), ids(&before));
        let mut all = bodies(&bob.pages_back(&room, None, 20));
        all.reverse();
        assert_eq!(all, said);
    }
}

fn synapse_reads_our_history_and_we_read_its(host: Host) {
    let Some(synapse) = Neighbour::starts() else { return };
    let here = Federated::starts(host);
    let (alice, bob) = (here.server.registers("alice"), synapse.synapse.registers("bob"));
    for (visibility, version) in [("shared", "12"), ("world_readable", "11"), ("joined", "10"), ("shared", "6")] {
        for (teller, reader, via) in [(&alice, &bob, &here.name), (&bob, &alice, &synapse.proxy.name)] {
            let (room, said) = talks(teller, visibility, version, 12);
            joins_by(reader, &room, via).ok();
            reads_history(reader, &room, visibility, &said);
        }
    }
}

/// Synapse sends the newest event of a room alone to a server that was away.
fn what_synapse_does_not_send_again_is_asked_for(host: Host) {
    let Some(synapse) = Neighbour::starts() else { return };
    let here = Federated::starts(host);
    let (alice, bob) = (here.server.registers("alice"), synapse.synapse.registers("bob"));
    let room = bob.creates_room(json!({ "preset": "public_chat" }));
    joins_by(&alice, &room, &synapse.proxy.name).ok();
    bob.sends(&room, "before");
    let since = alice.sees(|sync| sync.has_message(&room, "before")).next_batch;
    here.is_cut_off();
    let missed: Vec<String> = (1..=80).map(|number| format!("missed {number}")).collect();
    for body in &missed {
        bob.sends(&room, body);
    }
    here.is_back();
    alice.sends(&room, "back again");
    bob.sees(|sync| sync.has_message(&room, "back again"));
    bob.sends(&room, "welcome");
    let sync = alice.syncs_until(&since, |sync| sync.has_message(&room, "welcome"));
    assert!(sync.timeline(&room).len() < missed.len());
    let mut read = bodies(&alice.pages_back(&room, None, 25));
    read.reverse();
    let mut expected = missed.clone();
    expected.insert(0, "before".to_owned());
    read.retain(|body| body != "back again" && body != "welcome");
    assert_eq!(read, expected);
}
