//! What is known of the presence of others: memory only, as told by the rooms the user is in.
//!
//! Each news has a stamp, a time that is never used twice; a device's sync token says up to which stamp it has seen.
//! Rooms tell only users who listen, so this memory begins when somebody listens and ends when nobody does, or with the
//! actor's. It covers a token that was made shortly before it began, when there was another one that lived until then
//! or somebody waited. For any other token the rooms are asked who is there, and until they have answered the device is
//! told nothing: it misses nothing, and it is not told twice.

use std::collections::{BTreeMap, BTreeSet};

use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::{OwnedDeviceId, OwnedRoomId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{GetPresence, User, own_id, own_presence::PRESENT_MS, store, sync_token::SyncToken};
use crate::{
    Call, Cx, Error, call,
    cx::{Key, PresenceTo},
    presence::{EVENT_TYPE, Presence, PresenceState},
    room::{EventFilter, TellPresence, WhoIsThere},
};

/// The most users whose presence is kept.
const OTHERS_MAX: usize = 1_000;
/// The longest that news wait for rooms that were asked, in milliseconds.
const ASKING_MS_MAX: u64 = 10_000;
/// The longest time between a token and a later memory that lacks nothing the token has not seen, in milliseconds.
/// While news come in, a memory does not end this soon, but for crashes and deployments.
const GAP_MS_MAX: u64 = 30_000;
/// How a user's presence is told, or that of others asked for, the first time and the last.
pub(super) const FIRST_TRY: u64 = 0;
const SECOND_TRY: u64 = 1;
/// A request tier's clock and an actor's differ by less than this, in milliseconds.
const CLOCKS_DIFFER_MS: u64 = 2_000;

/// A room tells this user of the presence of others in it; memory only, repeats do not matter.
#[derive(Debug, Serialize, Deserialize)]
pub struct PresenceTold {
    pub room_id: OwnedRoomId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub presences: Vec<Presence>,
    /// Who is no longer in the room.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<OwnedUserId>,
    /// Members of whom nobody has heard: they are offline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<OwnedUserId>,
    /// Whether that is all the room has to say to a user who asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub complete: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct PresenceHeard {
    /// Whether anybody is here to see it. If not, the user is told no more until they tell their own.
    pub listens: bool,
    /// The user's own presence, for a room that has forgotten it.
    pub own: Presence,
}

impl Call for PresenceTold {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "presence_told";
    type Reply = PresenceHeard;
}

/// What a sync says of its own user's presence, and wants of others'.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SyncPresence {
    /// How the device is there. Spec: `set_presence`.
    pub set: PresenceState,
    /// When the sync was asked, in milliseconds since the Unix epoch: asked again on a wake, it says nothing new.
    pub asked_at_ms: u64,
    /// How long the sync waits at most.
    #[serde(default)]
    pub timeout_ms: u64,
    /// What is wanted; a stored filter says it itself.
    #[serde(default)]
    pub filter: EventFilter,
}

impl SyncPresence {
    /// With what a stored filter says, if the sync names one. It was valid when it was stored.
    pub(super) fn filtered(self, stored: Option<&RawValue>) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Filter {
            presence: EventFilter,
        }
        match stored {
            Some(stored) => {
                let filter: Filter = serde_json::from_str(stored.get()).unwrap_or_default();
                Self { filter: filter.presence, ..self }
            }
            None => self,
        }
    }
}

/// Others' presence in memory.
pub(super) struct Others {
    began_ms: u64,
    /// Whether it took the place of one that may have held news.
    replaced: bool,
    known: BTreeMap<OwnedUserId, Known>,
    newest: u64,
    asking: Asking,
}

struct Known {
    presence: Presence,
    stamp: u64,
    /// The rooms that tell of them.
    rooms: BTreeSet<OwnedRoomId>,
    /// The rooms that said that they left: what their own user says of these may be older.
    left: BTreeSet<OwnedRoomId>,
}

impl Known {
    fn new(presence: Presence, stamp: u64) -> Self {
        Self { presence, stamp, rooms: BTreeSet::new(), left: BTreeSet::new() }
    }

