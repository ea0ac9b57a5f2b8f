//! Joining large rooms that are elsewhere: each time on a server that has nothing yet, so that its memory is that of
//! the join.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Homeserver, User, encode, json, large_room::Room};

use crate::{
    Sizes,
    report::{Better, Report},
    tried::{Kind, Tried},
};

/// Whoever made the room, and who joins.
const BESIDES: usize = 2;
/// All members are known within this, or never are.
const KNOWN_WITHIN: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What a member of a room that is joined may write.
const ROWS_MAX: f64 = 8.0;

pub fn measure(kind: Kind, sizes: &Sizes, report: &mut Report) {
    for members in &sizes.members {
        // Signed once, and told to every server that joins.
        let room = Room::of(Homeserver::starts(), members - BESIDES);
        for leaves_out in [true, false] {
            if leaves_out {
                room.is_open_without_members(0);
            } else {
                room.is_open(|answer| answer);
            }
            let with = if leaves_out { "without its members" } else { "with its members" };
            joins(&Tried::starts(kind), &room, *members, &format!("join of {members} {with}"), report);
        }
        // What it holds of its answer is let go.
        room.home.answers(|_| None);
    }
}

fn joins(tried: &Tried, room: &Room, members: usize, what: &str, report: &mut Report) {
    let bob = tried.registers("bob");
    let before = tried.memory_peak_mb();
    let meter = tried.meter();
    let (known, spent) = meter.spent_on(|| {
        let started = Instant::now();
        let home = encode(&room.home.name);
        // Synapse knows a server by its old name for that.
        let path = format!("/join/{}?via={home}&server_name={home}", encode(&room.id));
        let answer = bob.post(&path, json!({}));
        if answer.status != 200 {
            eprintln!("    {what}: {} {}", answer.status, answer.body);
            return None;
        }
        let answered = started.elapsed();
        bob.sends(&room.id, "hello, many");
        Some([answered, started.elapsed(), knows(&bob, room, members, started)])
    });
    let Some([answered, said, known]) = known else { return };
    report.time(&format!("{what}, until it answers"), answered);
    report.time(&format!("{what}, until something is said"), said);
    report.time(&format!("{what}, until all are known"), known);
    if let Some((before, after)) = before.zip(tried.memory_peak_mb()) {
        report.figure(&format!("{what}, more memory at most"), "MB", after - before, Better::Lower);
    }
    report.cost(&format!("{what}: a member"), members, spent, ROWS_MAX);
}

/// How long it was until the server tells everybody who is in the room.
fn knows(bob: &User, room: &Room, members: usize, started: Instant) -> Duration {
    loop {
        let answer = bob.get(&format!("/rooms/{}/joined_members", encode(&room.id)));
        let known = answer.body["joined"].as_object().map_or(0, |joined| joined.len());
        if answer.status == 200 && known == members {
            return started.elapsed();
        }
        assert!(started.elapsed() < KNOWN_WITHIN, "{known} of {members} are known: {}", answer.status);
        thread::sleep(LOOK_EVERY);
    }
}
