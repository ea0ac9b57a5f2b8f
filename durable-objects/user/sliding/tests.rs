//! Connections, as a request tier has them: planned, read and closed.

use std::{collections::BTreeMap, rc::Rc};

use domain::{Refusal, power::Preset};
use platform::{ActorKind, Address, Sql};
use ruma_common::{OwnedRoomId, OwnedUserId, user_id};
use serde_json::{Value, json};

use super::{
    AskedRoom, DeviceRoom, LearnFacts, Passed, ReadSliding, RoomConfig, Scope, SlidingClose, SlidingList, SlidingPlan,
    SlidingPlanned, connection::CONNECTIONS_MAX,
};
use crate::{
    CallError,
    room::{
        Facts, Listen, MarkRead, MembershipAction, NewReceipt, ReceiptKind, RequiredState, Selection, SlidingDelta,
        StatePattern,
    },
    user::{Create, DeleteDevices, NewDevice, Nudge, NudgeReply, RoomsHeard, SyncPlan},
    world::World,
};

fn alice() -> OwnedUserId {
    user_id!("@alice:myelin.test").to_owned()
}

fn bob() -> OwnedUserId {
    user_id!("@bob:myelin.test").to_owned()
}

fn world() -> Rc<World> {
    let world = World::new(1);
    for (user, token) in [(alice(), "a"), (bob(), "b")] {
        let create = Create {
            password_hash: Some("h".to_owned()),
            device: Some(NewDevice::new("PHONE", token)),
            call_id: token.to_owned(),
            ..Create::default()
        };
        world.call(user.as_str(), &create).unwrap();
    }
    world
}

/// Alice's connection, as her client keeps it.
struct Client {
    world: Rc<World>,
    plan: SlidingPlan,
    /// Message bodies by room, as they came.
    heard: BTreeMap<OwnedRoomId, Vec<String>>,
}

impl Client {
    fn new(world: &Rc<World>) -> Self {
        let config = RoomConfig { timeline_limit: 20, ..RoomConfig::default() };
        let list = SlidingList { name: "all".to_owned(), config, ..SlidingList::default() };
        let plan = SlidingPlan { token_hash: "a".to_owned(), lists: vec![list], ..SlidingPlan::default() };
        Self { world: world.clone(), plan, heard: BTreeMap::new() }
    }

    fn shows(mut self, last: u64) -> Self {
        self.plan.lists[0].ranges = Some(vec![(0, last)]);
        self
    }

    fn plans(&self) -> Result<SlidingPlanned, CallError> {
        self.world.passes(1);
        self.world.call(alice().as_str(), &self.plan)
    }

    /// Reads what is planned, but for the rooms that fail: what was read, what they tell, and whether that is news.
    fn reads(
        &self,
        planned: &SlidingPlanned,
        fails: &[&OwnedRoomId],
    ) -> (Vec<ReadSliding>, BTreeMap<OwnedRoomId, Value>, bool) {
        let (mut rooms, mut read, mut news) = (BTreeMap::new(), Vec::new(), false);
        for room in planned.rooms.iter().filter(|room| !fails.contains(&&room.room_id)) {
            let delta = SlidingDelta {
                user: alice(),
                device: planned.device.clone(),
                connection: String::new(),
                from: room.from,
                live_after: room.live_after,
                timeline_limit: room.timeline_limit,
                expanded: room.expanded,
                required: planned.states[room.state].clone(),
                known: room.known.clone(),
                receipts: room.receipts,
                typing: room.typing.map(|typing| typing.seen),
                push_rules: None,
                ignored: Vec::new(),
            };
            let reply = self.world.call(room.room_id.as_str(), &delta).unwrap();
            news |= room.settles || reply.room.is_some();
            read.push(ReadSliding::of(room, &reply));
            if let Some(told) = reply.room {
                rooms.insert(room.room_id.clone(), serde_json::from_str(told.get()).unwrap());
            }
        }
        (read, rooms, news)
    }

    /// Reads what is planned, but for the rooms that fail, and closes; `None`: nothing to tell.
    fn ends(
        &self,
        planned: &SlidingPlanned,
        fails: &[&OwnedRoomId],
        keeps: bool,
    ) -> Option<(String, BTreeMap<OwnedRoomId, Value>, Vec<AskedRoom>)> {
        let (read, rooms, news) = self.reads(planned, fails);
        let (pos, asked) = self.closes(planned, read, news, keeps)?;
        Some((pos, rooms, asked))
    }

