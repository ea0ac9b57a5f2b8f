//! A user of a homeserver that the test plays, in a room of the server that is tried: whatever the test wants them to
//! say, their server says.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Answer, Client, Federated, Homeserver, Received, Reply, encode};

/// How long something may take to come.
const COMES_WITHIN: Duration = Duration::from_secs(20);
/// The version of the rooms that guests join, whose rules of redaction are known here.
pub const VERSION: &str = "11";

/// A transaction that is ready to be sent.
pub struct Prepared {
    uri: String,
    authorization: String,
    body: String,
}

impl Prepared {
    pub fn goes_over(&self, client: &Client) -> Answer {
        client.with_authorization(&self.authorization).send("PUT", &self.uri, Some(self.body.clone()))
    }
}

/// Where the next transaction goes. No two of a server have the same id, whoever of its users they are for.
fn fresh_transaction() -> String {
    static SENT: AtomicU64 = AtomicU64::new(1);
    format!("/_matrix/federation/v1/send/{}", SENT.fetch_add(1, Ordering::Relaxed))
}

/// Somebody else's user, and their server.
pub struct Guest {
    pub id: String,
    pub homeserver: Arc<Homeserver>,
    pub room: String,
    /// The server that is tried: what it is called, and the way to it.
    there: String,
    client: Client,
    /// The event that theirs come after, and its depth.
    head: (String, u64),
    /// Create event, power levels and the guest's own membership.
    auth: Vec<String>,
    /// The state with which they came.
    pub state: Vec<Value>,
    heard: Mutex<Vec<Value>>,
}

impl Guest {
    /// One who is in no room yet.
    pub fn starts(here: &Federated, name: &str) -> Self {
        Self::of(here, Homeserver::starts(), name)
    }

    /// One of this homeserver's.
    pub fn of(here: &Federated, homeserver: Homeserver, name: &str) -> Self {
        homeserver.answers(takes_what_is_sent);
        Self::of_any(&here.name, here.server.anonymous(), Arc::new(homeserver), name)
    }

    /// One of this homeserver's, who talks to a server of this name over this client.
    pub fn of_any(there: &str, client: Client, homeserver: Arc<Homeserver>, name: &str) -> Self {
        Self {
            id: format!("@{name}:{}", homeserver.name),
            homeserver,
            room: String::new(),
            there: there.to_owned(),
            client,
            head: Default::default(),
            auth: Vec::new(),
            state: Vec::new(),
            heard: Mutex::default(),
        }
    }

    /// One who joined a public room of ours.
    pub fn joins(here: &Federated, room: &str, name: &str) -> Self {
        Self::starts(here, name).enters(room)
    }

    /// Joins a public room of ours.
    pub fn enters(mut self, room: &str) -> Self {
        let (id, join) = self.completes(self.makes_join(room).ok()["event"].clone());
        let answer = self.sends_join(room, &id, &join).ok();
        // Spec: «the freshly signed membership event».
        assert!(answer["event"]["signatures"][&self.there].is_object(), "{}", answer["event"]);
        self.state = answer["state"].as_array().expect("there is state").clone();
        self.auth = vec![self.finds("m.room.create", ""), self.finds("m.room.power_levels", ""), id.clone()];
        self.head = (id, join["depth"].as_u64().expect("it has a depth"));
        self.room = room.to_owned();
        self
    }

    /// The id of an event of the state with which they came.
    pub fn finds(&self, kind: &str, key: &str) -> String {
        let found = self.state.iter().find(|event| event["type"] == kind && event["state_key"] == key);
        event_id(found.unwrap_or_else(|| panic!("no {kind} in {:?}", self.state)))
    }

    pub fn makes_join(&self, room: &str) -> Answer {
        let path = format!("/_matrix/federation/v1/make_join/{}/{}?ver={VERSION}", encode(room), encode(&self.id));
        self.asks("GET", &path, None)
    }

    pub fn sends_join(&self, room: &str, event_id: &str, join: &Value) -> Answer {
        let path = format!("/_matrix/federation/v2/send_join/{}/{}", encode(room), encode(event_id));
        self.asks("PUT", &path, Some(join.clone()))
    }

