//! Spec: server-server API, «Joining Rooms»: a room with many members on a server that the test plays.

use std::{
    io::Write,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use harness::{Homeserver, Host, Reply, Value, encode, json};
use sha2::{Digest, Sha256};

use crate::network::{Federated, on_each_host};

on_each_host![
    a_room_with_many_members_is_joined_in_slices,
    an_answer_that_is_cut_off_joins_nothing,
    a_server_that_does_not_tell_the_room_prevents_no_join,
    members_that_an_answer_leaves_out_are_fetched,
    who_leaves_while_it_joins_has_joined,
];

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
        self.lets_in(move |uri| uri.contains("/v2/send_join/").then(|| answer.clone()));
    }

    /// Lets somebody join without telling who is there. That is told by `/state`, when it is asked for once more.
    fn is_open_without_members(&self) -> Arc<AtomicUsize> {
        let is_member = |event: &&Value| event["type"] == "m.room.member";
        let state: Vec<&Value> = self.state.iter().filter(|event| !is_member(event)).collect();
        let chain: Vec<&Value> = self.state.iter().filter(is_member).take(1).collect();
        let servers = [&self.home.name];
        let answer =
            json!({ "state": state, "auth_chain": chain, "members_omitted": true, "servers_in_room": servers });
        let whole =
            json!({ "pdus": self.state, "auth_chain": self.state.iter().take(4).collect::<Vec<_>>() }).to_string();
        let (asked, counted) = (Arc::new(AtomicUsize::new(0)), answer.to_string());
        let counter = asked.clone();
        self.lets_in(move |uri| {
            if uri.contains("/v2/send_join/") {
                assert!(uri.ends_with("?omit_members=true"), "{uri}");
                return Some(counted.clone());
            }
            let is_again = uri.contains("/v1/state/") && counter.fetch_add(1, Ordering::SeqCst) > 0;
            is_again.then(|| whole.clone())
        });
        asked
    }

    /// Prepares joins, and answers what else is asked for.
    fn lets_in(&self, answers: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
        let bob = json!({ "membership": "join" });
        let joined =
            |user: &str| json!({ "room_version": "11", "event": self.event("m.room.member", user, user, bob.clone()) });
        let template = joined("USER").to_string();
        self.home.answers(move |request| {
            let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
            if let Some((_, rest)) = request.uri.split_once("/v1/make_join/") {
                let user = rest.split(['/', '?']).nth(1).expect("a user").replace("%40", "@").replace("%3A", ":");
                let user = user.replace("%2D", "-").replace("%2d", "-").replace("%3a", ":");
                return Some(Reply::Whole(200, headers, template.replace("USER", &user).into_bytes()));
            }
            answers(&request.uri).map(|answer| Reply::Whole(200, headers, answer.into_bytes()))
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
    let heroes = &sync.joined(&room.id)["summary"]["m.heroes"];
    assert_eq!(heroes[0], format!("@alice:{}", room.home.name), "who came first: {heroes}");
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

fn a_server_that_does_not_tell_the_room_prevents_no_join(host: Host) {
    let here = Federated::starts(host);
    let bob = here.server.registers("bob");
    let room = Room::of(Homeserver::starts(), 30);
    room.is_open(|answer| answer);
    // It prepares the join like the other, and then tells nothing.
    let broken = Homeserver::starts();
    let template = json!({ "room_version": "11", "event": room.event(
        "m.room.member", &bob.id, &bob.id, json!({ "membership": "join" }))});
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    broken.answers(move |request| {
        let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
        if request.uri.contains("/v1/make_join/") {
            return Some(Reply::Whole(200, headers, template.to_string().into_bytes()));
        }
        counter.fetch_add(1, Ordering::SeqCst);
        request.uri.contains("/v2/send_join/").then(|| Reply::Whole(200, headers, br#"{"state":[],"auth_ch"#.to_vec()))
    });
    let (room_id, first, second) = (encode(&room.id), encode(&broken.name), encode(&room.home.name));
    bob.post(&format!("/join/{room_id}?via={first}&via={second}"), json!({})).ok();
    assert!(asked.load(Ordering::SeqCst) > 0, "the broken one was asked first");
    bob.sends(&room.id, "hello");
}

fn members_that_an_answer_leaves_out_are_fetched(host: Host) {
    let here = Federated::starts(host);
    let bob = here.server.registers("bob");
    let room = Room::of(Homeserver::starts(), 30);
    let asked = room.is_open_without_members();
    let started = Instant::now();
    bob.post(&format!("/join/{}?via={}", encode(&room.id), encode(&room.home.name)), json!({})).ok();
    assert!(started.elapsed() < Duration::from_secs(30), "usable");
    bob.sends(&room.id, "hello, whoever you are");
    assert_eq!(bob.state(&room.id, "m.room.join_rules", "").ok()["join_rule"], "public");
    // Who asks waits until they are known: the first time they were not told.
    let joined = bob.get(&format!("/rooms/{}/joined_members", encode(&room.id))).ok();
    assert_eq!(joined["joined"].as_object().expect("members").len(), 32);
    assert!(asked.load(Ordering::SeqCst) >= 2);
    let sync = bob.syncs();
    assert_eq!(sync.joined(&room.id)["summary"]["m.joined_member_count"], 32);
}

fn who_leaves_while_it_joins_has_joined(host: Host) {
    let here = Federated::starts(host);
    let bob = here.server.registers("bob");
    let room = Room::of(Homeserver::starts(), 30);
    let (tell, told) = mpsc::channel::<String>();
    room.is_open(move |answer| {
        tell.send(answer.clone()).expect("somebody wants it");
        answer
    });
    let answer = told.recv().expect("an answer");
    let (arrives, arrived) = mpsc::channel();
    let (goes_on, waits) = mpsc::channel::<()>();
    let (arrives, waits) = (std::sync::Mutex::new(arrives), std::sync::Mutex::new(waits));
    room.lets_in(move |uri| {
        uri.contains("/v2/send_join/").then(|| {
            arrives.lock().unwrap().send(()).expect("the story goes on");
            waits.lock().unwrap().recv().expect("the story goes on");
            answer.clone()
        })
    });
    let address = here.server.url().trim_start_matches("http://").to_owned();
    let mut leaving = TcpStream::connect(&address).expect("a connection");
    let path = format!("/_matrix/client/v3/join/{}?via={}", encode(&room.id), encode(&room.home.name));
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n", bob.token);
    write!(leaving, "{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}").expect("a request");
    arrived.recv().expect("the join is under way");
    drop(leaving);
    // The other server has taken it by now: only the answer is missing.
    goes_on.send(()).expect("the answer is waited for");
    let since = bob.syncs().next_batch;
    let joined = bob.syncs_until(&since, |sync| !sync.joined(&room.id).is_null());
    assert!(!joined.joined(&room.id).is_null());
    bob.sends(&room.id, "here");
}
