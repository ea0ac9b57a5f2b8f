//! State resolution: a room here that goes on in many ways on a server that is played, and the event that joins them.

use std::time::Instant;

use harness::{
    User, Value, encode,
    guest::{Guest, event_id},
    json,
};

use crate::{
    Sizes,
    receiving::{homeserver, public_room, sees, takes},
    report::Report,
    tried::{NAME, Tried},
};

/// Spec: an event comes after at most 20.
const PREV_EVENTS_MAX: usize = 20;
/// Spec: «Must not be more than 50 items».
const PDUS_MAX: usize = 50;
/// What one event of a branch may write, and what joins all branches.
const BRANCH_ROWS_MAX: f64 = 10.0;
const MERGE_ROWS_MAX: f64 = 50.0;

/// An event, signed, with its id and its depth.
struct Said {
    id: String,
    depth: u64,
    event: Value,
}

pub fn measure(tried: &Tried, sizes: &Sizes, report: &mut Report) {
    for branches in &sizes.branches {
        fork(tried, *branches, report);
    }
}

fn fork(tried: &Tried, branches: usize, report: &mut Report) {
    let alice = tried.registers("alice");
    let room = public_room(&alice);
    let client = tried.client();
    let mut eve = Guest::of_any(NAME, client.clone(), homeserver(), "eve").enters(&room);
    let levels = powers(&alice, &room, &eve.id);
    eve.is_allowed_by(&levels);
    let path = format!("/_matrix/federation/v1/event/{}", encode(&levels));
    let depth = eve.asks("GET", &path, None).ok()["pdus"][0]["depth"].as_u64().expect("a depth");

    let mut all = Vec::new();
    let mut tips = Vec::new();
    for number in 0..branches {
        let branch = branch(&mut eve, (&levels, depth), number, &alice.id);
        let last = branch.last().expect("it has events");
        tips.push((last.id.clone(), last.depth));
        all.extend(branch);
    }
    let merges = merges(&eve, &tips);
    let what = format!("fork of {branches} branches, {} events", all.len());

    let portion = |said: &[Said]| {
        let pdus: Vec<_> = said.iter().map(|said| said.event.clone()).collect();
        (eve.prepares(&pdus), said[said.len() - 1].id.clone())
    };
    let portions: Vec<_> = all.chunks(PDUS_MAX).map(portion).collect();
    let (took, spent) = tried.meter().spent_on(|| {
        let started = Instant::now();
        for (portion, last) in &portions {
            takes(portion, &client);
            sees(&alice, &room, last);
        }
        started.elapsed()
    });
    report.time(&format!("{what}, until they are there"), took);
    report.cost(&format!("{what}: an event"), all.len(), spent, BRANCH_ROWS_MAX);

    let (merging, last) = portion(&merges);
    let (took, spent) = tried.meter().spent_on(|| {
        let started = Instant::now();
        takes(&merging, &client);
        sees(&alice, &room, &last);
        started.elapsed()
    });
    let what = format!("{what}, joined by {}", merges.len());
    report.time(&what, took);
    report.cost(&what, 1, spent, MERGE_ROWS_MAX);
    let won = alice.state(&room, "m.room.topic", "").ok();
    assert!(won["topic"].as_str().is_some_and(|topic| topic.starts_with("branch")), "no branch won: {won}");
}

/// Gives somebody as much power as alice has.
fn powers(alice: &User, room: &str, whom: &str) -> String {
    let mut levels = alice.state(room, "m.room.power_levels", "").ok();
    levels["users"][whom] = 100.into();
    let set = alice.sets_state(room, "m.room.power_levels", "", levels).ok();
    set["event_id"].as_str().expect("an event id").to_owned()
}

/// What happens on one branch: power levels, the topic, somebody whom each branch invites or bans, somebody who joins.
fn branch(eve: &mut Guest, (base, depth): (&str, u64), number: usize, alice: &str) -> Vec<Said> {
    let server = eve.homeserver.name.clone();
    eve.goes_on_after(base, depth);
    eve.is_allowed_by(base);
    let users = json!({ (alice): 100, (eve.id.clone()): 100, (format!("@friend{number}:{server}")): 50 });
    let levels = json!({ "users": users, "events": { "org.example.branch": number } });
    let levels = says(eve, eve.draft("m.room.power_levels", Some(""), levels));
    eve.is_allowed_by(&levels.id);
    let topic = json!({ "topic": format!("branch {number}") });
    let topic = says(eve, eve.draft("m.room.topic", Some(""), topic));
    let membership = if number.is_multiple_of(2) { "invite" } else { "ban" };
    let target = format!("@target:{server}");
    let target = says(eve, eve.draft("m.room.member", Some(&target), json!({ "membership": membership })));
    let friend = format!("@friend{number}:{server}");
    let mut join = eve.draft("m.room.member", Some(&friend), json!({ "membership": "join" }));
    join["sender"] = friend.into();
    join["auth_events"] = json!([eve.finds("m.room.create", ""), levels.id, eve.finds("m.room.join_rules", "")]);
    let join = says(eve, join);
    vec![levels, topic, target, join]
}

/// The event as it is sent; what comes next comes after it.
fn says(eve: &mut Guest, draft: Value) -> Said {
    let (id, event) = eve.completes(draft);
    let depth = event["depth"].as_u64().expect("a depth");
    eve.goes_on_after(&id, depth);
    Said { id, depth, event }
}

/// Events that come after all of these, as few at once as one may; the last after all.
fn merges(eve: &Guest, tips: &[(String, u64)]) -> Vec<Said> {
    let mut said: Vec<Said> = tips.chunks(PREV_EVENTS_MAX).map(|tips| merge(eve, tips)).collect();
    if said.len() > 1 {
        let tips: Vec<_> = said.iter().map(|said| (said.id.clone(), said.depth)).collect();
        said.extend(merges(eve, &tips));
    }
    said
}

fn merge(eve: &Guest, tips: &[(String, u64)]) -> Said {
    let depth = tips.iter().map(|(_, depth)| *depth).max().unwrap_or_default() + 1;
    let mut event = eve.message("together again");
    event["prev_events"] = tips.iter().map(|(tip, _)| tip.clone()).collect();
    event["depth"] = depth.into();
    let event = eve.completes(event).1;
    Said { id: event_id(&event), depth, event }
}
