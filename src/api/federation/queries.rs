//! What other servers ask about our users and aliases, and what we ask about theirs. Spec: "Querying for information".

use actors::{room::Residence, user::GetProfile};
use bytes::Bytes;
use domain::{RateLimited, Refusal};
use futures_util::future::{Either, select};
use http::{Method, Request, Response};
use ruma_common::{
    OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, ServerName, UserId,
    api::{Metadata, OutgoingRequest, path_builder::PathBuilder},
    profile::ProfileFieldName,
};
use ruma_federation_api::{
    authentication::ServerSignatures,
    query::{get_profile_information::v1 as profile, get_room_information::v1 as directory},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{AskError, Bounds, Origin, elsewhere::residence, pdus::encoded};
use crate::{Context, Failure, OrAbsent, Routes, metadata::alias};

/// A person waits for the answer, in milliseconds.
pub(super) const TIMEOUT_MS: u64 = 10_000;
/// The largest profile that is shown, in bytes. Spec: "Profiles", at most 64 KiB, and what JSON adds.
const PROFILE_BYTES_MAX: usize = 128 * 1024;
/// The largest answer to where an alias points, in bytes: it names servers.
const ALIAS_BYTES_MAX: usize = 1024 * 1024;
/// The most servers of a room that are named to who asks for an alias.
const SERVERS_TOLD_MAX: usize = 500;

/// Where an alias points, as another server says.
#[derive(Deserialize)]
struct PointedTo {
    room_id: OwnedRoomId,
    #[serde(default)]
    servers: Vec<String>,
}

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(profile);
    routes.add(room_of_alias);
    routes.add_raw(Method::GET, "/_matrix/federation/v1/query/{query_type}", unknown_query);
}

async fn profile(cx: &Context, _: Origin, request: profile::Request) -> Result<Vec<u8>, Failure> {
    if !cx.is_local(&request.user_id) {
        return Err(Refusal::InvalidParam("This user is of another server".to_owned()).into());
    }
    let mut fields = cx.user(&request.user_id).call(&GetProfile {}).await.or_absent(unknown_user())?;
    if let Some(field) = &request.field {
        fields.retain(|name, _| name == field.as_str());
    }
    Ok(serde_json::to_vec(&fields)?)
}

async fn room_of_alias(cx: &Context, _: Origin, request: directory::Request) -> Result<directory::Response, Failure> {
    let mut held = alias::find(cx.metadata(), &request.room_alias).await?;
    if held.is_none() && cx.alias_is_made(&request.room_alias).await? {
        held = alias::find(cx.metadata(), &request.room_alias).await?;
    }
    let held = held.ok_or_else(|| unknown_alias(&request.room_alias))?;
    let servers = cx.servers_in(&held.room_id).await?;
    Ok(directory::Response::new(held.room_id, servers))
}

/// «Known query types are specified as their own endpoints»: others are not understood.
async fn unknown_query(_: &Context, _: Origin, _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    Err(Refusal::Unrecognized { status: 404 }.into())
}

fn unknown_user() -> Refusal {
    Refusal::NotFound("There is no such user".to_owned())
}

fn unknown_alias(alias: &RoomAliasId) -> Refusal {
    Refusal::NotFound(format!("There is no room with the alias {alias}"))
}

impl Context {
    /// The servers that are known to be in a room, this one first if it is.
    ///
    /// # Errors
    /// A fault of ours.
    pub(crate) async fn servers_in(&self, room_id: &RoomId) -> Result<Vec<OwnedServerName>, Failure> {
        let Residence { here, servers, .. } = residence(self, room_id).await?;
        let own = here.then(|| self.server_name().to_owned());
        let others = servers.into_iter().filter_map(|name| OwnedServerName::try_from(name).ok());
        Ok(own.into_iter().chain(others).take(SERVERS_TOLD_MAX).collect())
    }

