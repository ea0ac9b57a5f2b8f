//! How much a user has not read: notifications since their receipts, for each thread. Spec: "Receiving notifications",
//! "Threaded read receipts".
//!
//! Counted when the user reads the room, by their push rules and the room as it is then: an event counts if a rule
//! notifies of it, it is not the user's own, not redacted, and stands after
//!
//! - their last join, and every unthreaded receipt of theirs, whatever its thread;
//! - their receipts for its thread, public or private, whichever is further ahead;
//! - their own last message in its thread: «when the user updates their read receipt (either by using the API or by
//!   sending an event), notifications prior to and including that event MUST be marked as read». A new name of theirs
//!   is an event in every room of theirs, and marks nothing.
//!
//! A count is remembered, so that ordinarily only new events are looked at. What is forgotten is counted anew, from the
//! newest event back: through [`SCAN_MAX`] entries of the log at most, where a count ends that would be larger.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
};

use domain::push::Verdict;
use platform::{Fault, Sql};
use ruma_common::{
    OwnedUserId, RoomId,
    push::{Action, Ruleset},
};
use ruma_events::TimelineEventType;
use serde::Serialize;

use super::{
    Room,
    append::room_id,
    judge::Judge,
    messages::Direction,
    remembered::Remembered,
    sent_members::is_member,
    store::{log::Logged, receipts::Receipt},
    thread::{self, MAIN},
    transactions,
    viewer::Viewer,
    walk::Walk,
};
use crate::{Cx, Error};

/// Log entries looked at to count anew.
pub(crate) const SCAN_MAX: u64 = if cfg!(test) { 150 } else { 1_000 };
/// Users whose counts are remembered.
const REMEMBERED_MAX: usize = 512;

/// Unread notifications.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Unread {
    highlight_count: u64,
    pub notification_count: u64,
    /// Calls among the notifications: whoever takes one, or declines it, says so in the room and has read it.
    #[serde(skip)]
    pub missed_calls: u64,
}

impl Unread {
    fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// By thread: its root, or `main`.
pub(super) type UnreadByThread = BTreeMap<String, Unread>;

/// All threads together.
pub(super) fn sum(threads: &UnreadByThread) -> Unread {
    threads.values().fold(Unread::default(), |sum, thread| Unread {
        highlight_count: sum.highlight_count.saturating_add(thread.highlight_count),
        notification_count: sum.notification_count.saturating_add(thread.notification_count),
        missed_calls: sum.missed_calls.saturating_add(thread.missed_calls),
    })
}

/// The main timeline, and the threads that have any.
pub(super) fn apart(mut threads: UnreadByThread) -> (Unread, UnreadByThread) {
    let main = threads.remove(MAIN).unwrap_or_default();
    threads.retain(|_, unread| !unread.is_nothing());
    (main, threads)
}

/// Up to where a user has read, by positions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Read {
    everywhere: u64,
    threads: HashMap<String, u64>,
}

impl Read {
    pub(super) fn new(viewer: &Viewer, own: &[Receipt]) -> Self {
        let mut read = Self { everywhere: viewer.joined_at().unwrap_or(0), threads: HashMap::new() };
        for receipt in own {
            if receipt.thread.is_empty() {
                read.everywhere = read.everywhere.max(receipt.read);
            } else {
                read.up_to(&receipt.thread, receipt.read);
            }
        }
        read
    }

    fn up_to(&mut self, thread: &str, position: u64) {
        match self.threads.get_mut(thread) {
            Some(read) => *read = position.max(*read),
            None => drop(self.threads.insert(thread.to_owned(), position)),
        }
    }

    fn has(&self, thread: &str, position: u64) -> bool {
        position <= self.everywhere || self.threads.get(thread).is_some_and(|read| position <= *read)
    }
}

/// A user's counts as they were.
pub(super) struct Counted {
    up_to: u64,
    /// A digest of what the user has changed of the push rules, of whom they ignore, and of how much is too old to be
    /// read.
    rules: u64,
    read: Read,
    threads: UnreadByThread,
}

/// Counts of users lately here.
pub(super) struct Counts(Remembered<OwnedUserId, Counted>);

impl Default for Counts {
    fn default() -> Self {
        Self(Remembered::new(REMEMBERED_MAX))
    }
}

/// A look at what a user has not read, as far as it notifies them.
pub(super) struct Looking<'a> {
    sql: &'a dyn Sql,
    viewer: &'a Viewer,
    judge: Judge<'a>,
    read: Read,
}

/// One user's count under way.
struct Counting<'a> {
    looking: Looking<'a>,
    threads: UnreadByThread,
}

impl Room {
    /// The viewer's counts of what is unread up to `to`. `rules` is what they changed of the push rules.
    pub(super) fn unread(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        viewer: &Viewer,
        own: &[Receipt],
        rules: Option<&Ruleset>,
        to: u64,
    ) -> Result<UnreadByThread, Error> {
        let digest = digest(rules, viewer)?;
        let read = Read::new(viewer, own);
        let known = self.counts.borrow_mut().0.take(&*viewer.user);
        let known = known.filter(|known| known.rules == digest && known.read == read && known.up_to <= to);
        let room_id = room_id(cx)?;
        let (threads, since) = known.map_or((BTreeMap::new(), None), |known| (known.threads, Some(known.up_to)));
        let looking = Looking::new(self, sql, &room_id, viewer, read.clone(), rules);
        let mut counting = Counting { looking, threads };
        let is_continued = match since {
            Some(since) => counting.continues(since, to)?,
            None => false,
        };
        if !is_continued {
            counting.threads.clear();
            counting.starts_anew(to)?;
        }
        let threads = counting.threads;
        let counted = Counted { up_to: to, rules: digest, read, threads: threads.clone() };
        self.counts.borrow_mut().0.put(viewer.user.clone(), counted);
        Ok(threads)
    }
}

