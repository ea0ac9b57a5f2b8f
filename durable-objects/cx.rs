use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
};

use domain::{config::Config, identity::Identity};
use platform::{Address, Fault, ObjectHost, Statement};
use ruma_common::{OwnedDeviceId, OwnedUserId, ServerName, UserId};
use ruma_events::room::member::MembershipState;
use serde::Serialize;

use crate::{Call, Error, room::Typing, user::Announced};

/// What is the same for every actor of a server.
pub struct Settings {
    pub config: Config,
    pub identity: Identity,
}

/// What an operation knows besides its call, and where it leaves what shall happen after the commit.
///
/// If the operation fails, everything left here is forgotten with the transaction.
pub struct Cx<'a> {
    /// The actor's id: a room id, a user id.
    pub id: &'a str,
    /// Milliseconds since the Unix epoch, one reading for the whole operation.
    pub now_ms: u64,
    pub settings: &'a Settings,
    host: &'a dyn ObjectHost,
    pub(crate) after: RefCell<After>,
    pub(crate) alarm_at_ms: Cell<Option<u64>>,
    /// The newest position of the actor's log, once the operation moved it.
    pub(crate) head: Cell<Option<u64>>,
    pub(crate) room: RoomNotes,
    pub(crate) user: UserNotes,
}

/// A membership that changed.
pub(crate) struct MemberMoved {
    pub user: String,
    pub before: Option<String>,
    pub now: MembershipState,
}

/// What an operation of a Room did that its memory takes over after the commit.
#[derive(Default)]
pub(crate) struct RoomNotes {
    /// Transactions, with the positions of the events they made.
    pub transactions: RefCell<Vec<(u64, String)>>,
    /// Local users who joined (or else left), with the position of that.
    pub followers: RefCell<Vec<(String, bool, u64)>>,
    /// Memberships that changed, in their order.
    pub members: RefCell<Vec<MemberMoved>>,
    /// Whether the current state changed, or states were resolved: memory may be behind, and enough was done.
    pub state_moved: Cell<bool>,
    /// Whether the room's power levels changed.
    pub power_changed: Cell<bool>,
    /// Whether it names another policy server.
    pub policy_changed: Cell<bool>,
    /// The newest position of what everybody in the room is told of.
    pub public_head: Cell<Option<u64>>,
    /// The newest position of an event.
    pub event_head: Cell<Option<u64>>,
    /// Whose receipts moved, private or not, with their positions.
    pub own_receipts: RefCell<Vec<(String, u64)>>,
    /// Whose private receipts moved, with their positions.
    pub private: RefCell<Vec<(String, u64)>>,
    /// The newest position of what goes to other servers.
    pub outgoing: Cell<Option<u64>>,
    /// Servers of which the first member came, or the last one went.
    pub servers: RefCell<BTreeSet<String>>,
    /// Who types until when, in milliseconds since the Unix epoch, or (`None`) stopped.
    pub typing: RefCell<Vec<(OwnedUserId, Option<u64>)>>,
}

impl RoomNotes {
    /// Local users who left.
    pub(crate) fn left(&self) -> Vec<String> {
        self.followers.borrow().iter().filter(|(_, joined, _)| !joined).map(|(user, ..)| user.clone()).collect()
    }
}

/// What an operation of a User, one that only reads perhaps, learned of its caller's device: written down at its end.
#[derive(Default)]
pub(crate) struct UserNotes {
    /// The device whose new access token was used for the first time.
    pub first_use: RefCell<Option<OwnedDeviceId>>,
    /// The device that was seen, and at which internet address.
    pub seen: RefCell<Option<(OwnedDeviceId, Option<String>)>>,
    /// Devices that were removed.
    pub gone: RefCell<Vec<OwnedDeviceId>>,
    /// The device that has its messages up to this position of the user's own.
    pub received: RefCell<Option<(OwnedDeviceId, u64)>>,
    /// Whether others have to learn that the user's devices or keys changed.
    pub device_list_changed: Cell<bool>,
    /// Whether other servers have to learn that a device without keys came, changed or went.
    pub keyless_device_changed: Cell<bool>,
}

impl UserNotes {
    pub(crate) fn is_empty(&self) -> bool {
        self.first_use.borrow().is_none()
            && self.seen.borrow().is_none()
            && self.gone.borrow().is_empty()
            && self.received.borrow().is_none()
            && !self.device_list_changed.get()
            && !self.keyless_device_changed.get()
    }
}

