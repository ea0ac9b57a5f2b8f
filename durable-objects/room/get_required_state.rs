use platform::{ActorKind, Sql};
use ruma_common::{OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{
    RequiredState, Room, StateKey, StatePage,
    state::StateSpan,
    viewer::{Sight, Viewer},
};
use crate::{Call, Cx, Error};

/// State that the reply to a [`super::SlidingDelta`] has no room for: pages of it.
///
/// Refused: `Forbidden` for who was never in the room.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetRequiredState {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    /// As it was then; no later than the user may see.
    pub at: u64,
    /// Where the page before ended.
    pub after: StateKey,
    pub required: RequiredState,
    /// What is known already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<RequiredState>,
}

impl Call for GetRequiredState {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "required_state_page";
    type Reply = StatePage;
}

impl Room {
    pub(super) fn required_state(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetRequiredState,
    ) -> Result<StatePage, Error> {
        let viewer = Viewer::load(sql, call.user, call.device)?;
        let at = match viewer.sight()? {
            Sight::Now => call.at,
            Sight::Until(left) => call.at.min(left),
        };
        let span = StateSpan::of_places(at, &call.required.places(), Some(&call.after)).without_room_id();
        self.state_page(sql, cx, &viewer, span, |event| {
            let (event_type, state_key) = (event.pdu.event_type().to_string(), event.pdu.state_key());
            let state_key = state_key.unwrap_or_default();
            let is_known = call.known.as_ref().is_some_and(|known| known.selects(&event_type, state_key));
            Ok(call.required.selects(&event_type, state_key) && !is_known)
        })
    }
}
