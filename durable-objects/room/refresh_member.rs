use domain::event::Draft;
use platform::{ActorKind, Tx};
use ruma_common::OwnedUserId;
use ruma_events::TimelineEventType;
use serde::{Deserialize, Serialize};

use super::{MemberProfile, MembershipAction, Room, change_membership::membership_content, store, transactions};
use crate::{Call, Cx, Error};

/// A member's profile changed: their membership event says so, as long as they are in the room. Late and repeated ones
/// change nothing. Spec: "Profiles", "Events on Change of Profile Information".
#[derive(Debug, Serialize, Deserialize)]
pub struct RefreshMember {
    pub user: OwnedUserId,
    pub profile: MemberProfile,
    /// When the profile became so, in milliseconds since the Unix epoch.
    pub changed_at_ms: u64,
}

impl Call for RefreshMember {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "refresh_member";
    type Reply = ();
}

impl Room {
    pub(super) fn refresh_member(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: RefreshMember) -> Result<(), Error> {
        if store::members::membership(&**tx, call.user.as_str())?.as_deref() != Some("join") {
            return Ok(());
        }
        let Some(member) = store::state::current(&**tx, "m.room.member", call.user.as_str())? else { return Ok(()) };
        let shown = member.pdu.content_as::<MemberProfile>().unwrap_or_default();
        // By the user's clock where that made the event shown, by ours where something else did.
        let since_ms = member.txn.as_deref().and_then(transactions::refreshed_at_ms);
        let since_ms = since_ms.unwrap_or_else(|| member.pdu.origin_server_ts().get().into());
        if shown == call.profile || since_ms > call.changed_at_ms {
            return Ok(());
        }
        let draft = Draft {
            event_type: TimelineEventType::RoomMember,
            content: membership_content(MembershipAction::Join, &call.profile, None)?,
            state_key: Some(call.user.to_string()),
            sender: call.user,
            redacts: None,
        };
        let pdu = self.authorised(&**tx, cx, &draft)?;
        self.insert_unattended(tx, cx, pdu, Some(&transactions::of_refresh(call.changed_at_ms)))
    }
}