    /// Asks our server, with the signature of the guest's.
    pub fn asks(&self, method: &str, uri: &str, content: Option<Value>) -> Answer {
        let authorization = self.homeserver.authorization(&self.there, method, uri, content.as_ref());
        let client = self.client.with_authorization(&authorization);
        client.send(method, uri, content.map(|content| content.to_string()))
    }

    /// An event of theirs that comes after their join, neither hashed nor signed.
    pub fn draft(&self, kind: &str, state_key: Option<&str>, content: Value) -> Value {
        let (prev, depth) = &self.head;
        let mut event = json!({
            "type": kind, "content": content, "sender": self.id, "room_id": self.room,
            "origin_server_ts": 1_790_000_000_000_u64, "depth": depth + 1,
            "prev_events": [prev], "auth_events": self.auth,
        });
        if let Some(state_key) = state_key {
            event["state_key"] = state_key.into();
        }
        event
    }

    /// A message of theirs.
    pub fn message(&self, body: &str) -> Value {
        self.draft("m.room.message", None, json!({ "msgtype": "m.text", "body": body }))
    }

    /// The event with hashes and the signature of the guest's server, and its id.
    pub fn completes(&self, event: Value) -> (String, Value) {
        let signed = self.signs(hashed(event));
        (event_id(&signed), signed)
    }

    /// The event with the signature of the guest's server: over what redaction leaves of it.
    pub fn signs(&self, mut event: Value) -> Value {
        event["signatures"] = self.homeserver.signs(redacted(&event))["signatures"].clone();
        event
    }

    /// The event that what they say next comes after, and its depth.
    pub fn head(&self) -> &(String, u64) {
        &self.head
    }

    /// What they say next comes after this event of theirs, or of others.
    pub fn goes_on_after(&mut self, event_id: &str, depth: u64) {
        self.head = (event_id.to_owned(), depth);
    }

    /// What they say next is allowed by these power levels, besides the create event and their membership.
    pub fn is_allowed_by(&mut self, power_levels: &str) {
        self.auth[1] = power_levels.to_owned();
    }

    /// A message of theirs, signed, that what they say next comes after.
    pub fn goes_on(&mut self, body: &str) -> Value {
        let depth = self.head.1 + 1;
        let (id, event) = self.completes(self.message(body));
        self.goes_on_after(&id, depth);
        event
    }

    /// Sends a transaction; `origin` and the like are added where they are missing.
    pub fn sends(&self, transaction: &Value) -> Answer {
        let mut whole = json!({ "origin": self.homeserver.name, "origin_server_ts": 1, "pdus": [] });
        for (name, value) in transaction.as_object().expect("an object") {
            whole[name] = value.clone();
        }
        self.asks("PUT", &fresh_transaction(), Some(whole))
    }

    /// A transaction with these events, signed and written already.
    pub fn prepares(&self, pdus: &[Value]) -> Prepared {
        let whole = json!({ "origin": self.homeserver.name, "origin_server_ts": 1, "pdus": pdus });
        let (uri, body) = (fresh_transaction(), whole.to_string());
        Prepared { authorization: self.homeserver.authorization(&self.there, "PUT", &uri, Some(&whole)), uri, body }
    }

    /// Sends a transaction of this text, signed as what it stands for.
    #[track_caller]
    pub fn sends_text(&self, text: &str, stands_for: &Value) -> Answer {
        self.tries_to_send(text, stands_for).expect("the server answers")
    }

    /// As [`Guest::sends_text`]; `None` if the server closes the connection.
    pub fn tries_to_send(&self, text: &str, stands_for: &Value) -> Option<Answer> {
        let uri = fresh_transaction();
        let authorization = self.homeserver.authorization(&self.there, "PUT", &uri, Some(stands_for));
        let client = self.client.with_authorization(&authorization);
        client.try_send("PUT", &uri, Some(text.to_owned())).ok()
    }

    /// Sends one event and answers what became of it.
    #[track_caller]
    pub fn sends_event(&self, event: &Value) -> Value {
        let mut pdus = self.sends(&json!({ "pdus": [event] })).ok()["pdus"].clone();
        pdus.as_object_mut().expect("an object").values_mut().next().map(Value::take).unwrap_or_default()
    }