    /// Whether they look as if they were there, and no room tells of them.
    fn is_in_doubt(&self) -> bool {
        self.rooms.is_empty() && self.presence.status.state != PresenceState::Offline
    }
}

/// Whether the rooms were asked who is there, since this memory began.
pub(super) enum Asking {
    No,
    /// A device needs it.
    Wanted,
    Rooms {
        left: BTreeSet<String>,
        until_ms: u64,
    },
    Done,
}

impl Asking {
    pub(super) fn of(rooms: BTreeSet<String>, now_ms: u64) -> Self {
        Self::Rooms { left: rooms, until_ms: now_ms.saturating_add(ASKING_MS_MAX) }
    }
}

impl Others {
    fn new(now_ms: u64, replaced: bool) -> Self {
        Self { began_ms: now_ms, replaced, known: BTreeMap::new(), newest: now_ms, asking: Asking::No }
    }

    /// Whether a sync whose token has seen everything up to `seen` misses nothing that this memory does not hold.
    fn covers(&self, seen: u64, asked_at_ms: u64) -> bool {
        // One that was asked long before this memory began has waited since, and was told of everything.
        let waited = self.began_ms > asked_at_ms.saturating_add(ASKING_MS_MAX);
        let gap_ms_max = if self.replaced { 0 } else { GAP_MS_MAX };
        waited || seen.saturating_add(gap_ms_max) >= self.began_ms || self.is_complete()
    }

    /// Has the rooms asked who is there, if they were not.
    fn must_be_known(&mut self) {
        if matches!(self.asking, Asking::No) {
            self.asking = Asking::Wanted;
        }
    }

    /// Whether this room was asked and has not said all it has to say.
    fn waits_for(&self, room: &str) -> bool {
        matches!(&self.asking, Asking::Rooms { left, .. } if left.contains(room))
    }

    /// Whether a first sync can be told who is there.
    fn is_complete(&self) -> bool {
        matches!(self.asking, Asking::Done)
    }

    /// Takes in what a room tells; answers whether it is news.
    fn hears(&mut self, presence: Presence, room: &OwnedRoomId, now_ms: u64) -> bool {
        let is_first = !self.known.contains_key(&presence.user);
        if is_first && self.known.len() >= OTHERS_MAX {
            return false;
        }
        let next = self.newest.saturating_add(1).max(now_ms);
        let known = self.known.entry(presence.user.clone()).or_insert_with(|| Known::new(presence.clone(), next));
        known.rooms.insert(room.clone());
        known.left.remove(room);
        if is_first || presence.is_newer_than(&known.presence) {
            (known.presence, known.stamp, self.newest) = (presence, next, next);
            return true;
        }
        known.presence.hears_again(&presence);
        false
    }

    /// Somebody left a room. If it was the last one that told of them, one that they share with this user may still be
    /// there: it had nothing to tell. Answers the rooms that it is not, where that has to be asked.
    fn hears_gone(&mut self, gone: &UserId, room: &OwnedRoomId) -> Option<&BTreeSet<OwnedRoomId>> {
        let known = self.known.get_mut(gone)?;
        known.rooms.remove(room);
        known.left.insert(room.clone());
        known.is_in_doubt().then_some(&known.left)
    }

    /// Somebody is in no room with this user any more, and so offline to them, unless a room says otherwise meanwhile.
    fn vanishes(&mut self, gone: &UserId, now_ms: u64) -> bool {
        let Some(known) = self.known.get_mut(gone).filter(|known| known.is_in_doubt()) else { return false };
        self.newest = self.newest.saturating_add(1).max(now_ms);
        (known.presence, known.stamp) = (Presence::absent(gone.to_owned()), self.newest);
        true
    }

    /// Those of whom nobody has heard, as of before this memory began: for whoever may believe that they are there.
    fn hears_absent(&mut self, absent: Vec<OwnedUserId>) {
        for user in absent {
            if self.known.len() < OTHERS_MAX && !self.known.contains_key(&user) {
                let stamp = self.began_ms.saturating_sub(OTHERS_MAX as u64).saturating_add(self.known.len() as u64);
                self.known.insert(user.clone(), Known::new(Presence::absent(user), stamp));
            }
        }
    }

