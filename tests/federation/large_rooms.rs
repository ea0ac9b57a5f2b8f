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

use harness::{Homeserver, Host, Reply, encode, json, large_room::Room};

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
    let asked = room.is_open_without_members(1);
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
