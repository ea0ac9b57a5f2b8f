//! Telling followers: a nudge to every local user in the room who wants one, then silence until they read.
//!
//! Guarantees: after a commit every follower is told of the new head, or was silent by its own wish; while one
//! nudge to a follower is on its way, further changes wait and go as one. A crash forgets who was told: the alarm set
//! in the commit tells everybody again, which receivers do not mind.
//!
//! A private receipt is told to its owner alone: what is told reaches up to the newest change that is for everybody, and
//! for the owner up to their own. Who types goes along as it is known; nobody tries that again.

use std::collections::BTreeMap;

use platform::{Fault, Sql, Tx};

use super::{
    Room, Typing,
    append::{owe_membership_again, room_id},
    store,
};
use crate::{
    CallError, Cx, Error, call,
    cx::{Key, Nudged},
    user::Nudge,
};

/// When the alarm looks whether everyone was told, in milliseconds after a commit. Shorter than an idle object keeps its
/// memory, so that ordinarily it finds that everyone was, and nothing is told twice.
pub(super) const NUDGE_CHECK_MS: u64 = 5_000;

/// The longest a follower that cannot be reached is left alone, in milliseconds: one hour.
const NUDGE_PAUSE_MS_MAX: u64 = 3_600_000;

/// The local users in the room, as far as they want to be told.
pub(super) struct Followers {
    live: BTreeMap<String, Live>,
    /// The newest position that everyone is to be told of.
    public: u64,
    /// Who types, as everyone is to be told.
    typing: Typing,
    /// One bit for each follower's number: set while it wants no nudge.
    silent: Vec<u8>,
    /// Whether `silent` differs from what is stored.
    unsaved: bool,
    /// How many nudges are on their way.
    in_flight: usize,
    /// How often the log was read by anyone; never goes back.
    reads: u64,
    /// Whether an operation changed this memory and is not committed yet.
    uncommitted: bool,
}

struct Live {
    number: u64,
    told: u64,
    /// The newest position that only this follower is to be told of.
    private: u64,
    typing: Typing,
    in_flight: bool,
    /// The count of reads when this follower read last.
    read_at: u64,
    /// Failed nudges in a row, and when to try again.
    failures: u32,
    not_before_ms: u64,
}

impl Live {
    fn new(number: u64, told: u64, read_at: u64) -> Self {
        let typing = Typing::default();
        Self { number, told, private: 0, typing, in_flight: false, read_at, failures: 0, not_before_ms: 0 }
    }

    /// Up to where this follower is to be told.
    fn due(&self, public: u64) -> u64 {
        public.max(self.private)
    }

    fn is_untold(&self, public: u64) -> bool {
        self.told < self.due(public)
    }
}

impl Followers {
    fn load(sql: &dyn Sql, public: u64) -> Result<Self, Fault> {
        let silent = store::meta::blob(sql, "silent")?;
        let numbers = 0..store::members::followers_count(sql)?;
        let numbers: Vec<u64> = numbers.filter(|number| !bit(&silent, *number)).collect();
        let mut live: BTreeMap<String, Live> = store::members::followers(sql, &numbers)?
            .into_iter()
            .map(|(user, number)| (user, Live::new(number, 0, 0)))
            .collect();
        for (user, position) in store::receipts::private_after(sql, public)? {
            if let Some(live) = live.get_mut(&user) {
                live.private = position;
            }
        }
        // It may hold what the operation that reads it has just written.
        let typing = Typing::default();
        Ok(Self { live, public, typing, silent, unsaved: false, in_flight: 0, reads: 0, uncommitted: true })
    }

    fn set_silent(&mut self, number: u64, silent: bool) {
        let (byte, mask) = place(number);
        if self.silent.len() <= byte {
            self.silent.resize(byte.saturating_add(1), 0);
        }
        if let Some(bits) = self.silent.get_mut(byte) {
            *bits = if silent { *bits | mask } else { *bits & !mask };
            self.unsaved = true;
        }
    }

