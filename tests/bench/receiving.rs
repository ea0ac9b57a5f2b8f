//! PDUs that other servers send: into one busy room and into many, from one server and from several at once.
//!
//! Each server says one thing after the other, knowing nothing of what the others say meanwhile: the busy room forks
//! once for each. All of it is hashed, signed and written before the clock starts. The clock stops when a member of the
//! room sees the last of it: Synapse answers a transaction before it has looked at what is in it. Where a hundred
//! events wait for one room it drops them, and asks for them again; so in the busy room it is given time, and a
//! transaction takes there until it is seen.

use std::{
    sync::{Arc, Barrier, Mutex},
    thread,
    time::{Duration, Instant},
};

use harness::{
    Client, Homeserver, User,
    guest::{Guest, Prepared, VERSION, takes_what_is_sent},
    json,
};

use crate::{
    Sizes,
    report::Report,
    tried::{NAME, Tried},
};

/// PDUs of a transaction. Spec: at most 50.
const PORTIONS: [usize; 2] = [50, 1];
/// What is sent is seen within this, or the server is broken.
const SEEN_WITHIN: Duration = Duration::from_secs(120);
/// Who looks too often is in the way; who looks seldom sees it late, by an eighth of the time at most after a while.
const LOOK_AFTER: Duration = Duration::from_millis(8);
const LOOK_AFTER_PART: u32 = 8;
/// So many events may not wait for one room at Synapse.
const WAITING_MAX: usize = 100;
/// What a PDU may write, and what one may in a room that goes on in several ways.
const ROWS_MAX: f64 = 2.0;
const FORKED_ROWS_MAX: f64 = 6.0;

/// An event and its depth.
type Tip = (String, u64);

/// A room, and its newest events.
struct Place {
    room: String,
    tips: Vec<Tip>,
}

/// Another server, with a user of its own in each of some rooms.
struct Speaker {
    client: Client,
    /// Each with the number of their room.
    guests: Vec<(usize, Guest)>,
}

/// What one server sends: transactions, each with the tips that it leaves.
type Speech = Vec<(Prepared, Vec<(usize, Tip)>)>;

/// What became of a speech.
struct Spoken {
    latencies: Vec<Duration>,
    /// The newest tip of each room that was spoken in.
    tips: Vec<(usize, Tip)>,
}

pub fn measure(tried: &Tried, sizes: &Sizes, report: &mut Report) {
    let alice = tried.registers("alice");
    let homeservers: Vec<_> = (0..sizes.servers).map(|_| homeserver()).collect();

    let mut busy = vec![place(&alice)];
    let mut many: Vec<_> = homeservers.iter().map(|server| speaker(tried, server, &mut busy, |_| true)).collect();
    each_portion(tried, &alice, "one room", &mut busy, &mut many[..1], sizes, report);
    each_portion(tried, &alice, "one room", &mut busy, &mut many, sizes, report);

    let mut places: Vec<_> = (0..sizes.rooms).map(|_| place(&alice)).collect();
    let mut one = [speaker(tried, &homeservers[0], &mut places, |_| true)];
    let what = format!("{} rooms", sizes.rooms);
    each_portion(tried, &alice, &what, &mut places, &mut one, sizes, report);
    let mut many = Vec::new();
    for (number, server) in homeservers.iter().enumerate() {
        many.push(speaker(tried, server, &mut places, |room| room % sizes.servers == number));
    }
    each_portion(tried, &alice, &what, &mut places, &mut many, sizes, report);
}

/// One that is played, and takes whatever is sent.
pub fn homeserver() -> Arc<Homeserver> {
    let homeserver = Homeserver::starts();
    homeserver.answers(takes_what_is_sent);
    Arc::new(homeserver)
}

pub fn public_room(alice: &User) -> String {
    alice.creates_room(json!({ "preset": "public_chat", "room_version": VERSION }))
}

fn place(alice: &User) -> Place {
    Place { room: public_room(alice), tips: Vec::new() }
}

/// A server with somebody in each of the rooms that it wants.
fn speaker(tried: &Tried, server: &Arc<Homeserver>, places: &mut [Place], wants: impl Fn(usize) -> bool) -> Speaker {
    let client = tried.client();
    let mut guests = Vec::new();
    for (number, place) in places.iter_mut().enumerate().filter(|(number, _)| wants(*number)) {
        // Somebody new, also where the server has a user already.
        let name = format!("guest{}", place.tips.first().map_or(0, |(_, depth)| *depth));
        let guest = Guest::of_any(NAME, client.clone(), server.clone(), &name).enters(&place.room);
        place.tips = vec![guest.head().clone()];
        guests.push((number, guest));
    }
    Speaker { client, guests }
}

fn each_portion(
    tried: &Tried,
    alice: &User,
    into: &str,
    places: &mut [Place],
    speakers: &mut [Speaker],
    sizes: &Sizes,
    report: &mut Report,
) {
    for (portion, transactions) in PORTIONS.into_iter().zip(sizes.transactions) {
        let servers = speakers.len();
        let plural = if servers == 1 { "" } else { "s" };
        let what = format!("receive into {into}, {servers} server{plural}, {portion} each");
        let each = transactions.div_ceil(servers);
        let speeches = prepare(places, speakers, portion, each);
        let turns = (portion * servers >= WAITING_MAX).then(Mutex::default);
        let waits = (tried.answers_early() && places.len() == 1).then(|| Waits { room: places[0].room.clone(), turns });
        let run = || runs(alice, places, speakers, speeches, (sizes.receives_for, waits.as_ref()));
        let ((mut latencies, took), spent) = tried.meter().spent_on(run);
        let pdus = latencies.len() * portion;
        report.rate(&what, "PDUs/s", pdus, took);
        report.percentiles(&format!("{what}, a transaction"), &mut latencies);
        let rows_max = if servers > 1 && places.len() == 1 { FORKED_ROWS_MAX } else { ROWS_MAX };
        report.cost(&format!("{what}: a PDU"), pdus, spent, rows_max);
    }
}

