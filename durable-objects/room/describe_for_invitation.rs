use domain::event::Draft;
use platform::{ActorKind, Fault, Sql};
use ruma_common::OwnedUserId;
use ruma_events::TimelineEventType;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Room, store};
use crate::{Call, Cx, Error};

/// What whoever is invited by an address gets to read of the room. Spec: Identity Service API, "Invitation storage".
///
/// Refused: `Forbidden` for who may invite nobody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DescribeForInvitation {
    pub sender: OwnedUserId,
}

/// The room and who invites, as far as these say anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedRoom {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_alias: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_avatar_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_join_rules: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_display_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_avatar_url: Option<String>,
}

impl Call for DescribeForInvitation {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "describe_for_invitation";
    type Reply = DescribedRoom;
}

impl Room {
    pub(super) fn describe_for_invitation(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: DescribeForInvitation,
    ) -> Result<DescribedRoom, Error> {
        let sender = call.sender.to_string();
        // Nobody is written to before it is known that the invitation may happen.
        let draft = Draft {
            event_type: TimelineEventType::RoomThirdPartyInvite,
            content: RawValue::from_string("{}".to_owned())?,
            state_key: Some("token".to_owned()),
            sender: call.sender,
            redacts: None,
        };
        self.authorised(sql, cx, &draft)?;
        let text = |event_type: &str, state_key: &str, field: &str| {
            let said = store::state::text(sql, event_type, state_key, field)?;
            Ok::<_, Fault>(said.filter(|said| !said.is_empty()))
        };
        Ok(DescribedRoom {
            room_alias: text("m.room.canonical_alias", "", "alias")?,
            room_avatar_url: text("m.room.avatar", "", "url")?,
            room_join_rules: text("m.room.join_rules", "", "join_rule")?,
            room_name: text("m.room.name", "", "name")?,
            room_type: text("m.room.create", "", "type")?,
            sender_display_name: text("m.room.member", &sender, "displayname")?,
            sender_avatar_url: text("m.room.member", &sender, "avatar_url")?,
        })
    }
}
