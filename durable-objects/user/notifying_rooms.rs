//! Where the user may have been notified of something. Spec: "Listing Notifications".

use domain::push::Verdict;
use platform::{ActorKind, Sql};
use ruma_common::{OwnedDeviceId, OwnedRoomId, OwnedUserId, UserId, push::Ruleset};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    User, ask_invite::blocks_invites, authenticate, ignored::ignored_users, own_id, push_rules, pushes::invitation,
    store,
};
use crate::{
    Call, Cx, Error,
    room::{ListedNotification, Notification},
};

/// The rooms that may notify the user, and by which rules: those they are in, or are invited to.
///
/// Refused: `UnknownToken`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetNotifyingRooms {
    pub token_hash: String,
    /// Which of the invitations to rooms that are elsewhere are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitations: Option<WantedInvitations>,
}

/// The newest of them, by position and then by room, from a place on.
#[derive(Debug, Serialize, Deserialize)]
pub struct WantedInvitations {
    /// The position and the room of the last notification that is known already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<(u64, String)>,
    pub limit: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_highlights: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct NotifyingRooms {
    pub device: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<OwnedRoomId>,
    /// What the user is notified of by rooms that are elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invitations: Vec<ListedInvitation>,
    /// Whose messages notify the user of nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    /// What the user has changed of the push rules that everyone starts with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_rules: Option<Ruleset>,
}

/// An invitation to a room that is not here.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListedInvitation {
    pub room_id: OwnedRoomId,
    pub notification: ListedNotification,
}

impl Call for GetNotifyingRooms {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_notifying_rooms";
    type Reply = NotifyingRooms;
}

impl User {
    pub(super) fn notifying_rooms(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetNotifyingRooms,
    ) -> Result<NotifyingRooms, Error> {
        let device = authenticate(sql, cx, &call.token_hash)?;
        let push_rules = push_rules::changes(sql)?;
        let joined = store::rooms::with_membership(sql, "join")?.into_iter().map(|room| room.room_id);
        let mut rooms: Vec<OwnedRoomId> = joined.filter_map(|room_id| room_id.try_into().ok()).collect();
        let mut invitations = Vec::new();
        if let Some(wanted) = call.invitations
            && !blocks_invites(sql)?
        {
            let (here, elsewhere) = invited(sql)?;
            rooms.extend(here);
            invitations = listed(sql, cx, elsewhere, &wanted, push_rules.as_ref())?;
        }
        Ok(NotifyingRooms { device, rooms, invitations, ignored: ignored_users(sql, cx)?, push_rules })
    }
}

/// An invitation as it is shown, with the content that another server gave it.
#[derive(Serialize)]
struct Shown<'a> {
    content: &'a RawValue,
    event_id: &'a str,
    origin_server_ts: u64,
    sender: &'a UserId,
    state_key: &'a UserId,
    #[serde(rename = "type")]
    event_type: &'a str,
}

/// An invitation of which another server told.
struct Told {
    position: u64,
    room_id: OwnedRoomId,
    event_id: String,
}

/// The rooms that the user is invited to: those that know that themselves, and those of which another server told.
fn invited(sql: &dyn Sql) -> Result<(Vec<OwnedRoomId>, Vec<Told>), Error> {
    let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
    for invited in store::rooms::invited(sql)? {
        let Ok(room_id) = OwnedRoomId::try_from(invited.room_id) else { continue };
        match invited.asked {
            Some(event_id) => elsewhere.push(Told { position: invited.effect, room_id, event_id }),
            None => here.push(room_id),
        }
    }
    Ok((here, elsewhere))
}

/// The invitations that are wanted and notify the user, the newest first. Of the event no more is known than the user
/// is shown of it, and when it came.
fn listed(
    sql: &dyn Sql,
    cx: &Cx<'_>,
    mut told: Vec<Told>,
    wanted: &WantedInvitations,
    push_rules: Option<&Ruleset>,
) -> Result<Vec<ListedInvitation>, Error> {
    let user_id = own_id(cx)?;
    told.sort_unstable_by(|one, other| (other.position, &other.room_id).cmp(&(one.position, &one.room_id)));
    if let Some((position, room_id)) = &wanted.before {
        told.retain(|it| (it.position, it.room_id.as_str()) < (*position, room_id));
    }
    let mut found = Vec::new();
    for Told { position, room_id, event_id } in told {
        let notifies = invitation(sql, cx, &room_id, (position, Some(&event_id)), push_rules)?;
        let Some(Notification { sender, content, actions, event_type, .. }) = notifies.notifications.into_iter().next()
        else {
            continue;
        };
        if wanted.only_highlights && !Verdict::of(&actions).highlight {
            continue;
        }
        let event = to_raw_value(&Shown {
            content: &content,
            event_id: &event_id,
            origin_server_ts: position,
            sender: &sender,
            state_key: &user_id,
            event_type: &event_type,
        })?;
        let notification = ListedNotification { position, event, actions, read: false };
        found.push(ListedInvitation { room_id, notification });
        if found.len() as u64 >= wanted.limit {
            break;
        }
    }
    Ok(found)
}
