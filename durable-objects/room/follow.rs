//! Telling followers: a nudge to every local user in the room who wants one, then silence until they read.
//!
//! Guarantees: after a commit every follower is told of the new head, or was silent by its own wish; while one
//! nudge to a follower is on its way, further changes wait and go as one. A crash forgets who was told: the alarm set
//! in the commit tells everybody again, which receivers do not mind.

use std::collections::BTreeMap;

use platform::{Fault, Sql, Tx};

use super::{Room, append::room_id, store};
use crate::{
    CallError, Cx, Error, call,
    cx::{Key, Nudged},
    user::Nudge,
};

/// When the alarm looks whether everyone was told, in milliseconds after a commit. Shorter than an idle object keeps its
/// memory, so that ordinarily it finds that everyone was, and nothing is told twice.
pub(super) const NUDGE_CHECK_MS: u64 = 5_000;

/// The local users in the room, as far as they want to be told.
pub(super) struct Followers {
    live: BTreeMap<String, Live>,
    /// One bit for each follower's number: set while it wants no nudge.
    silent: Vec<u8>,
    /// Whether `silent` differs from what is stored.
    unsaved: bool,
}

struct Live {
    number: u64,
    told: u64,
    in_flight: bool,
    reads: u64,
}

impl Followers {
    fn load(sql: &dyn Sql) -> Result<Self, Fault> {
        let silent = store::meta::blob(sql, "silent")?;
        let live = store::members::followers(sql)?
            .into_iter()
            .filter(|(_, number)| !bit(&silent, *number))
            .map(|(user, number)| (user, Live { number, told: 0, in_flight: false, reads: 0 }))
            .collect();
        Ok(Self { live, silent, unsaved: false })
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
}

fn place(number: u64) -> (usize, u8) {
    (usize::try_from(number / 8).unwrap_or(usize::MAX), 1 << (number % 8))
}

fn bit(bits: &[u8], number: u64) -> bool {
    let (byte, mask) = place(number);
    bits.get(byte).is_some_and(|bits| bits & mask != 0)
}

impl Room {
    /// Memory follows the memberships that an operation changed.
    pub(super) fn followers_changed(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<(), Error> {
        let mut followers = self.followers.borrow_mut();
        // Not yet read: then the tables have these too.
        let Some(followers) = followers.as_mut() else { return Ok(()) };
        for (user, joined, position) in cx.room.members.take() {
            if !joined {
                followers.live.remove(&user);
            } else if let Some(number) = store::members::follower_number(sql, &user)?
                && !bit(&followers.silent, number)
            {
                // The membership itself tells them of everything up to it.
                followers.live.insert(user, Live { number, told: position, in_flight: false, reads: 0 });
            }
        }
        Ok(())
    }

    /// The alarm looks whether everyone was told. What it tells now may be forgotten in a crash like what was told
    /// before: it looks again.
    pub(super) fn check_nudges(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let head = self.head(&**tx)?;
        self.nudge(&**tx, cx, head)?;
        let followers = self.followers.borrow();
        if followers.as_ref().is_some_and(|followers| followers.live.values().any(|live| live.told < head)) {
            cx.set_alarm(cx.now_ms.saturating_add(NUDGE_CHECK_MS))?;
        }
        Ok(())
    }

    /// Tells every follower that was not told yet.
    pub(super) fn nudge(&self, sql: &dyn Sql, cx: &Cx<'_>, head: u64) -> Result<(), Error> {
        let mut followers = self.followers.borrow_mut();
        let followers = match followers.as_mut() {
            Some(followers) => followers,
            None => followers.insert(Followers::load(sql)?),
        };
        for (user, live) in &mut followers.live {
            if live.told < head && !live.in_flight {
                live.in_flight = true;
                let nudged = Nudged { follower: user.clone(), to: head, reads: live.reads };
                cx.deliver(user, &Nudge { room_id: room_id(cx)?, to: head }, Key::Nudge(nudged), false)?;
            }
        }
        Ok(())
    }

    /// A follower answered, or could not be reached.
    pub(super) fn nudge_answered(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        nudged: &Nudged,
        reply: Option<&[u8]>,
    ) -> Result<(), Error> {
        {
            let mut followers = self.followers.borrow_mut();
            let Some(followers) = followers.as_mut() else { return Ok(()) };
            let Some(live) = followers.live.get_mut(&nudged.follower) else { return Ok(()) };
            live.in_flight = false;
            match reply.map(call::open::<Nudge>) {
                Some(Ok(reply)) => {
                    live.told = live.told.max(nudged.to);
                    // One that read meanwhile is told again: its silence was about what it had not read yet.
                    if reply.silent_until_read && live.reads == nudged.reads {
                        let number = live.number;
                        followers.live.remove(&nudged.follower);
                        followers.set_silent(number, true);
                    }
                }
                Some(Err(CallError::Absent | CallError::Refused(_))) => {
                    followers.live.remove(&nudged.follower);
                }
                Some(Err(CallError::Fault(_))) | None => {
                    cx.set_alarm(cx.now_ms.saturating_add(NUDGE_CHECK_MS))?;
                    return Ok(());
                }
            }
            // One row for however many went silent together.
            if followers.unsaved && !followers.live.values().any(|live| live.in_flight) {
                followers.save(tx)?;
            }
        }
        let head = self.head(&**tx)?;
        self.nudge(&**tx, cx, head)
    }

    /// A follower read the log: it wants to be told again.
    pub(super) fn has_read(&self, tx: &Tx<'_>, user: &str, head: u64) -> Result<(), Error> {
        let mut followers = self.followers.borrow_mut();
        let followers = match followers.as_mut() {
            Some(followers) => followers,
            None => followers.insert(Followers::load(&**tx)?),
        };
        if let Some(live) = followers.live.get_mut(user) {
            live.reads = live.reads.saturating_add(1);
        } else if let Some(number) = store::members::follower_number(&**tx, user)?
            && bit(&followers.silent, number)
        {
            followers.set_silent(number, false);
            followers.save(tx)?;
            let live = Live { number, told: head, in_flight: false, reads: 1 };
            followers.live.insert(user.to_owned(), live);
        }
        Ok(())
    }
}
