//! The presence of the server's users, as it tells.
//!
//! What changed goes to the rooms that are shared with the server; a room says who of them is in it, and of those it is
//! kept: one written row for a change, none for what is repeated. A server of which nothing was heard for long has
//! nobody there. Spec: Server-Server API, "Presence".

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{Destination, store};
use crate::{
    Call, Cx, Error, call,
    cx::{Key, PresenceTo},
    presence::{Presence, PresenceStatus},
    room::{HearPresences, MembersHeard},
    schedule,
};

/// The schedule's name for finding that nothing was heard.
pub(super) const SILENCE_DUE: &str = "silence";
/// How long the server may say nothing of presence before nobody of it is there, in milliseconds. Other implementations
/// repeat what has not changed every 25 minutes.
const SILENT_MS_MAX: u64 = 40 * 60_000;
/// How often it is noted that something was heard, in milliseconds: a written row.
const NOTED_EVERY_MS: u64 = 5 * 60_000;
/// How long one who is not there any more is remembered, in milliseconds: whoever was told that they are is told.
const OFFLINE_KEPT_MS: u64 = 24 * 3_600_000;
/// The most users of one call.
const PRESENCES_MAX: usize = 200;
/// The most rooms that are told, those in which something happened last.
const ROOMS_TOLD_MAX: u64 = 200;
/// The most users of whom no room has said yet that they are in it.
const UNCONFIRMED_MAX: usize = 1_000;
/// The most pairs of a user and a room that are remembered.
const STRANGERS_MAX: usize = 20_000;

/// How users of the server are, as it says; only those in a room of ours are believed to exist.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HearPresence {
    pub presences: Vec<Presence>,
}

impl Call for HearPresence {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "hear_presence";
    type Reply = ();
}

/// How users of the server are, as far as it told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetPresences {
    /// The room that asks, and they are in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_id: Option<OwnedRoomId>,
    pub users: Vec<OwnedUserId>,
}

impl Call for GetPresences {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "get_presences";
    type Reply = Vec<Presence>;
}

/// What can be lost of it.
#[derive(Default)]
pub(super) struct TheirPresence {
    /// Of whom no room has said yet that they are in it.
    unconfirmed: RefCell<BTreeMap<OwnedUserId, PresenceStatus>>,
    /// Who is not in which room: that one is not told of them.
    strangers: RefCell<BTreeMap<String, BTreeSet<OwnedUserId>>>,
}

impl TheirPresence {
    fn is_stranger(&self, room: &str, user: &OwnedUserId) -> bool {
        self.strangers.borrow().get(room).is_some_and(|strangers| strangers.contains(user))
    }

    fn are_members(&self, room: &str, users: &[OwnedUserId]) {
        if let Some(strangers) = self.strangers.borrow_mut().get_mut(room) {
            strangers.retain(|stranger| !users.contains(stranger));
        }
    }

    fn are_strangers(&self, room: String, users: Vec<OwnedUserId>) {
        let mut strangers = self.strangers.borrow_mut();
        if strangers.values().map(BTreeSet::len).sum::<usize>() >= STRANGERS_MAX {
            strangers.clear();
        }
        strangers.entry(room).or_default().extend(users);
    }
}

fn is_same(one: &PresenceStatus, other: &PresenceStatus) -> bool {
    (one.state, &one.status_msg, one.currently_active) == (other.state, &other.status_msg, other.currently_active)
}

/// That of one who is not there any more.
fn gone(was: &PresenceStatus, cx: &Cx<'_>) -> PresenceStatus {
    let since_ms = cx.now_ms.max(was.since_ms.saturating_add(1));
    PresenceStatus { last_active_ms: was.last_active_ms, since_ms, ..PresenceStatus::default() }
}

impl Destination {
    pub(super) fn hear_presence(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: HearPresence) -> Result<(), Error> {
        note_heard(tx, cx)?;
        let told: BTreeMap<_, _> =
            call.presences.into_iter().take(PRESENCES_MAX).map(|presence| (presence.user.clone(), presence)).collect();
        let users: Vec<_> = told.keys().cloned().collect();
        let mut known = store::presences(&**tx, &users)?;
        let mut unconfirmed = self.theirs.unconfirmed.borrow_mut();
        let mut news = Vec::new();
        for (user, mut presence) in told {
            let kept = known.remove(&user);
            // What no room has confirmed may have been heard all the same: its answer was lost.
            if kept.as_ref().is_some_and(|kept| is_same(kept, &presence.status)) {
                continue;
            }
            let told = unconfirmed.get(&user).map(|told| told.since_ms).max(kept.map(|kept| kept.since_ms));
            presence.status.since_ms = cx.now_ms.max(told.map_or(0, |since_ms| since_ms.saturating_add(1)));
            news.push(presence);
        }
        if news.is_empty() {
            return Ok(());
        }
        if unconfirmed.len() >= UNCONFIRMED_MAX {
            unconfirmed.clear();
        }
        unconfirmed.extend(news.iter().map(|presence| (presence.user.clone(), presence.status.clone())));
        self.tell_rooms(&**tx, cx, &news)
    }

