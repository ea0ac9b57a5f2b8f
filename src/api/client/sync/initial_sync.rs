//! `GET /initialSync`: a first sync in the shape that it had before `/sync`. Spec: "Syncing", deprecated.
//!
//! The rooms are read as for `/sync`, and told in pieces however few they are. Messages to the device stay where they
//! are: this answer has no place for them.

use std::vec::IntoIter;

use actors::{
    room::{DeltaReply, EventFilter, GetState, MoreState, RoomToken, Section},
    user::{AccountDataEvent, Plan, PlannedRoom, ReadRoom, RoomsAccountData, StrippedRoom, SyncClose, SyncPlan},
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, Request, Response};
use js_int::UInt;
use platform::{Fault, Pieces};
use ruma_client_api::{filter::FilterDefinition, room::Visibility};
use ruma_common::{RoomId, UserId, presence::PresenceState};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;

use super::{
    ROOMS_AT_A_TIME, ROOMS_AT_ONCE, Reading, Round, StateName, UNKNOWN_TOKEN, presence, streamed::cut, was_read,
};
use crate::{
    Bearer, Body, Context, Failure, OrAbsent, Routes,
    client::rooms::{
        directory::visibility_of,
        pages::{Rest, joined, of_state},
    },
    new_login::ip,
    router::{json_body, query},
};

pub(super) fn routes(routes: &mut Routes) {
    for path in ["/_matrix/client/v3/initialSync", "/_matrix/client/r0/initialSync"] {
        routes.add_raw(Method::GET, path, initial_sync);
    }
}

/// `GET /initialSync`.
async fn initial_sync(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Body>, Failure> {
    #[derive(Deserialize)]
    struct Query {
        limit: Option<UInt>,
        #[serde(default)]
        archived: bool,
    }
    let Query { limit, archived } = query(&request)?;
    let mut filter = FilterDefinition::default();
    filter.room.timeline.limit = limit;
    let call = SyncPlan {
        token_hash: bearer.token_hash.clone(),
        include_leave: archived,
        ip: ip(cx),
        presence: presence::of_sync(cx, &PresenceState::Online, (cx.now_ms(), 0), None)?,
        without_messages: true,
        ..SyncPlan::default()
    };
    let round = Round { cx, bearer: &bearer, filter: None, state: StateName::StateAfter };
    let plan = round.plan(&call, 0).await?.ok_or_else(|| Fault::new("a first sync was not planned"))?;
    let reading = round.reading(&call, &plan, filter);
    let Plan { position, rooms, .. } = plan;
    let stage = Stage::Beginning;
    let telling = Telling { reading, position, rooms: rooms.into_iter(), read: Vec::new(), stage, is_first: true };
    Ok(json_body(Body::pieces(stream::try_unfold(telling, Telling::next_pieces).try_flatten())))
}

struct Telling {
    reading: Reading,
    /// The position of the plan.
    position: u64,
    /// The rooms that are still to be told.
    rooms: IntoIter<PlannedRoom>,
    read: Vec<ReadRoom>,
    stage: Stage,
    /// Whether no room was told yet.
    is_first: bool,
}

#[derive(Clone, Copy)]
enum Stage {
    Beginning,
    Rooms,
    Over,
}

/// What comes behind the rooms.
#[derive(Serialize)]
struct End {
    end: String,
    presence: Vec<Box<RawValue>>,
    account_data: Vec<AccountDataEvent>,
}

/// A room but for its state, which may come in pages.
#[derive(Serialize)]
struct RoomInfo<'a> {
    room_id: &'a RoomId,
    membership: String,
    visibility: Visibility,
    account_data: Vec<AccountDataEvent>,
    messages: Messages,
}

#[derive(Serialize)]
struct Messages {
    start: String,
    end: String,
    chunk: Vec<Box<RawValue>>,
}

