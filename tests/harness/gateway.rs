//! A push gateway that a test plays.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Authority, Https, Reply};

/// A notification is there by then, on a busy machine, after a gateway's pauses.
const COMES_WITHIN: Duration = Duration::from_secs(30);

/// A gateway on this machine. It takes everything, unless it was told what to answer.
pub struct Gateway {
    https: Https,
    answers: Arc<Mutex<VecDeque<(u16, Value)>>>,
    waiting: Mutex<VecDeque<Value>>,
}

impl Gateway {
    pub fn starts() -> Self {
        let answers: Arc<Mutex<VecDeque<(u16, Value)>>> = Arc::default();
        let told = answers.clone();
        let https = Https::serves(Authority::shared().vouches_for(&["localhost"]), move |_| {
            let answer = told.lock().expect("no holder panics").pop_front();
            let (status, body) = answer.unwrap_or_else(|| (200, json!({ "rejected": [] })));
            Reply::json(status, &body)
        });
        Self { https, answers, waiting: Mutex::default() }
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}/_matrix/push/v1/notify", self.https.port)
    }

    /// What it answers to the next request that has no answer yet.
    pub fn will_answer(&self, status: u16, body: Value) {
        self.answers.lock().expect("no holder panics").push_back((status, body));
    }

    /// The notification of this event; what comes before it is dropped.
    #[track_caller]
    pub fn takes_event(&self, event_id: &str) -> Value {
        loop {
            let next = self.takes();
            if next["event_id"] == event_id {
                return next;
            }
        }
    }

    /// The next notification: what came in one request.
    #[track_caller]
    pub fn takes(&self) -> Value {
        let deadline = Instant::now() + COMES_WITHIN;
        loop {
            let mut waiting = self.waiting.lock().expect("no holder panics");
            for request in self.https.takes_received() {
                assert_eq!((&*request.method, &*request.uri), ("POST", "/_matrix/push/v1/notify"));
                assert_eq!(request.header("content-type"), Some("application/json"));
                let body: Value = serde_json::from_str(&request.body).expect("a notification is JSON");
                waiting.push_back(body["notification"].clone());
            }
            if let Some(next) = waiting.pop_front() {
                return next;
            }
            drop(waiting);
            assert!(Instant::now() < deadline, "no notification came");
            thread::sleep(Duration::from_millis(10));
        }
    }
}
