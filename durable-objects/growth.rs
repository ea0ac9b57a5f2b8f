//! What an operation costs must not grow with what there is: members, events, rooms.
//!
//! Counted in steps of SQLite's virtual machine, which are the same on every machine and at every hour.

use std::rc::Rc;

use domain::{Pdu, event::Draft, power::Preset, signed_key::testing::Signer};
use platform::{ActorKind, Address, Sql, Value};
use ruma_common::{OwnedRoomId, RoomId, UserId, user_id};
use serde::de::DeserializeOwned;
use serde_json::{json, value::to_raw_value};

use crate::{
    Call,
    room::{Delta, GetRelations, GetStateEvent, MembershipAction, Messages, ReceiveEvent, Received},
    user::{
        ClaimKeys, Create, GetKeys, LogIn, MembershipChanged, NewDevice, Nudge, Plan, ReceiveToDevice, SyncClose,
        SyncPlan, UploadKeys,
    },
    world::{MemorySql, World},
};

/// How much less and more there is.
const SMALL: u64 = 100;
const LARGE: u64 = 10_000;
/// Of one user.
const DEVICES: u64 = 500;
const HOUR_MS: u64 = 3_600_000;
/// A tree that is so much larger is a little deeper.
const GROWS_MAX: f64 = 1.5;

fn alice() -> &'static UserId {
    user_id!("@alice:myelin.test")
}

/// A room, and what its operations cost.
struct Grown {
    world: Rc<World>,
    room_id: OwnedRoomId,
    sql: Rc<MemorySql>,
    costs: Vec<(&'static str, u64)>,
}

impl Grown {
    fn new() -> Self {
        let world = World::new(1);
        let room_id = world.creates_room(alice(), "11", Preset::PublicChat);
        let sql = world.sql(&room(&room_id));
        Self { world, room_id, sql, costs: Vec::new() }
    }

    fn costs(&mut self, what: &'static str, run: impl FnOnce(&World, &RoomId)) {
        let before = self.sql.steps.get();
        run(&self.world, &self.room_id);
        self.costs.push((what, self.sql.steps.get() - before));
        self.world.settle();
    }

    fn says(&mut self, what: &'static str) {
        self.costs(what, |world, room_id| {
            world.sends(alice(), room_id, "m.room.message", None, &json!({ "body": "hello" })).unwrap();
        });
    }

    fn calls<C: Call + DeserializeOwned>(&mut self, what: &'static str, call: serde_json::Value) {
        let call: C = serde_json::from_value(call).unwrap();
        self.costs(what, |world, room_id| drop(world.call(room_id.as_str(), &call).unwrap()));
    }

