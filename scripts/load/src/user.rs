//! Somebody with an account, and what they do.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use serde_json::{Value, json};
use sha1::Sha1;

use crate::{
    Result,
    client::{Client, Origin},
};

const PASSWORD: &str = "correct horse battery staple";
/// Preparations made at the same time.
pub(crate) const AT_ONCE: usize = 8;

/// How accounts are made, on any homeserver.
pub(crate) struct Registrar {
    origin: Origin,
    /// The server's `registration_shared_secret`, for one whose registration is not open.
    secret: Option<String>,
    /// Makes names that no earlier run used.
    run: String,
}

pub(crate) struct User {
    pub id: String,
    pub device_id: String,
    /// Where the last sync ended.
    pub since: String,
    client: Client,
    sent: u64,
    asked: u64,
}

#[derive(Deserialize)]
struct Account {
    user_id: String,
    device_id: String,
    access_token: String,
}

#[derive(Deserialize)]
struct Room {
    room_id: String,
}

#[derive(Deserialize)]
struct Uploaded {
    content_uri: String,
}

#[derive(Deserialize)]
struct MediaConfig {
    #[serde(rename = "m.upload.size")]
    upload_size: usize,
}

#[derive(Deserialize)]
struct Synced {
    next_batch: String,
}

impl Registrar {
    pub(crate) fn new(origin: Origin, secret: Option<String>, run: String) -> Self {
        Self { origin, secret, run }
    }

    /// As many users as `count`, named after `what` they are for.
    pub(crate) async fn users(&self, what: &str, count: usize) -> Result<Vec<User>> {
        let made = (0..count).map(|number| self.user(format!("{what}{number}")));
        stream::iter(made).buffered(AT_ONCE).try_collect().await
    }

    /// One new user.
    pub(crate) async fn user(&self, name: String) -> Result<User> {
        let mut client = Client::new(self.origin);
        let name = format!("{name}-{}", self.run);
        let account: Account = match &self.secret {
            Some(secret) => with_secret(&mut client, &name, secret).await?,
            None => openly(&mut client, &name).await?,
        };
        let client = Client::with_token(self.origin, account.access_token);
        Ok(User { id: account.user_id, device_id: account.device_id, since: String::new(), client, sent: 0, asked: 0 })
    }
}

/// Open registration. Spec: "Account registration", with the stage `m.login.dummy`.
async fn openly(client: &mut Client, name: &str) -> Result<Account> {
    let path = "/_matrix/client/v3/register";
    let body = |auth: Value| json!({ "username": name, "password": PASSWORD, "auth": auth });
    let answer = client.post(path, &body(json!({ "type": "m.login.dummy" }))).await?;
    if answer.status != 401 {
        return answer.parsed().map_err(|error| {
            format!("registration is not open ({error}); if the server has a registration_shared_secret, give --secret")
                .into()
        });
    }
    // It insists on a session of its own.
    let asked: Value = serde_json::from_slice(&answer.body)?;
    let session = asked.get("session").cloned().unwrap_or_default();
    client.post(path, &body(json!({ "type": "m.login.dummy", "session": session }))).await?.parsed()
}

/// What Synapse's `register_new_matrix_user` does.
async fn with_secret(client: &mut Client, name: &str, secret: &str) -> Result<Account> {
    #[derive(Deserialize)]
    struct Nonce {
        nonce: String,
    }
    let path = "/_synapse/admin/v1/register";
    let Nonce { nonce } = client.get(path).await?.parsed()?;
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes())?;
    mac.update([nonce.as_str(), name, PASSWORD, "notadmin"].join("\0").as_bytes());
    let mac: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let body = json!({ "nonce": nonce, "username": name, "password": PASSWORD, "admin": false, "mac": mac });
    client.post(path, &body).await?.parsed()
}

impl User {
    pub(crate) async fn creates_room(&mut self, preset: &str) -> Result<String> {
        let body = json!({ "preset": preset });
        let room: Room = self.client.post("/_matrix/client/v3/createRoom", &body).await?.parsed()?;
        Ok(room.room_id)
    }