    /// A room has said all it has to say. Answers whether it was the last one.
    fn heard_all_of(&mut self, room: &str, now_ms: u64) -> bool {
        let Asking::Rooms { left, until_ms } = &mut self.asking else { return false };
        left.remove(room);
        let done = left.is_empty() || *until_ms <= now_ms;
        if done {
            self.asking = Asking::Done;
        }
        done
    }

    /// What came after `seen`, in the order it came; those who are there for `None`.
    fn since<'a>(&'a self, seen: Option<u64>, own: &'a Presence) -> Vec<(u64, &'a Presence)> {
        let known = self.known.values().map(|known| (known.stamp, &known.presence));
        let mut news: Vec<_> = known
            .chain([(own.status.since_ms, own)])
            .filter(|(stamp, presence)| match seen {
                Some(seen) => *stamp > seen,
                None => presence.status.state != PresenceState::Offline,
            })
            .collect();
        news.sort_by_key(|(stamp, _)| *stamp);
        news
    }
}

fn wants(filter: &EventFilter, presence: &Presence) -> bool {
    filter.limit != Some(0) && filter.allows_presence(presence.user.as_str())
}

impl User {
    fn with_others<T>(&self, now_ms: u64, body: impl FnOnce(&mut Others) -> T) -> T {
        body(self.others.borrow_mut().get_or_insert_with(|| Others::new(now_ms, false)))
    }

    /// Whether a device waits for the rooms to be asked.
    pub(super) fn others_are_wanted(&self) -> bool {
        self.others.borrow().as_ref().is_some_and(|others| matches!(others.asking, Asking::Wanted))
    }

    pub(super) fn others_asked(&self, cx: &Cx<'_>, asking: Asking) -> Result<(), Error> {
        let nobody = matches!(&asking, Asking::Rooms { left, .. } if left.is_empty());
        self.with_others(cx.now_ms, |others| others.asking = if nobody { Asking::Done } else { asking });
        if nobody {
            cx.wake();
            return Ok(());
        }
        // One of them may never answer.
        Ok(cx.set_alarm(cx.now_ms.saturating_add(ASKING_MS_MAX))?)
    }

    /// The rooms may not have been asked after all.
    pub(super) fn others_not_asked(&self) {
        if let Some(others) = self.others.borrow_mut().as_mut()
            && matches!(others.asking, Asking::Rooms { .. })
        {
            others.asking = Asking::Wanted;
        }
    }

    /// Whoever has not answered by now is waited for no longer.
    pub(super) fn others_overdue(&self, cx: &Cx<'_>) -> Result<(), Error> {
        let mut others = self.others.borrow_mut();
        let Some(others) = others.as_mut() else { return Ok(()) };
        if let Asking::Rooms { until_ms, .. } = others.asking {
            if until_ms > cx.now_ms {
                return Ok(cx.set_alarm(until_ms)?);
            }
            others.asking = Asking::Done;
            cx.wake();
        }
        Ok(())
    }

    /// The newest stamp; a later one is higher.
    pub(super) fn others_newest(&self) -> u64 {
        self.others.borrow().as_ref().map_or(0, |others| others.newest)
    }

    /// Nothing is known of others any more: a room was left, or nobody listens.
    pub(super) fn others_forgotten(&self, now_ms: u64) {
        *self.others.borrow_mut() = Some(Others::new(now_ms, true));
    }

    /// A device syncs: takes in how it is there, and answers whether there is presence to be told of, when it has seen
    /// everything up to `seen`. One that cannot know has the rooms asked, unless it does not stay for the answer.
    pub(super) fn presence_is_new(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        (device, asked): (&OwnedDeviceId, &SyncPresence),
        seen: Option<u64>,
        stays: bool,
    ) -> Result<bool, Error> {
        let own = self.with_own_presence(sql, cx, |own| {
            own.hears(device, asked.set, asked.asked_at_ms, asked.timeout_ms);
            Ok(own.current())
        })?;
        Ok(self.with_others(cx.now_ms, |others| {
            if !others.covers(seen.unwrap_or(0), asked.asked_at_ms) {
                if stays {
                    others.must_be_known();
                }
                return false;
            }
            others.since(seen, &own).into_iter().any(|(_, presence)| wants(&asked.filter, presence))
        }))
    }