    /// Asks another server what a person wants to know: not when it was down a moment ago, and not for long.
    ///
    /// # Errors
    /// [`AskError`]: whatever kept it from doing so.
    pub(super) async fn query<R>(
        &self,
        destination: &ServerName,
        request: R,
        bounds: Bounds,
    ) -> Result<R::IncomingResponse, AskError>
    where
        R: OutgoingRequest + Metadata<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        self.soon(destination, bounds.timeout_ms, self.ask_within(destination, request, bounds)).await
    }

    /// What comes of asking a server, if that is soon: it is not begun when the server was down a moment ago.
    ///
    /// # Errors
    /// [`AskError`]: whatever kept it from doing so.
    pub(super) async fn soon<T>(
        &self,
        destination: &ServerName,
        timeout_ms: u64,
        asking: impl Future<Output = Result<T, AskError>>,
    ) -> Result<T, AskError> {
        if self.known_servers().is_down(destination, self.now_ms()) {
            return Err(AskError::Unreachable("it was down a moment ago".to_owned()));
        }
        // Finding out where it is takes time as well.
        match select(std::pin::pin!(asking), std::pin::pin!(self.pause(timeout_ms))).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Err(AskError::Unreachable("it took too long".to_owned())),
        }
    }

    /// The profile of another server's user, or one field of it.
    ///
    /// # Errors
    /// `M_NOT_FOUND` where that server knows of none, `M_FORBIDDEN` where it does not say, and 502 where it does not
    /// answer.
    pub(crate) async fn profile_elsewhere(
        &self,
        user_id: &UserId,
        field: Option<ProfileFieldName>,
    ) -> Result<Map<String, Value>, Failure> {
        // Anybody may ask.
        self.limit_by_address(RateLimited::RemoteQueries)?.keep();
        let mut request = profile::Request::new(user_id.to_owned());
        request.field = field;
        let bounds = Bounds { response_bytes_max: PROFILE_BYTES_MAX, timeout_ms: TIMEOUT_MS };
        let answered = self.query(user_id.server_name(), request, bounds).await;
        Ok(answered.map_err(|error| not_told(&error, unknown_user))?.into_iter().collect())
    }

    /// The room that another server's alias points to, with servers that are in it.
    ///
    /// # Errors
    /// `M_NOT_FOUND` where that server knows of none, 502 where it does not answer, and `M_LIMIT_EXCEEDED`.
    pub(crate) async fn room_elsewhere(
        &self,
        alias: &RoomAliasId,
    ) -> Result<(OwnedRoomId, Vec<OwnedServerName>), Failure> {
        // Anybody may ask.
        self.limit_by_address(RateLimited::RemoteQueries)?.keep();
        let server = alias.server_name();
        let path = format!("/_matrix/federation/v1/query/directory?room_alias={}", encoded(alias.as_str()));
        let bounds = Bounds { response_bytes_max: ALIAS_BYTES_MAX, timeout_ms: TIMEOUT_MS };
        let asked = self.soon(server, TIMEOUT_MS, self.ask_raw(server, Method::GET, &path, None, bounds)).await;
        let told = asked.and_then(|(_, body)| {
            serde_json::from_slice::<PointedTo>(&body).map_err(|error| AskError::Nonsense(error.to_string()))
        });
        let PointedTo { room_id, servers } = told.map_err(|error| not_told(&error, || unknown_alias(alias)))?;
        // «Likely to hold the given room»: one that has no name of a server does not spoil the others.
        let mut servers: Vec<_> = servers.into_iter().filter_map(|name| OwnedServerName::try_from(name).ok()).collect();
        if servers.is_empty() {
            servers.push(server.to_owned());
        }
        Ok((room_id, servers))
    }
}

/// What a client learns when another server does not say what was asked.
pub(super) fn not_told(error: &AskError, unknown: impl Fn() -> Refusal) -> Refusal {
    if let Some(retry_after_ms) = error.retry_after_ms() {
        return Refusal::LimitExceeded { retry_after_ms };
    }
    match error {
        // Who does not know the question does not answer it.
        AskError::Refused { status, errcode, .. } if status.as_u16() == 404 && errcode != "M_UNRECOGNIZED" => unknown(),
        // Spec: «The remote server MAY itself deny profile queries over federation». So may a directory be nobody's
        // else.
        AskError::Refused { status, message, .. } if status.as_u16() == 403 => {
            Refusal::Forbidden(format!("The other server refuses: {message}"))
        }
        AskError::Denied => Refusal::Forbidden("This server does not talk to that one".to_owned()),
        AskError::Refused { .. }
        | AskError::Unreachable(_)
        | AskError::TooLarge
        | AskError::Nonsense(_)
        | AskError::Unwritable(_) => {
            tracing::debug!(%error, "another server did not say");
            Refusal::OtherServer("The other server does not say".to_owned())
        }
    }
}
