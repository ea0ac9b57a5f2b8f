//! An invitation to the room in which the server speaks to a user cannot be rejected; who came may leave.
//! Spec: "Server Notices".

use domain::{Refusal, event::Draft};
use platform::Sql;
use ruma_events::TimelineEventType;
use serde::Deserialize;

use super::store;
use crate::{Cx, Error};

/// Refused: `CannotLeaveServerNoticeRoom` for who rejects such an invitation.
pub(super) fn check_rejection(sql: &dyn Sql, cx: &Cx<'_>, draft: &Draft) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Content {
        membership: String,
    }
    let Some(notices) = &cx.settings.config.server_notices else { return Ok(()) };
    let is_own = draft.state_key.as_deref() == Some(draft.sender.as_str());
    if draft.event_type != TimelineEventType::RoomMember || !is_own {
        return Ok(());
    }
    let is = |content: &str, membership: &str| {
        serde_json::from_str::<Content>(content).is_ok_and(|content| content.membership == membership)
    };
    let now = store::state::current(sql, "m.room.member", draft.sender.as_str())?;
    let is_invited = now.is_some_and(|now| now.pdu.sender() == notices.sender && is(now.pdu.content().get(), "invite"));
    if is_invited && is(draft.content.get(), "leave") {
        return Err(Refusal::CannotLeaveServerNoticeRoom.into());
    }
    Ok(())
}