    /// Whether a first sync that wants this has to wait for rooms to be told who is there.
    pub(super) fn presence_is_awaited(&self, cx: &Cx<'_>, asked: &SyncPresence) -> bool {
        let wants_some = asked.filter.limit != Some(0) && asked.filter.allows_type(EVENT_TYPE);
        wants_some && !self.with_others(cx.now_ms, |others| others.is_complete())
    }

    /// What a sync tells of presence, and up to where its device has seen it then.
    pub(super) fn presence_news(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        asked: &SyncPresence,
        seen: Option<u64>,
    ) -> Result<(Vec<Box<RawValue>>, Option<u64>), Error> {
        if seen.is_none() {
            // The plan of a first sync may have been made in a memory that is gone.
            self.with_others(cx.now_ms, Others::must_be_known);
        }
        self.presence_settles(tx, cx)?;
        let own = self.with_own_presence(&**tx, cx, |own| Ok(own.current()))?;
        let limit = asked.filter.limit(OTHERS_MAX as u64, OTHERS_MAX as u64);
        self.with_others(cx.now_ms, |others| {
            if seen.is_some_and(|seen| !others.covers(seen, asked.asked_at_ms)) {
                return Ok((Vec::new(), seen));
            }
            // What comes later is stamped later than this token.
            others.newest = others.newest.max(cx.now_ms).max(own.status.since_ms);
            let mut next = others.newest;
            let mut events = Vec::new();
            let mut told = seen.unwrap_or(0);
            for (stamp, presence) in others.since(seen, &own) {
                if !wants(&asked.filter, presence) {
                    continue;
                }
                if events.len() as u64 == limit {
                    // The rest comes with the next sync.
                    next = told;
                    break;
                }
                events.push(presence.to_event(cx.now_ms)?);
                told = stamp;
            }
            Ok((events, Some(next)))
        })
    }

    pub(super) fn presence_told_by_room(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: PresenceTold,
    ) -> Result<PresenceHeard, Error> {
        let own = self.with_own_presence(sql, cx, |own| Ok(own.current()))?;
        let is_member = store::rooms::by_id(sql, call.room_id.as_str())?.is_some_and(|room| room.membership == "join");
        let asked = |others: &Others| matches!(others.asking, Asking::Rooms { .. });
        let listens = is_member && (self.is_listening(cx) || self.others.borrow().as_ref().is_some_and(asked));
        if listens {
            self.hears_of(sql, cx, call)?;
        } else {
            self.others_forgotten(cx.now_ms);
        }
        Ok(PresenceHeard { listens, own })
    }

    fn hears_of(&self, sql: &dyn Sql, cx: &Cx<'_>, told: PresenceTold) -> Result<(), Error> {
        let own_ms = self.with_own_presence(sql, cx, |own| Ok(own.told.status.since_ms))?;
        let mut doubtful = Vec::new();
        let mut news = self.with_others(cx.now_ms, |others| {
            // No two stamps are the same, those of the user's own included: a token that stands between tells them
            // apart.
            others.newest = others.newest.max(own_ms);
            let mut news = false;
            for presence in told.presences {
                if presence.user.as_str() != cx.id {
                    news |= others.hears(presence, &told.room_id, cx.now_ms);
                }
            }
            for gone in told.gone {
                if let Some(left) = others.hears_gone(&gone, &told.room_id).cloned() {
                    doubtful.push((gone, left));
                }
            }
            others.hears_absent(told.absent);
            news | (told.complete && others.heard_all_of(told.room_id.as_str(), cx.now_ms))
        });
        for (gone, left) in doubtful {
            news |= self.doubts(sql, cx, &gone, &left)?;
        }
        if news {
            cx.wake();
        }
        Ok(())
    }