    fn closes(
        &self,
        planned: &SlidingPlanned,
        read: Vec<ReadSliding>,
        news: bool,
        keeps: bool,
    ) -> Option<(String, Vec<AskedRoom>)> {
        let close = SlidingClose {
            token_hash: "a".to_owned(),
            conn_id: self.plan.conn_id.clone(),
            pos: self.plan.pos.clone(),
            position: planned.position,
            extensions: self.plan.extensions.clone(),
            rooms: read,
            states: planned.states.clone(),
            asked: planned.asked.clone(),
            data_rooms: planned.data_rooms.clone(),
            device_rooms_left: Vec::new(),
            devices_read: BTreeMap::new(),
            news,
            keeps,
            request: self.plan.request.clone(),
        };
        let closed = self.world.call(alice().as_str(), &close).ok()?;
        Some((closed.pos?, closed.asked))
    }

    /// Rooms that may be silent are asked to speak.
    fn listens(&self, planned: &SlidingPlanned) {
        let Some(up_to) = planned.unheard.iter().map(|room| room.number).max() else { return };
        let head = |room: &DeviceRoom| {
            let head = self.world.call(room.room_id.as_str(), &Listen { user: alice() }).unwrap();
            (room.number, head)
        };
        let heads = planned.unheard.iter().map(head).collect();
        let (token_hash, pos) = ("a".to_owned(), self.plan.pos.clone().unwrap());
        let heard = RoomsHeard { token_hash, conn_id: self.plan.conn_id.clone(), pos, up_to, heads };
        self.world.call(alice().as_str(), &heard).unwrap();
    }

    /// One answer that arrives; the rooms it tells.
    fn slides(&mut self) -> BTreeMap<OwnedRoomId, Value> {
        let planned = self.plans().unwrap();
        if planned.quiet {
            self.listens(&planned);
            return BTreeMap::new();
        }
        let Some((pos, rooms, _)) = self.ends(&planned, &[], false) else { return BTreeMap::new() };
        self.plan.pos = Some(pos);
        for (room_id, room) in &rooms {
            let timeline = room["timeline"].as_array().cloned().unwrap_or_default();
            let bodies = timeline.iter().filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned()));
            self.heard.entry(room_id.clone()).or_default().extend(bodies);
        }
        rooms
    }
}

fn says(world: &World, room_id: &OwnedRoomId, body: &str) {
    // A new room's events take some milliseconds of the log, whatever the clock says.
    world.passes(100);
    world.sends(&alice(), room_id, "m.room.message", None, &json!({ "body": body })).unwrap();
    world.settle();
}

fn room(world: &World) -> OwnedRoomId {
    let room_id = world.creates_room(&alice(), "12", Preset::PublicChat);
    world.settle();
    room_id
}

#[test]
fn whatever_is_lost_everything_is_told_once() {
    let world = world();
    let rooms: Vec<_> = (0..3).map(|_| room(&world)).collect();
    let mut client = Client::new(&world).shows(1);
    let mut said: BTreeMap<OwnedRoomId, Vec<String>> = BTreeMap::new();
    for _ in 0..2 {
        client.slides();
    }
    for number in 0..200 {
        let room_id = &rooms[world.dice.roll(3) as usize];
        match world.dice.roll(6) {
            0 => {
                // An answer that never arrives.
                let planned = client.plans().unwrap();
                if !planned.quiet {
                    client.ends(&planned, &[], false);
                }
            }
            1 => drop(client.slides()),
            2 => {
                // A room that fails, in an answer that arrives.
                let planned = client.plans().unwrap();
                if !planned.quiet && planned.rooms.iter().any(|room| room.room_id == *room_id) {
                    let others_quiet = planned.rooms.len() == 1;
                    if !others_quiet {
                        continue;
                    }
                    assert!(client.ends(&planned, &[room_id], false).is_none(), "nothing to tell");
                }
            }
            3 => world.evict(&Address::new(ActorKind::User, alice().as_str())),
            _ => {
                let body = number.to_string();
                says(&world, room_id, &body);
                said.entry(room_id.clone()).or_default().push(body);
            }
        }
    }
    // The window goes over all of them at last.
    client.plan.lists[0].ranges = None;
    for _ in 0..4 {
        client.slides();
    }
    client.heard.retain(|_, bodies| !bodies.is_empty());
    assert_eq!(client.heard, said);
    assert!(client.plans().unwrap().quiet);
}

