//! Spec: server-server API, with Synapse at the other end, in every version of rooms that both know well: what is
//! decided on one side holds on the other, and who is let in comes in.

use harness::{Host, Keys, User, Value, encode, json};

use crate::{
    network::{Federated, on_each_host},
    synapse::{Neighbour, joins_by},
};

on_each_host![
    what_is_edited_and_decided_holds_on_the_other_side,
    who_is_invited_or_knocks_comes_in,
    members_of_another_room_come_in,
    devices_and_their_keys_are_known_on_the_other_side,
];

const VERSIONS: [&str; 5] = ["6", "9", "10", "11", "12"];

/// One of ours and one of theirs, each as the host of rooms with the other as a guest.
struct Story {
    here: Federated,
    there: Neighbour,
}

impl Story {
    fn begins(host: Host) -> Option<Self> {
        let there = Neighbour::starts()?;
        Some(Self { here: Federated::starts(host), there })
    }

    /// Tells it both ways: with who has the room, who is the guest, and the name of the room's server.
    fn both_ways(&self, tells: impl Fn(&User, &User, &str)) {
        let (alice, bob) = (self.here.server.registers("alice"), self.there.synapse.registers("bob"));
        tells(&alice, &bob, &self.here.name);
        tells(&bob, &alice, &self.there.proxy.name);
    }
}

fn with_rule(version: &str, rule: Value) -> Value {
    let rule = json!([{ "type": "m.room.join_rules", "state_key": "", "content": rule }]);
    json!({ "preset": "private_chat", "room_version": version, "name": "Den", "initial_state": rule })
}

fn what_is_edited_and_decided_holds_on_the_other_side(host: Host) {
    let Some(story) = Story::begins(host) else { return };
    for version in VERSIONS {
        story.both_ways(|judge, guest, via| {
            let room = judge.creates_room(json!({ "preset": "public_chat", "room_version": version }));
            joins_by(guest, &room, via).ok();
            let said = judge.sends(&room, "helo");
            guest.sees(|sync| sync.has_message(&room, "helo"));
            judge.sends_content(
                &room,
                json!({
                    "msgtype": "m.text", "body": "* hello", "m.new_content": { "msgtype": "m.text", "body": "hello" },
                    "m.relates_to": { "rel_type": "m.replace", "event_id": said },
                }),
            );
            guest.sees(|_| {
                let relations = &guest.event(&room, &said).ok()["unsigned"]["m.relations"]["m.replace"];
                relations.to_string().contains("hello")
            });
            guest.sets_state(&room, "m.room.topic", "", json!({ "topic": "mine" })).refused(403, "M_FORBIDDEN");
            let mut levels = judge.state(&room, "m.room.power_levels", "").ok();
            levels["users"][guest.id.as_str()] = 50.into();
            judge.sets_state(&room, "m.room.power_levels", "", levels).ok();
            guest.sees(|_| guest.state(&room, "m.room.power_levels", "").ok()["users"][guest.id.as_str()] == 50);
            let since = judge.syncs().next_batch;
            guest.sets_state(&room, "m.room.topic", "", json!({ "topic": "mine" })).ok();
            judge.syncs_until(&since, |sync| {
                sync.timeline(&room).iter().any(|event| event["content"]["topic"] == "mine")
            });
            let since = guest.syncs().next_batch;
            judge.bans(&room, guest).ok();
            guest.syncs_until(&since, |sync| {
                let left = sync.left(&room)["timeline"]["events"].as_array().cloned().unwrap_or_default();
                left.iter().any(|event| event["content"]["membership"] == "ban")
            });
            guest.says(&room, "hey").refused(403, "M_FORBIDDEN");
            joins_by(guest, &room, via).refused(403, "M_FORBIDDEN");
        });
    }
}

fn who_is_invited_or_knocks_comes_in(host: Host) {
    let Some(story) = Story::begins(host) else { return };
    for version in VERSIONS {
        story.both_ways(|owner, guest, via| {
            let knocks = version != "6";
            let rule = if knocks { "knock" } else { "invite" };
            let room = owner.creates_room(with_rule(version, json!({ "join_rule": rule })));
            if knocks {
                let since = owner.syncs().next_batch;
                let via = encode(via);
                let path = format!("/knock/{}?server_name={via}&via={via}", encode(&room));
                guest.post(&path, json!({ "reason": "It is me" })).ok();
                owner.syncs_until(&since, |sync| {
                    sync.timeline(&room).iter().any(|event| event["content"]["reason"] == "It is me")
                });
            }
            owner.invites(&room, guest).ok();
            guest.sees(|sync| !sync.invite_state(&room).is_empty());
            guest.joins(&room).ok();
            guest.sends(&room, "thank you");
            owner.sees(|sync| sync.has_message(&room, "thank you"));
        });
    }
}

