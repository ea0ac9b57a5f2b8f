//! What the user's clients keep here, for the account or for one room. Spec: "Client Config".

use std::collections::{BTreeMap, HashMap, HashSet};

use domain::Refusal;
use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedEventId, OwnedRoomId};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{
    ReadRoom, SyncClose, User, authenticate, own_id, push_rules,
    store::{
        self,
        account_data::{Entry, GLOBAL},
    },
};
use crate::{Call, Cx, Error};

/// The largest content, in bytes of JSON: a list of all direct chats stands in one.
const CONTENT_BYTES_MAX: usize = 256 * 1024;
/// The longest type, in bytes: that of events.
const TYPE_BYTES_MAX: usize = 255;
/// The most entries a user may keep here.
const ENTRIES_MAX: u64 = if cfg!(test) { 20 } else { 20_000 };
/// The most bytes of JSON a user may keep here: a first sync answers all of them.
const TOTAL_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Where a user stopped reading a room. Spec: "Fully read markers".
const FULLY_READ: &str = "m.fully_read";
/// Spec: "Push Rules: Events".
pub(super) const PUSH_RULES: &str = "m.push_rules";

/// Keeps account data; the same again changes nothing.
///
/// Refused: `UnknownToken`, `ServerManaged`, `InvalidParam` for a type that is too long, `TooLarge`.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetAccountData {
    pub token_hash: String,
    /// `None` for what belongs to the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_id: Option<OwnedRoomId>,
    #[serde(rename = "type")]
    pub event_type: String,
    /// What the caller has found to be a JSON object.
    pub content: Box<RawValue>,
}

impl Call for SetAccountData {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "set_account_data";
    type Reply = ();
}

/// The content of account data kept here.
///
/// Refused: `UnknownToken`, `NotFound`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetAccountData {
    pub token_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_id: Option<OwnedRoomId>,
    #[serde(rename = "type")]
    pub event_type: String,
}

impl Call for GetAccountData {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_account_data";
    type Reply = Box<RawValue>;
}

/// The user has read the room up to this event, which the caller has found to be there. Spec: "Fully read markers".
///
/// Refused: `UnknownToken`, `TooLarge`.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetFullyRead {
    pub token_hash: String,
    pub room_id: OwnedRoomId,
    pub event_id: OwnedEventId,
}

impl Call for SetFullyRead {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "set_fully_read";
    type Reply = ();
}

/// Account data in the shape of an event, as clients get it.
#[derive(Debug, Serialize, Deserialize)]
pub struct AccountDataEvent {
    #[serde(rename = "type")]
    pub event_type: String,
    pub content: Box<RawValue>,
}

/// What a sync tells of a room's account data.
#[derive(Debug, Serialize, Deserialize)]
pub struct RoomAccountData {
    pub room_id: OwnedRoomId,
    /// Whether the user is in the room: then this alone is news of it. A room left is shown for other reasons only.
    pub joined: bool,
    pub events: Vec<AccountDataEvent>,
}

/// The account data of some rooms, for a sync that tells of them before it ends.
///
/// Refused: `UnknownToken`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RoomsAccountData {
    pub token_hash: String,
    pub rooms: Vec<OwnedRoomId>,
}

impl Call for RoomsAccountData {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "rooms_account_data";
    type Reply = BTreeMap<OwnedRoomId, Vec<AccountDataEvent>>;
}

impl User {
    pub(super) fn rooms_account_data(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: RoomsAccountData,
    ) -> Result<BTreeMap<OwnedRoomId, Vec<AccountDataEvent>>, Error> {
        authenticate(sql, cx, &call.token_hash)?;
        let mut of_rooms: BTreeMap<OwnedRoomId, Vec<AccountDataEvent>> = BTreeMap::new();
        for Entry { room_id, event_type, content } in store::account_data::of_rooms(sql, &call.rooms)? {
            let Ok(room_id) = OwnedRoomId::try_from(room_id) else { continue };
            let event = AccountDataEvent { event_type, content: RawValue::from_string(content)? };
            of_rooms.entry(room_id).or_default().push(event);
        }
        Ok(of_rooms)
    }

