//! Fetching the members that the answer to a join left out, and what of it could not be checked.
//! Spec: Server-Server API, "Joining Rooms", `omit_members`; "Retrieving events", `/state`.

use actors::room::{BeginJoin, CompleteState, GiveUpJoin, StopFetching, TakeOmitted, ToFetch};
use domain::{Refusal, RoomVersion};
use http::Method;
use ruma_common::{RoomId, ServerName};

use super::{
    Bounds,
    arriving_join::{Answer, ArrivingJoin},
    pdus::encoded,
};
use crate::{Context, Failure, shift::Shift};

/// The largest state that is taken, in bytes, in slices; and how long that may take, in milliseconds.
const STATE_BYTES_MAX: usize = 512 * 1024 * 1024;
const STATE_TIMEOUT_MS: u64 = 600_000;

/// Makes the room whole if it lacks members and nobody else does so. What goes wrong is logged, and tried again later.
pub(super) async fn fetch(cx: &Context, room_id: &RoomId, shift: &Shift<'_>) {
    let outcome = async {
        let taken = cx.room(room_id).call(&TakeOmitted { carrier: shift.carrier.to_owned() }).await;
        let Some(ToFetch { room_version, event_id, servers, is_last_try }) = (match taken {
            Err(Failure::Absent) => None,
            taken => taken?,
        }) else {
            return Ok(());
        };
        let version = RoomVersion::parse(&room_version)?;
        let (room, event) = (encoded(room_id.as_str()), encoded(event_id.as_str()));
        let path = format!("/_matrix/federation/v1/state/{room}?event_id={event}");
        for server in servers {
            match from(cx, room_id, &server, (&version, &path), shift.carrier, is_last_try).await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    tracing::info!(%room_id, "members of a room cannot be checked: their servers' keys are not known");
                    break;
                }
                Err(Failure::Refused(why)) => {
                    tracing::info!(%room_id, %server, %why, "a server does not tell the members of a room");
                }
                Err(failure) => return Err(failure),
            }
            if shift.is_over() {
                break;
            }
        }
        // Somebody else may come when it is time again.
        cx.room(room_id).call(&StopFetching { carrier: shift.carrier.to_owned() }).await
    };
    if let Err(failure) = outcome.await {
        tracing::error!(%room_id, failure = %failure.into_fault(), "the members of a room are not fetched");
    }
}

/// Whether the room is whole then: what one server tells cannot be checked, nor what another one does.
async fn from(
    cx: &Context,
    room_id: &RoomId,
    server: &ServerName,
    (version, path): (&RoomVersion, &str),
    carrier: &str,
    is_last_try: bool,
) -> Result<bool, Failure> {
    let room = cx.room(room_id);
    room.call(&BeginJoin { room_version: version.as_str().to_owned(), join: carrier.to_owned() }).await?;
    let told = async {
        let bounds = Bounds { response_bytes_max: STATE_BYTES_MAX, timeout_ms: STATE_TIMEOUT_MS };
        let asked = cx.ask_streamed(server, Method::GET, path, None, bounds).await;
        let answer = asked.map_err(|error| Refusal::OtherServer(error.to_string()))?;
        let arriving = ArrivingJoin { cx, server, room_id, version, join: carrier, answer: Answer::State };
        if arriving.take(answer.body).await?.is_unchecked() && !is_last_try {
            return Ok(false);
        }
        room.call(&CompleteState { carrier: carrier.to_owned() }).await?;
        Ok(true)
    };
    let told = told.await;
    if !matches!(told, Ok(true)) {
        room.call(&GiveUpJoin { join: carrier.to_owned() }).await?;
    }
    told
}
