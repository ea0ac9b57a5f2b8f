//! Spec: server-server API, «Joining Rooms»: a room with as many members as one likes, on a homeserver that is played.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Homeserver, Reply, encode, guest::takes_what_is_sent};

fn sha256(value: &Value) -> impl AsRef<[u8]> {
    // A `Value` is written without spaces and with its keys in their order: canonical JSON.
    Sha256::digest(value.to_string().as_bytes())
}

/// A list of these, as it is sent. It is never held as a `Value`: the room may be large.
fn written<'a>(events: impl Iterator<Item = &'a Value>) -> String {
    let texts: Vec<String> = events.map(Value::to_string).collect();
    format!("[{}]", texts.join(","))
}

/// A part of a path without its percent-encoding.
fn decoded(part: &str) -> String {
    let (first, rest) = part.split_once('%').unwrap_or((part, ""));
    let mut text = first.to_owned();
    for piece in rest.split('%').filter(|piece| !piece.is_empty()) {
        let (code, plain) = piece.split_at(2);
        text.push(char::from(u8::from_str_radix(code, 16).expect("two digits")));
        text.push_str(plain);
    }
    text
}

/// The create event, its sender's join, the power levels and the join rules.
const FOUNDING: usize = 4;

/// A room of version 11; everything in its events survives redaction, so that they are signed as they are.
pub struct Room {
    pub id: String,
    pub home: Homeserver,
    state: Vec<Value>,
    /// Of the events of the state.
    ids: Vec<String>,
    newest: String,
    depth: u64,
    /// The create event, the power levels and the join rules.
    auth: Vec<String>,
}

impl Room {
    /// One with these members, and who made it.
    pub fn of(home: Homeserver, members: usize) -> Self {
        let id = format!("!large:{}", home.name);
        let (newest, depth) = (String::new(), 0);
        let mut room = Self { id, home, state: Vec::new(), ids: Vec::new(), newest, depth, auth: Vec::new() };
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

    /// An event that would come next, neither hashed nor signed.
    pub fn event(&self, event_type: &str, state_key: &str, sender: &str, content: Value) -> Value {
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
        self.ids.push(self.newest.clone());
        self.depth += 1;
        self.state.push(self.home.signs(event));
        self.newest.clone()
    }

    /// Lets somebody join; the answer to that is changed, or not.
    pub fn is_open(&self, change: impl Fn(String) -> String) {
        // The state first, newest first: what it is judged by comes last.
        let (name, state, chain) = (&self.home.name, written(self.state.iter().rev()), self.auth_chain());
        let servers = format!(r#""origin":"{name}","servers_in_room":["{name}"]"#);
        let answer = format!(r#"{{"members_omitted":false,"state":{state},{servers},"auth_chain":{chain}}}"#);
        let answer = change(answer);
        self.lets_in(move |uri| uri.contains("/v2/send_join/").then(|| answer.clone()));
    }

    /// Lets somebody join without telling who is there. That is told by `/state` and `/state_ids`, but not the first so
    /// many times. Counts how often `/state` was asked for.
    pub fn is_open_without_members(&self, refusals: usize) -> Arc<AtomicUsize> {
        let is_member = |event: &&Value| event["type"] == "m.room.member";
        let state = written(self.state.iter().filter(|event| !is_member(event)));
        let founder = written(self.state.iter().filter(is_member).take(1));
        let (name, chain) = (&self.home.name, self.auth_chain());
        let answer = format!(
            r#"{{"members_omitted":true,"state":{state},"auth_chain":{founder},"servers_in_room":["{name}"]}}"#
        );
        let whole = format!(r#"{{"pdus":{},"auth_chain":{chain}}}"#, written(self.state.iter()));
        let ids = json!({ "pdu_ids": self.ids, "auth_chain_ids": self.ids[..FOUNDING] }).to_string();
        let newest =
            format!(r#"{{"origin":"{name}","origin_server_ts":1,"pdus":[{}]}}"#, self.state[self.ids.len() - 1]);
        let newest_at = format!("/v1/event/{}", encode(&self.newest));
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        self.lets_in(move |uri| {
            if uri.contains("/v2/send_join/") {
                assert!(uri.ends_with("?omit_members=true"), "{uri}");
                return Some(answer.clone());
            }
            if uri.contains("/v1/state/") {
                let is_told = counter.fetch_add(1, Ordering::SeqCst) >= refusals;
                return is_told.then(|| whole.clone());
            }
            let is_told = counter.load(Ordering::SeqCst) >= refusals;
            match uri {
                _ if uri.contains("/v1/state_ids/") && is_told => Some(ids.clone()),
                _ if uri.ends_with(&newest_at) => Some(newest.clone()),
                _ => None,
            }
        });
        asked
    }

    /// What allows all others, written.
    fn auth_chain(&self) -> String {
        written(self.state.iter().take(FOUNDING))
    }

    /// Prepares joins, and answers what else is asked for.
    pub fn lets_in(&self, answers: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
        let bob = json!({ "membership": "join" });
        let joined =
            |user: &str| json!({ "room_version": "11", "event": self.event("m.room.member", user, user, bob.clone()) });
        let template = joined("USER").to_string();
        self.home.answers(move |request| {
            let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
            if let Some((_, rest)) = request.uri.split_once("/v1/make_join/") {
                let user = decoded(rest.split(['/', '?']).nth(1).expect("a user"));
                return Some(Reply::Whole(200, headers, template.replace("USER", &user).into_bytes()));
            }
            let answered = answers(&request.uri).map(|answer| Reply::Whole(200, headers, answer.into_bytes()));
            answered.or_else(|| takes_what_is_sent(request))
        });
    }
}