    fn receives(&self) {
        let received = self.homeserver.https.takes_received().into_iter();
        let sent = received.filter(|request| request.uri.starts_with("/_matrix/federation/v1/send/"));
        let sent = sent.map(|request| request.body.parse().expect("it is JSON"));
        self.heard.lock().expect("no holder panics").extend(sent);
    }

    /// The next EDU that is wanted, of those that were sent to the guest's server.
    #[track_caller]
    pub fn hears(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        self.waits(|transaction| {
            found = transaction["edus"].as_array().into_iter().flatten().find(|edu| wanted(edu)).cloned();
            found.is_some()
        });
        found.expect("it was found")
    }

    /// Every EDU that was sent to the guest's server, up to and with the transaction that holds the one that is wanted.
    #[track_caller]
    pub fn hears_until(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut heard = Vec::new();
        self.waits(|transaction| {
            let edus = transaction["edus"].as_array().cloned().unwrap_or_default();
            let is_over = edus.iter().any(&wanted);
            heard.extend(edus);
            is_over
        });
        heard
    }

    /// Waits for an event.
    #[track_caller]
    pub fn hears_event(&self, mut wanted: impl FnMut(&Value) -> bool) {
        self.waits(|transaction| transaction["pdus"].as_array().into_iter().flatten().any(&mut wanted));
    }

    #[track_caller]
    fn waits(&self, mut is_it: impl FnMut(&Value) -> bool) {
        let deadline = Instant::now() + COMES_WITHIN;
        loop {
            self.receives();
            for transaction in self.heard.lock().expect("no holder panics").drain(..) {
                if is_it(&transaction) {
                    return;
                }
            }
            assert!(Instant::now() < deadline, "it does not come");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What a guest's homeserver answers to transactions.
pub fn takes_what_is_sent(request: &Received) -> Option<Reply> {
    let is_sent = request.uri.starts_with("/_matrix/federation/v1/send/");
    is_sent.then(|| Reply::json(200, &json!({ "pdus": {} })))
}

fn without(event: &Value, fields: &[&str]) -> Value {
    let mut event = event.clone();
    fields.iter().for_each(|field| drop(event.as_object_mut().expect("an object").remove(*field)));
    event
}

/// A `Value` is written without spaces and with its keys in their order: canonical JSON.
fn sha256(event: &Value) -> [u8; 32] {
    Sha256::digest(event.to_string().as_bytes()).into()
}

/// The event with its content hash. Spec: "Calculating the content hash for an event".
pub fn hashed(mut event: Value) -> Value {
    let hash = sha256(&without(&event, &["unsigned", "signatures", "hashes"]));
    event["hashes"] = json!({ "sha256": BASE64_STANDARD_NO_PAD.encode(hash) });
    event
}

/// Spec: "Calculating the reference hash for an event".
pub fn event_id(event: &Value) -> String {
    let hash = sha256(&without(&redacted(event), &["signatures"]));
    format!("${}", BASE64_URL_SAFE_NO_PAD.encode(hash))
}

/// What redaction leaves. Spec: room version 11.
pub fn redacted(event: &Value) -> Value {
    let kept = [
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "hashes",
        "signatures",
        "depth",
        "prev_events",
        "auth_events",
        "origin_server_ts",
    ];
    let of_content: &[&str] = match event["type"].as_str().unwrap_or_default() {
        "m.room.member" => &["membership", "join_authorised_via_users_server"],
        "m.room.join_rules" => &["join_rule", "allow"],
        "m.room.history_visibility" => &["history_visibility"],
        "m.room.redaction" => &["redacts"],
        "m.room.power_levels" => {
            &["ban", "events", "events_default", "invite", "kick", "redact", "state_default", "users", "users_default"]
        }
        _ => &[],
    };
    let keeps = |from: &Value, names: &[&str]| {
        let from = from.as_object().cloned().unwrap_or_default();
        Value::Object(from.into_iter().filter(|(name, _)| names.contains(&name.as_str())).collect())
    };
    let mut left = keeps(event, &kept);
    if event["type"] != "m.room.create" {
        let mut content = keeps(&event["content"], of_content);
        if let Some(signed) =
            event["content"]["third_party_invite"].get("signed").filter(|_| event["type"] == "m.room.member")
        {
            content["third_party_invite"] = json!({ "signed": signed });
        }
        left["content"] = content;
    }
    left
}