impl Telling {
    async fn next_pieces(mut self) -> Result<Option<(Pieces, Self)>, Fault> {
        let pieces: Pieces = match self.stage {
            Stage::Beginning => {
                self.stage = Stage::Rooms;
                Box::pin(stream::iter([Ok(Bytes::from_static(br#"{"rooms":["#))]))
            }
            Stage::Rooms if !self.rooms.as_slice().is_empty() => self.some_rooms().await.map_err(cut)?,
            Stage::Rooms => {
                self.stage = Stage::Over;
                let end = self.end().await.map_err(cut)?;
                Box::pin(stream::iter([Ok(Bytes::from(end))]))
            }
            Stage::Over => return Ok(None),
        };
        Ok(Some((pieces, self)))
    }

    /// The next rooms.
    async fn some_rooms(&mut self) -> Result<Pieces, Failure> {
        let planned: Vec<PlannedRoom> = self.rooms.by_ref().take(ROOMS_AT_A_TIME).collect();
        let reading = &self.reading;
        let call = RoomsAccountData {
            token_hash: reading.bearer.token_hash.clone(),
            rooms: planned.iter().map(|room| room.room_id.clone()).collect(),
        };
        let mut account_data = reading.bearer.call(&reading.cx, &call).await?;
        let told: Vec<_> = stream::iter(planned)
            .map(async |room| {
                let told = reading.room(&room).await;
                (room, told)
            })
            .buffered(ROOMS_AT_ONCE)
            .collect()
            .await;
        let mut pieces = Vec::with_capacity(told.len());
        for (room, told) in told {
            match told {
                Ok((read, told)) => {
                    self.read.push(read);
                    let Some(told) = told else { continue };
                    let account_data = account_data.remove(&room.room_id).unwrap_or_default();
                    let comma = if std::mem::replace(&mut self.is_first, false) { "" } else { "," };
                    pieces.push(told.into_pieces(&self.reading.cx, &room.room_id, account_data, comma)?);
                }
                Err(Failure::Fault(fault)) => {
                    warn!(room_id = %room.room_id, %fault, "a room could not be read for a first sync");
                    self.read.push(ReadRoom::failed(&room));
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(Box::pin(stream::iter(pieces).flatten()))
    }

    /// The invitations, and what is the user's own.
    async fn end(&mut self) -> Result<String, Failure> {
        let reading = &self.reading;
        let close = SyncClose {
            token_hash: reading.bearer.token_hash.clone(),
            since: None,
            position: self.position,
            rooms: std::mem::take(&mut self.read),
            rooms_told: true,
            presence: reading.presence.clone(),
            without_messages: true,
        };
        let user_id = &reading.bearer.user_id;
        let closed = reading.cx.user(user_id).call(&close).await.or_absent(UNKNOWN_TOKEN)?;
        let mut json = String::new();
        for room in &closed.invited {
            let Some(invite) = invitation(room, user_id)? else { continue };
            let comma = if std::mem::replace(&mut self.is_first, false) { "" } else { "," };
            let room_id = serde_json::to_string(&room.room_id)?;
            json += &format!(r#"{comma}{{"room_id":{room_id},"membership":"invite","invite":{invite}}}"#);
        }
        let end = End { end: closed.next_batch, presence: closed.presence, account_data: closed.account_data };
        let end = serde_json::to_string(&end)?;
        Ok(json + "]," + end.strip_prefix('{').unwrap_or_default())
    }
}

/// What of a room is told.
struct Told {
    membership: String,
    visibility: Visibility,
    messages: Messages,
    /// The state, and the call for what comes before it.
    state: Vec<Box<RawValue>>,
    more: Option<GetState>,
}

impl Reading {
    /// Reads a room; nothing is told of one in which there is nothing for the user.
    async fn room(&self, room: &PlannedRoom) -> Result<(ReadRoom, Option<Told>), Failure> {
        #[derive(Deserialize)]
        struct Synced {
            timeline: Timeline,
            state_after: Events,
        }
        #[derive(Deserialize)]
        struct Timeline {
            events: Vec<Box<RawValue>>,
            prev_batch: String,
        }
        #[derive(Deserialize)]
        struct Events {
            events: Vec<Box<RawValue>>,
        }
        let (call, mut reply) = self.ask(room).await?;
        let read = was_read(room, &reply);
        let more = reply.more_state.take();
        let DeltaReply { to, section, room: told, .. } = reply;
        if matches!(section, Section::Quiet | Section::None) {
            return Ok((read, None));
        }
        let Synced { timeline, state_after } = serde_json::from_str(told.get())?;
        let membership = match section {
            // What became of them stands last, in either.
            Section::Leave => {
                let mut events = state_after.events.iter().rev().chain(timeline.events.iter().rev());
                events.find_map(|event| membership_of(&call.user, event)).unwrap_or_else(|| "leave".to_owned())
            }
            _ => "join".to_owned(),
        };
        let messages = Messages {
            start: timeline.prev_batch,
            end: RoomToken(to).to_string(),
            chunk: all_in_room(&room.room_id, &timeline.events)?,
        };
        let more = more.map(|MoreState { at, after, .. }| GetState {
            user: call.user,
            device: call.device,
            at: Some(at),
            after: Some(after),
            filter: EventFilter::default(),
            synced: None,
        });
        let state = all_in_room(&room.room_id, &state_after.events)?;
        let visibility = visibility_of(&self.cx, &room.room_id).await?;
        Ok((read, Some(Told { membership, visibility, messages, state, more })))
    }
}

impl Told {
    fn into_pieces(
        self,
        cx: &Context,
        room_id: &RoomId,
        account_data: Vec<AccountDataEvent>,
        comma: &str,
    ) -> Result<Pieces, Failure> {
        let Self { membership, visibility, messages, state, more } = self;
        let info = RoomInfo { room_id, membership, visibility, account_data, messages };
        let mut open = comma.to_owned() + &serde_json::to_string(&info)?;
        open.truncate(open.len().saturating_sub(1));
        open.push_str(",\"state\":[");
        let rest = Rest {
            cx: cx.clone(),
            room_id: room_id.to_owned(),
            next: more,
            has_items: false,
            turn: of_state,
            end: Some((joined(&state), "]}")),
        };
        Ok(Box::pin(stream::iter([Ok(Bytes::from(open))]).chain(rest.pieces())))
    }
}

/// The event with the room it is from, which a sync leaves out.
pub(super) fn in_room(room_id: &RoomId, event: &RawValue) -> serde_json::Result<Box<RawValue>> {
    let room_id = serde_json::to_string(room_id)?;
    let fields = event.get().strip_prefix('{').unwrap_or_default();
    RawValue::from_string(format!(r#"{{"room_id":{room_id},{fields}"#))
}

/// [`in_room`], for many.
pub(super) fn all_in_room(room_id: &RoomId, events: &[Box<RawValue>]) -> serde_json::Result<Vec<Box<RawValue>>> {
    events.iter().map(|event| in_room(room_id, event)).collect()
}

/// The membership that an event makes of a user.
fn membership_of(user_id: &UserId, event: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Member {
        #[serde(rename = "type")]
        event_type: String,
        state_key: String,
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        membership: String,
    }
    let member: Member = serde_json::from_str(event.get()).ok()?;
    (member.event_type == "m.room.member" && member.state_key == *user_id).then_some(member.content.membership)
}

/// The user's own membership among the state that an invitation shows. It comes last: what is before it is only what
/// the inviting server says.
pub(super) fn invitation(room: &StrippedRoom, user_id: &UserId) -> Result<Option<Box<RawValue>>, Failure> {
    #[derive(Deserialize)]
    struct Key {
        #[serde(rename = "type")]
        event_type: String,
        state_key: String,
    }
    let Ok(room_id) = <&RoomId>::try_from(&*room.room_id) else { return Ok(None) };
    let state: Vec<Box<RawValue>> = serde_json::from_str(room.state.get())?;
    let invitation = state.iter().rfind(|event| {
        serde_json::from_str::<Key>(event.get())
            .is_ok_and(|key| key.event_type == "m.room.member" && key.state_key == *user_id)
    });
    Ok(invitation.map(|event| in_room(room_id, event)).transpose()?)
}

#[cfg(test)]
mod tests {
    use actors::user::StrippedRoom;
    use ruma_common::user_id;
    use serde_json::{Value, json, value::to_raw_value};

    use super::invitation;

    #[test]
    fn who_invites_stands_in_the_last_membership() {
        let alice = user_id!("@alice:us");
        let member = |sender: &str| json!({ "type": "m.room.member", "state_key": alice, "sender": sender });
        let state = to_raw_value(
            &json!([member("@friend:evil"), member("@eve:evil"), { "type": "m.room.name", "state_key": "" }]),
        );
        let room = StrippedRoom { room_id: "!r:evil".to_owned(), state: state.unwrap() };
        let shown = invitation(&room, alice).unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Value>(shown.get()).unwrap()["sender"], "@eve:evil");
    }
}