    /// Everything that a room is asked for all the time.
    fn usual(&mut self) {
        let head = |sql: &MemorySql| sql.query("SELECT max(position) FROM event", &[]).unwrap()[0].unsigned(0).unwrap();
        let by_alice = |more: serde_json::Value| {
            let mut call = json!({ "user": alice(), "device": "PHONE" });
            call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            call
        };
        // Transactions of the last day are read again by a room that wakes; these events are older.
        self.world.passes(25 * HOUR_MS);
        self.world.evict(&room(&self.room_id));
        self.says("a message, the room asleep");
        self.says("a message");
        // Whoever looks first has the members counted, once.
        let look: Delta = serde_json::from_value(by_alice(json!({}))).unwrap();
        self.world.call(self.room_id.as_str(), &look).unwrap();
        let from = head(&self.sql);
        self.says("another message");
        self.calls::<Delta>("a sync after a message", by_alice(json!({ "from": from })));
        let bob = user_id!("@bob:myelin.test");
        self.calls::<Delta>("a first sync, lazy", by_alice(json!({ "state": { "lazy_load_members": true } })));
        let from = head(&self.sql);
        self.costs("a join", |world, room_id| world.changes(bob, room_id, bob, MembershipAction::Join).unwrap());
        self.calls::<Delta>("a sync after a join", by_alice(json!({ "from": from })));
        self.calls::<Messages>("the newest page", by_alice(json!({ "direction": "backwards" })));
        self.calls::<Messages>("the oldest page", by_alice(json!({ "direction": "forwards" })));
        let root =
            self.world.sends(alice(), &self.room_id, "m.room.message", None, &json!({ "body": "root" })).unwrap();
        for _ in 0..5 {
            let relation = json!({ "rel_type": "m.thread", "event_id": root });
            let content = json!({ "body": "in a thread", "m.relates_to": relation });
            self.costs("a message in a thread", |world, room_id| {
                world.sends(alice(), room_id, "m.room.message", None, &content).unwrap();
            });
        }
        let related = by_alice(json!({ "direction": "backwards", "event_id": root, "limit": 3 }));
        self.calls::<GetRelations>("a page of relations", related.clone());
        let mut recursing = related;
        recursing["recurse"] = true.into();
        self.calls::<GetRelations>("a page of relations of relations", recursing);
        let name = by_alice(json!({ "type": "m.room.join_rules", "state_key": "" }));
        self.calls::<GetStateEvent>("one state event", name);
    }
}

fn room(room_id: &RoomId) -> Address {
    Address::new(ActorKind::Room, room_id.as_str())
}

#[track_caller]
fn does_not_grow(small: &[(&str, u64)], large: &[(&str, u64)]) {
    for ((what, least), (_, most)) in small.iter().zip(large) {
        println!("{what}: {least} steps, {most} when large");
    }
    for ((what, least), (_, most)) in small.iter().zip(large) {
        assert!(*most as f64 <= *least as f64 * GROWS_MAX, "{what}: {least} steps became {most}");
    }
}

#[test]
fn with_the_members_of_a_room() {
    let costs = |members: u64| {
        let mut grown = Grown::new();
        grown.world.crowds(&grown.room_id, members);
        // Local ones, of whom nobody listens.
        let silent = Value::Blob(std::iter::once(0).chain(vec![0xff; members as usize / 8 + 2]).collect());
        for (statement, params) in [
            (
                "UPDATE member SET follower = CAST(substr(user_id, 6) AS INTEGER) + 8 WHERE user_id LIKE '@user%'",
                Vec::new(),
            ),
            ("UPDATE meta SET value = ?1 WHERE key = 'followers'", vec![Value::from(members + 9)]),
            ("INSERT OR REPLACE INTO meta (key, value) VALUES ('silent', ?1)", vec![silent]),
            (
                "INSERT OR REPLACE INTO meta (key, value) VALUES ('silent_since', ?1)",
                vec![(grown.world.now_ms() + 25 * HOUR_MS).to_string().into()],
            ),
        ] {
            grown.sql.query(statement, &params).unwrap();
        }
        grown.usual();
        grown.costs
    };
    does_not_grow(&costs(SMALL), &costs(LARGE));
}

#[test]
fn with_the_events_of_a_room() {
    let costs = |events: u64| {
        let mut grown = Grown::new();
        grown
            .sql
            .query(
                "INSERT INTO event (position, event_id, type, sender, json)
                 WITH RECURSIVE said (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM said WHERE n < ?1)
                 SELECT (SELECT max(position) FROM event) + n, printf('$said%d', n), 'm.room.message', sender,
                 json_replace(json, '$.type', 'm.room.message') FROM said, event
                 WHERE position = (SELECT max(position) FROM event)",
                &[events.into()],
            )
            .unwrap();
        grown.usual();
        grown.costs
    };
    does_not_grow(&costs(SMALL), &costs(LARGE));
}

/// What it costs to take in events of a fork, once the room was forked before.
struct Forked {
    grown: Grown,
    /// The message before the fork.
    prev: Pdu,
    number: u64,
}

fn zoe() -> &'static UserId {
    user_id!("@zoe:there.test")
}

fn yan() -> &'static UserId {
    user_id!("@yan:there.test")
}

impl Forked {
    fn new() -> Self {
        let grown = Grown::new();
        for user in [zoe(), yan()] {
            grown.world.joins_from_elsewhere(&grown.room_id, user);
        }
        let levels = json!({ "users": { (alice().as_str()): 100 }, "state_default": 0 });
        grown.world.sends(alice(), &grown.room_id, "m.room.power_levels", Some(""), &levels).unwrap();
        let prev = grown.world.newest(&grown.room_id, "m.room.power_levels", "");
        Self { grown, prev, number: 0 }
    }

