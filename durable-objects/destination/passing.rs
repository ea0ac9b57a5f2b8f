//! What the server is told as well as that goes: who of our users types, what they read, and how they are. In memory
//! only, and by current value.
//!
//! What waits is told in a transaction of its own, when nothing is owed that may not get lost: it costs no written row,
//! unless the server does not answer. Lost with the memory, presence is told again when it changes, and now and then as
//! long as the user is there; and what somebody read with what they read next. Spec: Server-Server API, "Typing
//! Notifications", "Receipts", "Presence".

use std::{cell::RefCell, collections::BTreeMap};

use platform::{ActorKind, Fault, Tx};
use ruma_common::OwnedUserId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Destination,
    carrying::{LEASE_MS, Standing, Work},
};
use crate::{Call, Cx, Error, presence::Presence};

/// The most users whose presence waits, and the most other EDUs: of more, those that come last are not told.
const WAITING_MAX: usize = 1_000;
/// The most presences in one transaction: they are one EDU.
const PUSHES_MAX: usize = 50;
/// The most EDUs in one transaction besides. Spec: «at most 50 PDUs and 100 EDUs».
const EDUS_MAX: usize = 99;

/// How a user of ours is, for the server; the newest takes the place of what waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueuePresence {
    #[serde(flatten)]
    pub presence: Presence,
}

impl Call for QueuePresence {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "queue_presence";
    type Reply = ();
}

/// Something for the server that may get lost; the newest with a key takes the place of what waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PassEdu {
    /// What it is about.
    pub key: String,
    /// With `edu_type` and `content`.
    pub edu: Box<RawValue>,
    /// Until when it is worth telling, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

impl Call for PassEdu {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "pass_edu";
    type Reply = ();
}

/// What waits, and what a carrier has taken.
#[derive(Default)]
pub(super) struct Passing {
    waiting: RefCell<Waiting>,
    carried: RefCell<Option<Carried>>,
}

/// By whom or what it is about.
#[derive(Clone, Default)]
struct Waiting {
    presences: BTreeMap<OwnedUserId, Presence>,
    edus: BTreeMap<String, PassEdu>,
}

struct Carried {
    carrier: String,
    until_ms: u64,
    transaction_id: String,
    what: Waiting,
}

fn put<K: Ord, V>(waiting: &mut BTreeMap<K, V>, key: K, value: V) {
    if waiting.len() < WAITING_MAX || waiting.contains_key(&key) {
        waiting.insert(key, value);
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.presences.is_empty() && self.edus.is_empty()
    }

    /// Takes what fits into one transaction off what waits.
    fn portion(&mut self, now_ms: u64) -> Self {
        self.edus.retain(|_, edu| edu.until_ms.is_none_or(|until_ms| now_ms < until_ms));
        let mut portion = Self::default();
        while portion.presences.len() < PUSHES_MAX
            && let Some((user, presence)) = self.presences.pop_first()
        {
            portion.presences.insert(user, presence);
        }
        while portion.edus.len() < EDUS_MAX
            && let Some((key, edu)) = self.edus.pop_first()
        {
            portion.edus.insert(key, edu);
        }
        portion
    }
}

