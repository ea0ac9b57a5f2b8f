use std::collections::HashSet;

use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedServerName};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    User,
    get_asked::inviter,
    own_id, shown_room,
    store::{self, rooms::KnownRoom},
};
use crate::{
    Call, Cx, Error, outbox,
    room::{ConfirmSuccessor, MemberProfile},
};

/// A room decided about this user's membership. The highest position wins: repeats and late arrivals change nothing.
///
/// Another server may tell what became of it in a room that is not here. It knows no positions: of what others tell of
/// a room the latest wins, and it comes after whatever the room decided while it was here, of which the positions may
/// be ahead of any clock. While the user is in the room, that decides alone: also where what it decided is late, and
/// others, who did not know that the user was in it yet, told of the end of an invitation first.
#[derive(Debug, Serialize, Deserialize)]
pub struct MembershipChanged {
    pub room_id: OwnedRoomId,
    /// The room's position of the change; when it came, in milliseconds since the Unix epoch, where another server told
    /// it.
    pub position: u64,
    pub membership: MembershipState,
    /// The event that made it so, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<OwnedEventId>,
    /// For joins: what the room shows of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<MemberProfile>,
    /// For invitations and knocks: what lets the user recognise the room. For their end, where the room is not here:
    /// the event that ended them, as clients see it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stripped_state: Vec<Box<RawValue>>,
    /// For joins: the room whose place this one takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<OwnedRoomId>,
    /// Where another server told it: this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<Elsewhere>,
}