    pub(super) fn set_account_data(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: SetAccountData) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        // «Servers MUST reject setting account data for event types that the server manages.» «This applies to both
        // global and room-specific account data.»
        if [FULLY_READ, PUSH_RULES].contains(&call.event_type.as_str()) {
            return Err(Refusal::ServerManaged(format!("{} is not set in this way", call.event_type)).into());
        }
        if call.event_type.len() > TYPE_BYTES_MAX {
            return Err(Refusal::InvalidParam(format!("A type can have at most {TYPE_BYTES_MAX} bytes")).into());
        }
        let room_id = call.room_id.as_ref().map_or(GLOBAL, |room_id| room_id.as_str());
        self.put_account_data(tx, cx, room_id, &call.event_type, call.content.get())
    }

    pub(super) fn set_fully_read(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: SetFullyRead) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        let content = json!({ "event_id": call.event_id }).to_string();
        self.put_account_data(tx, cx, call.room_id.as_str(), FULLY_READ, &content)
    }

    /// Keeps an entry, which every device learns with its next sync. The same content again is no news.
    pub(super) fn put_account_data(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        room_id: &str,
        event_type: &str,
        content: &str,
    ) -> Result<(), Error> {
        let known = store::account_data::get(&**tx, room_id, event_type)?;
        if known.as_deref() == Some(content) {
            return Ok(());
        }
        if content.len() > CONTENT_BYTES_MAX {
            return Err(Refusal::TooLarge(format!("Account data can have at most {CONTENT_BYTES_MAX} bytes")).into());
        }
        let before = known.as_ref().map_or(0, String::len);
        if known.is_none() || content.len() > before {
            let (entries, bytes) = store::account_data::size(&**tx)?;
            if known.is_none() && entries >= ENTRIES_MAX {
                return Err(Refusal::TooLarge(format!("A user may keep {ENTRIES_MAX} entries")).into());
            }
            let bytes = bytes.saturating_sub(before as u64).saturating_add(content.len() as u64);
            if bytes > TOTAL_BYTES_MAX {
                return Err(
                    Refusal::TooLarge(format!("All account data can have at most {TOTAL_BYTES_MAX} bytes")).into()
                );
            }
        }
        let position = self.with_moves(&**tx, |moves| {
            let position = moves.own_news(cx.now_ms);
            moves.all_data_head = position;
            if room_id != GLOBAL {
                moves.data_head = position;
            }
            Ok(position)
        })?;
        store::account_data::put(tx, room_id, event_type, position, content)?;
        cx.wake();
        Ok(())
    }

    pub(super) fn account_data(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetAccountData,
    ) -> Result<Box<RawValue>, Error> {
        authenticate(sql, cx, &call.token_hash)?;
        let room_id = call.room_id.as_ref().map_or(GLOBAL, |room_id| room_id.as_str());
        if (room_id, call.event_type.as_str()) == (GLOBAL, PUSH_RULES) {
            return Ok(push_rules::content(sql, &own_id(cx)?)?);
        }
        let content = store::account_data::get(sql, room_id, &call.event_type)?
            .ok_or_else(|| Refusal::NotFound(format!("There is no {} here", call.event_type)))?;
        Ok(RawValue::from_string(content)?)
    }
}

/// What a sync tells of the account and of rooms: what became so after `own`, and everything of the rooms told anew.
/// Nothing changed after `head`, so that most syncs need not go through all there is.
pub(super) fn news(
    sql: &dyn Sql,
    cx: &Cx<'_>,
    (own, head): (u64, u64),
    sync: &SyncClose,
) -> Result<(Vec<AccountDataEvent>, Vec<RoomAccountData>), Error> {
    let read: HashMap<u64, &ReadRoom> = sync.rooms.iter().map(|room| (room.number, room)).collect();
    let anew: HashSet<u64> = sync.rooms.iter().filter(|room| room.anew).map(|room| room.number).collect();
    // From the beginning, everything is new.
    let anew = if own == 0 || sync.rooms_told { Vec::new() } else { store::rooms::numbered(sql, &anew)? };
    let anew: Vec<&str> = anew.iter().map(|room| room.room_id.as_str()).collect();
    if own > 0 && own >= head && anew.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let (of_account, of_rooms) = entries(sql, cx, own, &anew)?;
    let mut rooms = Vec::with_capacity(of_rooms.len());
    for (room_id, events) in of_rooms {
        let Some(room) = store::rooms::by_id(sql, &room_id)? else { continue };
        let read = read.get(&room.number);
        let joined = room.membership == "join";
        // A room that the device does not know yet, joined since the plan or never read, will be told anew.
        let is_told = match read {
            Some(read) if sync.rooms_told && !read.untold => false,
            Some(read) => !(read.failed && read.to == 0),
            None => joined && room.changed <= sync.position,
        };
        if is_told && let Ok(room_id) = OwnedRoomId::try_from(room_id) {
            rooms.push(RoomAccountData { room_id, joined, events });
        }
    }
    Ok((of_account, rooms))
}

