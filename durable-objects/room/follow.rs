//! Telling followers: a nudge to every local user in the room who wants one, then silence until they read.
//!
//! Guarantees: after a commit every follower is told of the new head, or was silent by its own wish; while one
//! nudge to a follower is on its way, further changes wait and go as one. A crash forgets who was told: the alarm set
//! in the commit tells everybody again, which receivers do not mind.
//!
//! However many listen, only so many nudges are on their way: a *round* goes through all who listen, in their order,
//! and each answer lets it go on. What happens meanwhile makes another round, so that those late in the order have
//! their turn. After so many the alarm goes on: what one invocation of a Worker may call is limited.
//!
//! Silence ends after a day by itself, when something happens: a room or a user that was put back to an older copy of
//! itself may not know what the other one goes by.
//!
//! A private receipt is told to its owner alone: what is told reaches up to the newest change that is for everybody,
//! and for the owner up to their own. Who types goes along as it is known; nobody tries that again.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, ops::Bound};

use domain::backoff;
use platform::{Fault, Sql, Tx};

use super::{
    Heads, Room, Typing,
    append::{owe_membership_again, room_id},
    store,
};
use crate::{
    CallError, Cx, Error, call,
    cx::{Key, Nudged},
    user::Nudge,
};

/// When the alarm looks whether everyone was told, in milliseconds after a commit. Shorter than an idle object keeps
/// its memory, so that ordinarily it finds that everyone was, and nothing is told twice.
pub(super) const NUDGE_CHECK_MS: u64 = 5_000;

/// The longest a follower that cannot be reached is left alone, in milliseconds: one hour.
const NUDGE_PAUSE_MS_MAX: u64 = 3_600_000;

/// How long silence lasts at most, in milliseconds. A simulation is over sooner.
const SILENCE_MS_MAX: u64 = if platform::planted::IS_SIMULATED && !cfg!(test) { 3_600_000 } else { 24 * 3_600_000 };
/// Since when who is silent is so, in milliseconds since the Unix epoch: beside `silent`.
const SILENT_SINCE: &str = "silent_since";

/// The most nudges on their way.
const NUDGES_AT_ONCE: usize = 100;
/// The most nudges that follow from one operation before the alarm goes on: half of what one invocation of a Worker may
/// call.
const NUDGES_PER_INVOCATION_MAX: usize = 5_000;
/// Followers read from the database at once.
const LOADED_AT_ONCE: usize = 1_000;

/// The local users in the room, as far as they want to be told.
pub(super) struct Followers {
    live: BTreeMap<String, Live>,
    /// The newest position that everyone is to be told of.
    public: u64,
    /// The newest position of an event, which may be worth a push.
    events: u64,
    /// Who types, as everyone is to be told.
    typing: Typing,
    /// One bit for each follower's number: set while it wants no nudge.
    silent: Vec<u8>,
    /// Since when the first of them wants none, in milliseconds since the Unix epoch.
    silent_since_ms: u64,
    /// Whether that differs from what is stored.
    is_silence_new: bool,
    /// Whether `silent` differs from what is stored.
    unsaved: bool,
    /// How many nudges are on their way.
    in_flight: usize,
    /// The round that is under way.
    round: Option<Round>,
    /// How often the log was read by anyone; never goes back.
    reads: u64,
    /// Whether an operation changed this memory and is not committed yet.
    uncommitted: bool,
}

/// A walk through those who listen.
#[derive(Default)]
struct Round {
    /// Who was looked at last; nobody yet: empty.
    behind: String,
    /// Whether another one follows: something happened meanwhile.
    again: bool,
}

struct Live {
    number: u64,
    told: u64,
    /// The newest position that only this follower is to be told of.
    private: u64,
    /// Where a receipt of theirs moved last: it may change what is unread.
    own_receipt: u64,
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
        Self {
            number,
            told,
            private: 0,
            own_receipt: 0,
            typing,
            in_flight: false,
            read_at,
            failures: 0,
            not_before_ms: 0,
        }
    }

    /// Up to where this follower is to be told.
    fn due(&self, public: u64) -> u64 {
        public.max(self.private)
    }

    fn is_untold(&self, public: u64) -> bool {
        self.told < self.due(public)
    }

    /// Whether this follower is to be told something now.
    fn wants(&self, public: u64, typing: Typing, now_ms: u64) -> bool {
        (self.is_untold(public) || self.typing != typing) && !self.in_flight && self.not_before_ms <= now_ms
    }
}