/// What is known of a membership of a room that is not here.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Elsewhere {
    /// For knocks: the server that took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident: Option<OwnedServerName>,
    /// For invitations and knocks: the version that the room has, as the server said that told of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_version: Option<String>,
    /// Whether it only ends an invitation or a knock: it is nothing to who is in the room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends_asked: bool,
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
        let heard = store::rooms::heard(&**tx, call.room_id.as_str())?;
        let told_ms = call.elsewhere.as_ref().map(|_| call.position);
        let effect = known.as_ref().map_or(0, |known| known.effect);
        // What the room itself decided last.
        let decided = heard.as_ref().and_then(|heard| heard.decided).unwrap_or(effect);
        let is_joined = known.as_ref().is_some_and(|known| known.membership == "join");
        if is_joined && call.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.ends_asked) {
            return Ok(());
        }
        if told_ms.is_some() && known.is_some() && !is_joined {
            if heard.as_ref().is_some_and(|heard| heard.at_ms >= call.position) {
                return Ok(());
            }
            call.position = call.position.max(effect.saturating_add(1));
        }
        let last = if told_ms.is_some() { effect } else { decided };
        if known.is_some() && last >= call.position {
            return Ok(());
        }
        let is_asked = matches!(call.membership, MembershipState::Invite | MembershipState::Knock);
        if let Some(heard) = heard.as_ref().filter(|_| effect >= call.position)
            && (is_asked || known.as_ref().is_some_and(|known| matches!(known.membership.as_str(), "invite" | "knock")))
        {
            // What others told came after it.
            let heard = store::rooms::Heard { decided: Some(call.position), ..heard.clone() };
            return Ok(store::rooms::keep_heard(tx, call.room_id.as_str(), &heard)?);
        }
        // Whoever forgot the room hears of it again when they are invited, join or knock: not of a ban.
        let is_over = matches!(call.membership, MembershipState::Leave | MembershipState::Ban);
        let forgotten = is_over && known.as_ref().is_some_and(|known| known.membership == store::rooms::FORGOTTEN);
        let membership = if forgotten { store::rooms::FORGOTTEN } else { call.membership.as_str() };
        let stripped = match call.membership {
            MembershipState::Invite | MembershipState::Knock => {
                let events = std::mem::take(&mut call.stripped_state);
                Some(serde_json::to_string(&shown_room::kept(&**tx, cx.id, events)?)?)
            }
            _ => call.stripped_state.pop().map(|event| shown_room::kept_end(&event)).transpose()?,
        };
        let same = known.as_ref().filter(|known| known.membership == membership);
        let same = match (same, &stripped) {
            (Some(known), Some(shown)) if is_by_another(&**tx, cx, known, shown)? => None,
            // The room is here: a device may have been shown that the user is in it.
            (Some(_), _) if told_ms.is_none() && is_over && effect > decided && !forgotten => None,
            (same, _) => same,
        };
        let number = self.with_moves(&**tx, |moves| {
            let position = moves.next_position(cx.now_ms);
            let changed = same.map_or(position, |known| known.changed);
            let room_id = call.room_id.as_str();
            let number = self.put_room(tx, room_id, (membership, call.position, changed), stripped)?;
            if same.is_none() {
                moves.uncommitted = true;
                moves.own_head = position;
                moves.push(tx, position, number, call.position)?;
            } else {
                moves.moved(tx, number, call.position, cx.now_ms, true)?;
            }
            Ok(number)
        })?;
        if told_ms.is_some() || heard.is_some() {
            let at_ms = told_ms.or(heard.map(|heard| heard.at_ms)).unwrap_or_default();
            let asked = call.event_id.as_ref().filter(|_| !is_over).map(ToString::to_string);
            let Elsewhere { resident, room_version, .. } = call.elsewhere.take().unwrap_or_default();
            let resident = resident.map(|name| name.to_string());
            let decided = Some(if told_ms.is_some() { decided } else { call.position });
            let heard = store::rooms::Heard { at_ms, asked, resident, room_version, decided };
            store::rooms::keep_heard(tx, call.room_id.as_str(), &heard)?;
        }
        if same.is_none() {
            self.owe_pushes_of_membership(tx, cx, number, &call)?;
        }
        if let Some(predecessor) = &call.predecessor
            && same.is_none()
            && *predecessor != call.room_id
            && store::rooms::by_id(&**tx, predecessor.as_str())?.is_some()
        {
            let confirm = ConfirmSuccessor { user: own_id(cx)?, successor: call.room_id.clone() };
            outbox::owe(tx, cx, predecessor.as_str(), &confirm, true)?;
        }
        if is_joined && same.is_none() {
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

    /// A room told a device that the user left, and what it owes the user about that is still on its way. From here on
    /// the list says so: nothing else of the room may come after that device took it away.
    ///
    /// `number`: the user's number for the room, which was read up to `to`.
    pub(super) fn left_meanwhile(&self, tx: &Tx<'_>, cx: &Cx<'_>, number: u64, to: u64) -> Result<(), Error> {
        let Some(known) = store::rooms::numbered(&**tx, &HashSet::from([number]))?.pop() else { return Ok(()) };
        if known.membership != "join" || known.effect >= to {
            return Ok(());
        }
        // The membership itself, which may be a ban, still counts when it arrives.
        let effect = to.saturating_sub(1);
        self.with_moves(&**tx, |moves| {
            let position = moves.own_news(cx.now_ms);
            self.put_room(tx, &known.room_id, ("leave", effect, position), None)?;
            Ok(moves.push(tx, position, number, to)?)
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

/// Whether an invitation to a room that the user is invited to already is of somebody else: that is news, for the
/// former was perhaps not shown, because the user ignores whom it was of.
fn is_by_another(sql: &dyn Sql, cx: &Cx<'_>, known: &KnownRoom, shown: &str) -> Result<bool, Error> {
    if known.membership != "invite" {
        return Ok(false);
    }
    let before = store::rooms::stripped_state(sql, &known.room_id, "invite")?.unwrap_or_default();
    Ok(inviter(shown, cx.id).is_some_and(|by| inviter(&before, cx.id) != Some(by)))
}

#[cfg(test)]
mod tests {
    use ruma_common::{RoomId, room_id};
    use ruma_events::room::member::MembershipState::{self, Ban, Invite, Join, Leave};
    use serde_json::{json, value::to_raw_value};

    use super::{Elsewhere, JoinedRooms, MembershipChanged};
    use crate::{
        user::{Create, GetAsked, NewDevice, SyncClose, SyncPlan},
        world::World,
    };

    /// What is shown of a room need not say it, and whoever takes an invitation back writes in the form of that
    /// version.
    #[test]
    fn the_version_is_kept_that_came_with_an_invitation() {
        let world = World::new(1);
        let create = Create { password_hash: Some("p".to_owned()), call_id: "a".to_owned(), ..Create::default() };
        world.call("@alice:myelin.test", &create).unwrap();
        let room_id = room_id!("!room:there.test");
        let shown = |version: &str| {
            let create = json!({
                "type": "m.room.create", "state_key": "", "sender": "@bob:there.test",
                "content": { "room_version": version },
            });
            vec![to_raw_value(&create).unwrap()]
        };
        for (position, (told, stripped_state, known)) in [
            (Some("11"), Vec::new(), ("11", false)),
            (Some("11"), shown("4"), ("11", false)),
            (None, shown("4"), ("4", false)),
            (None, Vec::new(), ("1", true)),
        ]
        .into_iter()
        .enumerate()
        {
            let call = MembershipChanged {
                room_id: room_id.to_owned(),
                position: 1_000 + position as u64,
                membership: Invite,
                event_id: None,
                profile: None,
                stripped_state,
                predecessor: None,
                elsewhere: Some(Elsewhere { room_version: told.map(str::to_owned), ..Elsewhere::default() }),
            };
            world.call("@alice:myelin.test", &call).unwrap();
            let asked = world.call("@alice:myelin.test", &GetAsked { room_id: room_id.to_owned() }).unwrap().unwrap();
            assert_eq!((asked.room_version.as_str(), asked.is_version_guessed), known);
        }
    }

    fn tells(world: &World, room_id: &RoomId, position: u64, membership: &MembershipState, is_elsewhere: bool) {
        let elsewhere = is_elsewhere.then(Elsewhere::default);
        world.call("@alice:myelin.test", &told(room_id, position, membership, elsewhere)).unwrap();
    }

    fn ends_asked(world: &World, room_id: &RoomId, position: u64, membership: &MembershipState) {
        let elsewhere = Some(Elsewhere { ends_asked: true, ..Elsewhere::default() });
        world.call("@alice:myelin.test", &told(room_id, position, membership, elsewhere)).unwrap();
    }

    fn told(
        room_id: &RoomId,
        position: u64,
        membership: &MembershipState,
        elsewhere: Option<Elsewhere>,
    ) -> MembershipChanged {
        MembershipChanged {
            room_id: room_id.to_owned(),
            position,
            membership: membership.clone(),
            event_id: Some("$e".try_into().unwrap()),
            profile: None,
            stripped_state: Vec::new(),
            predecessor: None,
            elsewhere,
        }
    }

    #[test]
    fn what_others_tell_comes_after_whatever_the_room_decided() {
        let world = World::new(1);
        let create = Create { password_hash: Some("p".to_owned()), call_id: "a".to_owned(), ..Create::default() };
        world.call("@alice:myelin.test", &create).unwrap();
        let room_id = room_id!("!room:there.test");
        let asked = || {
            let call = GetAsked { room_id: room_id.to_owned() };
            world.call("@alice:myelin.test", &call).unwrap().map(|asked| (asked.membership, asked.event_id.unwrap()))
        };
        let invited = Some(("invite".to_owned(), "$e".try_into().unwrap()));
        // The room's positions are ahead of the clock.
        tells(&world, room_id, 9_000, &Join, false);
        tells(&world, room_id, 1_000, &Leave, true);
        assert_eq!(asked(), None);
        tells(&world, room_id, 9_001, &Leave, false);
        tells(&world, room_id, 1_001, &Invite, true);
        assert_eq!(asked(), invited);
        tells(&world, room_id, 1_002, &Leave, true);
        assert_eq!(asked(), None);
        tells(&world, room_id, 1_001, &Invite, true);
        assert_eq!(asked(), None, "a repeat");
        tells(&world, room_id, 1_003, &Invite, true);
        assert_eq!(asked(), invited);
        tells(&world, room_id, 20_000, &Join, false);
        tells(&world, room_id, 1_003, &Invite, true);
        assert_eq!(asked(), None, "the room decides");
        // What the room decides itself others did not tell.
        for (position, membership) in [(20_001, Leave), (20_002, Invite)] {
            tells(&world, room_id, position, &membership, false);
        }
        let by_room = world.call("@alice:myelin.test", &GetAsked { room_id: room_id.to_owned() }).unwrap().unwrap();
        assert_eq!((&*by_room.membership, by_room.event_id), ("invite", None));
    }

    /// An invitation is taken back while a join is under way, and the join, which the room had taken before, is told
    /// late: the user is in the room, until that says otherwise; also if it says what others told already.
    #[test]
    fn a_join_counts_whatever_others_told_while_it_was_on_its_way() {
        let story = |ended: &MembershipState| {
            let world = World::new(1);
            let device = Some(NewDevice::new("PHONE", "t"));
            world.call("@alice:myelin.test", &Create { device, call_id: "a".to_owned(), ..Create::default() }).unwrap();
            tells(&world, room_id!("!room:there.test"), 1_000, &Invite, true);
            tells(&world, room_id!("!room:there.test"), 3_000, ended, true);
            world
        };
        let room_id = room_id!("!room:there.test");
        let joined = |world: &World| {
            world.call("@alice:myelin.test", &JoinedRooms { token_hash: "t".to_owned() }).unwrap().len() == 1
        };
        // Which rooms a device reads next, and whether the user is gone from them; and how many invitations it sees.
        let since = std::cell::RefCell::new(None::<String>);
        let syncs = |world: &World| -> (Vec<bool>, usize) {
            let (token_hash, since_now) = ("t".to_owned(), since.borrow().clone());
            let call = SyncPlan { token_hash: token_hash.clone(), since: since_now.clone(), ..SyncPlan::default() };
            let plan = world.call("@alice:myelin.test", &call).unwrap();
            let rooms = plan
                .rooms
                .iter()
                .map(|room| serde_json::from_value(json!({ "number": room.number, "to": 2_000 })).unwrap());
            let close = json!({ "token_hash": "t", "since": since_now, "position": plan.position, "rooms": [] });
            let mut close: SyncClose = serde_json::from_value(close).unwrap();
            close.rooms = rooms.collect();
            let closed = world.call("@alice:myelin.test", &close).unwrap();
            since.replace(Some(closed.next_batch));
            (plan.rooms.iter().map(|room| room.gone).collect(), closed.invited.len())
        };
        let reads = |world: &World| syncs(world).0;
        for ended in [Leave, Ban] {
            since.take();
            let world = story(&ended);
            reads(&world);
            tells(&world, room_id, 2_000, &Join, false);
            assert!(joined(&world));
            assert_eq!(reads(&world), [false]);
            tells(&world, room_id, 2_000, &Join, false);
            assert_eq!(reads(&world), [false; 0], "a repeat");
            ends_asked(&world, room_id, 4_000, &ended);
            assert!(joined(&world), "who is in the room is not invited");
            tells(&world, room_id, 2_500, &ended, false);
            assert!(!joined(&world));
            assert_eq!(reads(&world), [true]);
            tells(&world, room_id, 2_000, &Join, false);
            assert!(!joined(&world), "it is late, and the room decided otherwise since");

            since.take();
            let world = story(&ended);
            reads(&world);
            tells(&world, room_id, 3_500, &ended, false);
            assert_eq!(reads(&world), [true], "the device may have been shown the room");
            tells(&world, room_id, 3_500, &ended, false);
            tells(&world, room_id, 2_000, &Join, false);
            assert_eq!((joined(&world), reads(&world)), (false, vec![]));
        }
        // What the room decided before somebody invited the user is no answer to that.
        let world = story(&Leave);
        tells(&world, room_id, 4_000, &Invite, true);
        tells(&world, room_id, 3_999, &Leave, false);
        let asked = world.call("@alice:myelin.test", &GetAsked { room_id: room_id.to_owned() }).unwrap();
        assert_eq!(asked.map(|asked| asked.membership), Some("invite".into()));
        tells(&world, room_id, 3_998, &Join, false);
        assert!(!joined(&world));
        // Nor does it come again because the room is here by now, and was told of it when it came.
        since.take();
        assert_eq!(syncs(&world).1, 1);
        tells(&world, room_id, 5_000, &Invite, false);
        assert_eq!(syncs(&world).1, 0);
        let world = story(&Leave);
        tells(&world, room_id, 2_000, &Invite, false);
        assert!(world.call("@alice:myelin.test", &GetAsked { room_id: room_id.to_owned() }).unwrap().is_none());
    }
}
