//! A person's devices, and what their client knows of others': whom a sync names it asks about again.

use std::collections::BTreeMap;

use domain::Identity;
use http::Method;
use ruma_common::{CanonicalJsonObject, OwnedServerName};
use serde_json::{Value as Json, json};

use crate::client::{Answer, Client, ONE_TIME};

/// The device that syncs.
pub(crate) const PHONE: &str = "PHONE";
/// One-time keys that a client has its server give out.
const ONE_TIME_KEYS: usize = 30;

/// The devices of one user, each with its keys.
pub(crate) type Devices = BTreeMap<String, Json>;

impl Client {
    /// Publishes the keys of the device that syncs.
    pub(crate) async fn publishes_keys(&self) {
        let one_time: serde_json::Map<String, Json> =
            (0..ONE_TIME_KEYS).map(|key| (format!("{ONE_TIME}:{key}"), format!("key{key}").into())).collect();
        let keys = json!({ "device_keys": self.device_keys(PHONE), "one_time_keys": one_time });
        let answer = self.post("/_matrix/client/v3/keys/upload", &keys).await;
        assert!(answer.as_ref().is_some_and(Answer::is_ok), "{} has no keys: {answer:?}", self.user_id);
    }

    /// Logs in with one more device, and publishes its keys.
    pub(crate) async fn adds_device(&self) -> Option<Answer> {
        let device_id = self.transaction().replace('-', "_").to_uppercase();
        let login = json!({
            "type": "m.login.password", "password": "secret", "device_id": device_id,
            "identifier": { "type": "m.id.user", "user": self.name },
        });
        let answer = self.post("/_matrix/client/v3/login", &login).await?;
        let Some(token) = answer.body["access_token"].as_str() else { return Some(answer) };
        self.others.borrow_mut().push(token.to_owned());
        let keys = json!({ "device_keys": self.device_keys(&device_id) });
        self.ask_with(token, Method::POST, "/_matrix/client/v3/keys/upload", &keys).await
    }

    /// Logs one of the other devices out.
    pub(crate) async fn drops_device(&self) -> Option<Answer> {
        let token = self.others.borrow_mut().pop()?;
        self.ask_with(&token, Method::POST, "/_matrix/client/v3/logout", &json!({})).await
    }

    /// Asks about everybody of whom a sync said that something changed; whose server does not answer is asked about
    /// again.
    pub(crate) async fn looks_at_devices(&self) {
        let outdated: Vec<String> = self.view.borrow().outdated.iter().cloned().collect();
        if outdated.is_empty() {
            return;
        }
        let found = self.queries(&outdated).await;
        let view = &mut *self.view.borrow_mut();
        for (user_id, devices) in found {
            view.outdated.remove(&user_id);
            view.devices.insert(user_id, devices);
        }
    }

    /// The devices of these users, as the server says; without those of servers that it does not reach.
    pub(crate) async fn queries(&self, users: &[String]) -> Vec<(String, Devices)> {
        let wanted: serde_json::Map<String, Json> = users.iter().map(|user| (user.clone(), json!([]))).collect();
        let answer =
            self.ask_once(Method::POST, "/_matrix/client/v3/keys/query", &json!({ "device_keys": wanted })).await;
        let Some(answer) = answer.filter(Answer::is_ok) else { return Vec::new() };
        let of = |user: &String| {
            let server = user.split_once(':')?.1;
            if answer.body["failures"].get(server).is_some() {
                return None;
            }
            let devices = answer.body["device_keys"][user].as_object().cloned().unwrap_or_default();
            let keys = devices.into_iter().map(|(device, mut all)| (device, all["keys"].take()));
            Some((user.clone(), keys.collect()))
        };
        users.iter().filter_map(of).collect()
    }

    /// The keys of a device, signed as they should be.
    fn device_keys(&self, device_id: &str) -> Json {
        let mut seed = [0; 32];
        let name = format!("{}{device_id}", self.user_id);
        seed.iter_mut().zip(name.bytes()).for_each(|(seed, byte)| *seed = byte);
        let server = OwnedServerName::try_from(self.machine.name.as_str()).expect("a server's name");
        let signer = Identity::new(server, device_id, seed).expect("a device's id is a key's version");
        let public_key = signer.public_key_base64();
        let mut keys: CanonicalJsonObject = serde_json::from_value(json!({
            "user_id": self.user_id, "device_id": device_id, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { format!("ed25519:{device_id}"): public_key, format!("curve25519:{device_id}"): public_key },
        }))
        .expect("canonical JSON");
        signer.sign_json(&mut keys).expect("it has no signatures");
        // The same signature, by the user instead of the server: whose it is is not signed.
        let mut keys = serde_json::to_value(keys).expect("canonical JSON");
        let signature = keys["signatures"][&self.machine.name].take();
        keys["signatures"] = json!({ self.user_id.clone(): signature });
        keys
    }
}
