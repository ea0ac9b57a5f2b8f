//! Spec: "End-to-End Encryption", "Server-side key backups".

use actors::user::{
    BackedUpKey, BackupChanged, BackupInfo, CreateBackup, DeleteBackedUpKeys, DeleteBackup, GetBackedUpKeys, GetBackup,
    KeyData, PutBackedUpKeys, UpdateBackup,
};
use bytes::Bytes;
use domain::Refusal;
use futures_util::stream;
use platform::Fault;
use ruma_client_api::backup::{
    RoomKeyBackup, add_backup_keys::v3 as add_all, add_backup_keys_for_room::v3 as add_of_room,
    add_backup_keys_for_session::v3 as add_one, create_backup_version::v3 as create,
    delete_backup_keys::v3 as delete_all, delete_backup_keys_for_room::v3 as delete_of_room,
    delete_backup_keys_for_session::v3 as delete_one, delete_backup_version::v3 as delete, get_backup_info::v3 as info,
    get_backup_keys::v3 as get_all, get_backup_keys_for_room::v3 as get_of_room,
    get_backup_keys_for_session::v3 as get_one, get_latest_backup_info::v3 as latest,
    update_backup_version::v3 as update,
};
use ruma_common::RoomId;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::rooms::call_id;
use crate::{Bearer, Body, Context, Failure, Routes, router::kept_json};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_carried_json(create);
    routes.add_carried_json(latest);
    routes.add_carried_json(info);
    routes.add_carried(update);
    routes.add_carried(delete);
    routes.add_carried_json(add_all);
    routes.add_carried_json(add_of_room);
    routes.add_carried_json(add_one);
    routes.add_carried_body(get_all);
    routes.add_carried_body(get_of_room);
    routes.add_carried_json(get_one);
    routes.add_carried_json(delete_all);
    routes.add_carried_json(delete_of_room);
    routes.add_carried_json(delete_one);
}

/// How keys are encrypted, as clients say it.
#[derive(Deserialize)]
struct Algorithm {
    algorithm: String,
    auth_data: Box<RawValue>,
    version: Option<String>,
}

async fn create(cx: &Context, bearer: Bearer, request: create::Request) -> Result<Vec<u8>, Failure> {
    let Algorithm { algorithm, auth_data, .. } = kept_json(request.algorithm.json().get().as_bytes())?;
    let (token_hash, call_id) = (bearer.token_hash.clone(), Some(call_id(cx)?));
    let version = bearer.call(cx, &CreateBackup { token_hash, call_id, algorithm, auth_data }).await?;
    Ok(serde_json::to_vec(&json!({ "version": version }))?)
}

async fn latest(cx: &Context, bearer: Bearer, _: latest::Request) -> Result<Vec<u8>, Failure> {
    shown(cx, bearer, None).await
}

async fn info(cx: &Context, bearer: Bearer, request: info::Request) -> Result<Vec<u8>, Failure> {
    shown(cx, bearer, Some(request.version)).await
}

async fn shown(cx: &Context, bearer: Bearer, version: Option<String>) -> Result<Vec<u8>, Failure> {
    let backup: BackupInfo = bearer.call(cx, &GetBackup { token_hash: bearer.token_hash.clone(), version }).await?;
    Ok(serde_json::to_vec(&backup)?)
}

async fn update(cx: &Context, bearer: Bearer, request: update::Request) -> Result<update::Response, Failure> {
    let Algorithm { algorithm, auth_data, version: repeated_version } =
        kept_json(request.algorithm.json().get().as_bytes())?;
    let (token_hash, version) = (bearer.token_hash.clone(), request.version);
    bearer.call(cx, &UpdateBackup { token_hash, version, algorithm, auth_data, repeated_version }).await?;
    Ok(update::Response::new())
}

async fn delete(cx: &Context, bearer: Bearer, request: delete::Request) -> Result<delete::Response, Failure> {
    bearer.call(cx, &DeleteBackup { token_hash: bearer.token_hash.clone(), version: request.version }).await?;
    Ok(delete::Response::new())
}

async fn add_all(cx: &Context, bearer: Bearer, request: add_all::Request) -> Result<Vec<u8>, Failure> {
    let mut keys = Vec::new();
    for (room_id, RoomKeyBackup { sessions, .. }) in request.rooms {
        for (session_id, data) in sessions {
            keys.push(key(&room_id, session_id, data.json())?);
        }
    }
    put(cx, bearer, request.version, keys).await
}

async fn add_of_room(cx: &Context, bearer: Bearer, request: add_of_room::Request) -> Result<Vec<u8>, Failure> {
    let add_of_room::Request { version, room_id, sessions, .. } = request;
    let keys = sessions.into_iter().map(|(session_id, data)| key(&room_id, session_id, data.json()));
    put(cx, bearer, version, keys.collect::<Result<_, _>>()?).await
}

async fn add_one(cx: &Context, bearer: Bearer, request: add_one::Request) -> Result<Vec<u8>, Failure> {
    let add_one::Request { version, room_id, session_id, session_data, .. } = request;
    put(cx, bearer, version, vec![key(&room_id, session_id, session_data.json())?]).await
}

fn key(room_id: &RoomId, session_id: String, data: &RawValue) -> Result<BackedUpKey, Refusal> {
    let data: KeyData = kept_json(data.get().as_bytes())?;
    Ok(BackedUpKey { room_id: room_id.to_string(), session_id, data })
}

async fn put(cx: &Context, bearer: Bearer, version: String, keys: Vec<BackedUpKey>) -> Result<Vec<u8>, Failure> {
    let call = PutBackedUpKeys { token_hash: bearer.token_hash.clone(), version, keys };
    let changed: BackupChanged = bearer.call(cx, &call).await?;
    Ok(serde_json::to_vec(&changed)?)
}