impl Followers {
    /// What memory holds, or the tables.
    fn read<'a>(memory: &'a mut Option<Self>, sql: &dyn Sql, heads: Heads, now_ms: u64) -> Result<&'a mut Self, Fault> {
        match memory {
            Some(followers) => Ok(followers),
            None => Ok(memory.insert(Self::load(sql, heads, now_ms)?)),
        }
    }

    fn load(sql: &dyn Sql, heads: Heads, now_ms: u64) -> Result<Self, Fault> {
        let Heads { public, events, .. } = heads;
        let silent = store::meta::blob(sql, "silent")?;
        // Who fell silent before that was written did so a while ago.
        let since_ms = store::meta::text(sql, SILENT_SINCE)?.and_then(|since| since.parse().ok()).unwrap_or(0);
        let (silent, silent_since_ms) =
            if is_too_long(since_ms, now_ms) { (Vec::new(), now_ms) } else { (silent, since_ms) };
        let numbers = 0..store::members::followers_count(sql)?;
        let numbers: Vec<u64> = numbers.filter(|number| !bit(&silent, *number)).collect();
        let mut live = BTreeMap::new();
        for numbers in numbers.chunks(LOADED_AT_ONCE) {
            let followers = store::members::followers(sql, numbers)?;
            live.extend(followers.into_iter().map(|(user, number)| (user, Live::new(number, 0, 0))));
        }
        for (user, position) in store::receipts::private_after(sql, public)? {
            if let Some(live) = live.get_mut(&user) {
                (live.private, live.own_receipt) = (position, position);
            }
        }
        // It may hold what the operation that reads it has just written.
        let typing = Typing::default();
        Ok(Self {
            live,
            public,
            events,
            typing,
            silent,
            silent_since_ms,
            is_silence_new: silent_since_ms != since_ms,
            unsaved: false,
            in_flight: 0,
            round: None,
            reads: 0,
            uncommitted: true,
        })
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
        if self.is_silence_new {
            store::meta::set(tx, SILENT_SINCE, self.silent_since_ms.to_string().into())?;
            self.is_silence_new = false;
        }
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

    /// Something happened: a round begins, or follows the one that is under way.
    fn begin(&mut self) {
        match &mut self.round {
            Some(round) => round.again = true,
            None => self.round = Some(Round::default()),
        }
    }

    /// Takes the next of the round who is to be told something; `None` at its end.
    fn take_next(&mut self, now_ms: u64) -> Option<String> {
        loop {
            let round = self.round.as_mut()?;
            let ahead = (Bound::Excluded(round.behind.as_str()), Bound::Unbounded);
            let mut ahead = self.live.range_mut::<str, _>(ahead);
            match ahead.find(|(_, live)| live.wants(self.public, self.typing, now_ms)) {
                Some((user, live)) => {
                    live.in_flight = true;
                    self.in_flight = self.in_flight.saturating_add(1);
                    round.behind.clone_from(user);
                    return Some(round.behind.clone());
                }
                None if round.again => *round = Round::default(),
                None => self.round = None,
            }
        }
    }

    /// Tells as many as may be told at once.
    fn tell_some(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        let mut taken = Vec::new();
        while self.in_flight < NUDGES_AT_ONCE
            && let Some(user) = self.take_next(cx.now_ms)
        {
            taken.push(user);
        }
        let more = NUDGES_PER_INVOCATION_MAX.checked_div(taken.len()).unwrap_or(0).saturating_sub(1);
        taken.into_iter().try_for_each(|user| self.tell(cx, user, more))
    }

    /// Goes on after an answer, with the one who gave it or with the round.
    fn go_on(&mut self, cx: &Cx<'_>, answered: &Nudged) -> Result<(), Error> {
        let live = self.live.get(&answered.follower);
        if live.is_some_and(|live| live.wants(self.public, self.typing, cx.now_ms)) {
            // The round may have passed them; the others have their turn first.
            self.begin();
        }
        if self.round.is_none() || self.in_flight >= NUDGES_AT_ONCE {
            return Ok(());
        }
        let Some(more) = answered.more.checked_sub(1) else { return Ok(cx.set_alarm(cx.now_ms)?) };
        match self.take_next(cx.now_ms) {
            Some(user) => self.tell(cx, user, more),
            None => Ok(()),
        }
    }

    /// Takes in what a follower answered, or that it could not be reached.
    fn learn(&mut self, tx: &Tx<'_>, cx: &Cx<'_>, nudged: &Nudged, reply: Option<&[u8]>) -> Result<(), Error> {
        let Some(live) = self.live.get_mut(&nudged.follower) else { return Ok(()) };
        if live.in_flight {
            live.in_flight = false;
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        match reply.map(call::open::<Nudge>) {
            Some(Ok(reply)) => {
                live.told = live.told.max(nudged.to);
                live.typing = nudged.typing;
                (live.failures, live.not_before_ms) = (0, 0);
                // One that read meanwhile is told again: its silence was about what it had not read yet.
                if reply.silent_until_read && live.read_at <= nudged.reads {
                    let number = live.number;
                    self.remove(&nudged.follower);
                    self.set_silent(number, true);
                }
                if reply.membership_unknown {
                    owe_membership_again(tx, cx, &nudged.follower)?;
                }
            }
            Some(Err(CallError::Absent | CallError::Refused(_) | CallError::Unsigned(_))) => {
                self.remove(&nudged.follower);
            }
            // It was told only who types: nobody tries that again.
            Some(Err(CallError::Fault(_))) | None if nudged.to == 0 => live.typing = nudged.typing,
            Some(Err(CallError::Fault(_))) | None => {
                let pause_ms = backoff::pause_ms(NUDGE_CHECK_MS, live.failures, NUDGE_PAUSE_MS_MAX);
                live.failures = live.failures.saturating_add(1);
                live.not_before_ms = cx.now_ms.saturating_add(pause_ms);
                cx.set_alarm(live.not_before_ms)?;
            }
        }
        Ok(())
    }

    /// Tells one follower who was taken for it.
    fn tell(&mut self, cx: &Cx<'_>, user: String, more: usize) -> Result<(), Error> {
        let (public, typing) = (self.public, self.typing);
        let Some(live) = self.live.get(&user) else { return Ok(()) };
        self.uncommitted = true;
        let to = if live.is_untold(public) { live.due(public) } else { 0 };
        let notify = if to == 0 { 0 } else { self.events.max(live.own_receipt) };
        let nudge = Nudge { room_id: room_id(cx)?, to, notify, typing: (live.typing != typing).then_some(typing) };
        let nudged = Nudged { follower: user.clone(), to, typing, reads: self.reads, more };
        cx.deliver(user, &nudge, Key::Nudge(nudged), false)
    }
}

fn is_too_long(since_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(since_ms) >= SILENCE_MS_MAX
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
    pub(super) fn live_followers(&self, sql: &dyn Sql, now_ms: u64) -> Result<Vec<String>, Error> {
        let heads = self.heads(sql)?;
        let mut followers = self.followers.borrow_mut();
        let followers = Followers::read(&mut followers, sql, heads, now_ms)?;
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
        let heads = self.heads(sql)?;
        let mut followers = self.followers.borrow_mut();
        let is_old = |read: &mut Followers| read.in_flight == 0 && is_too_long(read.silent_since_ms, cx.now_ms);
        followers.take_if(is_old);
        let followers = Followers::read(&mut followers, sql, heads, cx.now_ms)?;
        (followers.public, followers.events, followers.typing) = (heads.public, heads.events, typing);
        for (user, position) in cx.room.own_receipts.take() {
            if let Some(live) = followers.live.get_mut(&user) {
                live.own_receipt = position;
            }
        }
        followers.begin();
        followers.tell_some(cx)
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
        followers.uncommitted = true;
        followers.learn(tx, cx, nudged, reply)?;
        // One row for however many went silent together. When nothing of the log was told, nothing is written.
        let is_over = followers.in_flight == 0 && followers.round.is_none();
        if followers.unsaved && is_over && nudged.to != 0 {
            followers.save(tx)?;
        }
        followers.go_on(cx, nudged)
    }

    /// A follower reads the log: it wants to be told again.
    pub(super) fn has_read(&self, tx: &Tx<'_>, cx: &Cx<'_>, user: &str, up_to: u64) -> Result<(), Error> {
        let heads = self.heads(&**tx)?;
        let mut followers = self.followers.borrow_mut();
        let followers = Followers::read(&mut followers, &**tx, heads, cx.now_ms)?;
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
