//! Who is in the room.

use std::collections::BTreeMap;

use domain::Refusal;
use platform::{ActorKind, Sql};
use ruma_common::{OwnedDeviceId, OwnedUserId};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Room,
    append::membership_of,
    delta::whole_state,
    store,
    viewer::{Sight, Viewer},
};
use crate::{Call, Cx, Error};

/// The membership events, now or at a position. Spec: `GET /rooms/{roomId}/members`.
///
/// Refused: `Forbidden` for who was never in the room, unless it is world-readable.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetMembers {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<MembershipState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_membership: Option<MembershipState>,
}

impl Call for GetMembers {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "members";
    type Reply = Vec<Box<RawValue>>;
}

/// The profiles of the joined members. Spec: `GET /rooms/{roomId}/joined_members`.
///
/// Refused: `Forbidden` for who is not in the room.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetJoinedMembers {
    pub user: OwnedUserId,
}

/// A member's profile in this room.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinedMember {
    /// `displayname` in membership events, `display_name` in the answer: the spec has both.
    #[serde(alias = "displayname", default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
}

impl Call for GetJoinedMembers {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "joined_members";
    type Reply = BTreeMap<String, JoinedMember>;
}

impl Room {
    pub(super) fn members(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetMembers) -> Result<Vec<Box<RawValue>>, Error> {
        let viewer = Viewer::load(sql, call.user, call.device)?;
        let head = self.head(sql)?;
        let newest = match viewer.sight()? {
            Sight::Now => head,
            Sight::Until(left) => left,
        };
        let at = call.at.unwrap_or(newest).min(newest);
        if at < newest && !viewer.may_see_state_at(at) {
            return Err(Refusal::Forbidden("you may not see who was in this room then".to_owned()).into());
        }
        let events = if at >= head {
            store::members::events(sql)?
        } else {
            let members = whole_state(sql, at, head, false)?
                .into_iter()
                .filter_map(|((event_type, _), event)| (event_type == "m.room.member").then_some(event));
            store::log::at(sql, &members.collect::<Vec<_>>())?
        };
        let mut shown = Vec::with_capacity(events.len());
        for event in events {
            let membership = membership_of(&event.pdu)?;
            if is_wanted(&membership, call.membership.as_ref(), call.not_membership.as_ref()) {
                shown.push(viewer.sees(sql, cx, &event, true)?);
            }
        }
        Ok(shown)
    }

    pub(super) fn joined_members(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        call: GetJoinedMembers,
    ) -> Result<BTreeMap<String, JoinedMember>, Error> {
        if store::members::membership(sql, call.user.as_str())?.as_deref() != Some("join") {
            return Err(Refusal::Forbidden(format!("{} is not in this room", call.user)).into());
        }
        let mut joined = BTreeMap::new();
        for event in store::members::events(sql)? {
            if membership_of(&event.pdu)? == MembershipState::Join {
                joined.insert(event.pdu.state_key().unwrap_or_default().to_owned(), profile_of(&event));
            }
        }
        Ok(joined)
    }
}

/// Spec: «the two parameters create an "or" condition».
fn is_wanted(membership: &MembershipState, only: Option<&MembershipState>, but: Option<&MembershipState>) -> bool {
    match (only, but) {
        (None, None) => true,
        (only, but) => only.is_some_and(|only| only == membership) || but.is_some_and(|but| but != membership),
    }
}

/// A profile that is malformed says nothing: nobody checks what others put there.
fn profile_of(event: &store::log::Logged) -> JoinedMember {
    event.pdu.content_as().unwrap_or(JoinedMember { display_name: None, avatar_url: None })
}
