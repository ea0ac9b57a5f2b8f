use domain::{
    Pdu, RoomVersion,
    event::{self, Place},
    upgrade::{self, OldRoom, Upgrade},
};
use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Create, FirstEvent, MemberProfile, NewEvent, Room, directory,
    store::{self, log::Logged},
    transactions,
};
use crate::{Call, Cx, Error};

/// The most bans that go into a successor, the newest: founding a room is one transaction.
const BANS_MAX: u64 = 1_000;
/// The most children of a space that go into its successor.
const CHILDREN_MAX: u64 = 500;
/// The most bytes of each of these.
const TAKEN_ALONG_BYTES_MAX: usize = 1024 * 1024;

/// Decides what the successor of this room is, before there is one: whoever asks again gets the same one. Founding it,
/// and [`super::CompleteUpgrade`], are the caller's to do.
///
/// Refused: `Forbidden` for who may not send a tombstone, `UnsupportedRoomVersion`, `BadJson` for additional creators
/// that are none. Spec: `POST /rooms/{roomId}/upgrade`.
#[derive(Debug, Serialize, Deserialize)]
pub struct PrepareUpgrade {
    pub user: OwnedUserId,
    #[serde(default)]
    pub profile: MemberProfile,
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_creators: Option<Value>,
    /// The successor's id, where its version does not make it from the create event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_id: Option<OwnedRoomId>,
    /// The successor's founding call id.
    pub call_id: String,
}

/// The room that replaces this one.
#[derive(Debug, Serialize, Deserialize)]
pub struct Successor {
    pub room_id: OwnedRoomId,
    /// What founds it; `None` where everything was done already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<Create>,
}

impl Call for PrepareUpgrade {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "prepare_upgrade";
    type Reply = Successor;
}

/// A successor that was decided on, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reserved {
    pub user: OwnedUserId,
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    additional_creators: Option<Value>,
    pub room_id: OwnedRoomId,
    event_id: OwnedEventId,
    json: String,
    call_id: String,
    /// Whether the tombstone is set.
    #[serde(default)]
    pub completed: bool,
}

impl Reserved {
    pub(super) fn load(sql: &dyn Sql) -> Result<Option<Self>, Error> {
        Ok(store::meta::text(sql, "successor")?.map(|json| serde_json::from_str(&json)).transpose()?)
    }

    pub(super) fn save(&self, tx: &Tx<'_>) -> Result<(), Error> {
        Ok(store::meta::set(tx, "successor", serde_json::to_string(self)?.into())?)
    }

    /// Whether it is what this call asks for.
    fn answers(&self, call: &PrepareUpgrade) -> bool {
        self.user == call.user
            && self.version == call.version
            && self.additional_creators == call.additional_creators
            && !self.completed
    }
}

impl Room {
    pub(super) fn prepare_upgrade(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: PrepareUpgrade) -> Result<Successor, Error> {
        let version = RoomVersion::parse(&call.version)?;
        // Whoever may not upgrade learns nothing of an upgrade.
        let own_id = super::append::room_id(cx)?;
        self.authorised(&**tx, cx, &upgrade::tombstone(&call.user, &own_id)?)?;
        let reserved = Reserved::load(&**tx)?;
        if let Some(reserved) = &reserved
            && reserved.completed
            && reserved.version == call.version
            && reserved.additional_creators == call.additional_creators
            && self.replacement(&**tx)?.as_ref() == Some(&reserved.room_id)
        {
            return Ok(Successor { room_id: reserved.room_id.clone(), create: None });
        }
        let old = Old::load(&**tx)?;
        let own_version = self.version(&**tx)?;
        let old = old.room(&own_version);
        let upgrade = Upgrade {
            upgrader: &call.user,
            displayname: call.profile.displayname.clone(),
            avatar_url: call.profile.avatar_url.clone(),
            version: &version,
            additional_creators: call.additional_creators.as_ref(),
        };
        let reserved = match reserved.filter(|reserved| reserved.answers(&call)) {
            Some(reserved) => reserved,
            None => {
                let create = create_event(cx, &upgrade, &old, call.room_id.clone())?;
                let reserved = Reserved {
                    user: call.user.clone(),
                    version: call.version.clone(),
                    additional_creators: call.additional_creators.clone(),
                    room_id: create.room_id().to_owned(),
                    event_id: create.event_id().to_owned(),
                    json: create.json().to_owned(),
                    call_id: call.call_id.clone(),
                    completed: false,
                };
                reserved.save(tx)?;
                reserved
            }
        };
        let events = upgrade.events(&old)?.into_iter().map(|draft| NewEvent {
            event_type: draft.event_type,
            state_key: draft.state_key.unwrap_or_default(),
            content: draft.content,
        });
        let create = Create {
            call_id: reserved.call_id,
            version: reserved.version,
            creator: reserved.user,
            create_event: FirstEvent { event_id: reserved.event_id, json: reserved.json },
            events: events.collect(),
            // Its place in the directory goes to the successor.
            published: directory::is_published(&**tx)?,
        };
        Ok(Successor { room_id: reserved.room_id, create: Some(create) })
    }

