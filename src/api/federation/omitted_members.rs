//! Fetching the members that the answer to a join left out, and looking again at what of it could not be checked.
//! Spec: Server-Server API, "Joining Rooms", `omit_members`; "Retrieving events", `/state`.

use actors::room::{BeginJoin, CompleteState, GiveUpJoin, StopFetching, TakeOmitted, ToFetch, UncheckedEvent};
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
        let Some(ToFetch { room_version, event_id, servers, unchecked, is_last_try }) = (match taken {
            Err(Failure::Absent) => None,
            taken => taken?,
        }) else {
            return Ok(());
        };
        let version = RoomVersion::parse(&room_version)?;
        if !unchecked.is_empty() {
            if again(cx, room_id, &version, (unchecked, is_last_try), shift.carrier).await? {
                return Ok(());
            }
            tracing::info!(%room_id, "state of a room cannot be checked: its servers' keys are not known");
        }
        let (room, event) = (encoded(room_id.as_str()), encoded(event_id.as_str()));
        let path = format!("/_matrix/federation/v1/state/{room}?event_id={event}");
        for server in servers {
            match from(cx, room_id, &server, (&version, &path), shift.carrier).await {
                Ok(()) => return Ok(()),
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

async fn from(
    cx: &Context,
    room_id: &RoomId,
    server: &ServerName,
    (version, path): (&RoomVersion, &str),
    carrier: &str,
) -> Result<(), Failure> {
    let room = cx.room(room_id);
    room.call(&BeginJoin { room_version: version.as_str().to_owned(), join: carrier.to_owned() }).await?;
    let told = async {
        let bounds = Bounds { response_bytes_max: STATE_BYTES_MAX, timeout_ms: STATE_TIMEOUT_MS };
        let asked = cx.ask_streamed(server, Method::GET, path, None, bounds).await;
        let answer = asked.map_err(|error| Refusal::OtherServer(error.to_string()))?;
        let arriving = ArrivingJoin { cx, server, room_id, version, join: carrier, answer: Answer::State };
        let unchecked = arriving.take(answer.body).await?.into_unchecked();
        room.call(&CompleteState { carrier: carrier.to_owned(), unchecked }).await
    };
    let told = told.await;
    if told.is_err() {
        room.call(&GiveUpJoin { join: carrier.to_owned() }).await?;
    }
    told
}

/// Looks again at what could not be checked. Whether the room is whole then.
async fn again(
    cx: &Context,
    room_id: &RoomId,
    version: &RoomVersion,
    (unchecked, is_last_try): (Vec<UncheckedEvent>, bool),
    carrier: &str,
) -> Result<bool, Failure> {
    let room = cx.room(room_id);
    room.call(&BeginJoin { room_version: version.as_str().to_owned(), join: carrier.to_owned() }).await?;
    let checked = async {
        let (server, answer) = (cx.server_name(), Answer::Join);
        let arriving = ArrivingJoin { cx, server, room_id, version, join: carrier, answer };
        if !arriving.take_again(unchecked).await? && !is_last_try {
            return Ok(false);
        }
        room.call(&CompleteState { carrier: carrier.to_owned(), unchecked: Vec::new() }).await?;
        Ok(true)
    };
    let checked = checked.await;
    if !matches!(checked, Ok(true)) {
        room.call(&GiveUpJoin { join: carrier.to_owned() }).await?;
    }
    checked
}
