//! Inviting whoever is behind an address. Spec: "Third-party invites".

use actors::room::{DescribeForInvitation, DescribedRoom, SendEvent};
use domain::Refusal;
use ruma_common::{OwnedRoomId, OwnedUserId, RoomId};
use ruma_events::TimelineEventType;
use serde::Serialize;
use serde_json::{json, value::to_raw_value};

use super::{
    call_id,
    membership::{Words, invite_known},
    not_in_room,
};
use crate::{
    Caller, Context, Failure, OrAbsent,
    identity_server::{Asked, Kept, PublicKey},
};

/// Invites the user behind an address, where an identity server knows who that is; else that server keeps the
/// invitation until it does, and writes to them. `is_direct`: whether the room is to be a direct chat.
///
/// # Errors
/// What the room refuses; `M_FORBIDDEN` where the identity server refuses, 502 where it does not answer.
pub(super) async fn invite(
    cx: &Context,
    caller: Caller,
    room_id: &RoomId,
    asked: &Asked<'_>,
    is_direct: bool,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Invitation<'a> {
        room_id: OwnedRoomId,
        sender: OwnedUserId,
        #[serde(flatten)]
        room: &'a DescribedRoom,
    }
    let describe = DescribeForInvitation { sender: caller.user_id.clone() };
    let room = cx.room(room_id).call(&describe).await.or_absent(not_in_room(&caller.user_id))?;
    if let Some(user_id) = asked.user().await? {
        return invite_known(cx, caller, room_id, user_id, Words { reason: None, is_direct }).await;
    }
    let invitation = Invitation { room_id: room_id.to_owned(), sender: caller.user_id.clone(), room: &room };
    let Kept { token, public_keys, display_name } = asked.keeps(&invitation).await?;
    let first = public_keys.first().map(|PublicKey { public_key, key_validity_url }| (public_key, key_validity_url));
    let (public_key, key_validity_url) =
        first.ok_or_else(|| Refusal::OtherServer("The identity server has no key".to_owned()))?;
    let content = json!({
        "display_name": display_name,
        "public_key": public_key,
        // Older servers want it to be there.
        "key_validity_url": key_validity_url.as_deref().unwrap_or_default(),
        "public_keys": public_keys,
    });
    let call = SendEvent {
        administrator: caller.administrator,
        sender: caller.user_id,
        device: caller.device_id,
        transaction_id: None,
        call_id: Some(call_id(cx)?),
        event_type: TimelineEventType::RoomThirdPartyInvite,
        content: to_raw_value(&content)?,
        state_key: Some(token),
        member_of: Vec::new(),
        at_ms: None,
    };
    cx.room(room_id).call(&call).await.or_absent(not_in_room(&call.sender)).map(drop)
}
