//! Letting in whom nobody invited, because they are in another room. Spec: "Restricted rooms".
//!
//! The room says which rooms count ([`GetJoinConditions`]), the request tier asks those ([`IsJoined`]) and makes the
//! join again with what it learnt. The room believes only what its join rules, as they are by then, still ask for; it
//! names the member of ours in whose name it lets the user in, and has the rules judge the result.

use domain::{Authority, Refusal, RoomVersion, event::Draft, restricted_join};
use platform::{ActorKind, Fault, Sql};
use ruma_common::{OwnedRoomId, OwnedUserId, UserId};
use ruma_events::TimelineEventType;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::to_raw_value};

use super::{Room, store};
use crate::{Call, Cx, Error};

/// Who vouches for a restricted join, in the content of the membership.
const VOUCHER: &str = "join_authorised_via_users_server";

/// The rooms of which a user must have joined one to be let in; none for who is invited, joined or banned, or where the
/// room has no such conditions.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetJoinConditions {
    pub user: OwnedUserId,
}

/// What lets a user in.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinConditions {
    /// Whether the user has to meet one at all.
    #[serde(default)]
    pub is_asked_for: bool,
    #[serde(default)]
    pub member_of_any: Vec<OwnedRoomId>,
}

impl Call for GetJoinConditions {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "join_conditions";
    type Reply = JoinConditions;
}

/// Whether a user is in the room now. What was so when the last user of this server left is not known to be so.
#[derive(Debug, Serialize, Deserialize)]
pub struct IsJoined {
    pub user: OwnedUserId,
}

impl Call for IsJoined {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "is_joined";
    type Reply = bool;
}

impl Room {
    pub(super) fn join_conditions(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        call: GetJoinConditions,
    ) -> Result<JoinConditions, Error> {
        let conditions = self.conditions(sql, &call.user)?;
        Ok(JoinConditions { is_asked_for: conditions.is_some(), member_of_any: conditions.unwrap_or_default() })
    }

    pub(super) fn is_joined(&self, sql: &dyn Sql, _cx: &Cx<'_>, call: IsJoined) -> Result<bool, Error> {
        let is_joined = store::members::membership(sql, call.user.as_str())?.as_deref() == Some("join");
        Ok(is_joined && self.is_resident(sql)?)
    }

    /// A membership as a client wants it, with what is ours to say: who vouches. What the client says of that counts
    /// for nothing: it may be a copy of a membership that was. `member_of` are rooms that said that the sender is in
    /// them.
    pub(super) fn vouched(&self, sql: &dyn Sql, draft: &Draft, member_of: &[OwnedRoomId]) -> Result<Draft, Error> {
        let mut content: Map<String, Value> = serde_json::from_str(draft.content.get())
            .map_err(|error| Refusal::BadJson(format!("The content of m.room.member: {error}")))?;
        let claimed = content.remove(VOUCHER);
        let joins = content.get("membership").and_then(Value::as_str) == Some("join")
            && draft.state_key.as_deref() == Some(draft.sender.as_str());
        let voucher = if joins { self.voucher(sql, &draft.sender, member_of)? } else { None };
        if claimed.is_none() && voucher.is_none() {
            return Ok(draft.clone());
        }
        if let Some(voucher) = voucher {
            content.insert(VOUCHER.to_owned(), voucher.as_str().into());
        }
        Ok(Draft { content: to_raw_value(&content)?, ..draft.clone() })
    }

    /// The rooms of which the user must have joined one; `None` for who needs not, or may not anyway.
    fn conditions(&self, sql: &dyn Sql, user_id: &UserId) -> Result<Option<Vec<OwnedRoomId>>, Error> {
        let membership = store::members::membership(sql, user_id.as_str())?;
        if matches!(membership.as_deref(), Some("join" | "invite" | "ban")) {
            return Ok(None);
        }
        allowed_rooms(sql, &*self.version(sql)?)
    }

