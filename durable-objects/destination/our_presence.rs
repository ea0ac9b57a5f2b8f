//! The presence of our users on its way to the server: in memory only, and by current value.
//!
//! What waits is told in a transaction of its own, when nothing is owed that may not get lost: it costs no written row,
//! unless the server does not answer. Lost with the memory, it is told again when it changes, and now and then as long as
//! the user is there. Spec: Server-Server API, "Presence".

use std::{cell::RefCell, collections::BTreeMap};

use platform::{ActorKind, Fault, Tx};
use ruma_common::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::{
    Destination,
    carrying::{LEASE_MS, Standing, Work},
};
use crate::{Call, Cx, Error, presence::Presence};

/// The most users whose presence waits: of more, those who come last are not told of.
const WAITING_MAX: usize = 1_000;
/// The most in one transaction.
const PUSHES_MAX: usize = 50;

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

/// What waits, and what a carrier has taken.
#[derive(Default)]
pub(super) struct OurPresence {
    waiting: RefCell<BTreeMap<OwnedUserId, Presence>>,
    carried: RefCell<Option<Carried>>,
}

struct Carried {
    carrier: String,
    until_ms: u64,
    transaction_id: String,
    presences: Vec<Presence>,
}

impl OurPresence {
    fn put(&self, presence: Presence) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() < WAITING_MAX || waiting.contains_key(&presence.user) {
            waiting.insert(presence.user.clone(), presence);
        }
    }

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
        let mut waiting = self.waiting.borrow_mut();
        let mut presences = Vec::new();
        while presences.len() < PUSHES_MAX
            && let Some((_, presence)) = waiting.pop_first()
        {
            presences.push(presence);
        }
        if presences.is_empty() {
            return Ok(Work::Nothing);
        }
        // Never used before, and nothing is written for it.
        let transaction_id = format!("{}-{:016x}", cx.now_ms, u64::from_be_bytes(cx.random()?));
        *self.carried.borrow_mut() = Some(Carried {
            carrier,
            until_ms: cx.now_ms.saturating_add(LEASE_MS),
            transaction_id: transaction_id.clone(),
            presences: presences.clone(),
        });
        Ok(Work::Presence { transaction_id, presences })
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
        let Some(carried) = self.carried.borrow_mut().take() else { return };
        let mut waiting = self.waiting.borrow_mut();
        for presence in carried.presences {
            waiting.entry(presence.user.clone()).or_insert(presence);
        }
    }
}

impl Destination {
    pub(super) fn queue_presence(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: QueuePresence) -> Result<(), Error> {
        self.ours.put(call.presence);
        let standing = Standing::load(&**tx)?;
        // Whoever carries comes back for more; a server that is left alone is told when it is tried again.
        if self.ours.carried_until_ms(cx.now_ms).is_none() && standing.may_be_tried(cx.now_ms) {
            cx.carry();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ruma_common::room_id;

    use super::QueuePresence;
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
        let Work::Presence { transaction_id, presences } = work else { panic!("{work:?}") };
        let told = presences.into_iter().map(|presence| (presence.user.localpart().to_owned(), presence.status.state));
        (transaction_id, told.collect())
    }

    #[test]
    fn only_the_newest_is_told_and_nothing_is_written() {
        use PresenceState::{Offline, Online, Unavailable};
        let world = World::new(1);
        let room_id = room_id!("!r:myelin.test").to_owned();
        world.call(THERE, &RoomMoved { room_id, since: 10, to: 10 }).unwrap();
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
        world.call(THERE, &RoomMoved { room_id, since: 10, to: 10 }).unwrap();
        for name in ["alice", "bob"] {
            is(&world, name, Online);
        }
        taken(take(&world, "one"));
        is(&world, "bob", Offline);
        world.call(THERE, &ReportFailure { carrier: "one".to_owned(), refused: None }).unwrap();
        world.carriers.take();
        assert_eq!(take(&world, "one"), Work::Nothing, "it is left alone");
        is(&world, "bob", Offline);
        assert!(world.carriers.take().is_empty());
        world.call(THERE, &IsUp {}).unwrap();
        assert!(!world.carriers.take().is_empty());
        let (_, told) = taken(take(&world, "two"));
        assert_eq!(told, [("alice".to_owned(), Online), ("bob".to_owned(), Offline)]);
    }
}
