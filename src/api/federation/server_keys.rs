//! The keys that other servers sign with: remembered, in the database, from the server itself, or by way of a notary.
//! Spec: "Retrieving server keys".

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use domain::{
    RateLimited,
    federation::server_keys::{DOCUMENT_BYTES_MAX, KeyDocument, KnownKeys, Signed, VALID_MS_MAX},
};
use futures_util::{StreamExt, stream};
use http::Method;
use platform::Fault;
use ruma_common::{OwnedServerName, ServerName, serde::Base64};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    ask::{AskError, Asking, Bounds, whole},
    known_servers::Turn,
};
use crate::{
    Context, Failure,
    metadata::remote_key::{self, Learned},
};

/// Servers that are asked at the same time.
const ASKED_AT_ONCE: usize = 16;
/// When more servers than this have to be asked, a notary is asked first, who may know of all.
const ASKED_DIRECTLY_MAX: usize = 32;
/// Servers that a notary is asked for at once.
const ASKED_OF_NOTARY_MAX: usize = 100;
/// A server says its keys within this time, in milliseconds.
const DIRECT_TIMEOUT_MS: u64 = 10_000;
/// A notary has to ask others first, in milliseconds.
const NOTARY_TIMEOUT_MS: u64 = 20_000;
/// How long to wait for who asks the same server already: so many times, so many milliseconds.
const WAITS_MAX: usize = 100;
const WAIT_MS: u64 = 100;

/// A key that a signature needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededKey {
    pub server: OwnedServerName,
    /// With its algorithm: `ed25519:a_xyz`.
    pub key_id: String,
    /// What it signed, which says when it has to be good.
    pub signed: Signed,
}

/// Keys of servers, by server and key id.
#[derive(Debug, Clone, Default)]
pub struct ServerKeys {
    known: BTreeMap<OwnedServerName, KnownKeys>,
    /// Whether a notary was asked and did not answer: what is lacking may be had another time.
    pub(super) is_notary_silent: bool,
}

impl ServerKeys {
    /// A key, if it is good for what is signed.
    pub fn key_for(&self, server: &ServerName, key_id: &str, signed: Signed) -> Option<&Base64> {
        self.known.get(server)?.key_for(key_id, signed)
    }
}

/// What is wanted of servers, by server.
type Wanted = BTreeMap<OwnedServerName, Vec<(String, Signed)>>;

impl Context {
    /// The keys that signatures need. One that is not to be had is not in the answer, and the signature is not good.
    ///
    /// # Errors
    /// A fault of ours. That others do not answer is none.
    pub async fn server_keys(&self, needed: impl IntoIterator<Item = NeededKey>) -> Result<ServerKeys, Fault> {
        let wanted = grouped(needed);
        let mut keys = self.kept_keys(&wanted).await?;
        self.fetch_lacking(&mut keys, &wanted).await?;
        Ok(keys)
    }

    /// As [`Context::server_keys`], for somebody who did not show yet who they are: how often they have us ask others
    /// is limited.
    pub(super) async fn server_keys_for_stranger(
        &self,
        needed: impl IntoIterator<Item = NeededKey>,
    ) -> Result<ServerKeys, Failure> {
        let wanted = grouped(needed);
        let mut keys = self.kept_keys(&wanted).await?;
        let lacking = lacking(&keys, &wanted, self.now_ms());
        if !lacking.is_empty() {
            self.limit_by_address(RateLimited::RemoteQueries)?.keep();
            for server in lacking {
                self.known_servers().seems_to_be_there(server);
            }
            self.fetch_lacking(&mut keys, &wanted).await?;
        }
        Ok(keys)
    }

    /// What is remembered or stored.
    async fn kept_keys(&self, wanted: &Wanted) -> Result<ServerKeys, Fault> {
        let (mut kept, mut others) = (ServerKeys::default(), Vec::new());
        for server in wanted.keys() {
            if server == self.server_name() {
                kept.known.insert(server.clone(), KnownKeys::own(self.identity()));
            } else if let Some(keys) = self.known_servers().keys(server) {
                kept.known.insert(server.clone(), keys);
            } else {
                others.push(server);
            }
        }
        let mut stored: BTreeMap<_, _> = remote_key::load_many(self.metadata(), &others).await?.into_iter().collect();
        for server in others {
            let keys = stored.remove(server).unwrap_or_default();
            self.known_servers().remember_keys(server, keys.clone());
            kept.known.insert(server.clone(), keys);
        }
        Ok(kept)
    }

    async fn kept_keys_of(&self, server: &ServerName) -> Result<KnownKeys, Fault> {
        if server == self.server_name() {
            return Ok(KnownKeys::own(self.identity()));
        }
        if let Some(keys) = self.known_servers().keys(server) {
            return Ok(keys);
        }
        let keys = remote_key::load(self.metadata(), server).await?.map(|stored| stored.keys).unwrap_or_default();
        self.known_servers().remember_keys(server, keys.clone());
        Ok(keys)
    }