/// What an operation leaves to happen after its commit.
#[derive(Default)]
pub(crate) struct After {
    pub deliveries: Vec<Delivery>,
    pub wake: bool,
    /// Whether a carrier is to come, see [`crate::destination`].
    pub carry: bool,
}

impl After {
    /// Has happen, too, what another operation leaves.
    pub(crate) fn join(&mut self, other: Self) {
        self.deliveries.extend(other.deliveries);
        self.wake |= other.wake;
        self.carry |= other.carry;
    }
}

/// One thing owed to somebody else.
pub(crate) struct Delivery {
    pub owed: Owed,
    pub key: Key,
    /// Whether the operation's own answer waits for it: the acting user reads its own writes.
    pub before_answer: bool,
}

/// What is owed, and to whom.
#[derive(Clone)]
pub(crate) enum Owed {
    /// A call to another actor.
    Call { to: Address, call: &'static str, body: Vec<u8> },
    /// What metadata shows of this actor, see [`crate::projection`].
    Projection { name: &'static str, statement: Statement },
}

/// What is settled once a delivery's outcome is known.
#[derive(Debug, Clone)]
pub(crate) enum Key {
    /// A row of the outbox.
    Outbox(i64),
    Nudge(Nudged),
    /// A room of an announcement.
    Announcement(Announced),
    /// Presence is told as well as that goes: nothing is settled but memory.
    Presence(PresenceTo),
    /// Told as well as that goes.
    Unsettled,
}

/// Whom presence was told, by a room up to which of its news.
#[derive(Debug, Clone)]
pub(crate) struct PresenceTo {
    pub peer: String,
    pub serial: u64,
}

/// A follower was told of everything up to `to`.
#[derive(Debug, Clone)]
pub(crate) struct Nudged {
    pub follower: String,
    /// 0: it was told only who types.
    pub to: u64,
    /// Who typed, as it was told.
    pub typing: Typing,
    /// How often anyone had read the log before.
    pub reads: u64,
    /// How many nudges may follow this one, each when the one before was answered.
    pub more: usize,
}

impl<'a> Cx<'a> {
    pub(crate) fn new(id: &'a str, settings: &'a Settings, host: &'a dyn ObjectHost, alarm_at_ms: Option<u64>) -> Self {
        Self {
            id,
            now_ms: host.now_ms(),
            settings,
            host,
            after: RefCell::default(),
            alarm_at_ms: Cell::new(alarm_at_ms),
            head: Cell::new(None),
            room: RoomNotes::default(),
            user: UserNotes::default(),
        }
    }

    /// The name of this server.
    pub(crate) fn own_server(&self) -> &'a ServerName {
        self.settings.identity.server_name()
    }

    /// Whether a user is one of this server's.
    pub(crate) fn is_local(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.own_server()
    }

    /// How many callers wait on this actor.
    pub(crate) fn waiting(&self) -> usize {
        self.host.waiting()
    }

    /// Unpredictable bytes.
    pub fn random<const N: usize>(&self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.host.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Has every waiting call asked again after the commit.
    pub(crate) fn wake(&self) {
        self.after.borrow_mut().wake = true;
    }

    /// Has a carrier come after the commit.
    pub(crate) fn carry(&self) {
        self.after.borrow_mut().carry = true;
    }

    /// Has `call` made after the commit. Nothing remembers it across a crash: for what a log repeats, see
    /// [`crate::outbox`] for the rest.
    pub(crate) fn deliver<C: Call + Serialize>(
        &self,
        id: impl Into<String>,
        call: &C,
        key: Key,
        before_answer: bool,
    ) -> Result<(), Error> {
        self.after.borrow_mut().deliveries.push(Delivery {
            owed: Owed::Call { to: Address::new(C::ACTOR, id), call: C::NAME, body: serde_json::to_vec(call)? },
            key,
            before_answer,
        });
        Ok(())
    }

    pub(crate) fn push(&self, delivery: Delivery) {
        self.after.borrow_mut().deliveries.push(delivery);
    }

    pub(crate) fn set_alarm(&self, at_ms: u64) -> Result<(), Fault> {
        if self.alarm_at_ms.get().is_none_or(|armed| at_ms < armed) {
            self.host.set_alarm(Some(at_ms))?;
            self.alarm_at_ms.set(Some(at_ms));
        }
        Ok(())
    }
}