    fn save(&mut self, tx: &Tx<'_>) -> Result<(), Fault> {
        store::meta::set(tx, "silent", self.silent.clone().into())?;
        self.unsaved = false;
        Ok(())
    }

    /// Takes a follower out; the nudge that may be on its way is nobody's.
    fn remove(&mut self, user: &str) -> Option<Live> {
        let gone = self.live.remove(user)?;
        if gone.in_flight {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        Some(gone)
    }

    /// Tells one follower, if it was not told and is not being told.
    fn tell(&mut self, cx: &Cx<'_>, user: &str) -> Result<(), Error> {
        let (public, typing) = (self.public, self.typing);
        let Some(live) = self.live.get_mut(user) else { return Ok(()) };
        let is_told = !live.is_untold(public) && live.typing == typing;
        if is_told || live.in_flight || live.not_before_ms > cx.now_ms {
            return Ok(());
        }
        self.uncommitted = true;
        live.in_flight = true;
        self.in_flight = self.in_flight.saturating_add(1);
        let to = if live.is_untold(public) { live.due(public) } else { 0 };
        let nudge = Nudge { room_id: room_id(cx)?, to, typing: (live.typing != typing).then_some(typing) };
        let nudged = Nudged { follower: user.to_owned(), to, typing, reads: self.reads };
        cx.deliver(user, &nudge, Key::Nudge(nudged), false)
    }
}

fn place(number: u64) -> (usize, u8) {
    (usize::try_from(number / 8).unwrap_or(usize::MAX), 1 << (number % 8))
}

fn bit(bits: &[u8], number: u64) -> bool {
    let (byte, mask) = place(number);
    bits.get(byte).is_some_and(|bits| bits & mask != 0)
}

impl Room {
    /// Memory follows the memberships that an operation changed, and the receipts that are for their owners alone.
    pub(super) fn followers_changed(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<(), Error> {
        let mut followers = self.followers.borrow_mut();
        // Not yet read: then the tables have these too.
        let Some(followers) = followers.as_mut() else { return Ok(()) };
        for (user, position) in cx.room.private.take() {
            if let Some(live) = followers.live.get_mut(&user) {
                live.private = position;
            }
        }
        for (user, joined, position) in cx.room.followers.take() {
            if !joined {
                followers.remove(&user);
            } else if !followers.live.contains_key(&user)
                && let Some(number) = store::members::follower_number(sql, &user)?
                && !bit(&followers.silent, number)
            {
                // The membership itself tells them of everything up to it.
                followers.live.insert(user, Live::new(number, position, 0));
            }
        }
        Ok(())
    }

    /// The followers who are not silent.
    pub(super) fn live_followers(&self, sql: &dyn Sql) -> Result<Vec<String>, Error> {
        let public = self.heads(sql)?.public;
        let mut followers = self.followers.borrow_mut();
        let followers = match followers.as_mut() {
            Some(followers) => followers,
            None => followers.insert(Followers::load(sql, public)?),
        };
        Ok(followers.live.keys().cloned().collect())
    }

    pub(super) fn followers_committed(&self) {
        if let Some(followers) = self.followers.borrow_mut().as_mut() {
            followers.uncommitted = false;
        }
    }

    pub(super) fn followers_rolled_back(&self) {
        let mut followers = self.followers.borrow_mut();
        if followers.as_ref().is_some_and(|followers| followers.uncommitted) {
            *followers = None;
        }
    }

    /// The alarm looks whether everyone was told. What it tells now may be forgotten in a crash like what was told
    /// before: it looks again.
    pub(super) fn check_nudges(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let typing = self.typists.borrow().told();
        self.nudge(&**tx, cx, typing)?;
        let followers = self.followers.borrow();
        let Some(followers) = followers.as_ref() else { return Ok(()) };
        let untold = followers.live.values().filter(|live| live.is_untold(followers.public));
        let next_ms = untold.map(|live| live.not_before_ms.max(cx.now_ms.saturating_add(NUDGE_CHECK_MS))).min();
        if let Some(next_ms) = next_ms {
            cx.set_alarm(next_ms)?;
        }
        Ok(())
    }

    /// Whether followers were told of other typing users than these.
    pub(super) fn is_untold(&self, typing: Typing) -> bool {
        self.followers.borrow().as_ref().map_or(Typing::default(), |followers| followers.typing) != typing
    }

    /// Tells every follower that was not told yet.
    pub(super) fn nudge(&self, sql: &dyn Sql, cx: &Cx<'_>, typing: Typing) -> Result<(), Error> {
        let public = self.heads(sql)?.public;
        let mut followers = self.followers.borrow_mut();
        let followers = match followers.as_mut() {
            Some(followers) => followers,
            None => followers.insert(Followers::load(sql, public)?),
        };
        (followers.public, followers.typing) = (public, typing);
        let untold = followers.live.iter().filter(|(_, live)| live.is_untold(public) || live.typing != typing);
        let untold: Vec<String> = untold.map(|(user, _)| user.clone()).collect();
        untold.iter().try_for_each(|user| followers.tell(cx, user))
    }

    /// A follower answered, or could not be reached.
    pub(super) fn nudge_answered(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        nudged: &Nudged,
        reply: Option<&[u8]>,
    ) -> Result<(), Error> {
        let mut followers = self.followers.borrow_mut();
        let Some(followers) = followers.as_mut() else { return Ok(()) };
        let Some(live) = followers.live.get_mut(&nudged.follower) else { return Ok(()) };
        // It told nothing of the log: whatever came of it, nothing is written.
        let only_typing = nudged.to == 0;
        followers.uncommitted = true;
        if live.in_flight {
            live.in_flight = false;
            followers.in_flight = followers.in_flight.saturating_sub(1);
        }
        match reply.map(call::open::<Nudge>) {
            Some(Ok(reply)) => {
                live.told = live.told.max(nudged.to);
                live.typing = nudged.typing;
                (live.failures, live.not_before_ms) = (0, 0);
                // One that read meanwhile is told again: its silence was about what it had not read yet.
                if reply.silent_until_read && live.read_at <= nudged.reads {
                    let number = live.number;
                    followers.remove(&nudged.follower);
                    followers.set_silent(number, true);
                }
                if reply.membership_unknown {
                    owe_membership_again(tx, cx, &nudged.follower)?;
                }
            }
            Some(Err(CallError::Absent | CallError::Refused(_))) => {
                followers.remove(&nudged.follower);
            }
            Some(Err(CallError::Fault(_))) | None if only_typing => live.typing = nudged.typing,
            Some(Err(CallError::Fault(_))) | None => {
                let pause_ms = NUDGE_CHECK_MS.saturating_mul(1 << live.failures.min(10)).min(NUDGE_PAUSE_MS_MAX);
                live.failures = live.failures.saturating_add(1);
                live.not_before_ms = cx.now_ms.saturating_add(pause_ms);
                cx.set_alarm(live.not_before_ms)?;
                return Ok(());
            }
        }
        // One row for however many went silent together.
        if followers.unsaved && followers.in_flight == 0 && !only_typing {
            followers.save(tx)?;
        }
        followers.tell(cx, &nudged.follower)
    }

    /// A follower reads the log: it wants to be told again.
    pub(super) fn has_read(&self, tx: &Tx<'_>, user: &str, up_to: u64) -> Result<(), Error> {
        let public = self.heads(&**tx)?.public;
        let mut followers = self.followers.borrow_mut();
        let followers = match followers.as_mut() {
            Some(followers) => followers,
            None => followers.insert(Followers::load(&**tx, public)?),
        };
        followers.reads = followers.reads.saturating_add(1);
        if let Some(live) = followers.live.get_mut(user) {
            live.read_at = followers.reads;
        } else if let Some(number) = store::members::follower_number(&**tx, user)?
            && bit(&followers.silent, number)
        {
            followers.uncommitted = true;
            followers.set_silent(number, false);
            followers.save(tx)?;
            followers.live.insert(user.to_owned(), Live::new(number, up_to, followers.reads));
        }
        Ok(())
    }
}
