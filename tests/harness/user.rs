//! A person on one device, and the verbs of a story.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::{Answer, Client, Sync, encode, query};

/// Everybody's password.
pub const PASSWORD: &str = "correct horse battery staple";

/// How long a story waits for something to arrive before it is a failure.
const ARRIVES_WITHIN: Duration = Duration::from_secs(20);

/// Somebody logged in on one device.
#[derive(Clone, Debug)]
pub struct User {
    pub id: String,
    pub device_id: String,
    pub token: String,
    client: Client,
}

fn fresh_txn_id() -> String {
    static SENT: AtomicU64 = AtomicU64::new(0);
    format!("txn-{}", SENT.fetch_add(1, Ordering::Relaxed))
}

impl User {
    /// From the answer of /login or /register.
    #[track_caller]
    pub fn from_login(anonymous: &Client, account: &Value) -> Self {
        let text = |name: &str| account[name].as_str().unwrap_or_else(|| panic!("no {name} in {account}")).to_owned();
        let token = text("access_token");
        Self { id: text("user_id"), device_id: text("device_id"), client: anonymous.with_token(&token), token }
    }

    /// The same person on a new device.
    #[track_caller]
    pub fn logs_in_again(&self) -> Self {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": self.id },
            "password": PASSWORD,
        });
        Self::from_login(&self.client, &self.client.post("/_matrix/client/v3/login", body).ok())
    }

    pub fn localpart(&self) -> &str {
        self.id.trim_start_matches('@').split(':').next().unwrap_or_default()
    }

    // ---- HTTP under /_matrix/client/v3

    pub fn get(&self, path: &str) -> Answer {
        self.client.get(&format!("/_matrix/client/v3{path}"))
    }

    pub fn post(&self, path: &str, body: Value) -> Answer {
        self.client.post(&format!("/_matrix/client/v3{path}"), body)
    }

    pub fn put(&self, path: &str, body: Value) -> Answer {
        self.client.put(&format!("/_matrix/client/v3{path}"), body)
    }

    pub fn delete(&self, path: &str, body: Value) -> Answer {
        self.client.send("DELETE", &format!("/_matrix/client/v3{path}"), Some(body.to_string()))
    }

    /// What proves to be who they are, for user-interactive authentication.
    pub fn proof(&self, password: &str) -> Value {
        let identifier = json!({ "type": "m.id.user", "user": self.id });
        json!({ "type": "m.login.password", "identifier": identifier, "password": password })
    }

    /// Uploads a file and answers the part of its URI after `mxc://`.
    #[track_caller]
    pub fn uploads(&self, content_type: &str, name: Option<&str>, bytes: impl Into<Vec<u8>>) -> String {
        let named = name.map(|name| query(&[("filename", name)])).unwrap_or_default();
        let path = format!("/_matrix/media/v3/upload{named}");
        let answer = self.client.send_bytes("POST", &path, &[("Content-Type", content_type)], Some(bytes.into())).ok();
        let uri = answer["content_uri"].as_str().unwrap_or_default();
        uri.strip_prefix("mxc://").unwrap_or_else(|| panic!("no mxc:// URI in {answer}")).to_owned()
    }

    /// Asks for a file, which comes after `mxc://`.
    pub fn downloads(&self, mxc: &str) -> Answer {
        self.client.get(&format!("/_matrix/client/v1/media/download/{mxc}"))
    }

    /// The same, over a client with a connection that is kept.
    pub fn lasting(&self, within: Duration) -> Self {
        Self { client: self.client.lasting(within), ..self.clone() }
    }

    /// The client beneath, for other prefixes.
    pub fn client(&self) -> &Client {
        &self.client
    }

    // ---- rooms

    /// Creates a room and answers its id.
    #[track_caller]
    pub fn creates_room(&self, request: Value) -> String {
        let room = self.post("/createRoom", request).ok();
        room["room_id"].as_str().expect("a room id").to_owned()
    }

    /// A room of the `private_chat` preset where the others were invited and joined.
    #[track_caller]
    pub fn creates_room_with(&self, others: &[&User]) -> String {
        let ids: Vec<_> = others.iter().map(|other| &other.id).collect();
        let room = self.creates_room(json!({ "preset": "private_chat", "invite": ids }));
        for other in others {
            other.joins(&room).ok();
        }
        room
    }

    pub fn invites(&self, room: &str, whom: &User) -> Answer {
        self.post(&format!("/rooms/{}/invite", encode(room)), json!({ "user_id": whom.id }))
    }

    pub fn joins(&self, room: &str) -> Answer {
        self.post(&format!("/rooms/{}/join", encode(room)), json!({}))
    }

    pub fn leaves(&self, room: &str) -> Answer {
        self.post(&format!("/rooms/{}/leave", encode(room)), json!({}))
    }

    pub fn knocks(&self, room: &str) -> Answer {
        self.post(&format!("/knock/{}", encode(room)), json!({ "reason": "let me in" }))
    }

    pub fn forgets(&self, room: &str) -> Answer {
        self.post(&format!("/rooms/{}/forget", encode(room)), json!({}))
    }

    pub fn kicks(&self, room: &str, whom: &User) -> Answer {
        self.post(&format!("/rooms/{}/kick", encode(room)), json!({ "user_id": whom.id, "reason": "kicked" }))
    }

    pub fn bans(&self, room: &str, whom: &User) -> Answer {
        self.post(&format!("/rooms/{}/ban", encode(room)), json!({ "user_id": whom.id, "reason": "banned" }))
    }

    pub fn unbans(&self, room: &str, whom: &User) -> Answer {
        self.post(&format!("/rooms/{}/unban", encode(room)), json!({ "user_id": whom.id }))
    }

    /// Sends an event under a transaction id.
    pub fn sends_event(&self, room: &str, kind: &str, txn_id: &str, content: Value) -> Answer {
        self.put(&format!("/rooms/{}/send/{}/{}", encode(room), encode(kind), encode(txn_id)), content)
    }

    /// Tries to send a text message under a fresh transaction id.
    pub fn says(&self, room: &str, text: &str) -> Answer {
        self.sends_event(room, "m.room.message", &fresh_txn_id(), json!({ "msgtype": "m.text", "body": text }))
    }

    /// Sends a text message and answers its event id.
    #[track_caller]
    pub fn sends(&self, room: &str, text: &str) -> String {
        let sent = self.says(room, text).ok();
        sent["event_id"].as_str().expect("an event id").to_owned()
    }

    /// As [`User::sends`], in another millisecond than whatever was sent before: then it comes after that also where
    /// the messages of several rooms are told by their times.
    #[track_caller]
    pub fn sends_apart(&self, room: &str, text: &str) -> String {
        let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis();
        let before_ms = now_ms();
        while now_ms() == before_ms {
            thread::yield_now();
        }
        self.sends(room, text)
    }

    /// Sends messages `first` to `last`, whose bodies are their numbers.
    #[track_caller]
    pub fn sends_numbers(&self, room: &str, numbers: std::ops::RangeInclusive<u32>) {
        for number in numbers {
            self.sends(room, &number.to_string());
        }
    }

    /// Tries to redact an event under a transaction id.
    pub fn redacts(&self, room: &str, event_id: &str, txn_id: &str) -> Answer {
        let path = format!("/rooms/{}/redact/{}/{}", encode(room), encode(event_id), encode(txn_id));
        self.put(&path, json!({ "reason": "said in anger" }))
    }

    /// One event by its id.
    pub fn event(&self, room: &str, event_id: &str) -> Answer {
        self.get(&format!("/rooms/{}/event/{}", encode(room), encode(event_id)))
    }

    /// Sends a message into the thread of `root` and answers its event id.
    #[track_caller]
    pub fn sends_in_thread(&self, room: &str, root: &str, text: &str) -> String {
        let relation = json!({ "rel_type": "m.thread", "event_id": root });
        self.sends_content(room, json!({ "msgtype": "m.text", "body": text, "m.relates_to": relation }))
    }

    /// Sends a message of this content and answers its event id.
    #[track_caller]
    pub fn sends_content(&self, room: &str, content: Value) -> String {
        let sent = self.sends_event(room, "m.room.message", &fresh_txn_id(), content).ok();
        sent["event_id"].as_str().expect("an event id").to_owned()
    }

    /// Marks an event as read with `m.read` or another type of receipt.
    pub fn reads(&self, room: &str, kind: &str, event_id: &str, body: Value) -> Answer {
        self.post(&format!("/rooms/{}/receipt/{kind}/{}", encode(room), encode(event_id)), body)
    }

    pub fn types(&self, room: &str, body: Value) -> Answer {
        self.put(&format!("/rooms/{}/typing/{}", encode(room), encode(&self.id)), body)
    }

    pub fn sets_state(&self, room: &str, kind: &str, key: &str, content: Value) -> Answer {
        self.put(&format!("/rooms/{}/state/{}/{}", encode(room), encode(kind), encode(key)), content)
    }

    /// The content of one state event.
    pub fn state(&self, room: &str, kind: &str, key: &str) -> Answer {
        self.get(&format!("/rooms/{}/state/{}/{}", encode(room), encode(kind), encode(key)))
    }

    /// All current state.
    pub fn full_state(&self, room: &str) -> Answer {
        self.get(&format!("/rooms/{}/state", encode(room)))
    }

    /// One page of /messages.
    pub fn messages(&self, room: &str, pairs: &[(&str, &str)]) -> Answer {
        self.get(&format!("/rooms/{}/messages{}", encode(room), query(pairs)))
    }

    /// What happened around an event.
    pub fn context(&self, room: &str, event_id: &str, pairs: &[(&str, &str)]) -> Answer {
        self.get(&format!("/rooms/{}/context/{}{}", encode(room), encode(event_id), query(pairs)))
    }

    /// The event closest to a time, in a direction.
    pub fn event_at(&self, room: &str, ts_ms: u64, dir: &str) -> Answer {
        let query = query(&[("ts", &ts_ms.to_string()), ("dir", dir)]);
        self.client.get(&format!("/_matrix/client/v1/rooms/{}/timestamp_to_event{query}", encode(room)))
    }

    /// Every event /messages shows from `from` (or the end) to the very start, newest first.
    #[track_caller]
    pub fn pages_back(&self, room: &str, from: Option<&str>, limit: u32) -> Vec<Value> {
        let limit = limit.to_string();
        let mut from = from.map(str::to_owned);
        let mut events = Vec::new();
        for _page in 0..1000 {
            let mut pairs = vec![("dir", "b"), ("limit", limit.as_str())];
            pairs.extend(from.as_deref().map(|token| ("from", token)));
            let page = self.messages(room, &pairs).ok();
            events.extend(page["chunk"].as_array().expect("a chunk").iter().cloned());
            match page["end"].as_str() {
                Some(end) => from = Some(end.to_owned()),
                None => return events,
            }
        }
        panic!("/messages never ends");
    }

    // ---- presence

    /// Has nobody but this user ignored from now on.
    pub fn ignores(&self, whom: &User) {
        let path = format!("/user/{}/account_data/m.ignored_user_list", encode(&self.id));
        self.put(&path, json!({ "ignored_users": { (&whom.id): {} } })).ok();
    }

    pub fn sets_presence(&self, status: Value) -> Answer {
        self.put(&format!("/presence/{}/status", encode(&self.id)), status)
    }

    /// What somebody's presence is to this user.
    pub fn looks_at(&self, whom: &User) -> Answer {
        self.get(&format!("/presence/{}/status", encode(&whom.id)))
    }

    // ---- sync

    /// One /sync with the query given.
    pub fn asks_sync(&self, pairs: &[(&str, &str)]) -> Answer {
        self.get(&format!("/sync{}", query(pairs)))
    }

    /// The initial sync.
    #[track_caller]
    pub fn syncs(&self) -> Sync {
        Sync::from(self.asks_sync(&[("timeout", "0")]))
    }

    /// What is known to have happened since, without waiting: for what must not come, as what others did may take
    /// a moment to arrive.
    #[track_caller]
    pub fn syncs_since(&self, since: &str) -> Sync {
        Sync::from(self.asks_sync(&[("since", since), ("timeout", "0")]))
    }

    /// The next answer with anything new but presence, which comes when it likes.
    #[track_caller]
    pub fn hears_since(&self, since: &str) -> Sync {
        self.hears_filtered(since, "{}")
    }

    /// The next answer with anything new, through a filter or a stored one; presence is no news unless a filter given
    /// here speaks of it.
    #[track_caller]
    pub fn hears_filtered(&self, since: &str, filter: &str) -> Sync {
        let timeout = ARRIVES_WITHIN.as_millis().to_string();
        let mut given: Value = serde_json::from_str(filter).unwrap_or_default();
        if let Some(given) = given.as_object_mut() {
            given.entry("presence").or_insert(json!({ "types": [] }));
        }
        let filter = if given.is_object() { given.to_string() } else { filter.to_owned() };
        Sync::from(self.asks_sync(&[("since", since), ("timeout", &timeout), ("filter", &filter)]))
    }

    /// Follows the chain of syncs until one fulfils `wanted`, and answers that one.
    #[track_caller]
    pub fn syncs_until(&self, since: &str, wanted: impl Fn(&Sync) -> bool) -> Sync {
        self.follows(self.syncs_since(since), wanted)
    }

    /// Syncs from the beginning until an answer fulfils `wanted`, and answers that one.
    #[track_caller]
    pub fn sees(&self, wanted: impl Fn(&Sync) -> bool) -> Sync {
        self.follows(self.syncs(), wanted)
    }

    #[track_caller]
    fn follows(&self, mut sync: Sync, wanted: impl Fn(&Sync) -> bool) -> Sync {
        let deadline = Instant::now() + ARRIVES_WITHIN;
        while !wanted(&sync) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "it never came: {}", sync.body);
            let timeout = left.as_millis().to_string();
            sync = Sync::from(self.asks_sync(&[("since", &sync.next_batch), ("timeout", &timeout)]));
        }
        sync
    }
}
