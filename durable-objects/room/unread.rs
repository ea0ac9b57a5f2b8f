//! How much a user has not read: notifications since their receipts, for each thread. Spec: "Receiving notifications",
//! "Threaded read receipts".
//!
//! Counted when the user reads the room, by their push rules and the room as it is then: an event counts if a rule
//! notifies of it, it is not the user's own, not redacted, and stands after
//!
//! - their last join, and every unthreaded receipt of theirs, whatever its thread;
//! - their receipts for its thread, public or private, whichever is further ahead;
//! - their own last message in its thread: «when the user updates their read receipt (either by using the API or by
//!   sending an event), notifications prior to and including that event MUST be marked as read». A new name of theirs is
//!   an event in every room of theirs, and marks nothing.
//!
//! A count is remembered, so that ordinarily only new events are looked at. What is forgotten is counted anew, from the
//! newest event back: through [`SCAN_MAX`] entries of the log at most, where a count ends that would be larger.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
};

use domain::{push, push::Recipient, standing::Standing};
use platform::{Fault, Sql};
use ruma_common::{OwnedUserId, RoomId, UserId, push::Ruleset};
use ruma_events::TimelineEventType;
use serde::Serialize;
use serde_json::Value;

use super::{
    MemberProfile, Room,
    append::room_id,
    messages::Direction,
    remembered::Remembered,
    store::{self, log::Logged, receipts::Receipt},
    thread::{self, MAIN},
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
    notification_count: u64,
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
struct Read {
    everywhere: u64,
    threads: HashMap<String, u64>,
}

impl Read {
    fn new(viewer: &Viewer, own: &[Receipt]) -> Self {
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
    /// A digest of what the user has changed of the push rules.
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

/// One user's count under way.
struct Counting<'a> {
    sql: &'a dyn Sql,
    room_id: &'a RoomId,
    viewer: &'a Viewer,
    rules: Option<&'a Ruleset>,
    /// Made when the first event asks for it.
    judging: Option<Judging>,
    read: Read,
    threads: UnreadByThread,
}

/// What decides whether an event notifies the user.
struct Judging {
    /// The rules in effect.
    rules: Ruleset,
    standing: Rc<Standing>,
    member_count: u64,
    display_name: Option<String>,
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
        let digest = digest(rules)?;
        let read = Read::new(viewer, own);
        let known = self.counts.borrow_mut().0.take(&*viewer.user);
        let known = known.filter(|known| known.rules == digest && known.read == read && known.up_to <= to);
        let room_id = room_id(cx)?;
        let (threads, since) = known.map_or((BTreeMap::new(), None), |known| (known.threads, Some(known.up_to)));
        let mut counting =
            Counting { sql, room_id: &room_id, viewer, rules, judging: None, read: read.clone(), threads };
        let is_continued = match since {
            Some(since) => counting.continues(self, since, to)?,
            None => false,
        };
        if !is_continued {
            counting.threads.clear();
            counting.starts_anew(self, to)?;
        }
        let threads = counting.threads;
        let counted = Counted { up_to: to, rules: digest, read, threads: threads.clone() };
        self.counts.borrow_mut().0.put(viewer.user.clone(), counted);
        Ok(threads)
    }

    /// Who has which power in the room now.
    fn standing(&self, sql: &dyn Sql) -> Result<Rc<Standing>, Error> {
        if let Some(standing) = &*self.standing.borrow() {
            return Ok(standing.clone());
        }
        let create = store::state::current(sql, "m.room.create", "")?;
        let create = create.ok_or_else(|| Fault::new("the room has no create event"))?.pdu;
        let levels = store::state::current(sql, "m.room.power_levels", "")?.map(|levels| levels.pdu);
        let standing = Rc::new(Standing::new(&*self.version(sql)?, &create, levels.as_ref()));
        Ok(self.standing.borrow_mut().insert(standing).clone())
    }
}

impl Counting<'_> {
    /// Adds what happened since the last count. `false`: too much of it, or something that changes what was counted.
    fn continues(&mut self, room: &Room, since: u64, to: u64) -> Result<bool, Error> {
        let mut walk = Walk::new(self.sql, self.viewer, Direction::Forwards, (since, to), SCAN_MAX);
        while let Some(event) = walk.next()? {
            if *event.pdu.event_type() == TimelineEventType::RoomRedaction || walk.scanned() > SCAN_MAX {
                return Ok(false);
            }
            match self.read_by_sending(&event)? {
                Some(thread) => drop(self.threads.remove(&thread)),
                None => self.count(room, &event)?,
            }
        }
        Ok(true)
    }

    /// Counts from the newest event back.
    fn starts_anew(&mut self, room: &Room, to: u64) -> Result<(), Error> {
        let span = (self.read.everywhere, to);
        let mut walk = Walk::new(self.sql, self.viewer, Direction::Backwards, span, SCAN_MAX);
        while let Some(event) = walk.next()? {
            if walk.scanned() > SCAN_MAX {
                break;
            }
            match self.read_by_sending(&event)? {
                Some(thread) => self.read.up_to(&thread, event.position),
                None => self.count(room, &event)?,
            }
        }
        Ok(())
    }

    /// The thread that the user has read by sending this event into it.
    fn read_by_sending(&self, event: &Logged) -> Result<Option<String>, Fault> {
        let is_own_message = event.pdu.sender() == self.viewer.user && event.pdu.state_key().is_none();
        if is_own_message { self.thread(event).map(Some) } else { Ok(None) }
    }

    fn thread(&self, event: &Logged) -> Result<String, Fault> {
        Ok(thread::place(self.sql, event)?.thread.map_or_else(|| MAIN.to_owned(), String::from))
    }

    /// Counts an event of somebody else, if it is unread and a rule notifies of it.
    fn count(&mut self, room: &Room, event: &Logged) -> Result<(), Error> {
        let is_own = event.pdu.sender() == self.viewer.user;
        if is_own || event.redacted_by.is_some() {
            return Ok(());
        }
        let thread = self.thread(event)?;
        if self.read.has(&thread, event.position) {
            return Ok(());
        }
        let json: Value = serde_json::from_str(event.pdu.json())?;
        let judging = match &self.judging {
            Some(judging) => judging,
            None => self.judging.insert(Judging {
                rules: push::effective(&self.viewer.user, self.rules.cloned()),
                standing: room.standing(self.sql)?,
                member_count: room.company(self.sql)?.joined,
                display_name: display_name(self.sql, &self.viewer.user)?,
            }),
        };
        let recipient = Recipient {
            user_id: &self.viewer.user,
            room_id: self.room_id,
            display_name: judging.display_name.as_deref(),
            member_count: judging.member_count,
            sender_level: judging.standing.level(event.pdu.sender()),
            notification_levels: judging.standing.notifications(),
        };
        let verdict = push::verdict(&judging.rules, &json, &recipient);
        if verdict.notify {
            let unread = self.threads.entry(thread).or_default();
            unread.notification_count = unread.notification_count.saturating_add(1);
            unread.highlight_count = unread.highlight_count.saturating_add(u64::from(verdict.highlight));
        }
        Ok(())
    }
}

/// What the user is called in the room.
fn display_name(sql: &dyn Sql, user_id: &UserId) -> Result<Option<String>, Fault> {
    let member = store::state::current(sql, "m.room.member", user_id.as_str())?;
    Ok(member.and_then(|member| member.pdu.content_as::<MemberProfile>().ok()).and_then(|profile| profile.displayname))
}

/// What tells one user's changes of the rules from another version of them.
fn digest(rules: Option<&Ruleset>) -> Result<u64, Error> {
    let Some(rules) = rules else { return Ok(0) };
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(rules)?.hash(&mut hasher);
    Ok(hasher.finish())
}