impl Passing {
    pub(super) fn waits(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Until when somebody carries it, in milliseconds since the Unix epoch.
    pub(super) fn carried_until_ms(&self, now_ms: u64) -> Option<u64> {
        self.carried.borrow().as_ref().map(|carried| carried.until_ms).filter(|until_ms| now_ms < *until_ms)
    }

    pub(super) fn is_carried_by_another(&self, carrier: &str, now_ms: u64) -> bool {
        self.carried.borrow().as_ref().is_some_and(|carried| carried.carrier != carrier && now_ms < carried.until_ms)
    }

    /// Hands a carrier some of what waits.
    pub(super) fn take(&self, cx: &Cx<'_>, carrier: String) -> Result<Work, Fault> {
        self.put_back();
        let what = self.waiting.borrow_mut().portion(cx.now_ms);
        if what.is_empty() {
            return Ok(Work::Nothing);
        }
        // Never used before, and nothing is written for it.
        let transaction_id = format!("{}-{:016x}", cx.now_ms, u64::from_be_bytes(cx.random()?));
        let presences = what.presences.values().cloned().collect();
        let edus = what.edus.values().map(|edu| edu.edu.get().to_owned()).collect();
        *self.carried.borrow_mut() = Some(Carried {
            carrier,
            until_ms: cx.now_ms.saturating_add(LEASE_MS),
            transaction_id: transaction_id.clone(),
            what,
        });
        Ok(Work::Passing { transaction_id, presences, edus })
    }

    /// Answers whether this is what was carried.
    pub(super) fn is_acknowledged(&self, transaction_id: &str) -> bool {
        self.carried.borrow_mut().take_if(|carried| carried.transaction_id == transaction_id).is_some()
    }

    /// Answers whether this carrier had any of it: it waits again.
    pub(super) fn has_failed(&self, carrier: &str) -> bool {
        let has_failed = self.carried.borrow().as_ref().is_some_and(|carried| carried.carrier == carrier);
        if has_failed {
            self.put_back();
        }
        has_failed
    }

    /// What did not get there waits again, unless something newer does.
    fn put_back(&self) {
        let Some(Carried { what, .. }) = self.carried.borrow_mut().take() else { return };
        let mut waiting = self.waiting.borrow_mut();
        for (user, presence) in what.presences {
            waiting.presences.entry(user).or_insert(presence);
        }
        for (key, edu) in what.edus {
            waiting.edus.entry(key).or_insert(edu);
        }
    }
}

impl Destination {
    pub(super) fn queue_presence(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: QueuePresence) -> Result<(), Error> {
        put(&mut self.passing.waiting.borrow_mut().presences, call.presence.user.clone(), call.presence);
        self.look_who_passes_it(tx, cx)
    }

    pub(super) fn pass_edu(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: PassEdu) -> Result<(), Error> {
        put(&mut self.passing.waiting.borrow_mut().edus, call.key.clone(), call);
        self.look_who_passes_it(tx, cx)
    }

