//! What the server has to say to one of its users, in a room of the two. Spec: "Server Notices".

use actors::{
    room::{ChangeMembership, IsJoined, MemberProfile, MembershipAction, SendEvent},
    user::{GetNoticeRoom, GetProfile, SetNoticeRoom},
};
use domain::{
    Refusal,
    config::ServerNotices,
    power::{NewRoom, Preset},
};
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedTransactionId, UserId};
use ruma_events::TimelineEventType;
use serde_json::{json, value::RawValue, value::to_raw_value};

use crate::{
    Context, Failure, OrAbsent,
    client::{
        call_id, found,
        register::{Account, create},
    },
};

/// Something to be said.
pub(crate) struct Notice {
    pub event_type: TimelineEventType,
    pub state_key: Option<String>,
    pub content: Box<RawValue>,
    /// Repeated, it is said once.
    pub transaction_id: Option<OwnedTransactionId>,
}

/// Says it to a local user, who is invited if they are not there.
///
/// # Errors
/// `M_NOT_FOUND` if there is no such user, or no longer; what the room says of the event.
pub(crate) async fn tell(
    cx: &Context,
    notices: &ServerNotices,
    user_id: &UserId,
    notice: Notice,
) -> Result<OwnedEventId, Failure> {
    let no_user = || Refusal::NotFound("There is no such user here".to_owned());
    if !cx.is_local(user_id) || user_id == notices.sender {
        return Err(no_user().into());
    }
    let known = cx.user(user_id).call(&GetNoticeRoom {}).await.or_absent(no_user())?;
    let room_id = match known {
        Some(room_id) if is_joined(cx, &room_id, &notices.sender).await? => room_id,
        // It is the first time, or somebody shut the room.
        instead_of => {
            let room_id = new_room(cx, notices).await?;
            cx.user(user_id).call(&SetNoticeRoom { room_id, instead_of }).await?
        }
    };
    if !is_joined(cx, &room_id, user_id).await? {
        invite(cx, notices, &room_id, user_id).await?;
    }
    let call_id = match &notice.transaction_id {
        Some(_) => None,
        None => Some(call_id(cx)?),
    };
    let call = SendEvent {
        sender: notices.sender.clone(),
        device: "".into(),
        transaction_id: notice.transaction_id,
        call_id,
        event_type: notice.event_type,
        content: notice.content,
        state_key: notice.state_key,
        member_of: Vec::new(),
        at_ms: None,
        administrator: false,
    };
    cx.room(&room_id).call(&call).await
}

async fn is_joined(cx: &Context, room_id: &OwnedRoomId, user_id: &UserId) -> Result<bool, Failure> {
    match cx.room(room_id).call(&IsJoined { user: user_id.to_owned() }).await {
        Err(Failure::Absent) => Ok(false),
        outcome => outcome,
    }
}

/// A room in which nobody else speaks.
async fn new_room(cx: &Context, notices: &ServerNotices) -> Result<OwnedRoomId, Failure> {
    let account = Account {
        user_id: notices.sender.clone(),
        password_hash: None,
        admin: false,
        guest: false,
        display_name: Some(notices.display_name.clone()),
    };
    match create(cx, &account, None).await {
        // Somebody was told something before.
        Ok(()) | Err(Failure::Refused(Refusal::UserInUse)) => {}
        Err(failure) => return Err(failure),
    }
    let mut room = NewRoom::new(notices.sender.clone(), Preset::PrivateChat);
    room.creator_displayname = Some(notices.display_name.clone());
    room.name = Some(notices.room_name.clone());
    room.creation_content = Some(to_raw_value(&json!({ "m.federate": false }))?);
    room.power_level_content_override = Some(to_raw_value(&json!({ "users_default": -10 }))?);
    found(cx, &cx.config().default_room_version, &room, false).await.map(|founded| founded.room_id)
}

/// Whoever does not want to be invited by anybody is invited all the same.
async fn invite(cx: &Context, notices: &ServerNotices, room_id: &OwnedRoomId, user_id: &UserId) -> Result<(), Failure> {
    let profile = cx.user(user_id).call(&GetProfile {}).await?;
    let field = |name: &str| profile.get(name).and_then(|value| value.as_str()).map(ToOwned::to_owned);
    let call = ChangeMembership {
        profile: MemberProfile { displayname: field("displayname"), avatar_url: field("avatar_url") },
        ..ChangeMembership::new(call_id(cx)?, notices.sender.clone(), user_id.to_owned(), MembershipAction::Invite)
    };
    cx.room(room_id).call(&call).await
}