/// Everything that the speakers will say, from where the rooms are.
fn prepare(places: &mut [Place], speakers: &mut [Speaker], portion: usize, transactions: usize) -> Vec<Speech> {
    for speaker in &mut *speakers {
        for (number, guest) in &mut speaker.guests {
            let place = &mut places[*number];
            if place.tips.len() > 1 {
                place.tips = vec![gather(guest, &speaker.client, &place.tips)];
            }
            let (tip, depth) = &place.tips[0];
            guest.goes_on_after(tip, *depth);
        }
    }
    speakers.iter_mut().map(|speaker| speaker.prepares(portion, transactions)).collect()
}

/// Has one event come after all of these.
fn gather(guest: &Guest, client: &Client, tips: &[Tip]) -> Tip {
    let depth = tips.iter().map(|(_, depth)| *depth).max().unwrap_or_default() + 1;
    let mut event = guest.message("where were we?");
    event["prev_events"] = tips.iter().map(|(tip, _)| tip.clone()).collect();
    event["depth"] = depth.into();
    let (id, event) = guest.completes(event);
    takes(&guest.prepares(&[event]), client);
    (id, depth)
}

impl Speaker {
    /// One room after the other has the next PDU.
    fn prepares(&mut self, portion: usize, transactions: usize) -> Speech {
        let (mut turn, count) = (0, self.guests.len());
        let mut speech = Vec::with_capacity(transactions);
        for _ in 0..transactions {
            let (mut pdus, mut tips) = (Vec::with_capacity(portion), Vec::new());
            for _ in 0..portion {
                let (number, guest) = &mut self.guests[turn % count];
                pdus.push(guest.goes_on("hello from elsewhere"));
                tips.retain(|(other, _)| other != number);
                tips.push((*number, guest.head().clone()));
                turn += 1;
            }
            speech.push((self.guests[0].1.prepares(&pdus), tips));
        }
        speech
    }
}

/// For a server that answers early: who speaks in this room waits until that is seen, and for the others, if need be.
struct Waits {
    room: String,
    turns: Option<Mutex<()>>,
}

/// All speak at once, each one transaction after the other, for a time. Answers how long each transaction took, and how
/// long it was until all was seen.
fn runs(
    alice: &User,
    places: &mut [Place],
    speakers: &[Speaker],
    speeches: Vec<Speech>,
    (receives_for, waits): (Duration, Option<&Waits>),
) -> (Vec<Duration>, Duration) {
    let barrier = Barrier::new(speakers.len() + 1);
    let (spoken, started) = thread::scope(|scope| {
        let speaking = speakers.iter().zip(speeches).map(|(speaker, speech)| {
            let barrier = &barrier;
            scope.spawn(move || {
                let alice = alice.lasting(SEEN_WITHIN);
                barrier.wait();
                speaks(&speaker.client, speech, receives_for, waits.map(|waits| (waits, &alice)))
            })
        });
        let speaking: Vec<_> = speaking.collect();
        barrier.wait();
        let started = Instant::now();
        let spoken: Vec<_> = speaking.into_iter().map(|one| one.join().expect("it speaks")).collect();
        (spoken, started)
    });
    let mut latencies = Vec::new();
    let mut touched: Vec<(usize, Vec<Tip>)> = Vec::new();
    for one in spoken {
        latencies.extend(one.latencies);
        for (number, tip) in one.tips {
            match touched.iter_mut().find(|(other, _)| *other == number) {
                Some((_, tips)) => tips.push(tip),
                None => touched.push((number, vec![tip])),
            }
        }
    }
    for (number, tips) in touched {
        let place = &mut places[number];
        tips.iter().for_each(|(tip, _)| sees(alice, &place.room, tip));
        place.tips = tips;
    }
    (latencies, started.elapsed())
}

fn speaks(client: &Client, speech: Speech, receives_for: Duration, waits: Option<(&Waits, &User)>) -> Spoken {
    let started = Instant::now();
    let mut spoken = Spoken { latencies: Vec::with_capacity(speech.len()), tips: Vec::new() };
    for (transaction, tips) in speech {
        if started.elapsed() > receives_for {
            break;
        }
        let turns = waits.and_then(|(waits, _)| waits.turns.as_ref());
        let _turn = turns.map(|turns| turns.lock().expect("no holder panics"));
        let sent = Instant::now();
        takes(&transaction, client);
        if let Some((waits, alice)) = waits {
            tips.iter().for_each(|(_, (tip, _))| sees(alice, &waits.room, tip));
        }
        spoken.latencies.push(sent.elapsed());
        for (number, tip) in tips {
            spoken.tips.retain(|(other, _)| *other != number);
            spoken.tips.push((number, tip));
        }
    }
    spoken
}

/// Sends a transaction, of which each event has to be taken.
#[track_caller]
pub fn takes(transaction: &Prepared, client: &Client) {
    let answer = transaction.goes_over(client).ok();
    let refused = answer["pdus"].as_object().into_iter().flatten().find(|(_, outcome)| outcome.get("error").is_some());
    assert!(refused.is_none(), "{refused:?} of {answer}");
}

/// Waits until somebody sees an event.
#[track_caller]
pub fn sees(alice: &User, room: &str, event_id: &str) {
    let started = Instant::now();
    while alice.event(room, event_id).status != 200 {
        assert!(started.elapsed() < SEEN_WITHIN, "{event_id} is never seen");
        thread::sleep(LOOK_AFTER.max(started.elapsed() / LOOK_AFTER_PART));
    }
}
