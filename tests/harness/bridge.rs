//! An application service that a test plays, as far as it is told what happens.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Https, Received, Reply};

/// A transaction is there by then, on a busy machine, after a service's pauses.
const COMES_WITHIN: Duration = Duration::from_secs(60);

/// A service on this machine. It takes everything, unless it was told not to.
pub struct Bridge {
    https: Https,
    refuses: Arc<AtomicBool>,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    /// Each once.
    taken: BTreeSet<String>,
    waiting: VecDeque<Value>,
}

impl Bridge {
    pub fn starts() -> Self {
        let refuses = Arc::new(AtomicBool::new(false));
        let refusing = refuses.clone();
        let https = Https::serves_plainly(move |request| match request.method.as_str() {
            "PUT" if refusing.load(Ordering::SeqCst) => Reply::json(500, &json!({ "errcode": "M_UNKNOWN" })),
            "PUT" | "POST" => Reply::json(200, &json!({})),
            _ => Reply::json(404, &json!({ "errcode": "COM.EXAMPLE.NOT_FOUND" })),
        });
        Self { https, refuses, heard: Mutex::default() }
    }

    /// Its registration, with the token `as-secret`: whoever begins with `_irc_` is its own, the rooms named `#_irc_`
    /// too.
    pub fn registration(&self) -> String {
        let port = self.https.port;
        json!({
            "id": "IRC Bridge", "url": format!("http://127.0.0.1:{port}"), "as_token": "as-secret",
            "hs_token": "hs-secret", "sender_localpart": "_irc_bot", "receive_ephemeral": true, "rate_limited": false,
            "namespaces": { "users": [{ "exclusive": true, "regex": "@_irc_" }], "aliases": [{ "regex": "#_irc_" }] },
        })
        .to_string()
    }

    /// From now on it does not take what it is sent, or does again.
    pub fn refuses(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    /// The next transaction as it came, taken or not: its id and its body.
    #[track_caller]
    pub fn next_transaction(&self) -> (String, Value) {
        let deadline = Instant::now() + COMES_WITHIN;
        loop {
            let mut received = self.https.takes_received().into_iter();
            if let Some(transaction) = received.by_ref().find_map(|request| transaction(&request)) {
                return transaction;
            }
            assert!(Instant::now() < deadline, "no transaction came");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The next event of any kind that is wanted; what comes before it is dropped.
    #[track_caller]
    pub fn hears(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + COMES_WITHIN;
        let mut heard = self.heard.lock().expect("no holder panics");
        loop {
            for request in self.https.takes_received() {
                let Some((id, body)) = transaction(&request) else { continue };
                if !heard.taken.insert(id) {
                    continue;
                }
                for kind in ["events", "ephemeral"] {
                    heard.waiting.extend(body[kind].as_array().cloned().unwrap_or_default());
                }
            }
            while let Some(event) = heard.waiting.pop_front() {
                if wanted(&event) {
                    return event;
                }
            }
            assert!(Instant::now() < deadline, "no such event came");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The next message.
    #[track_caller]
    pub fn hears_message(&self) -> String {
        let message = self.hears(|event| event["type"] == "m.room.message");
        message["content"]["body"].as_str().expect("a text").to_owned()
    }
}

fn transaction(request: &Received) -> Option<(String, Value)> {
    let id = request.uri.strip_prefix("/_matrix/app/v1/transactions/")?;
    assert_eq!(request.header("authorization"), Some("Bearer hs-secret"));
    assert_eq!((request.method.as_str(), request.header("content-type")), ("PUT", Some("application/json")));
    let body: Value = serde_json::from_str(&request.body).expect("a transaction is JSON");
    assert!(body["events"].is_array(), "{body}");
    Some((id.to_owned(), body))
}