    /// Both sides go on from here.
    fn meets(&mut self) {
        let (world, room_id) = (&self.grown.world, &self.grown.room_id);
        while self.grown.sql.query("SELECT 1 FROM meta WHERE key = 'extremities'", &[]).unwrap().len() == 1 {
            world.sends(alice(), room_id, "m.room.message", None, &json!({})).unwrap();
        }
        world.sends(alice(), room_id, "m.room.message", None, &json!({})).unwrap();
        self.prev = world.newest(room_id, "m.room.message", "");
    }

    fn says(&mut self, sender: &UserId, event_type: &str, state_key: &str) -> ReceiveEvent {
        self.number += 1;
        let content = json!({ "membership": "join", "displayname": self.number.to_string() });
        let draft = Draft {
            event_type: event_type.into(),
            content: to_raw_value(&content).unwrap(),
            state_key: Some(state_key.to_owned()),
            sender: sender.to_owned(),
            redacts: None,
        };
        let event = self.grown.world.says_elsewhere(&self.grown.room_id, &draft, &self.prev);
        ReceiveEvent::of(event)
    }

    /// Somebody is called something else on the one side, and others do something on the other.
    fn forks(&mut self) {
        for (what, by, event_type, state_key) in [
            ("a name on a fork", zoe(), "m.room.member", zoe().as_str()),
            ("state on a fork", zoe(), "m.x", ""),
            ("a name on a fork, of somebody else", yan(), "m.room.member", yan().as_str()),
        ] {
            self.meets();
            let theirs = self.says(by, event_type, state_key);
            for (sender, event_type, key) in [(yan(), "m.room.member", yan().as_str()), (zoe(), "m.y", "")] {
                let ours = self.says(sender, event_type, key);
                let received = self.grown.world.call(self.grown.room_id.as_str(), &ours).unwrap();
                assert_eq!(received, Received::Accepted);
            }
            self.grown.costs(what, |world, room_id| {
                assert_eq!(world.call(room_id.as_str(), &theirs).unwrap(), Received::Accepted);
            });
        }
    }

    fn costs(mut self) -> Vec<(&'static str, u64)> {
        self.forks();
        self.grown.costs.clear();
        self.forks();
        self.grown.costs
    }
}

#[test]
fn where_forks_meet_with_the_members_of_a_room() {
    let costs = |members: u64| {
        let forked = Forked::new();
        let (world, room_id) = (&forked.grown.world, &forked.grown.room_id);
        let named = ["m.room.create", "m.room.power_levels", "m.room.join_rules"];
        let named = named.map(|event_type| world.newest(room_id, event_type, "").event_id().to_owned());
        world.crowds(room_id, members);
        forked
            .grown
            .sql
            .query(
                "UPDATE event SET json = json_replace(json, '$.auth_events', json(?1)) WHERE sender LIKE '@user%'",
                &[serde_json::to_string(&named).unwrap().into()],
            )
            .unwrap();
        forked.costs()
    };
    does_not_grow(&costs(SMALL), &costs(LARGE * 10));
}

