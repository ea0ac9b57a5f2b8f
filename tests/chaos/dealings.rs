//! Invariant 1, for everything that is no message: receipts, account data, memberships, messages to devices and keys.
//! Whatever was acknowledged before a kill is there after it, and what is promised once comes once.
//!
//! `MYELIN_TEST_KILLS` says how often each server is killed (3).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use harness::{Server, User, Value, encode, json, on_each_host, query};

use crate::{
    killing::{RETRIES_LAST, insist, tries},
    seed::Seed,
};

on_each_host![whatever_else_was_acknowledged_survives_every_kill];

const KILLS: usize = 3;
/// How often each kind of thing is acknowledged between two kills, at least, and how much more often the first one is.
const DONE_BETWEEN_KILLS: usize = 2;
const DONE_MORE_MAX: usize = 6;
/// How long after such a moment the kill may come.
const KILLED_AFTER_MAX_US: usize = 10_000;
/// Account data that are looked at after each kill, the newest; in the end all of them are.
const LOOKED_AT: usize = 10;
/// Keys uploaded at once.
const KEYS_AT_ONCE: usize = 3;

/// What happens all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Receipts,
    AccountData,
    Memberships,
    ToDevice,
    Keys,
    Claims,
}

const KINDS: [Kind; 6] =
    [Kind::Receipts, Kind::AccountData, Kind::Memberships, Kind::ToDevice, Kind::Keys, Kind::Claims];

/// How far each kind has come: how much was begun, and how much of it acknowledged.
#[derive(Default)]
struct Progress(Mutex<BTreeMap<Kind, (usize, usize)>>);

impl Progress {
    fn begins(&self, kind: Kind) {
        self.0.lock().expect("nobody panics").entry(kind).or_default().0 += 1;
    }

    fn is_acknowledged(&self, kind: Kind) {
        self.0.lock().expect("nobody panics").entry(kind).or_default().1 += 1;
    }

    /// How much was begun and how much acknowledged.
    fn of(&self, kind: Kind) -> (usize, usize) {
        self.0.lock().expect("nobody panics").get(&kind).copied().unwrap_or_default()
    }
}

/// Everyone, and what they know.
struct Dealings {
    alice: User,
    bob: User,
    room: String,
    /// A room that bob is invited to, joins and leaves.
    side: String,
    /// Messages that were read, oldest first.
    messages: Mutex<Vec<String>>,
    progress: Progress,
    over: AtomicBool,
    /// Whether all that was begun is answered.
    settled: AtomicBool,
    /// Keys that were given out.
    claimed: Mutex<Vec<String>>,
    /// Requests for keys that were repeated: the answer to the first may have been lost, and a key with it.
    claims_repeated: Mutex<usize>,
}

impl Dealings {
    fn begin(server: &Server) -> Self {
        let (alice, bob) = (server.registers("alice"), server.registers("bob"));
        let room = alice.creates_room_with(&[&bob]);
        let side = alice.creates_room(json!({}));
        Self {
            alice,
            bob,
            room,
            side,
            messages: Mutex::default(),
            progress: Progress::default(),
            over: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            claimed: Mutex::default(),
            claims_repeated: Mutex::default(),
        }
    }