    fn tell_rooms(&self, sql: &dyn Sql, cx: &Cx<'_>, news: &[Presence]) -> Result<(), Error> {
        for room_id in self.rooms.newest(sql, ROOMS_TOLD_MAX)? {
            let theirs = news.iter().filter(|presence| !self.theirs.is_stranger(&room_id, &presence.user));
            let presences: Vec<_> = theirs.cloned().collect();
            if !presences.is_empty() {
                let key = Key::Presence(PresenceTo { peer: room_id.clone(), serial: 0 });
                cx.deliver(room_id, &HearPresences { presences }, key, false)?;
            }
        }
        Ok(())
    }

    /// A room says who of those that it was told of is in it.
    pub(super) fn members_heard(&self, tx: &Tx<'_>, room: &str, reply: Option<&[u8]>) -> Result<(), Error> {
        let Some(Ok(MembersHeard { members, strangers })) = reply.map(call::open::<HearPresences>) else {
            return Ok(());
        };
        self.theirs.are_members(room, &members);
        self.theirs.are_strangers(room.to_owned(), strangers);
        for user in members {
            let status = self.theirs.unconfirmed.borrow_mut().remove(&user);
            if let Some(status) = status {
                store::put_presence(tx, user.as_str(), &serde_json::to_string(&status)?)?;
            }
        }
        Ok(())
    }

    pub(super) fn get_presences(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        call: GetPresences,
    ) -> Result<Vec<Presence>, Error> {
        if let Some(room_id) = &call.room_id {
            self.theirs.are_members(room_id.as_str(), &call.users);
        }
        let known = store::presences(sql, &call.users)?;
        Ok(known.into_iter().map(|(user, status)| Presence { status, ..Presence::absent(user) }).collect())
    }

    /// Looks whether the server still says anything.
    pub(super) fn look_for_silence(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let silent_from_ms = heard_ms(&**tx)?.saturating_add(SILENT_MS_MAX);
        store::forget_offline(tx, cx.now_ms.saturating_sub(OFFLINE_KEPT_MS))?;
        if silent_from_ms > cx.now_ms {
            return Ok(schedule::at(tx, cx, SILENCE_DUE, silent_from_ms)?);
        }
        let mut news = Vec::new();
        for (user, status) in store::not_offline(&**tx)? {
            let status = gone(&status, cx);
            store::put_presence(tx, user.as_str(), &serde_json::to_string(&status)?)?;
            news.push(Presence { status, ..Presence::absent(user) });
        }
        for (user, status) in std::mem::take(&mut *self.theirs.unconfirmed.borrow_mut()) {
            if !news.iter().any(|told| told.user == user) {
                news.push(Presence { status: gone(&status, cx), ..Presence::absent(user) });
            }
        }
        news.chunks(PRESENCES_MAX).try_for_each(|news| self.tell_rooms(&**tx, cx, news))?;
        if store::is_any_presence(&**tx)? {
            schedule::at(tx, cx, SILENCE_DUE, cx.now_ms.saturating_add(OFFLINE_KEPT_MS).saturating_add(1))?;
        }
        Ok(())
    }
}

/// When something was heard of the server's presence last, as far as it is noted.
fn heard_ms(sql: &dyn Sql) -> Result<u64, Fault> {
    Ok(store::fact(sql, "presence_heard_ms")?.and_then(|heard_ms| heard_ms.parse().ok()).unwrap_or(0))
}

fn note_heard(tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Fault> {
    if cx.now_ms < heard_ms(&**tx)?.saturating_add(NOTED_EVERY_MS) {
        return Ok(());
    }
    store::set_fact(tx, "presence_heard_ms", &cx.now_ms.to_string())?;
    schedule::at(tx, cx, SILENCE_DUE, cx.now_ms.saturating_add(SILENT_MS_MAX))
}
