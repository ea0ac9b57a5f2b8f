//! The one room in which the server speaks to the user. Spec: "Server Notices".

use domain::Refusal;
use platform::{ActorKind, Sql, Tx};
use ruma_common::OwnedRoomId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{User, store, tags::NOTICE_TAG};
use crate::{Call, Cx, Error};

/// Where the server speaks to the user; `None` as long as it never did.
///
/// Refused: `NotFound` if the account is deactivated.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetNoticeRoom {}

impl Call for GetNoticeRoom {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_notice_room";
    type Reply = Option<OwnedRoomId>;
}

/// The server speaks to the user in this room from now on, which the user sees by its tag. Answers the room that it is
/// in fact: where somebody else made one meanwhile, that.
///
/// Refused: as [`GetNoticeRoom`].
#[derive(Debug, Serialize, Deserialize)]
pub struct SetNoticeRoom {
    pub room_id: OwnedRoomId,
    /// The room that it was, and is not to be any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<OwnedRoomId>,
}

impl Call for SetNoticeRoom {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "set_notice_room";
    type Reply = OwnedRoomId;
}

impl User {
    pub(super) fn notice_room(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        _: GetNoticeRoom,
    ) -> Result<Option<OwnedRoomId>, Error> {
        if store::account::get(sql)?.deactivated {
            return Err(Refusal::NotFound("This account is deactivated".to_owned()).into());
        }
        // What is no room's id is as good as none.
        Ok(store::account::notice_room(sql)?.and_then(|room_id| OwnedRoomId::try_from(room_id).ok()))
    }

    pub(super) fn set_notice_room(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: SetNoticeRoom) -> Result<OwnedRoomId, Error> {
        let SetNoticeRoom { room_id, instead_of } = call;
        let now = self.notice_room(&**tx, cx, GetNoticeRoom {})?;
        if let Some(now) = now.filter(|now| Some(now) != instead_of.as_ref()) {
            return Ok(now);
        }
        store::account::set_notice_room(tx, room_id.as_str())?;
        self.tag_room(tx, cx, room_id.as_str(), NOTICE_TAG.to_owned(), Map::<String, Value>::new())?;
        Ok(room_id)
    }
}

#[cfg(test)]
mod tests {
    use ruma_common::owned_room_id;
    use serde_json::json;

    use super::{GetNoticeRoom, SetNoticeRoom};
    use crate::{
        user::{Create, GetTags, NewDevice},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    #[test]
    fn there_is_one_room_and_it_has_a_tag() {
        let world = World::new(1);
        let device = Some(NewDevice::new("PHONE", "t"));
        world.call(ALICE, &Create { device, call_id: "c".to_owned(), ..Create::default() }).unwrap();
        assert_eq!(world.call(ALICE, &GetNoticeRoom {}).unwrap(), None);
        let (one, other) = (owned_room_id!("!one:myelin.test"), owned_room_id!("!other:myelin.test"));
        let set = |room_id: &ruma_common::OwnedRoomId, instead_of| {
            world.call(ALICE, &SetNoticeRoom { room_id: room_id.clone(), instead_of }).unwrap()
        };
        assert_eq!([set(&one, None), set(&other, None), set(&other, Some(other.clone()))], [&*one, &*one, &*one]);
        let tags = |room_id: &ruma_common::OwnedRoomId| {
            world.call(ALICE, &GetTags { token_hash: "t".to_owned(), room_id: room_id.clone() }).unwrap()
        };
        assert_eq!([json!(tags(&one)), json!(tags(&other))], [json!({ "m.server_notice": {} }), json!({})]);
        assert_eq!(set(&other, Some(one)), other);
        assert_eq!(world.call(ALICE, &GetNoticeRoom {}).unwrap(), Some(other.clone()));
        assert_eq!(json!(tags(&other)), json!({ "m.server_notice": {} }));
        let encoded = json!({ "room_id": "!other:myelin.test" });
        assert_eq!(serde_json::to_value(SetNoticeRoom { room_id: other, instead_of: None }).unwrap(), encoded);
    }
}