    fn look_who_passes_it(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let standing = Standing::load(&**tx)?;
        // Whoever carries comes back for more; a server that is left alone is told when it is tried again.
        if self.passing.carried_until_ms(cx.now_ms).is_none() && standing.may_be_tried(cx.now_ms) {
            cx.carry();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ruma_common::room_id;
    use serde_json::value::to_raw_value;

    use super::{EDUS_MAX, PassEdu, QueuePresence, WAITING_MAX};
    use crate::{
        destination::{Acknowledge, IsUp, ReportFailure, RoomMoved, TakeWork, Work},
        presence::{Presence, PresenceState, PresenceStatus},
        world::World,
    };

    const THERE: &str = "there.test";

    fn is(world: &World, name: &str, state: PresenceState) {
        let user = format!("@{name}:myelin.test").try_into().unwrap();
        let status = PresenceStatus { state, ..PresenceStatus::default() };
        let presence = Presence { status, ..Presence::absent(user) };
        world.call(THERE, &QueuePresence { presence }).unwrap();
    }

    fn take(world: &World, carrier: &str) -> Work {
        world.call(THERE, &TakeWork { carrier: carrier.to_owned() }).unwrap()
    }

    fn taken(work: Work) -> (String, Vec<(String, PresenceState)>) {
        let Work::Passing { transaction_id, presences, .. } = work else { panic!("{work:?}") };
        let told = presences.into_iter().map(|presence| (presence.user.localpart().to_owned(), presence.status.state));
        (transaction_id, told.collect())
    }

    #[test]
    fn only_the_newest_is_told_and_nothing_is_written() {
        use PresenceState::{Offline, Online, Unavailable};
        let world = World::new(1);
        let room_id = room_id!("!r:myelin.test").to_owned();
        world.call(THERE, &RoomMoved { room_id, since: 10, to: 10, left: false }).unwrap();
        take(&world, "one");
        world.carriers.take();
        let rows = world.rows_written();
        for state in [Online, Offline, Unavailable] {
            is(&world, "alice", state);
        }
        is(&world, "bob", Online);
        assert!(!world.carriers.take().is_empty());
        let (first, told) = taken(take(&world, "one"));
        assert_eq!(told, [("alice".to_owned(), Unavailable), ("bob".to_owned(), Online)]);
        // What changes meanwhile waits, and nobody else carries.
        is(&world, "bob", Offline);
        assert_eq!(take(&world, "two"), Work::Nothing);
        assert!(world.carriers.take().is_empty());
        world
            .call(
                THERE,
                &Acknowledge {
                    carrier: "one".to_owned(),
                    transaction_id: first.clone(),
                    edus_up_to: None,
                    was_empty: false,
                },
            )
            .unwrap();
        let (second, told) = taken(take(&world, "one"));
        assert_eq!(told, [("bob".to_owned(), Offline)]);
        assert_ne!(first, second);
        world
            .call(
                THERE,
                &Acknowledge { carrier: "one".to_owned(), transaction_id: second, edus_up_to: None, was_empty: false },
            )
            .unwrap();
        assert_eq!(take(&world, "one"), Work::Nothing);
        assert_eq!(world.rows_written(), rows);
    }

    #[test]
    fn a_server_that_does_not_answer_is_told_when_it_is_back() {
        use PresenceState::{Offline, Online};
        let world = World::new(1);
        let room_id = room_id!("!r:myelin.test").to_owned();
        world.call(THERE, &RoomMoved { room_id, since: 10, to: 10, left: false }).unwrap();
        for name in ["alice", "bob"] {
            is(&world, name, Online);
        }
        taken(take(&world, "one"));
        is(&world, "bob", Offline);
        world.call(THERE, &ReportFailure { carrier: "one".to_owned(), refused: None, answered: None }).unwrap();
        world.carriers.take();
        assert_eq!(take(&world, "one"), Work::Nothing, "it is left alone");
        is(&world, "bob", Offline);
        assert!(world.carriers.take().is_empty());
        world.call(THERE, &IsUp {}).unwrap();
        assert!(!world.carriers.take().is_empty());
        let (_, told) = taken(take(&world, "two"));
        assert_eq!(told, [("alice".to_owned(), Online), ("bob".to_owned(), Offline)]);
    }

    fn passes(world: &World, key: &str, text: &str, until_ms: Option<u64>) {
        let edu = to_raw_value(text).unwrap();
        world.call(THERE, &PassEdu { key: key.to_owned(), edu, until_ms }).unwrap();
    }

    fn edus(work: Work) -> (String, Vec<String>) {
        let Work::Passing { transaction_id, edus, .. } = work else { panic!("{work:?}") };
        (transaction_id, edus.iter().map(|edu| edu.trim_matches('"').to_owned()).collect())
    }

    #[test]
    fn who_types_and_who_read_is_told_once_and_not_late() {
        let world = World::new(1);
        let room_id = room_id!("!r:myelin.test").to_owned();
        world.call(THERE, &RoomMoved { room_id, since: 10, to: 10, left: false }).unwrap();
        take(&world, "one");
        let rows = world.rows_written();
        let soon = world.now_ms() + 60_000;
        passes(&world, "receipt", "first", None);
        passes(&world, "receipt", "second", None);
        passes(&world, "typing", "types", Some(soon));
        let (first, told) = edus(take(&world, "one"));
        assert_eq!(told, ["second", "types"]);
        passes(&world, "typing", "stopped", Some(soon));
        let acknowledge = |transaction_id| Acknowledge {
            carrier: "one".to_owned(),
            transaction_id,
            edus_up_to: None,
            was_empty: false,
        };
        world.call(THERE, &acknowledge(first)).unwrap();
        let (_, told) = edus(take(&world, "one"));
        assert_eq!(told, ["stopped"]);
        assert_eq!(world.rows_written(), rows);
        // It does not get there; by then it is not worth telling.
        world.call(THERE, &ReportFailure { carrier: "one".to_owned(), refused: None, answered: None }).unwrap();
        passes(&world, "receipt", "third", None);
        world.passes(60_001);
        world.call(THERE, &IsUp {}).unwrap();
        let (_, told) = edus(take(&world, "two"));
        assert_eq!(told, ["third"]);
    }

    #[test]
    fn of_more_than_a_server_takes_at_once_the_rest_waits_and_of_too_much_the_last_is_left_out() {
        let world = World::new(1);
        let room_id = room_id!("!r:myelin.test").to_owned();
        world.call(THERE, &RoomMoved { room_id, since: 10, to: 10, left: false }).unwrap();
        take(&world, "one");
        for number in 0..WAITING_MAX + 1 {
            passes(&world, &format!("{number:05}"), &number.to_string(), None);
        }
        let mut told = Vec::new();
        while let work @ Work::Passing { .. } = take(&world, "one") {
            let (transaction_id, edus) = edus(work);
            assert!(edus.len() <= EDUS_MAX);
            told.extend(edus);
            let acknowledge =
                Acknowledge { carrier: "one".to_owned(), transaction_id, edus_up_to: None, was_empty: false };
            world.call(THERE, &acknowledge).unwrap();
        }
        assert_eq!(told, (0..WAITING_MAX).map(|number| number.to_string()).collect::<Vec<_>>());
    }
}