    /// Does a thing again and again, each until it is acknowledged.
    fn goes_on(&self, kind: Kind) {
        for number in 0.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            self.progress.begins(kind);
            match kind {
                Kind::Receipts => self.reads(number),
                Kind::AccountData => self.keeps(number),
                Kind::Memberships => self.comes_and_goes(number),
                Kind::ToDevice => self.whispers(number),
                Kind::Keys => self.uploads(number),
                Kind::Claims => self.claims(),
            }
            self.progress.is_acknowledged(kind);
        }
    }

    fn reads(&self, number: usize) {
        let path = format!("/rooms/{}/send/m.room.message/{number}", encode(&self.room));
        let sent = insist(&self.alice, "PUT", &path, Some(&json!({ "msgtype": "m.text", "body": "read me" })));
        let event_id = sent["event_id"].as_str().expect("an event id").to_owned();
        let path = format!("/rooms/{}/receipt/m.read/{}", encode(&self.room), encode(&event_id));
        self.messages.lock().expect("nobody panics").push(event_id);
        insist(&self.bob, "POST", &path, Some(&json!({})));
    }

    fn keeps(&self, number: usize) {
        let path = format!("/user/{}/account_data/org.test.{number}", encode(&self.alice.id));
        insist(&self.alice, "PUT", &path, Some(&json!({ "number": number })));
    }

    /// One membership after the other. Repeated after a lost answer, a leave is refused, as it should be.
    fn comes_and_goes(&self, number: usize) {
        let (user, action, body) = match MEMBERSHIPS[number % MEMBERSHIPS.len()] {
            "invite" => (&self.alice, "invite", json!({ "user_id": self.bob.id })),
            "join" => (&self.bob, "join", json!({})),
            _ => (&self.bob, "leave", json!({})),
        };
        let path = format!("/rooms/{}/{action}", encode(&self.side));
        let (answer, attempts) = tries(user, "POST", &path, Some(&body));
        assert!(answer.status == 200 || attempts > 1 && answer.status == 403, "{action}: {}", answer.body);
    }

    fn whispers(&self, number: usize) {
        let messages = json!({ (&self.bob.id): { (&self.bob.device_id): { "number": number } } });
        let path = format!("/sendToDevice/org.test/{number}");
        insist(&self.alice, "PUT", &path, Some(&json!({ "messages": messages })));
    }

    fn uploads(&self, number: usize) {
        let names = (0..KEYS_AT_ONCE).map(|key| key_name(number * KEYS_AT_ONCE + key));
        let keys: BTreeMap<_, _> =
            names.map(|name| (format!("signed_curve25519:{name}"), json!({ "key": name }))).collect();
        insist(&self.bob, "POST", "/keys/upload", Some(&json!({ "one_time_keys": keys })));
    }

    fn claims(&self) {
        let body = json!({ "one_time_keys": { (&self.bob.id): { (&self.bob.device_id): "signed_curve25519" } } });
        let (answer, attempts) = tries(&self.alice, "POST", "/keys/claim", Some(&body));
        *self.claims_repeated.lock().expect("nobody panics") += attempts - 1;
        self.claimed.lock().expect("nobody panics").extend(key_in(&answer.ok(), &self.bob));
    }

    /// What bob's device is told of messages to it, until all that were acknowledged when it was over are there.
    fn listens(&self) -> Vec<u64> {
        let (mut told, mut since) = (Vec::new(), None::<String>);
        let deadline = || Instant::now() + RETRIES_LAST;
        let mut until = deadline();
        loop {
            let mut pairs = vec![("timeout", "500"), ("filter", r#"{"room":{"rooms":[]},"presence":{"types":[]}}"#)];
            pairs.extend(since.as_deref().map(|since| ("since", since)));
            let sync = insist(&self.bob, "GET", &format!("/sync{}", query(&pairs)), None);
            for event in sync["to_device"]["events"].as_array().into_iter().flatten() {
                told.push(event["content"]["number"].as_u64().expect("a number"));
                until = deadline();
            }
            // What is still on its way when all is over is acknowledged, too.
            if self.settled.load(Ordering::Relaxed) && told.len() >= self.progress.of(Kind::ToDevice).1 {
                return told;
            }
            assert!(Instant::now() < until, "told {} of {:?}", told.len(), self.progress.of(Kind::ToDevice));
            since = Some(sync["next_batch"].as_str().expect("next_batch").to_owned());
        }
    }

    /// What was acknowledged before a kill is there after it.
    fn are_there(&self, before: &BTreeMap<Kind, usize>) {
        let acknowledged = |kind| before[&kind];
        if let Some(last) = acknowledged(Kind::Memberships).checked_sub(1) {
            let is = self.membership();
            let (begun, _) = self.progress.of(Kind::Memberships);
            let may_be: BTreeSet<_> = (last..=begun).map(|number| MEMBERSHIPS[number % MEMBERSHIPS.len()]).collect();
            assert!(may_be.contains(is.as_str()), "{last} memberships were acknowledged, of {begun}: {is}");
        }
        if let Some(last) = acknowledged(Kind::Receipts).checked_sub(1) {
            let read = self.read_up_to();
            assert!(read >= Some(last), "a receipt for {last} was acknowledged, there is one for {read:?}");
        }
        let kept = acknowledged(Kind::AccountData);
        for number in kept.saturating_sub(LOOKED_AT)..kept {
            let path = format!("/user/{}/account_data/org.test.{number}", encode(&self.alice.id));
            assert_eq!(insist(&self.alice, "GET", &path, None)["number"], number);
        }
    }

    fn read_up_to(&self) -> Option<usize> {
        let sync = insist(&self.alice, "GET", "/sync?timeout=0&set_presence=offline", None);
        let events = sync["rooms"]["join"][&self.room]["ephemeral"]["events"].as_array()?.clone();
        let receipts = events.into_iter().find(|event| event["type"] == "m.receipt")?;
        let is_bobs = |(_, kinds): &(&String, &Value)| kinds["m.read"][&self.bob.id].is_object();
        let (event_id, _) = receipts["content"].as_object()?.iter().find(is_bobs)?;
        self.messages.lock().expect("nobody panics").iter().position(|message| message == event_id)
    }

    fn membership(&self) -> String {
        let path = format!("/rooms/{}/state/m.room.member/{}", encode(&self.side), encode(&self.bob.id));
        insist(&self.alice, "GET", &path, None)["membership"].as_str().expect("a membership").to_owned()
    }

    fn all_is_kept(&self) {
        let sync = insist(&self.alice, "GET", "/sync?timeout=0", None);
        let events = sync["account_data"]["events"].as_array().expect("account data");
        let kept: BTreeSet<_> = events.iter().filter_map(|event| event["content"]["number"].as_u64()).collect();
        let (_, acknowledged) = self.progress.of(Kind::AccountData);
        assert_eq!(kept, (0..acknowledged as u64).collect());
    }

    /// Every key that was uploaded was given out once, or is there to be, but for one with each answer that was lost.
    fn keys_are_there_once(&self) {
        let body = json!({ "one_time_keys": { (&self.bob.id): { (&self.bob.device_id): "signed_curve25519" } } });
        while let Some(key) = key_in(&self.alice.post("/keys/claim", body.clone()).ok(), &self.bob) {
            self.claimed.lock().expect("nobody panics").push(key);
        }
        let claimed = self.claimed.lock().expect("nobody panics");
        let once: BTreeSet<_> = claimed.iter().cloned().collect();
        assert_eq!(once.len(), claimed.len(), "a key was given out twice: {claimed:?}");
        let (_, uploads) = self.progress.of(Kind::Keys);
        let uploaded: BTreeSet<_> = (0..uploads * KEYS_AT_ONCE).map(key_name).collect();
        assert_eq!(once.difference(&uploaded).next(), None, "a key that nobody has uploaded");
        let lost = uploaded.difference(&once).count();
        let repeated = *self.claims_repeated.lock().expect("nobody panics");
        assert!(lost <= repeated, "{lost} keys are lost, {repeated} answers may have been");
    }
}

const MEMBERSHIPS: [&str; 3] = ["invite", "join", "leave"];

fn key_name(number: usize) -> String {
    format!("K{number}")
}

/// The name of the one key in an answer to a claim, if there was one left.
fn key_in(claimed: &Value, of: &User) -> Option<String> {
    let key = claimed["one_time_keys"][&of.id][&of.device_id].as_object()?.values().next()?["key"].as_str();
    Some(key.expect("a key").to_owned())
}

fn whatever_else_was_acknowledged_survives_every_kill(server: &Server) {
    let kills = std::env::var("MYELIN_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let seed = Seed::from_environment();
    let server = Server::with(server.host(), &[]);
    let dealings = Dealings::begin(&server);

    let told = thread::scope(|scope| {
        let doers: Vec<_> = KINDS.iter().map(|kind| scope.spawn(|| dealings.goes_on(*kind))).collect();
        let listener = scope.spawn(|| dealings.listens());
        for kill in 1..=kills {
            let begin = KINDS.map(|kind| dealings.progress.of(kind).1);
            let more = 1 + seed.below(DONE_MORE_MAX);
            let deadline = Instant::now() + RETRIES_LAST;
            let is_enough = |(kind, begin): (&Kind, usize)| {
                let more = if *kind == KINDS[kill % KINDS.len()] { more } else { 0 };
                dealings.progress.of(*kind).1 >= begin + DONE_BETWEEN_KILLS + more
            };
            while !KINDS.iter().zip(begin).all(is_enough) {
                assert!(Instant::now() < deadline, "nobody is answered before kill {kill}");
                assert!(!listener.is_finished(), "the listener gave up before kill {kill}");
                thread::sleep(Duration::from_millis(5));
            }
            thread::sleep(Duration::from_micros(seed.below(KILLED_AFTER_MAX_US) as u64));
            let before = KINDS.map(|kind| (kind, dealings.progress.of(kind).1)).into();
            server.dies_and_returns();
            dealings.are_there(&before);
        }
        dealings.over.store(true, Ordering::Relaxed);
        for doer in doers {
            doer.join().expect("who does something ends");
        }
        dealings.settled.store(true, Ordering::Relaxed);
        listener.join().expect("the listener ends")
    });

    let all = KINDS.map(|kind| (kind, dealings.progress.of(kind).1)).into();
    println!("{kills} kills; acknowledged: {all:?}");
    dealings.are_there(&all);
    let sent = dealings.progress.of(Kind::ToDevice).1 as u64;
    assert_eq!(told, (0..sent).collect::<Vec<_>>(), "each message to the device once, and in order");
    dealings.all_is_kept();
    dealings.keys_are_there_once();
}
