//! Spec: server-server API, «Joining Rooms»: a room with many members on a server that the test plays.

use std::time::Instant;

use base64::{
    Engine,
    prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use harness::{Homeserver, Host, Reply, Value, encode, json};
use sha2::{Digest, Sha256};

use crate::network::{Federated, on_each_host};

on_each_host![a_room_with_many_members_is_joined_in_slices, an_answer_that_is_cut_off_joins_nothing];

/// How many members the room has: `MYELIN_TEST_MEMBERS` for more than the usual.
fn members() -> usize {
    std::env::var("MYELIN_TEST_MEMBERS").ok().and_then(|members| members.parse().ok()).unwrap_or(600)
}

fn sha256(value: &Value) -> impl AsRef<[u8]> {
    // A `Value` is written without spaces and with its keys in their order: canonical JSON.
    Sha256::digest(value.to_string().as_bytes())
}

/// A room of version 11; everything in its events survives redaction, so that they are signed as they are.
struct Room {
    id: String,
    home: Homeserver,
    state: Vec<Value>,
    newest: String,
    depth: u64,
    /// The create event, the power levels and the join rules.
    auth: Vec<String>,
}

impl Room {
    fn of(home: Homeserver, members: usize) -> Self {
        let id = format!("!large:{}", home.name);
        let mut room = Self { id, home, state: Vec::new(), newest: String::new(), depth: 0, auth: Vec::new() };
        let alice = format!("@alice:{}", room.home.name);
        let create = room.adds("m.room.create", "", &alice, json!({ "room_version": "11" }));
        room.auth.push(create);
        let join = room.adds("m.room.member", &alice, &alice, json!({ "membership": "join" }));
        room.auth.push(join);
        let levels = json!({ "users": { (alice.clone()): 100 }, "users_default": 0 });
        let levels = room.adds("m.room.power_levels", "", &alice, levels);
        room.auth.push(levels);
        let rules = room.adds("m.room.join_rules", "", &alice, json!({ "join_rule": "public" }));
        room.auth.remove(1);
        room.auth.push(rules);
        for number in 0..members {
            let user = format!("@user{number}:{}", room.home.name);
            room.adds("m.room.member", &user, &user, json!({ "membership": "join" }));
        }
        room
    }

    fn event(&self, event_type: &str, state_key: &str, sender: &str, content: Value) -> Value {
        let prev: Vec<&String> = if self.newest.is_empty() { Vec::new() } else { vec![&self.newest] };
        json!({
            "type": event_type, "room_id": self.id, "sender": sender, "state_key": state_key, "content": content,
            "depth": self.depth + 1, "origin_server_ts": 1_700_000_000_000_u64 + self.depth,
            "prev_events": prev, "auth_events": self.auth,
        })
    }

    fn adds(&mut self, event_type: &str, state_key: &str, sender: &str, content: Value) -> String {
        let mut event = self.event(event_type, state_key, sender, content);
        event["hashes"] = json!({ "sha256": BASE64_STANDARD_NO_PAD.encode(sha256(&event)) });
        self.newest = format!("${}", BASE64_URL_SAFE_NO_PAD.encode(sha256(&event)));
        self.depth += 1;
        self.state.push(self.home.signs(event));
        self.newest.clone()
    }

    /// Lets somebody join; the answer to that is changed, or not.
    fn is_open(&self, change: impl Fn(String) -> String) {
        let bob = json!({ "membership": "join" });
        let joined =
            |user: &str| json!({ "room_version": "11", "event": self.event("m.room.member", user, user, bob.clone()) });
        let template = joined("USER").to_string();
        // The state first, newest first: what it is judged by comes last.
        let state: Vec<&Value> = self.state.iter().rev().collect();
        let chain: Vec<&Value> = self.state.iter().take(4).collect();
        let answer = json!({ "state": state, "members_omitted": false, "origin": self.home.name });
        let answer = answer.to_string();
        let answer = change(format!(
            r#"{},"servers_in_room":["{}"],"auth_chain":{}}}"#,
            &answer[..answer.len() - 1],
            self.home.name,
            json!(chain)
        ));
        self.home.answers(move |request| {
            let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
            if let Some((_, rest)) = request.uri.split_once("/v1/make_join/") {
                let user = rest.split(['/', '?']).nth(1).expect("a user").replace("%40", "@").replace("%3A", ":");
                let user = user.replace("%2D", "-").replace("%2d", "-").replace("%3a", ":");
                return Some(Reply::Whole(200, headers, template.replace("USER", &user).into_bytes()));
            }
            request.uri.contains("/v2/send_join/").then(|| Reply::Whole(200, headers, answer.clone().into_bytes()))
        });
    }
}

fn a_room_with_many_members_is_joined_in_slices(host: Host) {
    let here = Federated::starts(host);
    let bob = here.server.registers("bob");
    let room = Room::of(Homeserver::starts(), members());
    room.is_open(|answer| answer);
    let before = here.server.memory_peak();
    let started = Instant::now();
    bob.post(&format!("/join/{}?via={}", encode(&room.id), encode(&room.home.name)), json!({})).ok();
    let (took, after) = (started.elapsed(), here.server.memory_peak());
    println!("{} members joined in {took:?}; memory {before:?}, then at most {after:?}", members());
    let joined = bob.get(&format!("/rooms/{}/joined_members", encode(&room.id))).ok();
    assert_eq!(joined["joined"].as_object().expect("members").len(), members() + 2);
    assert_eq!(bob.state(&room.id, "m.room.join_rules", "").ok()["join_rule"], "public");
    let sync = bob.syncs();
    assert_eq!(sync.joined(&room.id)["summary"]["m.joined_member_count"], members() + 2);
    bob.sends(&room.id, "hello, many");
    if let (Some(before), Some(after)) = (before, after) {
        assert!(after - before < 64 << 20, "{before} bytes before, {after} at most");
    }
}

fn an_answer_that_is_cut_off_joins_nothing(host: Host) {
    let here = Federated::starts(host);
    let bob = here.server.registers("bob");
    let room = Room::of(Homeserver::starts(), 30);
    let join = || bob.post(&format!("/join/{}?via={}", encode(&room.id), encode(&room.home.name)), json!({}));
    room.is_open(|answer| answer[..answer.len() - 1].to_owned());
    join().refused(400, "M_UNKNOWN");
    room.is_open(|answer| answer.replace("m.room.create", "m.room.made"));
    join().refused(400, "M_UNKNOWN");
    bob.state(&room.id, "m.room.join_rules", "").refused(403, "M_FORBIDDEN");
    assert!(bob.syncs().joined(&room.id).is_null());
    room.is_open(|answer| answer);
    join().ok();
}