    /// Asks for what is lacking: each server itself and then a notary, or the other way around when there are many.
    async fn fetch_lacking(&self, keys: &mut ServerKeys, wanted: &Wanted) -> Result<(), Fault> {
        let many = lacking(keys, wanted, self.now_ms()).len() > ASKED_DIRECTLY_MAX;
        for is_direct in [!many, many] {
            let servers = lacking(keys, wanted, self.now_ms());
            if servers.is_empty() {
                break;
            }
            let fetched = if is_direct {
                self.fetch_directly(servers, wanted).await?
            } else {
                self.fetch_from_notaries(servers, wanted).await?
            };
            keys.known.extend(fetched.known);
            keys.is_notary_silent |= fetched.is_notary_silent;
        }
        Ok(())
    }

    async fn fetch_directly(&self, servers: Vec<&OwnedServerName>, wanted: &Wanted) -> Result<ServerKeys, Fault> {
        let fetched = stream::iter(servers).map(async |server| {
            let of_server = wanted.get(server).map(Vec::as_slice).unwrap_or_default();
            Ok((server.clone(), self.ask_for_keys(server, of_server).await?))
        });
        let fetched: Vec<Result<_, Fault>> = fetched.buffer_unordered(ASKED_AT_ONCE).collect().await;
        let (mut keys, mut learned) = (ServerKeys::default(), Vec::new());
        for fetched in fetched {
            let (server, (of_server, news)) = fetched?;
            keys.known.insert(server, of_server);
            learned.extend(news);
        }
        remote_key::store(self.metadata(), &learned, self.now_ms()).await?;
        Ok(keys)
    }

    /// Asks a server for its keys, unless somebody does already or did just now.
    pub(super) async fn fetch_keys_of(
        &self,
        server: &ServerName,
        wanted: &[(String, Signed)],
    ) -> Result<KnownKeys, Fault> {
        let (keys, learned) = self.ask_for_keys(server, wanted).await?;
        remote_key::store(self.metadata(), learned.as_slice(), self.now_ms()).await?;
        Ok(keys)
    }

    /// As [`Context::fetch_keys_of`]; answers also what is yet to be stored.
    async fn ask_for_keys(
        &self,
        server: &ServerName,
        wanted: &[(String, Signed)],
    ) -> Result<(KnownKeys, Option<Learned>), Fault> {
        let mut learned = None;
        for _ in 0..WAITS_MAX {
            match self.known_servers().begin_asking(server, self.now_ms()) {
                Turn::Mine(turn) => {
                    match self.fetch_document(server).await {
                        Ok(document) => learned = Some(self.learn(server, document, true).await?),
                        Err(error) => tracing::debug!(%error, %server, "its keys were not to be had"),
                    }
                    turn.end(learned.is_some(), self.now_ms());
                    break;
                }
                Turn::Others => self.pause(WAIT_MS).await,
                Turn::Later => break,
            }
            let keys = self.kept_keys_of(server).await?;
            if !lacks(&keys, wanted, self.now_ms()) {
                return Ok((keys, None));
            }
        }
        Ok((self.kept_keys_of(server).await?, learned))
    }

    /// What a server publishes of its keys now.
    async fn fetch_document(&self, server: &ServerName) -> Result<KeyDocument, AskError> {
        let asking = Asking {
            destination: server,
            method: Method::GET,
            path_and_query: "/_matrix/key/v2/server",
            content: Bytes::new(),
            is_signed: false,
            bounds: Bounds { response_bytes_max: DOCUMENT_BYTES_MAX, timeout_ms: DIRECT_TIMEOUT_MS },
        };
        let (_, body) = whole(self.exchange(asking).await?).await?;
        KeyDocument::check(&body, server).map_err(|error| AskError::Nonsense(error.to_string()))
    }

    /// Remembers what a document says, with what was known before. Answers what is to be stored.
    async fn learn(&self, server: &ServerName, document: KeyDocument, is_direct: bool) -> Result<Learned, Fault> {
        let mut keys = self.kept_keys_of(server).await?;
        keys.learn(&document, is_direct, self.now_ms());
        self.known_servers().remember_keys(server, keys.clone());
        Ok(Learned { server: server.to_owned(), keys, document })
    }

    /// Asks the notaries that are trusted, one after the other, for what is still lacking.
    async fn fetch_from_notaries(&self, servers: Vec<&OwnedServerName>, wanted: &Wanted) -> Result<ServerKeys, Fault> {
        let mut keys = ServerKeys::default();
        let mut servers: BTreeSet<&OwnedServerName> = servers.into_iter().collect();
        let federation = &self.config().federation;
        // One that nobody here talks to is not silent.
        for notary in federation.trusted_key_servers.iter().filter(|notary| federation.allows(notary)) {
            let asked: Vec<_> = servers.iter().copied().filter(|server| *server != notary).collect();
            for asked in asked.chunks(ASKED_OF_NOTARY_MAX) {
                let mut learned = BTreeMap::new();
                let told = self.ask_notary(notary, asked, wanted).await?;
                keys.is_notary_silent |= told.is_none();
                for (server, document) in told.unwrap_or_default() {
                    let news = self.learn(&server, document, false).await?;
                    learned.insert(server, news);
                }
                let learned: Vec<Learned> = learned.into_values().collect();
                remote_key::store(self.metadata(), &learned, self.now_ms()).await?;
                for server in asked {
                    let known = self.kept_keys_of(server).await?;
                    if wanted.get(*server).is_none_or(|wanted| !lacks(&known, wanted, self.now_ms())) {
                        servers.remove(server);
                    }
                    keys.known.insert((*server).clone(), known);
                }
            }
        }
        Ok(keys)
    }