    /// The member who lets the user in, if they meet a condition; `None` where the rules must do without.
    ///
    /// Refused: `UnableToGrantJoin` where nobody of this server may invite.
    fn voucher(
        &self,
        sql: &dyn Sql,
        user_id: &UserId,
        member_of: &[OwnedRoomId],
    ) -> Result<Option<OwnedUserId>, Error> {
        if member_of.is_empty() || !self.conditions(sql, user_id)?.iter().flatten().any(|room| member_of.contains(room))
        {
            return Ok(None);
        }
        let create = store::state::current(sql, "m.room.create", "")?.ok_or_else(|| Fault::new("no create event"))?;
        let levels = store::state::current(sql, "m.room.power_levels", "")?.map(|levels| levels.pdu);
        let version = &*self.version(sql)?;
        let authority = Authority::of(&create.pdu, levels, version).map_err(Fault::new)?;
        for named in authority.named().filter(|named| authority.may_invite(named)) {
            if store::members::follower_number(sql, named.as_str())?.is_some() {
                return Ok(Some(named.clone()));
            }
        }
        // All the others are equal: one more than have a level of their own is enough to find one.
        let enough = (authority.named().count() as u64).saturating_add(1);
        let local = store::members::joined_locals(sql, enough)?;
        let local = local.into_iter().filter_map(|user_id| OwnedUserId::try_from(user_id).ok());
        match local.into_iter().find(|user_id| authority.may_invite(user_id)) {
            Some(voucher) => Ok(Some(voucher)),
            None => Err(Refusal::UnableToGrantJoin("Nobody of this server may invite to this room".to_owned()).into()),
        }
    }
}

/// The rooms whose members may join; `None` where that is no condition.
pub(super) fn allowed_rooms(sql: &dyn Sql, version: &RoomVersion) -> Result<Option<Vec<OwnedRoomId>>, Error> {
    let Some(join_rules) = store::state::current(sql, "m.room.join_rules", "")? else { return Ok(None) };
    Ok(restricted_join::allowed_rooms(&join_rules.pdu, version))
}

/// Whether a draft is a membership.
pub(super) fn is_membership(draft: &Draft) -> bool {
    draft.event_type == TimelineEventType::RoomMember
}

#[cfg(test)]
mod tests {
    use domain::{Refusal, power::Preset};
    use ruma_common::{OwnedRoomId, OwnedUserId, RoomId, room_id, user_id};
    use serde_json::{Value, json, value::to_raw_value};

    use super::{GetJoinConditions, IsJoined};
    use crate::{
        CallError,
        room::{ChangeMembership, MembershipAction, SendEvent},
        world::World,
    };

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    fn bob() -> OwnedUserId {
        user_id!("@bob:myelin.test").to_owned()
    }

    fn sets_join_rules(world: &World, room_id: &RoomId, content: &Value) {
        let call = SendEvent {
            sender: alice(),
            device: "PHONE".into(),
            transaction_id: None,
            call_id: Some(format!("s{}", world.dice.roll(1 << 50))),
            event_type: "m.room.join_rules".into(),
            content: to_raw_value(content).unwrap(),
            state_key: Some(String::new()),
            member_of: Vec::new(),
            at_ms: None,
            administrator: false,
        };
        world.call(room_id.as_str(), &call).unwrap();
    }

    fn joins(world: &World, room_id: &RoomId, member_of: Vec<OwnedRoomId>) -> Result<(), CallError> {
        let call = ChangeMembership {
            member_of,
            ..ChangeMembership::new(format!("j{}", world.dice.roll(1 << 50)), bob(), bob(), MembershipAction::Join)
        };
        world.call(room_id.as_str(), &call)
    }

    fn allowing(room_id: &RoomId) -> Value {
        json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": room_id }] })
    }

    #[test]
    fn rules_that_change_meanwhile_decide() {
        let world = World::new(1);
        let room_id = world.creates_room(&alice(), "12", Preset::PrivateChat);
        let (one, other) = (room_id!("!one:myelin.test"), room_id!("!other:myelin.test"));
        let refused = |outcome: Result<(), CallError>| {
            assert!(matches!(outcome, Err(CallError::Refused(Refusal::Forbidden(_)))), "{outcome:?}");
        };
        sets_join_rules(&world, &room_id, &allowing(one));
        let conditions = world.call(room_id.as_str(), &GetJoinConditions { user: bob() }).unwrap();
        assert_eq!(conditions.member_of_any, [one]);
        // Bob is in that room; but by the time he comes, another one counts, or none.
        sets_join_rules(&world, &room_id, &allowing(other));
        refused(joins(&world, &room_id, vec![one.to_owned()]));
        sets_join_rules(&world, &room_id, &json!({ "join_rule": "invite" }));
        refused(joins(&world, &room_id, vec![one.to_owned()]));
        assert!(!world.call(room_id.as_str(), &IsJoined { user: bob() }).unwrap());
        sets_join_rules(&world, &room_id, &allowing(one));
        joins(&world, &room_id, vec![other.to_owned(), one.to_owned()]).unwrap();
        assert!(world.call(room_id.as_str(), &IsJoined { user: bob() }).unwrap());
        let conditions = world.call(room_id.as_str(), &GetJoinConditions { user: bob() }).unwrap();
        assert!(conditions.member_of_any.is_empty(), "who is in needs none");
    }
}
