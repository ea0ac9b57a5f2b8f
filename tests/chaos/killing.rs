//! Invariants 1 to 3: kill -9 at any instant loses no acknowledged event, sync never skips, a retry is no repetition.
//!
//! `MYELIN_TEST_KILLS` says how often each server is killed (5).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use harness::{Answer, Server, Sync, User, Value, bodies, encode, json, on_each_host, query};

use crate::seed::Seed;

on_each_host![what_was_acknowledged_survives_every_kill];

const KILLS: usize = 5;
/// How many messages are acknowledged between two kills, at most: the server is at work when it dies.
const SENT_BETWEEN_KILLS_MAX: usize = 16;
/// How long after such a message the kill may come: at any instant of the next ones.
const KILLED_AFTER_MAX_US: usize = 10_000;
/// How long anybody tries again before the server counts as dead for good.
pub const RETRIES_LAST: Duration = Duration::from_secs(60);

/// Asks until there is an answer that is not the server's own failure; answers how often it took, too.
pub fn tries(user: &User, method: &str, path: &str, body: Option<&Value>) -> (Answer, usize) {
    let deadline = Instant::now() + RETRIES_LAST;
    for attempt in 1.. {
        let text = body.map(ToString::to_string);
        match user.client().try_send(method, &format!("/_matrix/client/v3{path}"), text) {
            Ok(answer) if answer.status < 500 => return (answer, attempt),
            Ok(answer) => assert!(Instant::now() < deadline, "{}: {}", answer.status, answer.body),
            Err(error) => assert!(Instant::now() < deadline, "{method} {path}: {error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
    unreachable!("the deadline passes")
}

/// The same for what has to succeed, however often it is asked.
pub fn insist(user: &User, method: &str, path: &str, body: Option<&Value>) -> Value {
    tries(user, method, path, body).0.ok()
}

/// Messages by body with the event id the server acknowledged.
type Acknowledged = Arc<Mutex<BTreeMap<String, String>>>;

/// Speaks until told to stop; each message is retried under its transaction id until it is acknowledged.
fn speaks(user: &User, room: &str, acknowledged: &Acknowledged, over: &AtomicBool) {
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let body = format!("{} {number}", user.localpart());
        let content = json!({ "msgtype": "m.text", "body": body });
        let path = format!("/rooms/{}/send/m.room.message/{number}", encode(room));
        let sent = insist(user, "PUT", &path, Some(&content));
        let event_id = sent["event_id"].as_str().expect("an event id").to_owned();
        acknowledged.lock().expect("no speaker panics").insert(body, event_id);
    }
}

/// Follows /sync, closing every gap, until the message `last` came; answers all events in the order told.
fn listens(user: &User, room: &str, since: String, last: &str) -> Vec<Value> {
    let filter = json!({ "room": { "timeline": { "limit": 7 } } }).to_string();
    let mut since = since;
    let mut heard: Vec<Value> = Vec::new();
    loop {
        let pairs = [("since", since.as_str()), ("timeout", "2000"), ("filter", filter.as_str())];
        let body = insist(user, "GET", &format!("/sync{}", query(&pairs)), None);
        let sync = Sync { next_batch: body["next_batch"].as_str().expect("next_batch").to_owned(), body };
        if sync.is_limited(room) {
            let mut missed = reads_between(user, room, sync.prev_batch(room), Some(&since));
            missed.reverse();
            heard.extend(missed);
        }
        heard.extend(sync.timeline(room));
        if bodies(&heard).iter().any(|body| body == last) {
            return heard;
        }
        since = sync.next_batch;
    }
}

fn reads_between(user: &User, room: &str, from: &str, to: Option<&str>) -> Vec<Value> {
    let mut from = from.to_owned();
    let mut events = Vec::new();
    loop {
        let mut pairs = vec![("dir", "b"), ("limit", "50"), ("from", from.as_str())];
        pairs.extend(to.map(|to| ("to", to)));
        let page = insist(user, "GET", &format!("/rooms/{}/messages{}", encode(room), query(&pairs)), None);
        let chunk = page["chunk"].as_array().expect("a chunk");
        events.extend(chunk.iter().cloned());
        match page["end"].as_str() {
            Some(end) if !chunk.is_empty() => from = end.to_owned(),
            _ => return events,
        }
    }
}

/// Every acknowledged message is among the events, once and under its id, and nothing else is.
#[track_caller]
fn assert_each_once(events: &[Value], acknowledged: &BTreeMap<String, String>, whose: &str) {
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["type"] == "m.room.message") {
        let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
        seen.entry(text(&event["content"]["body"])).or_default().push(text(&event["event_id"]));
    }
    for (body, event_id) in acknowledged {
        match seen.remove(body).as_deref() {
            Some([once]) => assert_eq!(once, event_id, "{whose}: «{body}» changed its id"),
            Some(often) => panic!("{whose}: «{body}» is there {} times: {often:?}", often.len()),
            None => panic!("{whose}: «{body}» was acknowledged as {event_id} and is lost"),
        }
    }
    assert!(seen.is_empty(), "{whose}: nobody was told of {seen:?}");
}

fn what_was_acknowledged_survives_every_kill(server: &Server) {
    let kills = std::env::var("MYELIN_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let seed = Seed::from_environment();
    let server = Server::with(server.host(), &[]);
    let people = [server.registers("alice"), server.registers("bob")];
    let room = people[0].creates_room_with(&[&people[1]]);
    let since = people.each_ref().map(|user| user.syncs().next_batch);
    let acknowledged: Acknowledged = Arc::default();
    let over = AtomicBool::new(false);

    let heard = thread::scope(|scope| {
        let speakers: Vec<_> =
            people.iter().map(|user| scope.spawn(|| speaks(user, &room, &acknowledged, &over))).collect();
        let listeners: Vec<_> = people
            .iter()
            .zip(since)
            .map(|(user, since)| scope.spawn(|| listens(user, &room, since, "the end")))
            .collect();

        for kill in 1..=kills {
            let told = || acknowledged.lock().expect("no speaker panics").len();
            let enough = told() + 1 + seed.below(SENT_BETWEEN_KILLS_MAX);
            let deadline = Instant::now() + RETRIES_LAST;
            while told() < enough {
                assert!(Instant::now() < deadline, "nobody is answered before kill {kill}");
                assert!(!speakers.iter().any(|speaker| speaker.is_finished()), "a speaker gave up before kill {kill}");
                thread::sleep(Duration::from_millis(5));
            }
            thread::sleep(Duration::from_micros(seed.below(KILLED_AFTER_MAX_US) as u64));
            server.dies_and_returns();
        }
        over.store(true, Ordering::Relaxed);
        for speaker in speakers {
            speaker.join().expect("the speaker ends");
        }
        let end = json!({ "msgtype": "m.text", "body": "the end" });
        let path = format!("/rooms/{}/send/m.room.message/end", encode(&room));
        let sent = insist(&people[0], "PUT", &path, Some(&end));
        let event_id = sent["event_id"].as_str().expect("an event id").to_owned();
        acknowledged.lock().expect("no speaker panics").insert("the end".to_owned(), event_id);
        listeners.into_iter().map(|listener| listener.join().expect("the listener ends")).collect::<Vec<_>>()
    });

    let acknowledged = acknowledged.lock().expect("no speaker panics");
    println!("{kills} kills, {} messages acknowledged", acknowledged.len());
    for (user, heard) in people.iter().zip(&heard) {
        assert_each_once(heard, &acknowledged, &format!("/sync of {}", user.id));
        assert_each_once(&user.pages_back(&room, None, 50), &acknowledged, &format!("/messages of {}", user.id));
    }
}