    pub(crate) async fn encrypts(&mut self, room: &str) -> Result<()> {
        let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.encryption");
        self.client.put(&path, &json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await?.ok().map(drop)
    }

    /// Gives its device another name, which others see among its keys.
    pub(crate) async fn renames_device(&mut self) -> Result<()> {
        self.sent += 1;
        let path = format!("/_matrix/client/v3/devices/{}", self.device_id);
        self.client.put(&path, &json!({ "display_name": format!("phone {}", self.sent) })).await?.ok().map(drop)
    }

    pub(crate) async fn joins(&mut self, room: &str) -> Result<()> {
        self.client.post(&format!("/_matrix/client/v3/rooms/{room}/join"), &json!({})).await?.ok()?;
        Ok(())
    }

    pub(crate) async fn sends(&mut self, room: &str, text: &str) -> Result<()> {
        self.sent += 1;
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t{}", self.sent);
        self.client.put(&path, &json!({ "msgtype": "m.text", "body": text })).await?.ok()?;
        Ok(())
    }

    pub(crate) async fn uploads_keys(&mut self, keys: &Value) -> Result<()> {
        self.client.post("/_matrix/client/v3/keys/upload", keys).await?.ok().map(drop)
    }

    /// A key of each of these devices: algorithms by user and device.
    pub(crate) async fn claims_keys(&mut self, of: &Value) -> Result<()> {
        let body = json!({ "one_time_keys": of });
        self.client.post("/_matrix/client/v3/keys/claim", &body).await?.ok().map(drop)
    }

    /// The keys of these users: lists of devices, by user.
    pub(crate) async fn asks_keys(&mut self, of: &Value) -> Result<()> {
        let body = json!({ "device_keys": of });
        self.client.post("/_matrix/client/v3/keys/query", &body).await?.ok().map(drop)
    }

    /// A message to devices: contents by user and device.
    pub(crate) async fn sends_to_devices(&mut self, messages: &Value) -> Result<()> {
        self.sent += 1;
        let path = format!("/_matrix/client/v3/sendToDevice/m.room.encrypted/t{}", self.sent);
        self.client.put(&path, &json!({ "messages": messages })).await?.ok().map(drop)
    }

    /// Logs in on one more device.
    pub(crate) async fn logs_in(&mut self) -> Result<()> {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": self.id },
            "password": PASSWORD,
        });
        Client::new(self.client.origin()).post("/_matrix/client/v3/login", &body).await?.ok()?;
        Ok(())
    }

    /// The initial sync: everything. Never the same question twice: Synapse keeps answers for those.
    pub(crate) async fn syncs_all(&mut self) -> Result<Bytes> {
        self.asked += 1;
        let path = format!("/_matrix/client/v3/sync?timeout={}", self.asked);
        self.asks_sync(&path).await
    }

    /// As [`User::syncs_all`], with the members that the timeline shows instead of all.
    pub(crate) async fn syncs_lazily(&mut self) -> Result<()> {
        self.asked += 1;
        let path = format!("/_matrix/client/v3/sync?timeout={}&filter={LAZILY}", self.asked);
        self.asks_sync(&path).await.map(drop)
    }

    /// Reads whatever is there.
    pub(crate) async fn gets(&mut self, path: &str) -> Result<()> {
        self.client.get(path).await?.ok().map(drop)
    }

    /// Uploads a file; answers where it is, without `mxc://`.
    pub(crate) async fn uploads(&mut self, pieces: Vec<Bytes>) -> Result<String> {
        let uploaded: Uploaded = self.client.sends_file("/_matrix/media/v3/upload", pieces).await?.parsed()?;
        Ok(uploaded.content_uri.trim_start_matches("mxc://").to_owned())
    }

    /// Downloads a file; answers how many bytes it has.
    pub(crate) async fn downloads(&mut self, mxc: &str) -> Result<usize> {
        self.client.reads_file(&format!("/_matrix/client/v1/media/download/{mxc}")).await
    }

    /// The largest file that may be uploaded, in bytes.
    pub(crate) async fn asks_upload_size(&mut self) -> Result<usize> {
        let config: MediaConfig = self.client.get("/_matrix/client/v1/media/config").await?.parsed()?;
        Ok(config.upload_size)
    }

    /// What happened since the last sync; waits for it at most this long.
    pub(crate) async fn syncs(&mut self, wait: Duration) -> Result<Bytes> {
        let path = format!("/_matrix/client/v3/sync?timeout={}&since={}", wait.as_millis(), self.since);
        self.asks_sync(&path).await
    }

    /// Follows the chain of syncs until one shows this text.
    pub(crate) async fn receives(&mut self, text: &str) -> Result<()> {
        for _sync in 0..SYNCS_UNTIL_RECEIVED {
            let body = self.syncs(WAIT).await?;
            if contains(&body, text) {
                return Ok(());
            }
        }
        Err(format!("{} never received «{text}»", self.id).into())
    }

    async fn asks_sync(&mut self, path: &str) -> Result<Bytes> {
        let body = self.client.get(path).await?.ok()?;
        let synced: Synced = serde_json::from_slice(&body)?;
        self.since = synced.next_batch;
        Ok(body)
    }
}

/// `{"room":{"state":{"lazy_load_members":true}}}`, as a query has it.
const LAZILY: &str = "%7B%22room%22%3A%7B%22state%22%3A%7B%22lazy_load_members%22%3Atrue%7D%7D%7D";
/// How long a client waits in one sync.
const WAIT: Duration = Duration::from_secs(30);
/// A message must come with one of so many.
const SYNCS_UNTIL_RECEIVED: usize = 10;

fn contains(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}