    /// The room that the tombstone names.
    pub(super) fn replacement(&self, sql: &dyn Sql) -> Result<Option<OwnedRoomId>, Error> {
        #[derive(Deserialize)]
        struct Content {
            replacement_room: OwnedRoomId,
        }
        let tombstone = store::state::current(sql, "m.room.tombstone", "")?;
        Ok(tombstone.and_then(|it| it.pdu.content_as::<Content>().ok()).map(|content| content.replacement_room))
    }
}

fn create_event(
    cx: &Cx<'_>,
    upgrade: &Upgrade<'_>,
    old: &OldRoom<'_>,
    room_id: Option<OwnedRoomId>,
) -> Result<Pdu, Error> {
    let room_id = room_id.filter(|_| !upgrade.version.room_id_is_create_event());
    let place = Place {
        room_id: room_id.as_deref(),
        prev_events: &[],
        auth_events: &[],
        depth: 1,
        origin_server_ts: cx.now_ms,
    };
    Ok(event::build(&upgrade.create_draft(old)?, &place, upgrade.version, &cx.settings.identity, cx.random()?)?)
}

/// What the successor takes over.
struct Old {
    create: Pdu,
    last_event: Pdu,
    power_levels: Option<Pdu>,
    state: Vec<Pdu>,
    bans: Vec<Pdu>,
}

impl Old {
    fn load(sql: &dyn Sql) -> Result<Self, Error> {
        let create = store::state::current(sql, "m.room.create", "")?.ok_or_else(|| Fault::new("no create event"))?.pdu;
        let last_event = store::log::head(sql)?.ok_or_else(|| Fault::new("the room has no event"))?.pdu;
        let mut state = Vec::with_capacity(upgrade::TRANSFERRED.len());
        for event_type in upgrade::TRANSFERRED {
            state.extend(store::state::current(sql, &event_type.to_string(), "")?.map(|event| event.pdu));
        }
        if is_space(&create) {
            let children = store::state::of_type(sql, "m.space.child", CHILDREN_MAX)?;
            let children = store::log::within(sql, &children, TAKEN_ALONG_BYTES_MAX)?;
            state.extend(children.into_iter().map(|child| child.pdu).filter(is_child));
        }
        let bans = store::log::within(sql, &store::members::banned(sql, BANS_MAX)?, TAKEN_ALONG_BYTES_MAX)?;
        let bans = bans.into_iter().map(|ban| ban.pdu).collect();
        Ok(Self { create, last_event, power_levels: open_power_levels(sql)?, state, bans })
    }

    fn room<'a>(&'a self, version: &'a RoomVersion) -> OldRoom<'a> {
        let last_event: &EventId = self.last_event.event_id();
        let power_levels = self.power_levels.as_ref();
        OldRoom { version, create: &self.create, last_event, power_levels, state: &self.state, bans: &self.bans }
    }
}

/// The power levels, as they were before an earlier upgrade closed the room.
fn open_power_levels(sql: &dyn Sql) -> Result<Option<Pdu>, Error> {
    let Some(Logged { position, pdu, txn, .. }) = store::state::current(sql, "m.room.power_levels", "")? else {
        return Ok(None);
    };
    if txn.as_deref() == Some(transactions::CLOSING)
        && let Some(open) = store::state::replaced(sql, "m.room.power_levels", "", position)?
    {
        return Ok(Some(open.pdu));
    }
    Ok(Some(pdu))
}

fn is_space(create: &Pdu) -> bool {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "type")]
        room_type: String,
    }
    create.content_as::<Content>().is_ok_and(|content| content.room_type == "m.space")
}

/// A child without a server to join it by is one that was taken out. Spec: `m.space.child`.
fn is_child(child: &Pdu) -> bool {
    #[derive(Deserialize)]
    struct Content {
        via: Vec<Value>,
    }
    child.content_as::<Content>().is_ok_and(|content| !content.via.is_empty())
}

#[cfg(test)]
mod tests {
    use domain::{Refusal, power::Preset};
    use platform::{ActorKind, Address};
    use ruma_common::{OwnedUserId, RoomId, room_id, user_id};