/// What comes while the news of what was read already is on its way, and before anybody has a plan.
#[test]
fn what_comes_after_what_was_read_ahead_of_its_news_is_told() {
    let world = world();
    let room_id = room(&world);
    let mut client = Client::new(&world).shows(1);
    let sends = |body: &str| {
        world.sends(&alice(), &room_id, "m.room.message", None, &json!({ "body": body })).unwrap();
        world.head_of(&room_id)
    };
    let nudges = |to: u64| {
        let nudge = serde_json::from_value(json!({ "room_id": room_id, "to": to, "notify": to })).unwrap();
        let _reply: NudgeReply = world.call::<Nudge>(alice().as_str(), &nudge).unwrap();
    };
    world.passes(100);
    let one = sends("one");
    client.slides();
    let two = sends("two");
    nudges(one);
    nudges(two);
    client.slides();
    assert_eq!(client.heard[&room_id], ["one", "two"]);
}

#[test]
fn what_is_quiet_writes_nothing_and_reads_no_room() {
    let world = world();
    let unseen = room(&world);
    world.passes(1_000);
    let shown = room(&world);
    let mut client = Client::new(&world).shows(0);
    assert!(client.slides().into_keys().eq([shown.clone()]));
    let unheard: Vec<_> = client.plans().unwrap().unheard.into_iter().map(|room| room.room_id).collect();
    assert_eq!(unheard, [unseen.clone(), shown]);
    client.slides();
    let user = Address::new(ActorKind::User, alice().as_str());
    let before = world.rows_of(&user);
    for _ in 0..3 {
        let planned = client.plans().unwrap();
        assert!(planned.quiet && planned.unheard.is_empty());
        // Nor is there anything to wait for.
        let wait = SyncPlan {
            token_hash: "a".to_owned(),
            since: Some(planned.wait_since),
            may_wait: true,
            looks_only: true,
            ..SyncPlan::default()
        };
        assert!(world.asks(alice().as_str(), &wait).is_none());
    }
    assert_eq!(world.rows_of(&user), before);
    // Nor is it news that a room is gone which was never told.
    world.changes(&alice(), &unseen, &alice(), MembershipAction::Leave).unwrap();
    world.settle();
    assert!(client.plans().unwrap().quiet);
}

#[test]
fn news_that_are_not_to_be_told_are_passed_by() {
    let world = world();
    let shown = room(&world);
    let mut client = Client::new(&world);
    client.slides();
    world.changes(&bob(), &shown, &bob(), MembershipAction::Join).unwrap();
    world.settle();
    client.slides();
    let latest = world.sends(&alice(), &shown, "m.room.message", None, &json!({ "body": "read" })).unwrap();
    world.settle();
    client.slides();
    let receipt = NewReceipt { kind: ReceiptKind::Public, event_id: latest, thread: None, at_ms: None };
    let read =
        MarkRead { user: bob(), device: "PHONE".into(), receipts: vec![receipt], fully_read: None, marker: None };
    world.call(shown.as_str(), &read).unwrap();
    world.settle();
    let planned = client.plans().unwrap();
    assert_eq!((planned.quiet, planned.rooms.len()), (false, 1), "a receipt moved");
    assert!(client.ends(&planned, &[], false).is_none(), "which this client does not want");
    let passed =
        Passed { position: planned.position, rooms: BTreeMap::from([(planned.rooms[0].number, u64::MAX >> 12)]) };
    let waits_on = SlidingPlan { passed, ..client.plan.clone() };
    assert!(world.call(alice().as_str(), &waits_on).unwrap().quiet);
    // At its end that is kept, and the position stays good.
    assert!(client.ends(&planned, &[], true).is_none());
    assert!(client.plans().unwrap().quiet);
    world.evict(&Address::new(ActorKind::User, alice().as_str()));
    assert!(client.plans().unwrap().quiet);
    says(&world, &shown, "on");
    client.slides();
    assert_eq!(client.heard[&shown], ["read", "on"]);
}

#[test]
fn no_more_rooms_are_read_at_once_than_are_allowed() {
    let world = world();
    let rooms: Vec<_> = (0..12).map(|_| room(&world)).collect();
    let mut client = Client::new(&world);
    let mut told = 0;
    for expected in [5, 5, 2, 0] {
        let planned = client.plans().unwrap();
        assert_eq!((planned.rooms.len(), planned.counts["all"]), (expected, 12));
        told += client.slides().len();
    }
    assert_eq!(told, rooms.len());
}

