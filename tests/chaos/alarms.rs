//! Invariant 19: what an actor owes others after a commit is done, whatever dies meanwhile. Only the actor's alarm
//! can: nobody repeats the request, and what was on its way is lost with the process.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Server, User, encode, json, on_each_host};

on_each_host![an_alarm_finishes_what_a_kill_cut_off];

/// Rooms that are told of a new name before its bearer is answered: enough to be killed in between.
const ROOMS: usize = 40;
/// The kill comes later with each attempt, until it falls between the commit and the last room's being told.
const KILLED_AFTER_STEP: Duration = Duration::from_millis(3);
const ATTEMPTS: u32 = 30;
/// Longer than an alarm waits before it tries again.
const DONE_WITHIN: Duration = Duration::from_secs(40);

fn shows(room: &str, of: &User, name: &str, to: &User) -> bool {
    to.state(room, "m.room.member", &of.id).ok()["displayname"] == name
}

fn an_alarm_finishes_what_a_kill_cut_off(server: &Server) {
    let server = Server::with(server.host(), &[]);
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let rooms: Vec<_> = (0..ROOMS).map(|_| alice.creates_room_with(&[&bob])).collect();
    let profile = format!("/profile/{}/displayname", encode(&alice.id));
    let path = format!("/_matrix/client/v3{profile}");
    let cut_off = (0..ATTEMPTS).find_map(|attempt| {
        let name = format!("Alice the {attempt}");
        let body = json!({ "displayname": name }).to_string();
        thread::scope(|scope| {
            // Answered or not: it is the commit that counts.
            scope.spawn(|| drop(alice.client().try_send("PUT", &path, Some(body))));
            thread::sleep(KILLED_AFTER_STEP * attempt);
            server.dies_and_returns();
        });
        let is_committed = bob.get(&profile).body["displayname"] == *name;
        let is_cut_off = is_committed && rooms.iter().any(|room| !shows(room, &alice, &name, &bob));
        is_cut_off.then_some(name)
    });
    let name = cut_off.expect("every kill came too early or too late");
    let deadline = Instant::now() + DONE_WITHIN;
    for room in &rooms {
        while !shows(room, &alice, &name, &bob) {
            assert!(Instant::now() < deadline, "the alarm never came");
            thread::sleep(Duration::from_millis(20));
        }
    }
}