    /// Asks one who left the last room that told of them whether they are in another one with this user. Answers
    /// whether it is clear already that they are in none.
    fn doubts(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        gone: &OwnedUserId,
        left: &BTreeSet<OwnedRoomId>,
    ) -> Result<bool, Error> {
        let rooms = store::rooms::with_membership(sql, "join")?.into_iter();
        let rooms = rooms.filter_map(|room| OwnedRoomId::try_from(room.room_id).ok());
        let rooms: Vec<_> = rooms.filter(|room| !left.contains(room)).collect();
        // Of other servers' users every room that they are in tells by itself.
        if rooms.is_empty() || !cx.is_local(gone) {
            return Ok(self.with_others(cx.now_ms, |others| others.vanishes(gone, cx.now_ms)));
        }
        let asker = own_id(cx)?;
        let key = Key::Presence(PresenceTo { peer: gone.to_string(), serial: FIRST_TRY });
        cx.deliver(gone.as_str(), &GetPresence { asker, rooms }, key, false)?;
        Ok(false)
    }

    /// A room has answered the user's own presence, or one in doubt whether they are in a room with the user; `None`
    /// for who could not be reached.
    pub(super) fn presence_answered_by(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        told: &PresenceTo,
        reply: Option<&[u8]>,
    ) -> Result<(), Error> {
        let Ok(user) = <&UserId>::try_from(told.peer.as_str()) else {
            if reply.is_none() && told.serial == FIRST_TRY {
                // Perhaps it was just restarted, and somebody waits for what it knows.
                return self.tell_room_presence(&**tx, cx, &told.peer, SECOND_TRY);
            }
            return self.presence_answered_by_room(tx, cx, &told.peer, reply);
        };
        let shares_room = matches!(reply.map(call::open::<GetPresence>), Some(Ok(_)));
        if !shares_room && self.with_others(cx.now_ms, |others| others.vanishes(user, cx.now_ms)) {
            cx.wake();
        }
        Ok(())
    }

    /// Tells a room once more what it could not be told, and asks it what it was asked.
    fn tell_room_presence(&self, sql: &dyn Sql, cx: &Cx<'_>, room: &str, serial: u64) -> Result<(), Error> {
        let presence = self.with_own_presence(sql, cx, |own| Ok(own.current()))?;
        let asks = self.with_others(cx.now_ms, |others| others.waits_for(room));
        let key = Key::Presence(PresenceTo { peer: room.to_owned(), serial });
        cx.deliver(room, &TellPresence { presence, is_news: true, asks }, key, false)
    }

    fn presence_answered_by_room(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        room: &str,
        reply: Option<&[u8]>,
    ) -> Result<(), Error> {
        // One that was left meanwhile has nothing to say.
        let known = store::rooms::by_id(&**tx, room)?.filter(|room| room.membership == "join");
        let room_id = OwnedRoomId::try_from(room).map_err(|_| Fault::new("a room has an id that is none"))?;
        let WhoIsThere { presences, absent, more_comes, servers } = match (known, reply.map(call::open::<TellPresence>))
        {
            (Some(_), Some(Ok(reply))) => reply,
            _ => WhoIsThere::default(),
        };
        self.tell_servers_presence(&**tx, cx, servers)?;
        let told = PresenceTold { room_id, presences, gone: Vec::new(), absent, complete: !more_comes };
        self.hears_of(&**tx, cx, told)
    }
}

/// The token of a sync that waited until now and heard nothing: it has seen all presence until now, unless the rooms
/// were still being asked.
pub fn waited_until(token: &str, now_ms: u64, asked_at_ms: u64) -> Option<String> {
    let mut token: SyncToken = token.parse().ok()?;
    if let Some(seen) = &mut token.presence
        && now_ms.saturating_sub(asked_at_ms) >= ASKING_MS_MAX
    {
        *seen = now_ms.saturating_sub(CLOCKS_DIFFER_MS).max(*seen);
    }
    Some(token.to_string())
}

const _: () = assert!(GAP_MS_MAX >= PRESENT_MS, "who counts as there is told as if they were");