#[test]
fn rooms_tell_what_happens_while_a_connection_is_in_use() {
    let world = world();
    let (silent, _) = (room(&world), room(&world));
    world.passes(120_000);
    let count = || world.nudges.borrow().get(alice().as_str()).map_or(0, Vec::len);
    let mut client = Client::new(&world);
    client.slides();
    world.passes(120_000);
    let before = count();
    for number in 0..3 {
        says(&world, &silent, &number.to_string());
    }
    assert_eq!(count() - before, 3, "nobody waits, and yet");
}

#[test]
fn a_connection_is_of_its_device_and_its_name() {
    let world = world();
    let unknown = |plan: &SlidingPlan| {
        let refused = world.call(alice().as_str(), plan);
        assert!(matches!(refused, Err(CallError::Refused(Refusal::UnknownPos))), "{refused:?}");
    };
    let mut clients: Vec<_> = (0..=CONNECTIONS_MAX)
        .map(|number| {
            world.passes(1);
            let mut client = Client::new(&world);
            client.plan.conn_id = number.to_string();
            client.slides();
            client
        })
        .collect();
    unknown(&clients[0].plan);
    let other = SlidingPlan { conn_id: "2".to_owned(), ..clients[1].plan.clone() };
    unknown(&other);
    world.evict(&Address::new(ActorKind::User, alice().as_str()));
    clients.drain(..1);
    for client in &clients {
        client.plans().unwrap();
    }
    let kept = || {
        let sql = world.sql(&Address::new(ActorKind::User, alice().as_str()));
        sql.query("SELECT count(*) FROM connection", &[]).unwrap().remove(0).unsigned(0).unwrap()
    };
    assert_eq!(kept(), CONNECTIONS_MAX as u64);
    let delete =
        DeleteDevices { token_hash: "a".to_owned(), password_hash: "h".to_owned(), devices: vec!["PHONE".into()] };
    world.call(alice().as_str(), &delete).unwrap();
    assert_eq!(kept(), 0);
}

#[test]
fn a_request_that_was_given_up_takes_nothing_back() {
    let world = world();
    let room = room(&world);
    let mut client = Client::new(&world);
    client.slides();
    // It waits, its client gives it up for another one, and both hear the same.
    client.plan.request = "given up".to_owned();
    assert!(client.plans().unwrap().quiet);
    let given_up = SlidingPlan { goes_on: true, ..client.plan.clone() };
    client.plan.request = "last".to_owned();
    assert!(client.plans().unwrap().quiet);
    says(&world, &room, "hello");
    client.plan.goes_on = true;
    client.slides();
    assert_eq!(client.heard[&room], ["hello"]);
    let refused = world.call(alice().as_str(), &given_up);
    assert!(matches!(refused, Err(CallError::Refused(Refusal::Unknown(_)))), "{refused:?}");
    client.plan.goes_on = false;
    assert!(client.plans().unwrap().quiet, "the answer it has is the last one");
}

#[test]
fn facts_are_learned_and_filtered_by() {
    let world = world();
    let plain = room(&world);
    let mut client = Client::new(&world);
    client.plan.lists[0].filters.is_encrypted = Some(true);
    let planned = client.plans().unwrap();
    assert_eq!((planned.unknown.clone(), planned.counts["all"]), (vec![plain.clone()], 0));
    let learn = |encrypted| LearnFacts {
        token_hash: "a".to_owned(),
        rooms: BTreeMap::from([(plain.clone(), Facts { room_type: None, encrypted })]),
    };
    world.call(alice().as_str(), &learn(false)).unwrap();
    let planned = client.plans().unwrap();
    assert_eq!((planned.unknown.len(), planned.counts["all"]), (0, 0));
    world.call(alice().as_str(), &learn(true)).unwrap();
    assert_eq!(client.plans().unwrap().counts["all"], 1);
}

