//! A person with one client: requests over connections that break, and a sync loop that keeps a [`View`].

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use bytes::Bytes;
use http::{Method, Request, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use platform::Clock as _;
use serde_json::{Value as Json, json};

use crate::{devices::PHONE, dice::Dice, machine::Machine, view::View};

/// How long a client waits for an answer.
const ANSWER_MS_MAX: u64 = 120_000;
/// How long a waiting sync may last.
const SYNC_MS: u64 = 30_000;
/// How often a client repeats what was not answered before it gives up.
const ATTEMPTS_MAX: u32 = 12;

/// The algorithm of one-time keys: one that needs no signature.
pub(crate) const ONE_TIME: &str = "curve25519";

const PATH: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A part of a path.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, &PATH).to_string()
}

/// What a server said: its status and its JSON.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Json,
}

impl Answer {
    pub(crate) fn is_ok(&self) -> bool {
        self.status == 200
    }

    /// Nobody knows whether it was done.
    fn is_unsure(&self) -> bool {
        self.status >= 500 || self.status == 429
    }
}

pub(crate) struct Client {
    pub(crate) machine: Rc<Machine>,
    pub(crate) name: String,
    pub(crate) user_id: String,
    token: RefCell<String>,
    /// The access tokens of the other devices.
    pub(crate) others: RefCell<Vec<String>>,
    dice: Dice,
    pub(crate) view: RefCell<View>,
    /// Counts transactions.
    count: Cell<u64>,
    is_leaving: Cell<bool>,
}

impl Client {
    pub(crate) fn new(machine: Rc<Machine>, name: String, seed: u64) -> Rc<Self> {
        let user_id = format!("@{name}:{}", machine.name);
        Rc::new(Self {
            dice: Dice::of(seed, &user_id),
            token: RefCell::default(),
            others: RefCell::default(),
            view: RefCell::new(View { user_id: user_id.clone(), ..View::default() }),
            count: Cell::new(0),
            is_leaving: Cell::new(false),
            user_id,
            name,
            machine,
        })
    }

    /// A name for a transaction that was used for no other.
    pub(crate) fn transaction(&self) -> String {
        self.count.set(self.count.get() + 1);
        format!("{}-{}", self.name, self.count.get())
    }

    /// Asks once; `None` if the connection broke.
    pub(crate) async fn ask_once(&self, method: Method, path: &str, body: &Json) -> Option<Answer> {
        let token = self.token.borrow().clone();
        self.ask_once_with(&token, &method, path, body).await
    }

    async fn ask_once_with(&self, token: &str, method: &Method, path: &str, body: &Json) -> Option<Answer> {
        let network = &self.machine.network;
        let (scheduler, knobs) = (&network.scheduler, network.knobs.get());
        scheduler.sleep(1 + self.dice.roll(20)).await;
        if self.dice.happens(knobs.broken_connection_one_in) {
            return None;
        }
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let bytes = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = request.body(bytes).expect("a good request");
        // Some clients go away while they are answered.
        let patience_ms =
            if self.dice.happens(knobs.broken_connection_one_in) { self.dice.roll(200) } else { ANSWER_MS_MAX };
        let response = scheduler.within(patience_ms, self.machine.answer(request)).await??;
        scheduler.sleep(1 + self.dice.roll(20)).await;
        if self.dice.happens(knobs.broken_connection_one_in) {
            return None;
        }
        let status = response.status().as_u16();
        let body = serde_json::from_slice(response.body()).unwrap_or(Json::Null);
        // What is in a sync may be in another order.
        let is_sync = path.contains("/sync?");
        let digest = if is_sync { String::new() } else { body.to_string() };
        network.trace.note(
            scheduler.now_ms(),
            format_args!("{} {method} {path}: {status} {} {digest}", self.user_id, response.body().len()),
        );
        if is_sync {
            network.trace.explain(scheduler.now_ms(), format_args!("{body}"));
        }
        Some(Answer { status, body })
    }

    /// Asks until there is an answer; `None` if it gave up.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: &Json) -> Option<Answer> {
        let token = self.token.borrow().clone();
        self.ask_with(&token, method, path, body).await
    }

    /// The same for a device.
    pub(crate) async fn ask_with(&self, token: &str, method: Method, path: &str, body: &Json) -> Option<Answer> {
        for attempt in 0..ATTEMPTS_MAX {
            match self.ask_once_with(token, &method, path, body).await {
                Some(answer) if !answer.is_unsure() => return Some(answer),
                _ => {}
            }
            let pause_ms = 200 << attempt.min(6);
            self.machine.network.scheduler.sleep(pause_ms + self.dice.roll(pause_ms)).await;
        }
        None
    }

    pub(crate) async fn get(&self, path: &str) -> Option<Answer> {
        self.ask(Method::GET, path, &Json::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Json) -> Option<Answer> {
        self.ask(Method::POST, path, body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Json) -> Option<Answer> {
        self.ask(Method::PUT, path, body).await
    }

    /// Registers, as everybody does before a story begins.
    pub(crate) async fn registers(&self) {
        let body = json!({
            "username": self.name, "password": "secret", "device_id": PHONE, "auth": { "type": "m.login.dummy" },
        });
        let answer = self.post("/_matrix/client/v3/register", &body).await.expect("the weather is fair");
        assert!(answer.is_ok(), "{} does not register: {answer:?}", self.user_id);
        *self.token.borrow_mut() = answer.body["access_token"].as_str().expect("a token").to_owned();
        self.publishes_keys().await;
    }

    /// Syncs until it is told to stop.
    pub(crate) async fn syncs(self: Rc<Self>) {
        while !self.is_leaving.get() {
            self.syncs_once(SYNC_MS).await;
            if self.dice.happens(10) {
                // Not everybody looks all the time.
                self.machine.network.scheduler.sleep(self.dice.roll(60_000)).await;
            }
        }
    }

    pub(crate) fn stops_syncing(&self) {
        self.is_leaving.set(true);
    }

    /// Syncs once; answers whether there was an answer.
    pub(crate) async fn syncs_once(&self, timeout_ms: u64) -> bool {
        let since = self.view.borrow().since.clone();
        let since = since.map_or(String::new(), |since| format!("&since={}", encode(&since)));
        let path = format!("/_matrix/client/v3/sync?timeout={timeout_ms}&use_state_after=true{since}");
        let answer = self.ask_once(Method::GET, &path, &Json::Null).await;
        match answer.filter(Answer::is_ok) {
            Some(answer) => {
                self.view.borrow_mut().takes(&answer.body);
                self.looks_at_devices().await;
                true
            }
            None => {
                self.machine.network.scheduler.sleep(1_000 + self.dice.roll(2_000)).await;
                false
            }
        }
    }
}
