//! Guests of this server: they join where guests may, and stay as long as that is so. Who is one, the request tier says;
//! other servers' guests are theirs to look after. Spec: "Guest Access".

use domain::{Refusal, event::Draft};
use platform::{ActorKind, Sql, Tx};
use ruma_common::OwnedUserId;
use ruma_events::TimelineEventType;
use serde::{Deserialize, Serialize};

use super::{MemberProfile, MembershipAction, Room, change_membership::membership_content, store};
use crate::{Call, Cx, Error};

/// A guest became a user like any other, who stays whatever becomes of guests.
#[derive(Debug, Serialize, Deserialize)]
pub struct GuestUpgraded {
    pub user: OwnedUserId,
}

impl Call for GuestUpgraded {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "guest_upgraded";
    type Reply = ();
}

impl Room {
    pub(super) fn guest_upgraded(&self, tx: &Tx<'_>, _cx: &Cx<'_>, call: GuestUpgraded) -> Result<(), Error> {
        Ok(store::members::set_guest(tx, call.user.as_str(), false)?)
    }

    /// Takes the guests out of a room that no longer lets them in. It is done at once, however many they are: a room in
    /// which some of them may stay is one that broke its word.
    ///
    /// Spec: "If the `m.room.guest_access` event is changed to stop this from being the case, the server MUST set those
    /// users' `m.room.member` state to `leave`."
    pub(super) fn expel_guests(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        if guests_may_join(&**tx)? {
            return Ok(());
        }
        for user in store::members::guests(&**tx)? {
            let Ok(guest) = OwnedUserId::try_from(user) else { continue };
            let draft = Draft {
                event_type: TimelineEventType::RoomMember,
                content: membership_content(MembershipAction::Leave, &MemberProfile::default(), None)?,
                state_key: Some(guest.to_string()),
                sender: guest,
                redacts: None,
            };
            let pdu = self.authorised(&**tx, cx, &draft)?;
            self.insert_unattended(tx, cx, pdu, None)?;
        }
        Ok(())
    }
}

/// Refuses a guest where guests may not join, with `GuestAccessForbidden`.
pub(super) fn check_guest_access(sql: &dyn Sql) -> Result<(), Error> {
    if guests_may_join(sql)? { Ok(()) } else { Err(Refusal::GuestAccessForbidden.into()) }
}

fn guests_may_join(sql: &dyn Sql) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Content {
        guest_access: String,
    }
    let event = store::state::current(sql, "m.room.guest_access", "")?;
    let content = event.and_then(|event| event.pdu.content_as::<Content>().ok());
    Ok(content.is_some_and(|content| content.guest_access == "can_join"))
}