/// Somebody calls themselves something else again and again.
#[test]
fn where_forks_meet_with_the_events_that_one_is_judged_by() {
    let costs = |renamed: u64| {
        let forked = Forked::new();
        let (world, room_id, sql) = (&forked.grown.world, &forked.grown.room_id, &forked.grown.sql);
        let named = ["m.room.create", "m.room.power_levels"];
        let named = named.map(|event_type| world.newest(room_id, event_type, "").event_id().to_owned());
        for user in [zoe(), yan()] {
            let join = world.newest(room_id, "m.room.member", user.as_str());
            let head = world.head_of(room_id);
            let localpart = user.localpart();
            let named = |of: usize| Value::from(named[of].as_str());
            let statements: [(&str, Vec<Value>); 3] = [
                (
                    "INSERT INTO event (position, event_id, type, state_key, sender, json, generation)
                     WITH RECURSIVE named (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM named WHERE n < ?1)
                     SELECT ?2 + n, printf('$%s%d', ?3, n), type, state_key, sender,
                      json_replace(json, '$.auth_events',
                       json_array(?5, ?6, CASE n WHEN 1 THEN ?4 ELSE printf('$%s%d', ?3, n - 1) END)), 100 + n
                     FROM named, event WHERE event_id = ?4",
                    vec![
                        renamed.into(),
                        head.into(),
                        localpart.into(),
                        join.event_id().as_str().into(),
                        named(0),
                        named(1),
                    ],
                ),
                (
                    "INSERT INTO state_change (type, state_key, position, before, after)
                     SELECT type, state_key, position, NULL, position FROM event WHERE position > ?1",
                    vec![head.into()],
                ),
                (
                    "UPDATE state SET position = ?1 WHERE type = 'm.room.member' AND state_key = ?2",
                    vec![(head + renamed).into(), user.as_str().into()],
                ),
            ];
            for (statement, bound) in statements {
                sql.query(statement, &bound).unwrap();
            }
        }
        world.evict(&room(room_id));
        forked.costs()
    };
    does_not_grow(&costs(SMALL), &costs(20_000));
}

/// A device that syncs when one of many rooms has news.
#[test]
fn with_the_rooms_of_a_user() {
    let costs = |rooms: u64| {
        let device = Syncing::new();
        for number in 0..rooms {
            device.joins(number);
        }
        // Every room has news that the user was not told of.
        let plan = device.plans(None);
        let mut since = device.closes(None, &plan, 2_000);
        let mut costs = Vec::new();
        for (told, planned, closed) in [
            ("news", "plan", "close"),
            ("more news", "plan again", "close again"),
            ("news at last", "last plan", "last close"),
        ] {
            costs.push((told, device.costs(|| device.hears_of(7)).0));
            let (cost, plan) = device.costs(|| device.plans(Some(&since)));
            costs.push((planned, cost));
            assert_eq!(plan.rooms.len(), 1);
            let (cost, next) = device.costs(|| device.closes(Some(&since), &plan, device.world.now_ms()));
            costs.push((closed, cost));
            since = next;
        }
        costs
    };
    does_not_grow(&costs(SMALL), &costs(SMALL * 20));
}

/// A device that encrypts, among many of its user's.
#[test]
fn with_the_devices_of_a_user() {
    let costs = |devices: u64| {
        let phone = Syncing::new();
        for number in 1..devices {
            phone.has_another(number);
        }
        phone.uploads("hash", "PHONE", 0);
        let plan = phone.plans(None);
        let since = phone.closes(None, &plan, phone.world.now_ms());
        let message = |number: u64, device: &str| phone.hears_from_bob(number, device);
        // The first one to be received arms an alarm that forgets it some day.
        message(1, "PHONE");
        let mut costs = vec![
            ("keys come", phone.costs(|| phone.uploads("hash", "PHONE", 1)).0),
            ("a key is claimed", phone.costs(|| phone.claims("PHONE")).0),
            ("a message to a device", phone.costs(|| message(2, "PHONE")).0),
        ];
        let (cost, plan) = phone.costs(|| phone.plans(Some(&since)));
        costs.push(("plan", cost));
        costs.push(("close", phone.costs(|| phone.closes(Some(&since), &plan, 0)).0));
        let each = |what, cost: u64| (what, cost / devices);
        costs.push(each("a message to all, for each", phone.costs(|| message(3, "*")).0));
        let (cost, keys) = phone.costs(|| phone.calls::<GetKeys>(json!({ "devices": [] })));
        assert_eq!(keys.devices.len() as u64, devices);
        costs.push(each("all keys, for each", cost));
        costs
    };
    does_not_grow(&costs(DEVICES / 20), &costs(DEVICES));
}