#[test]
fn what_happens_between_two_rounds_of_a_request_is_still_told() {
    let world = world();
    let (quiet, other) = (room(&world), room(&world));
    let mut client = Client::new(&world);
    for _ in 0..2 {
        client.slides();
    }
    // The first round reads a room that has nothing for this client.
    world.changes(&bob(), &quiet, &bob(), MembershipAction::Join).unwrap();
    world.settle();
    client.slides();
    let latest = world.sends(&alice(), &quiet, "m.room.message", None, &json!({ "body": "first" })).unwrap();
    world.settle();
    client.slides();
    let receipt = NewReceipt { kind: ReceiptKind::Public, event_id: latest, thread: None, at_ms: None };
    let read =
        MarkRead { user: bob(), device: "PHONE".into(), receipts: vec![receipt], fully_read: None, marker: None };
    world.call(quiet.as_str(), &read).unwrap();
    world.settle();
    let planned = client.plans().unwrap();
    let (mut looked, _, news) = client.reads(&planned, &[]);
    assert_eq!((looked.len(), news), (1, false));
    // The second round has the other one alone, for which the room in between had to go out of the window.
    says(&world, &quiet, "between");
    says(&world, &other, "other");
    client = client.shows(0);
    client.plan.passed =
        Passed { position: planned.position, rooms: BTreeMap::from([(looked[0].number, looked[0].to)]) };
    let planned = client.plans().unwrap();
    assert!(planned.rooms.iter().map(|room| &room.room_id).eq([&other]));
    let (read, _, news) = client.reads(&planned, &[]);
    looked.extend(read);
    let (pos, _) = client.closes(&planned, looked, news, false).unwrap();
    (client.plan.pos, client.plan.passed) = (Some(pos), Passed::default());
    client.plan.lists[0].ranges = None;
    client.slides();
    assert_eq!(client.heard[&quiet], ["first", "between"]);
}

#[test]
fn who_came_back_before_the_room_was_read_is_in_it() {
    let world = world();
    let shown = room(&world);
    let mut client = Client::new(&world);
    client.slides();
    world.changes(&alice(), &shown, &alice(), MembershipAction::Leave).unwrap();
    world.settle();
    let planned = client.plans().unwrap();
    assert!(planned.rooms[0].gone);
    world.passes(100);
    world.changes(&alice(), &shown, &alice(), MembershipAction::Join).unwrap();
    world.settle();
    if let Some((pos, ..)) = client.ends(&planned, &[], false) {
        client.plan.pos = Some(pos);
    }
    says(&world, &shown, "back");
    client.slides();
    assert_eq!(client.plans().unwrap().counts["all"], 1);
    assert_eq!(client.heard[&shown], ["back"]);
}

#[test]
fn a_connection_goes_on_where_it_wants_more_states_than_are_remembered() {
    let world = world();
    let rooms: Vec<_> = (0..5).map(|_| room(&world)).collect();
    let mut client = Client::new(&world);
    for begins in [0, 10] {
        let wants = |number: usize| {
            let include = StatePattern { event_type: Some(format!("t{number}")), state_key: None };
            let selections = [Selection { include, exclude: Default::default() }].into();
            let required = RequiredState { selections, lazy_members: false };
            RoomConfig { timeline_limit: 20, required }
        };
        client.plan.subscriptions =
            rooms.iter().enumerate().map(|(index, room)| (room.clone(), wants(begins + index))).collect();
        assert!(!client.plans().unwrap().rooms.is_empty());
        client.slides();
        assert!(client.plans().unwrap().rooms.len() < 3, "those of which the state is not noted are not read again");
        client.slides();
        assert!(client.plans().unwrap().quiet);
    }
    for room in &rooms {
        says(&world, room, "on");
        client.slides();
        assert_eq!(client.heard[room], ["on"]);
    }
}

#[test]
fn who_does_not_ask_whose_devices_changed_is_told_once_they_do() {
    let world = world();
    let shown = room(&world);
    let mut client = Client::new(&world);
    client.plan.extensions.account_data = Some(Scope { lists: Some(vec!["*".to_owned()]), rooms: None });
    assert_eq!(client.plans().unwrap().data_rooms.len(), 1, "all lists");
    client.plan.extensions.e2ee = true;
    client.slides();
    client.plan.extensions.e2ee = false;
    world.changes(&bob(), &shown, &bob(), MembershipAction::Join).unwrap();
    world.settle();
    assert!(client.slides().contains_key(&shown));
    client.plan.extensions.e2ee = true;
    let asked: Vec<_> = client.plans().unwrap().device_rooms.into_iter().map(|room| room.room_id).collect();
    assert_eq!(asked, [shown]);
}

#[test]
fn rooms_are_asked_to_speak_again_after_a_long_time() {
    let world = world();
    room(&world);
    let mut client = Client::new(&world);
    for _ in 0..2 {
        client.slides();
    }
    for evicts in [false, true] {
        assert!(client.plans().unwrap().unheard.is_empty());
        world.passes(8 * 24 * 3_600_000);
        if evicts {
            world.evict(&Address::new(ActorKind::User, alice().as_str()));
        }
        assert_eq!(client.plans().unwrap().unheard.len(), 1);
        client.slides();
    }
}