    use super::{PrepareUpgrade, Successor};
    use crate::{
        CallError,
        room::{ChangeMembership, CompleteUpgrade, MemberProfile, MembershipAction, SendEvent},
        world::World,
    };

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    fn bob() -> OwnedUserId {
        user_id!("@bob:myelin.test").to_owned()
    }

    /// As the request tier asks: with new ids, every time.
    fn prepares(world: &World, old: &RoomId, user: OwnedUserId, version: &str) -> Result<Successor, CallError> {
        let chance = world.dice.roll(1 << 50);
        let call = PrepareUpgrade {
            user,
            profile: MemberProfile::default(),
            version: version.to_owned(),
            additional_creators: None,
            room_id: Some(RoomId::parse(format!("!room{chance}:myelin.test")).unwrap()),
            call_id: format!("call{chance}"),
        };
        let outcome = world.call(old.as_str(), &call);
        world.evict(&Address::new(ActorKind::Room, old.as_str()));
        outcome
    }

    fn completes(world: &World, old: &RoomId, user: OwnedUserId, successor: &RoomId) -> Result<(), CallError> {
        world.call(old.as_str(), &CompleteUpgrade { user, successor: successor.to_owned() })
    }

    #[test]
    fn whatever_answer_is_lost_there_is_one_successor() {
        for version in ["11", "12"] {
            let world = World::new(1);
            let old = world.creates_room(&alice(), "10", Preset::PrivateChat);
            let first = prepares(&world, &old, alice(), version).unwrap();
            let again = prepares(&world, &old, alice(), version).unwrap();
            assert_eq!(first.room_id, again.room_id, "decided before it is founded");
            let create = again.create.unwrap();
            world.call(first.room_id.as_str(), &create).unwrap();
            world.passes(60_000);
            let founded = prepares(&world, &old, alice(), version).unwrap();
            world.call(first.room_id.as_str(), &founded.create.unwrap()).unwrap();
            completes(&world, &old, alice(), &first.room_id).unwrap();
            completes(&world, &old, alice(), &first.room_id).unwrap();
            world.passes(3_600_000);
            let done = prepares(&world, &old, alice(), version).unwrap();
            assert_eq!((&done.room_id, done.create.is_some()), (&first.room_id, false));
        }
    }

    #[test]
    fn another_upgrade_overtakes() {
        let world = World::new(1);
        let old = world.creates_room(&alice(), "11", Preset::TrustedPrivateChat);
        let one = prepares(&world, &old, alice(), "11").unwrap();
        let other = prepares(&world, &old, alice(), "12").unwrap();
        assert_ne!(one.room_id, other.room_id);
        let overtaken = completes(&world, &old, alice(), &one.room_id);
        assert!(matches!(overtaken, Err(CallError::Refused(Refusal::BadState(_)))), "{overtaken:?}");
        completes(&world, &old, alice(), &other.room_id).unwrap();
        let stranger = completes(&world, &old, bob(), &other.room_id);
        assert!(matches!(stranger, Err(CallError::Refused(Refusal::BadState(_)))), "{stranger:?}");
    }

    #[test]
    fn whoever_may_not_upgrade_leaves_no_trace() {
        let world = World::new(1);
        let old = world.creates_room(&alice(), "11", Preset::PublicChat);
        let join = ChangeMembership::new("j".to_owned(), bob(), bob(), MembershipAction::Join);
        world.call(old.as_str(), &join).unwrap();
        let mine = prepares(&world, &old, alice(), "12").unwrap();
        let theirs = prepares(&world, &old, bob(), "12");
        assert!(matches!(theirs, Err(CallError::Refused(Refusal::Forbidden(_)))), "{theirs:?}");
        completes(&world, &old, alice(), &mine.room_id).unwrap();
    }

    #[test]
    fn a_tombstone_of_the_clients_own_is_no_upgrade() {
        let world = World::new(1);
        let old = world.creates_room(&alice(), "11", Preset::PrivateChat);
        let mine = prepares(&world, &old, alice(), "12").unwrap();
        completes(&world, &old, alice(), &mine.room_id).unwrap();
        let content = serde_json::json!({ "body": "moved", "replacement_room": room_id!("!else:where") });
        let tombstone = SendEvent {
            sender: alice(),
            device: "PHONE".into(),
            transaction_id: None,
            call_id: Some("t".to_owned()),
            event_type: "m.room.tombstone".into(),
            content: serde_json::value::to_raw_value(&content).unwrap(),
            state_key: Some(String::new()),
            member_of: Vec::new(),
            at_ms: None,
            administrator: false,
        };
        world.call(old.as_str(), &tombstone).unwrap();
        let anew = prepares(&world, &old, alice(), "12").unwrap();
        assert_ne!(anew.room_id, mine.room_id);
        assert!(anew.create.is_some());
    }
}