#[test]
fn with_the_account_data_of_a_user() {
    let costs = |entries: u64| {
        let phone = Syncing::new();
        phone.hears_from_bob(1, "PHONE");
        let plan = phone.plans(None);
        let mut since = phone.closes(None, &plan, 0);
        let insert = "INSERT INTO account_data (room_id, type, position, content)
            WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
            SELECT printf('!room%d:myelin.test', n), 'm.fully_read', 1, '{}' FROM n";
        phone.sql.query(insert, &[entries.into()]).unwrap();
        let mut costs = Vec::new();
        for (number, what) in [(2, "close"), (3, "close again")] {
            phone.hears_from_bob(number, "PHONE");
            let plan = phone.plans(Some(&since));
            let (cost, next) = phone.costs(|| phone.closes(Some(&since), &plan, 0));
            costs.push((what, cost));
            since = next;
        }
        costs
    };
    does_not_grow(&costs(SMALL), &costs(LARGE));
}

struct Syncing {
    world: Rc<World>,
    sql: Rc<MemorySql>,
}

impl Syncing {
    fn new() -> Self {
        let world = World::new(1);
        let device = NewDevice::new("PHONE".to_owned(), "hash".to_owned());
        let password_hash = Some("hash".to_owned());
        let create = Create { device: Some(device), password_hash, call_id: "create".to_owned(), ..Create::default() };
        world.call(alice().as_str(), &create).unwrap();
        let sql = world.sql(&Address::new(ActorKind::User, alice().as_str()));
        Self { world, sql }
    }

    fn costs<T>(&self, run: impl FnOnce() -> T) -> (u64, T) {
        let before = self.sql.steps.get();
        let outcome = run();
        (self.sql.steps.get() - before, outcome)
    }

    fn calls<C: Call + DeserializeOwned>(&self, call: serde_json::Value) -> C::Reply {
        let call: C = serde_json::from_value(call).unwrap();
        self.world.call(alice().as_str(), &call).unwrap()
    }

    /// Another device logs in, and shows its keys.
    fn has_another(&self, number: u64) {
        let (id, token_hash) = (format!("D{number}"), format!("hash{number}"));
        let device = NewDevice::new(id.clone(), token_hash.clone());
        self.world.call(alice().as_str(), &LogIn { password_hash: "hash".to_owned(), device }).unwrap();
        self.uploads(&token_hash, &id, number);
    }

    fn uploads(&self, token_hash: &str, device_id: &str, number: u64) {
        let key = format!("signed_curve25519:{device_id}{number}");
        let call = json!({
            "token_hash": token_hash,
            "device_keys": Signer::new(1).device(alice().as_str(), device_id),
            "one_time_keys": { key: { "key": "c" } },
        });
        self.calls::<UploadKeys>(call);
    }

    fn hears_from_bob(&self, number: u64, device: &str) {
        self.calls::<ReceiveToDevice>(json!({
            "sender": "@bob:myelin.test", "sender_device": "TABLET", "txn_id": number.to_string(),
            "type": "m.room.encrypted", "messages": { device: { "ciphertext": "x" } },
        }));
    }

    fn claims(&self, device_id: &str) {
        let keys = self.calls::<ClaimKeys>(json!({ "devices": { device_id: "signed_curve25519" } }));
        assert_eq!(keys.len(), 1);
    }

    fn joins(&self, number: u64) {
        let room_id = format!("!room{number}:myelin.test");
        self.calls::<MembershipChanged>(json!({ "room_id": room_id, "position": 1_000, "membership": "join" }));
    }

    fn hears_of(&self, number: u64) {
        self.world.passes(1_000);
        let room_id = format!("!room{number}:myelin.test");
        self.calls::<Nudge>(json!({ "room_id": room_id, "to": self.world.now_ms() }));
    }

    fn plans(&self, since: Option<&str>) -> Plan {
        self.calls::<SyncPlan>(json!({ "token_hash": "hash", "since": since }))
    }

    fn closes(&self, since: Option<&str>, plan: &Plan, to: u64) -> String {
        let rooms: Vec<_> = plan.rooms.iter().map(|room| json!({ "number": room.number, "to": to })).collect();
        let close = json!({ "token_hash": "hash", "since": since, "position": plan.position, "rooms": rooms });
        self.calls::<SyncClose>(close).next_batch
    }
}
