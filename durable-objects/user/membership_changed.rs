use std::collections::HashSet;

use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedEventId, OwnedRoomId};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ReadRoom, User, shown_room, store};
use crate::{Call, Cx, Error, room::MemberProfile};

/// A room decided about this user's membership. The highest position wins: repeats and late arrivals change nothing.
#[derive(Debug, Serialize, Deserialize)]
pub struct MembershipChanged {
    pub room_id: OwnedRoomId,
    /// The room's position of the change.
    pub position: u64,
    pub membership: MembershipState,
    /// The event that made it so, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<OwnedEventId>,
    /// For joins: what the room shows of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<MemberProfile>,
    /// For invitations and knocks: what lets the user recognise the room. For their end, where the room is not here: the
    /// event that ended them, as clients see it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stripped_state: Vec<Box<RawValue>>,
    /// For joins: the room whose place this one takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<OwnedRoomId>,
}

impl Call for MembershipChanged {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "membership_changed";
    type Reply = ();
}

/// The rooms the user is joined to. Spec: `GET /joined_rooms`.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinedRooms {
    pub token_hash: String,
}

impl Call for JoinedRooms {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "joined_rooms";
    type Reply = Vec<OwnedRoomId>;
}

impl User {
    pub(super) fn membership_changed(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        mut call: MembershipChanged,
    ) -> Result<(), Error> {
        let known = store::rooms::by_id(&**tx, call.room_id.as_str())?;
        if known.as_ref().is_some_and(|known| known.effect >= call.position) {
            return Ok(());
        }
        // Whoever forgot the room hears of it again when they are invited, join or knock: not of a ban.
        let is_over = matches!(call.membership, MembershipState::Leave | MembershipState::Ban);
        let forgotten = is_over && known.as_ref().is_some_and(|known| known.membership == store::rooms::FORGOTTEN);
        let membership = if forgotten { store::rooms::FORGOTTEN } else { call.membership.as_str() };
        let same = known.as_ref().filter(|known| known.membership == membership);
        let stripped = match call.membership {
            MembershipState::Invite | MembershipState::Knock => {
                let events = std::mem::take(&mut call.stripped_state);
                Some(serde_json::to_string(&shown_room::kept(&**tx, cx.id, events)?)?)
            }
            _ => call.stripped_state.pop().map(|event| shown_room::kept_end(&event)).transpose()?,
        };
        let number = self.with_moves(&**tx, |moves| {
            let position = moves.next_position(cx.now_ms);
            let changed = same.map_or(position, |known| known.changed);
            let number = store::rooms::put(tx, call.room_id.as_str(), membership, call.position, changed, stripped)?;
            if same.is_none() {
                moves.uncommitted = true;
                moves.own_head = position;
                moves.push(tx, position, number, call.position)?;
            } else {
                moves.moved(tx, number, call.position, cx.now_ms)?;
            }
            Ok(number)
        })?;
        if same.is_none() {
            self.owe_pushes_of_membership(tx, cx, number, &call)?;
        }
        if let Some(predecessor) = &call.predecessor
            && same.is_none()
            && store::rooms::by_id(&**tx, predecessor.as_str())?.is_some()
        {
            self.transfer_settings(tx, cx, predecessor, &call.room_id)?;
        }
        let left = known.as_ref().is_some_and(|known| known.membership == "join") && same.is_none();
        if left {
            self.others_forgotten(cx.now_ms);
        } else if same.is_none() && call.membership == MembershipState::Join {
            self.presence_joins(tx, cx, &call.room_id)?;
            super::announce::devices_while_joining(tx, cx, &call.room_id, call.position)?;
        }
        // The profile may have changed while the user was joining.
        if let Some(shown) = call.profile {
            super::profile::correct(tx, cx, &call.room_id, &shown)?;
        }
        super::deactivate::leave_if_deactivated(tx, cx, call.room_id.as_str(), membership)?;
        cx.wake();
        Ok(())
    }

    /// A room told a device that the user left, and what it owes the user about that is still on its way. From here on the
    /// list says so: nothing else of the room may come after that device took it away.
    pub(super) fn left_meanwhile(&self, tx: &Tx<'_>, cx: &Cx<'_>, read: &ReadRoom) -> Result<(), Error> {
        let Some(known) = store::rooms::numbered(&**tx, &HashSet::from([read.number]))?.pop() else { return Ok(()) };
        if known.membership != "join" || known.effect >= read.to {
            return Ok(());
        }
        // The membership itself, which may be a ban, still counts when it arrives.
        let effect = read.to.saturating_sub(1);
        self.with_moves(&**tx, |moves| {
            let position = moves.own_news(cx.now_ms);
            store::rooms::put(tx, &known.room_id, "leave", effect, position, None)?;
            Ok(moves.push(tx, position, known.number, read.to)?)
        })?;
        cx.wake();
        Ok(())
    }

    pub(super) fn joined_rooms(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: JoinedRooms,
    ) -> Result<Vec<OwnedRoomId>, Error> {
        super::authenticate(sql, cx, &call.token_hash)?;
        let rooms = store::rooms::with_membership(sql, "join")?;
        Ok(rooms.into_iter().filter_map(|room| OwnedRoomId::try_from(room.room_id).ok()).collect())
    }
}
