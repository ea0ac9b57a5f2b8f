//! Somebody else's homeserver, as far as a test plays it: it has a name, keys and a certificate, signs what it asks,
//! and answers what the test says.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};

use crate::{Answer, Authority, Https, Keys, Received, Reply, SERVER_NAME, Server};

/// What a test has a homeserver answer; `None` is 404.
type Answers = dyn Fn(&Received) -> Option<Reply> + Send + Sync;

/// A homeserver on this machine.
pub struct Homeserver {
    /// What it is called.
    pub name: String,
    pub https: Https,
    keys: Keys,
    key_id: String,
    answers: Arc<Mutex<Box<Answers>>>,
}

impl Homeserver {
    /// One that is called `localhost` with its port, and has a certificate for that.
    pub fn starts() -> Self {
        Self::starts_as(None, &["localhost"])
    }

    /// One with some other name, and a certificate for these.
    pub fn starts_as(name: Option<&str>, certified: &[&str]) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let keys = Keys::of(u8::try_from(STARTED.fetch_add(1, Ordering::Relaxed) % 251).expect("a small number"));
        let answers: Arc<Mutex<Box<Answers>>> = Arc::new(Mutex::new(Box::new(|_| None)));
        let published: Arc<Mutex<Value>> = Arc::default();
        let (told, shown) = (answers.clone(), published.clone());
        let https = Https::serves(Authority::shared().vouches_for(certified), move |request| {
            let answered = told.lock().expect("no holder panics")(request);
            answered.unwrap_or_else(|| match &*request.uri {
                "/_matrix/key/v2/server" => Reply::json(200, &shown.lock().expect("no holder panics")),
                _ => Reply::json(404, &json!({ "errcode": "M_UNRECOGNIZED", "error": "What?" })),
            })
        });
        let name = name.map_or_else(|| format!("localhost:{}", https.port), str::to_owned);
        let homeserver = Self { name, https, keys, key_id: "ed25519:1".to_owned(), answers };
        *published.lock().expect("no holder panics") = homeserver.key_document(far_future_ms());
        homeserver
    }

    /// From now on it answers like this; for its keys, and otherwise 404, where that says nothing.
    pub fn answers(&self, answers: impl Fn(&Received) -> Option<Reply> + Send + Sync + 'static) {
        *self.answers.lock().expect("no holder panics") = Box::new(answers);
    }

    /// What it publishes of its keys, signed.
    pub fn key_document(&self, valid_until_ms: u64) -> Value {
        let document = json!({
            "server_name": self.name,
            "verify_keys": { (self.key_id.clone()): { "key": self.keys.public() } },
            "old_verify_keys": {},
            "valid_until_ts": valid_until_ms,
        });
        self.signs(document)
    }

    /// The object with its signature. Spec: Appendices, "Signing JSON".
    #[must_use]
    pub fn signs(&self, object: Value) -> Value {
        self.keys.signs_as(object, &self.name, &self.key_id)
    }

    /// The `Authorization` header of a request. Spec: "Request Authentication".
    pub fn authorization(&self, destination: &str, method: &str, uri: &str, content: Option<&Value>) -> String {
        let mut signed = json!({ "method": method, "uri": uri, "origin": self.name, "destination": destination });
        if let Some(content) = content {
            signed["content"] = content.clone();
        }
        let signed = self.signs(signed);
        let signature = signed["signatures"][&self.name][&self.key_id].as_str().expect("it signed").to_owned();
        let (origin, key_id) = (&self.name, &self.key_id);
        format!(r#"X-Matrix origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}""#)
    }

    /// Asks a server, with its signature.
    pub fn asks(&self, server: &Server, method: &str, uri: &str, content: Option<Value>) -> Answer {
        let authorization = self.authorization(SERVER_NAME, method, uri, content.as_ref());
        let client = server.anonymous().with_authorization(&authorization);
        client.send(method, uri, content.map(|content| content.to_string()))
    }

    pub fn gets(&self, server: &Server, uri: &str) -> Answer {
        self.asks(server, "GET", uri, None)
    }
}

/// Later than any test, in milliseconds since the Unix epoch.
fn far_future_ms() -> u64 {
    4_000_000_000_000
}