fn members_of_another_room_come_in(host: Host) {
    let Some(story) = Story::begins(host) else { return };
    for version in ["9", "10", "11", "12"] {
        story.both_ways(|owner, guest, via| {
            let club = owner.creates_room(json!({ "preset": "public_chat", "room_version": version }));
            let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
            let rules: &[&str] = if version == "9" { &["restricted"] } else { &["restricted", "knock_restricted"] };
            let rooms: Vec<String> = rules
                .iter()
                .map(|rule| owner.creates_room(with_rule(version, json!({ "join_rule": rule, "allow": allow }))))
                .collect();
            joins_by(guest, &rooms[0], via).refused(403, "M_FORBIDDEN");
            joins_by(guest, &club, via).ok();
            for room in &rooms {
                joins_by(guest, room, via).ok();
                guest.sends(room, "I am a member");
                owner.sees(|sync| sync.has_message(room, "I am a member"));
            }
        });
    }
}

fn devices_and_their_keys_are_known_on_the_other_side(host: Host) {
    let Some(story) = Story::begins(host) else { return };
    story.both_ways(|alice, bob, via| {
        let encryption = json!([{
            "type": "m.room.encryption", "state_key": "", "content": { "algorithm": "m.megolm.v1.aes-sha2" }
        }]);
        let room = alice.creates_room(json!({ "preset": "public_chat", "initial_state": encryption }));
        joins_by(bob, &room, via).ok();
        bob.sends(&room, "here");
        let since = alice.sees(|sync| sync.has_message(&room, "here")).next_batch;
        let tablet = bob.logs_in_again();
        let device = Keys::of(7).device(&tablet);
        let one_time = Keys::of(7).signs(json!({ "key": "k" }), &tablet, &tablet.device_id);
        let keys = json!({ "device_keys": device, "one_time_keys": { "signed_curve25519:AAAA": one_time } });
        tablet.post("/keys/upload", keys).ok();
        let is_news = |sync: &harness::Sync| {
            let changed = sync.body["device_lists"]["changed"].as_array().cloned().unwrap_or_default();
            changed.contains(&json!(bob.id))
        };
        alice.syncs_until(&since, is_news);
        let query = json!({ "device_keys": { (bob.id.clone()): [] } });
        alice.sees(|_| {
            let devices = alice.post("/keys/query", query.clone()).ok();
            devices["device_keys"][&bob.id][&tablet.device_id]["keys"] == device["keys"]
        });
        let claim =
            json!({ "one_time_keys": { (bob.id.clone()): { (tablet.device_id.clone()): "signed_curve25519" } } });
        let claimed = alice.post("/keys/claim", claim).ok();
        let claimed = &claimed["one_time_keys"][&bob.id][&tablet.device_id];
        assert_eq!(claimed["signed_curve25519:AAAA"]["key"], "k", "{claimed}");
        // What is encrypted goes to the device and comes back from it.
        let secret = |text: &str| json!({ "algorithm": "m.olm.v1.curve25519-aes-sha2", "ciphertext": text });
        for (from, to, text) in [(alice, &tablet, "for the tablet"), (&tablet, alice, "for alice")] {
            let since = to.syncs().next_batch;
            let message = json!({ "messages": { (to.id.clone()): { (to.device_id.clone()): secret(text) } } });
            from.put(&format!("/sendToDevice/m.room.encrypted/{text}").replace(' ', "-"), message).ok();
            to.syncs_until(&since, |sync| sync.body["to_device"].to_string().contains(text));
        }
        alice
            .sends_event(
                &room,
                "m.room.encrypted",
                "e",
                json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "c" }),
            )
            .ok();
        tablet.sees(|sync| sync.timeline(&room).iter().any(|event| event["type"] == "m.room.encrypted"));
    });
}