/// Account data by room id.
pub(super) type OfRooms = BTreeMap<String, Vec<AccountDataEvent>>;

/// What became so after `own`, as clients see it: of the account, and by room; whole for some rooms.
pub(super) fn entries(
    sql: &dyn Sql,
    cx: &Cx<'_>,
    own: u64,
    whole_rooms: &[&str],
) -> Result<(Vec<AccountDataEvent>, OfRooms), Error> {
    let mut of_rooms = OfRooms::new();
    for Entry { room_id, event_type, content } in store::account_data::since(sql, own, whole_rooms)? {
        let event = AccountDataEvent { event_type, content: RawValue::from_string(content)? };
        of_rooms.entry(room_id).or_default().push(event);
    }
    let mut of_account = of_rooms.remove(GLOBAL).unwrap_or_default();
    // What is kept of the rules is not what clients see, and who changed none has some, too.
    let kept = of_account.len();
    of_account.retain(|event| event.event_type != PUSH_RULES);
    if own == 0 || of_account.len() < kept {
        let content = push_rules::content(sql, &own_id(cx)?)?;
        of_account.push(AccountDataEvent { event_type: PUSH_RULES.to_owned(), content });
    }
    Ok((of_account, of_rooms))
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::Refusal;
    use platform::{ActorKind, Address};
    use ruma_common::OwnedRoomId;
    use ruma_events::room::member::MembershipState;
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;
    use crate::{
        CallError,
        user::{Closed, Create, LogIn, MembershipChanged, NewDevice, SyncPlan},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn alice() -> Rc<World> {
        let world = World::new(1);
        let device = |name: &str| NewDevice::new(name, name);
        let create = Create {
            password_hash: Some("p".to_owned()),
            device: Some(device("one")),
            call_id: "a".to_owned(),
            ..Create::default()
        };
        world.call(ALICE, &create).unwrap();
        world.call(ALICE, &LogIn { password_hash: "p".to_owned(), device: device("two") }).unwrap();
        world
    }

    fn room() -> OwnedRoomId {
        "!room:myelin.test".try_into().unwrap()
    }

    fn set(world: &World, room_id: Option<OwnedRoomId>, event_type: &str, content: Value) -> Result<(), CallError> {
        let content = to_raw_value(&content).unwrap();
        let call = SetAccountData { token_hash: "one".to_owned(), room_id, event_type: event_type.to_owned(), content };
        world.call(ALICE, &call)
    }

    fn joins(world: &World, position: u64, membership: MembershipState) {
        let call = MembershipChanged {
            room_id: room(),
            position,
            membership,
            event_id: None,
            profile: None,
            stripped_state: Vec::new(),
            predecessor: None,
            elsewhere: None,
        };
        world.call(ALICE, &call).unwrap();
    }

    /// A sync in which every room is read, or fails; `None` if there is nothing new.
    fn syncs(world: &World, device: &str, since: Option<&str>, fails: bool) -> Option<Closed> {
        let (token_hash, since) = (device.to_owned(), since.map(ToOwned::to_owned));
        let plan =
            SyncPlan { token_hash: token_hash.clone(), since: since.clone(), may_wait: true, ..SyncPlan::default() };
        let plan = world.asks(ALICE, &plan)?;
        let read = |room: &crate::user::PlannedRoom| ReadRoom {
            number: room.number,
            to: if fails { room.from.unwrap_or(0) } else { 1_000 },
            failed: fails,
            left: false,
            anew: !fails && room.from.is_none_or(|from| from == 0),
            untold: false,
            typing: None,
        };
        let rooms = plan.rooms.iter().map(read).collect();
        Some(
            world
                .call(
                    ALICE,
                    &SyncClose {
                        token_hash,
                        since,
                        position: plan.position,
                        rooms,
                        rooms_told: false,
                        presence: None,
                        without_messages: false,
                    },
                )
                .unwrap(),
        )
    }

    fn told(closed: &Closed) -> Value {
        let account: Vec<_> = closed.account_data.iter().filter(|event| event.event_type != PUSH_RULES).collect();
        json!([account, closed.room_account_data])
    }

    #[test]
    fn each_device_learns_each_change_once() {
        let world = alice();
        set(&world, None, "a", json!({ "n": 1 })).unwrap();
        let first = ["one", "two"].map(|device| syncs(&world, device, None, false).unwrap());
        for closed in &first {
            assert_eq!(told(closed), json!([[{ "type": "a", "content": { "n": 1 } }], []]));
        }
        assert!(syncs(&world, "one", Some(&first[0].next_batch), false).is_none(), "nothing new");
        set(&world, None, "a", json!({ "n": 1 })).unwrap();
        assert!(syncs(&world, "one", Some(&first[0].next_batch), false).is_none(), "the same again is no news");
        set(&world, None, "b", json!({})).unwrap();
        world.evict(&Address::new(ActorKind::User, ALICE));
        set(&world, None, "a", json!({ "n": 2 })).unwrap();
        let next = syncs(&world, "one", Some(&first[0].next_batch), false).unwrap();
        let both = json!([[{ "type": "b", "content": {} }, { "type": "a", "content": { "n": 2 } }], []]);
        assert_eq!(told(&next), both);
        assert!(syncs(&world, "one", Some(&next.next_batch), false).is_none());
        assert_eq!(told(&syncs(&world, "two", Some(&first[1].next_batch), false).unwrap()), both);
    }

    #[test]
    fn a_room_brings_its_data_when_it_is_joined() {
        let world = alice();
        let start = syncs(&world, "one", None, false).map_or_else(String::new, |closed| closed.next_batch);
        set(&world, Some(room()), "a", json!({ "n": 1 })).unwrap();
        let away = syncs(&world, "one", Some(&start), false).unwrap();
        assert_eq!(told(&away), json!([[], []]), "the user is not in the room");
        joins(&world, 5, MembershipState::Join);
        let events = json!([{ "type": "a", "content": { "n": 1 } }]);
        let failed = syncs(&world, "one", Some(&away.next_batch), true).unwrap();
        assert_eq!(told(&failed), json!([[], []]), "the device does not know the room yet");
        for token in [&away.next_batch, &failed.next_batch] {
            let joined = syncs(&world, "one", Some(token), false).unwrap();
            assert_eq!(told(&joined), json!([[], [{ "room_id": room(), "joined": true, "events": events }]]));
        }
        let joined = syncs(&world, "one", Some(&failed.next_batch), false).unwrap();
        assert!(syncs(&world, "one", Some(&joined.next_batch), false).is_none());
        set(&world, Some(room()), "b", json!({})).unwrap();
        let more = syncs(&world, "one", Some(&joined.next_batch), false).unwrap();
        let events = json!([{ "type": "b", "content": {} }]);
        assert_eq!(told(&more), json!([[], [{ "room_id": room(), "joined": true, "events": events }]]));
        joins(&world, 9, MembershipState::Leave);
        let left = syncs(&world, "one", Some(&joined.next_batch), false).unwrap();
        assert_eq!(told(&left), json!([[], [{ "room_id": room(), "joined": false, "events": events }]]));
        set(&world, Some(room()), "b", json!({ "n": 2 })).unwrap();
        let later = syncs(&world, "one", Some(&left.next_batch), false).unwrap();
        assert_eq!(told(&later), json!([[], []]), "a room left long ago is not shown for its data");
    }

    #[test]
    fn a_room_that_said_the_user_left_brings_nothing_more() {
        let world = alice();
        joins(&world, 5, MembershipState::Join);
        let first = syncs(&world, "one", None, false).unwrap();
        // The room told the device that the user left, before it told the user.
        let (number, to) = (1, 2_000);
        let rooms = vec![ReadRoom { number, to, failed: false, anew: false, left: true, untold: false, typing: None }];
        let (token_hash, since) = ("one".to_owned(), Some(first.next_batch.clone()));
        let position = first.next_batch.strip_prefix('s').unwrap().split('_').next().unwrap().parse().unwrap();
        let close = SyncClose {
            token_hash,
            since,
            position,
            rooms,
            rooms_told: false,
            presence: None,
            without_messages: false,
        };
        let mut closed = world.call(ALICE, &close).unwrap();
        for late in [false, true] {
            set(&world, Some(room()), "a", json!({ "late": late })).unwrap();
            closed = syncs(&world, "one", Some(&closed.next_batch), false).unwrap();
            assert!(closed.room_account_data.iter().all(|room| !room.joined), "{}", told(&closed));
            joins(&world, 2_000, MembershipState::Ban);
        }
        // A later membership counts, as ever.
        joins(&world, 2_001, MembershipState::Join);
        let back = syncs(&world, "one", Some(&closed.next_batch), false).unwrap();
        assert!(back.room_account_data.iter().any(|room| room.joined), "{}", told(&back));
    }

    #[test]
    fn of_an_answer_in_pieces_only_what_was_told_is_told() {
        let world = alice();
        joins(&world, 5, MembershipState::Join);
        let first = syncs(&world, "one", None, false).unwrap();
        set(&world, Some(room()), "a", json!({})).unwrap();
        let since = Some(first.next_batch);
        let plan = SyncPlan { token_hash: "one".to_owned(), since: since.clone(), ..SyncPlan::default() };
        let plan = world.call(ALICE, &plan).unwrap();
        assert!(matches!(&*plan.rooms, [room] if room.has_account_data), "{:?}", plan.rooms);
        for untold in [false, true] {
            let (number, to) = (1, 1_000);
            let rooms = vec![ReadRoom { number, to, failed: false, anew: false, left: false, untold, typing: None }];
            let close = SyncClose {
                token_hash: "one".to_owned(),
                since: since.clone(),
                position: plan.position,
                rooms,
                rooms_told: true,
                presence: None,
                without_messages: false,
            };
            let closed = world.call(ALICE, &close).unwrap();
            assert_eq!(closed.room_account_data.len(), usize::from(untold), "{}", told(&closed));
        }
    }

    #[test]
    fn there_are_bounds() {
        let world = alice();
        let long = |bytes: usize| json!({ "a": "x".repeat(bytes) });
        let too_large = |outcome: Result<(), CallError>| {
            assert!(matches!(outcome, Err(CallError::Refused(Refusal::TooLarge(_)))), "{outcome:?}");
        };
        // {"a":"…"}
        set(&world, None, "0", long(CONTENT_BYTES_MAX - 8)).unwrap();
        too_large(set(&world, None, "0", long(CONTENT_BYTES_MAX - 7)));
        let outcome = set(&world, None, &"t".repeat(TYPE_BYTES_MAX + 1), json!({}));
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::InvalidParam(_)))), "{outcome:?}");
        for number in 1..TOTAL_BYTES_MAX / CONTENT_BYTES_MAX as u64 {
            set(&world, None, &number.to_string(), long(CONTENT_BYTES_MAX - 8)).unwrap();
        }
        too_large(set(&world, None, "one more", json!({})));
        for number in 0..ENTRIES_MAX {
            set(&world, None, &number.to_string(), json!({})).unwrap();
        }
        too_large(set(&world, Some(room()), "one more", json!({})));
        set(&world, None, "0", json!({ "changed": true })).unwrap();
    }

    #[test]
    fn what_the_server_manages_is_not_the_clients_to_set() {
        let world = alice();
        for event_type in ["m.fully_read", "m.push_rules"] {
            for room_id in [None, Some(room())] {
                let outcome = set(&world, room_id, event_type, json!({}));
                assert!(matches!(outcome, Err(CallError::Refused(Refusal::ServerManaged(_)))), "{outcome:?}");
            }
        }
        let event_id = OwnedEventId::try_from("$e").unwrap();
        world.call(ALICE, &SetFullyRead { token_hash: "two".to_owned(), room_id: room(), event_id }).unwrap();
        let (token_hash, event_type) = ("one".to_owned(), FULLY_READ.to_owned());
        let call = GetAccountData { token_hash, room_id: Some(room()), event_type };
        assert_eq!(world.call(ALICE, &call).unwrap().get(), r#"{"event_id":"$e"}"#);
    }
}