async fn get_all(cx: &Context, bearer: Bearer, request: get_all::Request) -> Result<Body, Failure> {
    let (token_hash, version) = (bearer.token_hash.clone(), request.version);
    told(cx, bearer, GetBackedUpKeys { token_hash, version, ..GetBackedUpKeys::default() }).await
}

async fn get_of_room(cx: &Context, bearer: Bearer, request: get_of_room::Request) -> Result<Body, Failure> {
    let get_of_room::Request { version, room_id, .. } = request;
    let (token_hash, room_id) = (bearer.token_hash.clone(), Some(room_id.to_string()));
    told(cx, bearer, GetBackedUpKeys { token_hash, version, room_id, ..GetBackedUpKeys::default() }).await
}

async fn get_one(cx: &Context, bearer: Bearer, request: get_one::Request) -> Result<Vec<u8>, Failure> {
    let get_one::Request { version, room_id, session_id, .. } = request;
    let (room_id, session_id) = (Some(room_id.to_string()), Some(session_id));
    let call = GetBackedUpKeys { token_hash: bearer.token_hash.clone(), version, room_id, session_id, after: None };
    let found = bearer.call(cx, &call).await?.keys.pop().ok_or_else(|| Fault::new("a key that is there is not"))?;
    Ok(serde_json::to_vec(&found.data)?)
}

/// A backup, or one room of it, in pieces of one page each: there may be a hundred thousand keys.
struct Telling {
    cx: Context,
    bearer: Bearer,
    call: GetBackedUpKeys,
    /// The page to be written next.
    page: Vec<BackedUpKey>,
    more: bool,
    /// The room that is being written.
    room: Option<String>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Beginning,
    Keys,
    Over,
}

/// The first page is read before anything is answered, so that what is refused is refused.
async fn told(cx: &Context, bearer: Bearer, call: GetBackedUpKeys) -> Result<Body, Failure> {
    let first = bearer.call(cx, &call).await?;
    let (page, more) = (first.keys, first.more);
    let telling = Telling { cx: cx.clone(), bearer, call, page, more, room: None, stage: Stage::Beginning };
    Ok(Body::pieces(stream::try_unfold(telling, Telling::next_piece)))
}

impl Telling {
    async fn next_piece(mut self) -> Result<Option<(Bytes, Self)>, Fault> {
        let of_room = self.call.room_id.is_some();
        let json = match self.stage {
            Stage::Over => return Ok(None),
            Stage::Beginning => {
                self.stage = Stage::Keys;
                if of_room { br#"{"sessions":{"#.to_vec() } else { br#"{"rooms":{"#.to_vec() }
            }
            Stage::Keys => {
                let mut json = self.keys(of_room)?;
                if self.more {
                    self.next_page().await?;
                } else {
                    self.stage = Stage::Over;
                    let is_open = !of_room && self.room.is_some();
                    json.extend_from_slice(if is_open { b"}}}}" } else { b"}}" });
                }
                json
            }
        };
        Ok(Some((json.into(), self)))
    }

    /// The page as JSON, which goes on where the one before ended.
    fn keys(&mut self, of_room: bool) -> Result<Vec<u8>, Fault> {
        let mut json = Vec::new();
        for key in std::mem::take(&mut self.page) {
            if self.room.as_ref() == Some(&key.room_id) {
                json.push(b',');
            } else {
                if !of_room {
                    json.extend_from_slice(if self.room.is_some() { b"}}," } else { b"" });
                    serde_json::to_writer(&mut json, &key.room_id)?;
                    json.extend_from_slice(br#":{"sessions":{"#);
                }
                self.room = Some(key.room_id);
            }
            serde_json::to_writer(&mut json, &key.session_id)?;
            json.push(b':');
            serde_json::to_writer(&mut json, &key.data)?;
            self.call.after = self.room.clone().map(|room_id| [room_id, key.session_id]);
        }
        Ok(json)
    }

    async fn next_page(&mut self) -> Result<(), Fault> {
        let page = self.bearer.call(&self.cx, &self.call).await.map_err(|failure| match failure {
            Failure::Fault(fault) => fault,
            Failure::Refused(_) | Failure::Absent | Failure::Challenge(_) => {
                Fault::new("refused in the middle of a backup")
            }
        })?;
        (self.page, self.more) = (page.keys, page.more);
        Ok(())
    }
}

async fn delete_all(cx: &Context, bearer: Bearer, request: delete_all::Request) -> Result<Vec<u8>, Failure> {
    deleted(cx, bearer, request.version, None, None).await
}

async fn delete_of_room(cx: &Context, bearer: Bearer, request: delete_of_room::Request) -> Result<Vec<u8>, Failure> {
    deleted(cx, bearer, request.version, Some(request.room_id.to_string()), None).await
}

async fn delete_one(cx: &Context, bearer: Bearer, request: delete_one::Request) -> Result<Vec<u8>, Failure> {
    let delete_one::Request { version, room_id, session_id, .. } = request;
    deleted(cx, bearer, version, Some(room_id.to_string()), Some(session_id)).await
}

async fn deleted(
    cx: &Context,
    bearer: Bearer,
    version: String,
    room_id: Option<String>,
    session_id: Option<String>,
) -> Result<Vec<u8>, Failure> {
    let token_hash = bearer.token_hash.clone();
    let call = DeleteBackedUpKeys { token_hash, version, room_id, session_id, in_slices: true };
    loop {
        let changed: BackupChanged = bearer.call(cx, &call).await?;
        if !changed.more {
            return Ok(serde_json::to_vec(&changed)?);
        }
    }
}
