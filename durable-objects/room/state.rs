//! The room's state, for who may see it.

use domain::Refusal;
use platform::{ActorKind, Sql};
use ruma_common::{OwnedDeviceId, OwnedUserId};
use ruma_events::StateEventType;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Room,
    delta::whole_state,
    store,
    viewer::{Sight, Viewer},
};
use crate::{Call, Cx, Error};

/// All state events: the current ones, or those at the time the user left. Spec: `GET /rooms/{roomId}/state`.
///
/// Refused: `Forbidden` for who was never in the room, unless it is world-readable.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetState {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
}

impl Call for GetState {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "state";
    type Reply = Vec<Box<RawValue>>;
}

/// One state event. Spec: `GET /rooms/{roomId}/state/{eventType}/{stateKey}`.
///
/// Refused: as [`GetState`], and `NotFound`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetStateEvent {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    #[serde(rename = "type")]
    pub event_type: StateEventType,
    pub state_key: String,
}

/// A state event, whole and its content alone: the client says which it wants.
#[derive(Debug, Serialize, Deserialize)]
pub struct StateEvent {
    pub event: Box<RawValue>,
    pub content: Box<RawValue>,
}

impl Call for GetStateEvent {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "state_event";
    type Reply = StateEvent;
}

impl Room {
    pub(super) fn state(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetState) -> Result<Vec<Box<RawValue>>, Error> {
        let viewer = Viewer::load(sql, call.user, call.device)?;
        let head = self.head(sql)?;
        let at = match viewer.sight()? {
            Sight::Now => head,
            Sight::Until(position) => position,
        };
        let positions: Vec<u64> = whole_state(sql, at, head, false)?.into_values().collect();
        let events = store::log::at(sql, &positions)?;
        Ok(events.iter().map(|event| viewer.sees(sql, cx, event, true)).collect::<Result<_, _>>()?)
    }

    pub(super) fn state_event(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetStateEvent) -> Result<StateEvent, Error> {
        let viewer = Viewer::load(sql, call.user, call.device)?;
        let event_type = call.event_type.to_string();
        let event = match viewer.sight()? {
            Sight::Now => store::state::current(sql, &event_type, &call.state_key)?,
            Sight::Until(position) => store::state::at(sql, &event_type, &call.state_key, position)?,
        };
        let event =
            event.ok_or_else(|| Refusal::NotFound(format!("the room has no {event_type} with this state key")))?;
        let content = event.pdu.content().to_owned();
        Ok(StateEvent { event: viewer.sees(sql, cx, &event, true)?, content })
    }
}