impl<'a> Looking<'a> {
    /// `rules` is what the viewer changed of the push rules.
    pub(super) fn new(
        room: &'a Room,
        sql: &'a dyn Sql,
        room_id: &'a RoomId,
        viewer: &'a Viewer,
        read: Read,
        rules: Option<&'a Ruleset>,
    ) -> Self {
        Self { sql, viewer, judge: Judge::new(room, sql, room_id, &viewer.user, rules), read }
    }

    /// A walk from the newest of `(after, up_to]` back to where everything is read.
    pub(super) fn backwards(&self, after: u64, up_to: u64) -> Walk<'a> {
        let span = (self.read.everywhere.max(after), up_to);
        Walk::new(self.sql, self.viewer, Direction::Backwards, span, SCAN_MAX)
    }

    /// The actions for an event on such a walk, if it is unread and notifies the viewer.
    pub(super) fn meets(&mut self, event: &Logged) -> Result<Option<&[Action]>, Error> {
        if let Some(thread) = self.read_by_sending(event)? {
            self.read.up_to(&thread, event.position);
            return Ok(None);
        }
        Ok(self.notifies(event)?.map(|(_, actions)| actions))
    }

    /// The thread that the user has read by sending this event into it.
    fn read_by_sending(&self, event: &Logged) -> Result<Option<String>, Fault> {
        // Memberships may be the server's doing: a name that changed, or a room that is upgraded.
        let is_own = event.pdu.sender() == self.viewer.user && !is_member(event);
        if is_own && !is_history(event) { self.thread(event).map(Some) } else { Ok(None) }
    }

    fn thread(&self, event: &Logged) -> Result<String, Fault> {
        Ok(thread::place(self.sql, event)?.thread.map_or_else(|| MAIN.to_owned(), String::from))
    }

    /// The thread and the actions for an event of somebody else, if it is unread and a rule notifies of it.
    fn notifies(&mut self, event: &Logged) -> Result<Option<(String, &[Action])>, Error> {
        if self.is_beside_the_point(event) {
            return Ok(None);
        }
        let thread = self.thread(event)?;
        if self.read.has(&thread, event.position) {
            return Ok(None);
        }
        Ok(self.judges(event)?.map(|actions| (thread, actions)))
    }

    /// The actions for an event of somebody else, read or not, if a rule notifies of it.
    pub(super) fn judges(&mut self, event: &Logged) -> Result<Option<&[Action]>, Error> {
        if self.is_beside_the_point(event) {
            return Ok(None);
        }
        let actions = self.judge.actions(event)?;
        Ok(Verdict::of(actions).notify.then_some(actions))
    }

    /// Whether it is the user's own, or nothing is left of it.
    fn is_beside_the_point(&self, event: &Logged) -> bool {
        event.pdu.sender() == self.viewer.user || event.redacted_by.is_some() || is_history(event)
    }
}

/// Whether an event came as history: it notified nobody.
fn is_history(event: &Logged) -> bool {
    event.txn.as_deref() == Some(transactions::HISTORY)
}

impl Counting<'_> {
    /// Adds what happened since the last count. `false`: too much of it, or something that changes what was counted.
    fn continues(&mut self, since: u64, to: u64) -> Result<bool, Error> {
        let Looking { sql, viewer, .. } = self.looking;
        let mut walk = Walk::new(sql, viewer, Direction::Forwards, (since, to), SCAN_MAX);
        while let Some(event) = walk.next()? {
            if *event.pdu.event_type() == TimelineEventType::RoomRedaction || walk.scanned() > SCAN_MAX {
                return Ok(false);
            }
            match self.looking.read_by_sending(&event)? {
                Some(thread) => drop(self.threads.remove(&thread)),
                None => self.count(&event)?,
            }
        }
        Ok(true)
    }

    /// Counts from the newest event back.
    fn starts_anew(&mut self, to: u64) -> Result<(), Error> {
        let mut walk = self.looking.backwards(0, to);
        while let Some(event) = walk.next()? {
            if walk.scanned() > SCAN_MAX {
                break;
            }
            match self.looking.read_by_sending(&event)? {
                Some(thread) => self.looking.read.up_to(&thread, event.position),
                None => self.count(&event)?,
            }
        }
        Ok(())
    }

    /// Counts an event of somebody else, if it is unread and a rule notifies of it.
    fn count(&mut self, event: &Logged) -> Result<(), Error> {
        if let Some((thread, actions)) = self.looking.notifies(event)? {
            let is_call = *event.pdu.event_type() == TimelineEventType::CallInvite;
            let unread = self.threads.entry(thread).or_default();
            unread.notification_count = unread.notification_count.saturating_add(1);
            unread.highlight_count = unread.highlight_count.saturating_add(u64::from(Verdict::of(actions).highlight));
            unread.missed_calls = unread.missed_calls.saturating_add(u64::from(is_call));
        }
        Ok(())
    }
}

/// What tells one user's changes of the rules, and whom they ignore, from another version of them.
fn digest(rules: Option<&Ruleset>, viewer: &Viewer) -> Result<u64, Error> {
    let (ignored, hidden) = (viewer.ignored(), viewer.hidden_up_to());
    if rules.is_none() && ignored.is_empty() && hidden == 0 {
        return Ok(0);
    }
    let mut hasher = DefaultHasher::new();
    (serde_json::to_string(&rules)?, ignored, hidden).hash(&mut hasher);
    Ok(hasher.finish())
}