    /// What a notary says of some servers, checked; `None` if it does not answer.
    async fn ask_notary(
        &self,
        notary: &ServerName,
        servers: &[&OwnedServerName],
        wanted: &Wanted,
    ) -> Result<Option<Vec<(OwnedServerName, KeyDocument)>>, Fault> {
        #[derive(Deserialize)]
        struct Answer {
            server_keys: Vec<Box<RawValue>>,
        }
        #[derive(Deserialize)]
        struct Named {
            server_name: OwnedServerName,
        }
        if notary == self.server_name() {
            return Ok(Some(Vec::new()));
        }
        let now_ms = self.now_ms();
        let mut criteria = Map::new();
        for server in servers {
            let mut of_server = Map::new();
            for (key_id, signed) in wanted.get(*server).into_iter().flatten() {
                let least = minimum_valid_until(*signed, now_ms);
                let least = of_server.get(key_id).and_then(Value::as_u64).map_or(least, |other| other.max(least));
                of_server.insert(key_id.clone(), least.into());
            }
            let criterion = |(key_id, least)| (key_id, json!({ "minimum_valid_until_ts": least }));
            criteria.insert(server.to_string(), of_server.into_iter().map(criterion).collect());
        }
        let content = json!({ "server_keys": criteria }).to_string();
        let asking = Asking {
            destination: notary,
            method: Method::POST,
            path_and_query: "/_matrix/key/v2/query",
            content: content.into(),
            is_signed: false,
            bounds: Bounds {
                response_bytes_max: servers.len().saturating_add(1).saturating_mul(DOCUMENT_BYTES_MAX),
                timeout_ms: NOTARY_TIMEOUT_MS,
            },
        };
        let answered = async { whole(self.exchange(asking).await?).await }.await;
        let answer = answered.and_then(|(_, body)| {
            serde_json::from_slice::<Answer>(&body).map_err(|error| AskError::Nonsense(error.to_string()))
        });
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, %notary, "a notary was of no help");
                return Ok(None);
            }
        };
        let current = Signed::Request { now_ms };
        let mut keys = self.kept_keys_of(notary).await?;
        if keys.all_for(current).is_empty() {
            keys = self.fetch_keys_of(notary, &[(String::new(), current)]).await?;
        }
        let keys = keys.all_for(current);
        let documents = answer.server_keys.iter().filter_map(|document| {
            let json = document.get();
            let Named { server_name } = serde_json::from_str(json).ok()?;
            let document = KeyDocument::check(json.as_bytes(), &server_name).ok()?;
            (document.is_signed_by(notary, &keys) && servers.contains(&&server_name)).then_some((server_name, document))
        });
        // Without its own keys nothing that it says can be believed.
        Ok((!keys.is_empty()).then(|| documents.collect()))
    }
}

fn grouped(needed: impl IntoIterator<Item = NeededKey>) -> Wanted {
    let mut wanted: BTreeMap<OwnedServerName, BTreeSet<(String, Signed)>> = BTreeMap::new();
    for NeededKey { server, key_id, signed } in needed {
        wanted.entry(server).or_default().insert((key_id, signed));
    }
    wanted.into_iter().map(|(server, of_server)| (server, of_server.into_iter().collect())).collect()
}

/// The servers that may have more to say of what is wanted.
fn lacking<'a>(keys: &ServerKeys, wanted: &'a Wanted, now_ms: u64) -> Vec<&'a OwnedServerName> {
    let none = KnownKeys::default();
    let is_lacking = |server: &OwnedServerName, wanted: &[(String, Signed)]| {
        lacks(keys.known.get(server).unwrap_or(&none), wanted, now_ms)
    };
    wanted.iter().filter(|(server, wanted)| is_lacking(server, wanted)).map(|(server, _)| server).collect()
}

fn lacks(keys: &KnownKeys, wanted: &[(String, Signed)], now_ms: u64) -> bool {
    wanted.iter().any(|(key_id, signed)| {
        // No key is good for longer than that, whatever its server says.
        let can_be_good = minimum_valid_until(*signed, now_ms) <= now_ms.saturating_add(VALID_MS_MAX);
        keys.key_for(key_id, *signed).is_none() && keys.may_be_renewed(key_id, *signed) && can_be_good
    })
}

/// Until when a key must be good.
fn minimum_valid_until(signed: Signed, now_ms: u64) -> u64 {
    match signed {
        Signed::Request { now_ms } => now_ms,
        Signed::Event { at_ms } => at_ms,
        Signed::EventOfAnyTime => now_ms,
    }
}
