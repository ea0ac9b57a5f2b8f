//! Messages of a user of the server's that go out to the other servers of a room.

use std::{
    collections::HashSet,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use harness::{
    User, Value,
    guest::{Guest, takes_what_is_sent},
    serde_json,
};

use crate::{
    Sizes,
    receiving::{homeserver, public_room},
    report::Report,
    tried::{NAME, Tried},
};

/// Servers besides the one that is measured.
const OTHERS: [usize; 2] = [1, 20];
/// Who send at once.
const SENDERS: usize = 4;
/// What is sent has come within this, or never does.
const COMES_WITHIN: Duration = Duration::from_secs(60);
/// What a message may write in its room, and for each server, which is the more the fewer go out together.
const ROOM_ROWS_MAX: f64 = 2.0;
const SERVER_ROWS_MAX: f64 = 3.0;

/// A transaction as it came: when, to which server, and its text.
type Arrived = (Instant, usize, String);

pub fn measure(tried: &Tried, sizes: &Sizes, report: &mut Report) {
    for others in OTHERS {
        let alice = tried.registers("alice");
        let room = public_room(&alice);
        let (tells, told) = mpsc::channel::<Arrived>();
        let guests: Vec<_> = (0..others)
            .map(|number| {
                let homeserver = homeserver();
                let tells = tells.clone();
                homeserver.answers(move |request| {
                    let taken = takes_what_is_sent(request)?;
                    let _ = tells.send((Instant::now(), number, request.body.clone()));
                    Some(taken)
                });
                Guest::of_any(NAME, tried.client(), homeserver, &format!("guest{number}")).enters(&room)
            })
            .collect();
        let plural = if others == 1 { "" } else { "s" };
        let what = format!("send to {others} server{plural}");

        // The first to a server finds out where that is.
        one_by_one(&alice, &room, &told, others, "first", 1);
        let mut samples = one_by_one(&alice, &room, &told, others, "single", sizes.messages_timed);
        report.percentiles(&format!("{what}, from send to arrival"), &mut samples);
        let counted = sizes.messages_at_once / SENDERS * SENDERS;
        let (took, spent) = tried.meter().spent_on(|| at_once(&alice, &room, &told, others, counted));
        report.rate(&what, "PDUs/s", counted * others, took);
        let rows_max = ROOM_ROWS_MAX + SERVER_ROWS_MAX * others as f64;
        report.cost(&format!("{what}: a message"), counted, spent, rows_max);
        // Their servers are not asked for anything any more.
        for guest in guests {
            guest.homeserver.answers(takes_what_is_sent);
            guest.homeserver.https.takes_received();
        }
    }
}

/// What each message took to each server, when nothing else is on its way.
fn one_by_one(
    alice: &User,
    room: &str,
    told: &Receiver<Arrived>,
    others: usize,
    name: &str,
    messages: usize,
) -> Vec<Duration> {
    let mut samples = Vec::new();
    for number in 0..messages {
        let mut comes = Coming::of([format!("{name} {number}")].into(), others);
        let sent = Instant::now();
        alice.sends(room, &format!("{name} {number}"));
        while let Some((arrived, pdus)) = comes.next(told) {
            samples.extend(std::iter::repeat_n(arrived - sent, pdus));
        }
    }
    samples
}

/// How long it took until so many messages of several senders were everywhere.
fn at_once(alice: &User, room: &str, told: &Receiver<Arrived>, others: usize, messages: usize) -> Duration {
    let texts = (0..messages).map(|number| format!("many {number}")).collect();
    let mut comes = Coming::of(texts, others);
    let started = Instant::now();
    let mut last = started;
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let alice = alice.lasting(COMES_WITHIN);
            scope.spawn(move || {
                for number in (sender..messages).step_by(SENDERS) {
                    alice.sends(room, &format!("many {number}"));
                }
            });
        }
        while let Some((arrived, _)) = comes.next(told) {
            last = arrived;
        }
    });
    last - started
}

/// Messages that are to arrive.
struct Coming {
    texts: HashSet<String>,
    missing: usize,
    seen: HashSet<(usize, String)>,
}

impl Coming {
    fn of(texts: HashSet<String>, others: usize) -> Self {
        Self { missing: texts.len() * others, texts, seen: HashSet::new() }
    }

    /// When something of it came, and how much; `None` when all is there.
    fn next(&mut self, told: &Receiver<Arrived>) -> Option<(Instant, usize)> {
        while self.missing > 0 {
            let (arrived, server, text) = match told.recv_timeout(COMES_WITHIN) {
                Ok(arrived) => arrived,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("{} PDUs never came", self.missing)
                }
            };
            let transaction: Value = serde_json::from_str(&text).unwrap_or_default();
            let pdus = transaction["pdus"].as_array().into_iter().flatten();
            let bodies = pdus.filter_map(|pdu| pdu["content"]["body"].as_str());
            let wanted = bodies.filter(|body| self.texts.contains(*body));
            let new = wanted.filter(|body| self.seen.insert((server, (*body).to_owned()))).count();
            if new > 0 {
                self.missing -= new;
                return Some((arrived, new));
            }
        }
        None
    }
}
