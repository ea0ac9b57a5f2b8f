//! The presence of members, passed on to the followers who listen. Memory only: nothing is written, nothing is owed.
//!
//! The room tells each follower in one small call at a time; what comes meanwhile goes with the next. A follower
//! answers with their own presence, so that a room that has forgotten everything knows again after one round who is
//! there, and with whether anybody listens: who does not is left alone until they tell their own presence or read.
//! A room with many members tells nobody.

use std::collections::{BTreeMap, BTreeSet};

use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::{Room, append::room_id, store};
use crate::{
    Call, Cx, Error, call,
    cx::{Key, PresenceTo},
    presence::{Presence, PresenceState, PresenceStatus},
    user::PresenceTold,
};

/// A room with more joined members than this passes on nobody's presence.
pub(super) const MEMBERS_MAX: u64 = 1_000;
/// The most presences in one call.
const PRESENCES_PER_CALL_MAX: usize = 200;

/// A member tells their presence, because it changed or because they want to know that of the others. Nothing happens
/// for who is not in the room.
#[derive(Debug, Serialize, Deserialize)]
pub struct TellPresence {
    #[serde(flatten)]
    pub presence: Presence,
    /// Whether it changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_news: bool,
    /// Whether the member wants to know who else is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
}

/// Who else is there, for a member who asked.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct WhoIsThere {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub presences: Vec<Presence>,
    /// Local members of whom nobody has heard.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<OwnedUserId>,
    /// The room has to ask its followers first: what they say comes with [`PresenceTold`], and that it is complete.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more_comes: bool,
    /// For a member who told news: other servers that are to hear of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
}

impl Call for TellPresence {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "tell_presence";
    type Reply = WhoIsThere;
}

/// The members' presence in memory.
#[derive(Default)]
pub(super) struct Presences {
    known: BTreeMap<String, Known>,
    listeners: BTreeMap<String, Listener>,
    /// The newest news.
    serial: u64,
    /// Members who asked before the room knew.
    askers: BTreeSet<String>,
    /// Other servers that were asked how their users are, and whether they answered.
    pub servers: BTreeMap<String, bool>,
    /// Whether an operation changed this memory and is not committed yet.
    pub uncommitted: bool,
}

struct Known {
    presence: Presence,
    /// 0: no news, the room had merely forgotten it.
    serial: u64,
    /// Whether the user is no longer in the room.
    is_gone: bool,
}

/// What a follower was told.
#[derive(Default)]
struct Listener {
    told: u64,
    in_flight: bool,
    /// Whether they were told anything, and so asked for their own presence.
    asked: bool,
    /// Whether nobody listens there.
    is_deaf: bool,
}

impl Presences {
    /// Takes in a member's presence, as news or as what had been forgotten.
    pub(super) fn hears(&mut self, presence: Presence, is_news: bool) {
        let is_known = match self.known.get_mut(presence.user.as_str()) {
            Some(known) if !known.is_gone && !presence.is_newer_than(&known.presence) => {
                known.presence.hears_again(&presence);
                return;
            }
            known => known.is_some(),
        };
        let serial = if is_news || is_known { self.serial.saturating_add(1) } else { 0 };
        self.serial = self.serial.max(serial);
        self.known.insert(presence.user.to_string(), Known { presence, serial, is_gone: false });
    }

    /// A member left: they are told nothing, and the others that they are gone.
    pub(super) fn leaves(&mut self, user: &str) {
        self.listeners.remove(user);
        self.askers.remove(user);
        if let Some(known) = self.known.get_mut(user) {
            self.serial = self.serial.saturating_add(1);
            (known.serial, known.is_gone) = (self.serial, true);
        }
    }

    /// How a member is, as far as the room heard.
    pub(super) fn status_of(&self, user: &str) -> Option<&PresenceStatus> {
        self.known.get(user).map(|known| &known.presence.status)
    }

    /// Those members who are there, as far as the room heard.
    pub(super) fn those_there(&self) -> impl Iterator<Item = String> {
        let there = |known: &Known| !known.is_gone && known.presence.status.state != PresenceState::Offline;
        self.known.iter().filter(move |(_, known)| there(known)).map(|(user, _)| user.clone())
    }

    /// Tells one follower what they were not told, if anything, or asks them for their own presence if need be.
    pub(super) fn tell(&mut self, cx: &Cx<'_>, follower: &str, asks: bool) -> Result<(), Error> {
        let listener = self.listeners.entry(follower.to_owned()).or_default();
        if listener.in_flight || listener.is_deaf || (listener.told >= self.serial && (listener.asked || !asks)) {
            return Ok(());
        }
        let mut news: Vec<&Known> = self.known.values().filter(|known| known.serial > listener.told).collect();
        news.sort_by_key(|known| known.serial);
        news.truncate(PRESENCES_PER_CALL_MAX);
        let serial = match news.last() {
            Some(last) if news.len() == PRESENCES_PER_CALL_MAX => last.serial,
            _ => self.serial,
        };
        news.retain(|known| known.presence.user.as_str() != follower);
        if news.is_empty() && (listener.asked || !asks) {
            listener.told = serial;
            return Ok(());
        }
        let (gone, there): (Vec<_>, Vec<_>) = news.into_iter().partition(|known| known.is_gone);
        let call = PresenceTold {
            room_id: room_id(cx)?,
            presences: there.into_iter().map(|known| known.presence.clone()).collect(),
            gone: gone.into_iter().map(|known| known.presence.user.clone()).collect(),
            absent: Vec::new(),
            complete: false,
        };
        (listener.in_flight, listener.asked) = (true, true);
        self.uncommitted = true;
        cx.deliver(follower, &call, Key::Presence(PresenceTo { peer: follower.to_owned(), serial }), false)
    }

    /// Whether every one of these was heard of.
    fn knows_all(&self, followers: &[String]) -> bool {
        let is_known = |follower: &String| {
            self.known.contains_key(follower)
                || self.listeners.get(follower).is_some_and(|listener| listener.asked && !listener.in_flight)
        };
        followers.iter().all(is_known) && self.servers.values().all(|answered| *answered)
    }

    /// Everyone but the asker who is there, and those members of whom that is not known.
    fn who_is_there(&self, sql: &dyn Sql, asker: &str) -> Result<WhoIsThere, Fault> {
        let others = self.known.iter().filter(|(user, known)| *user != asker && !known.is_gone);
        let presences = others.map(|(_, known)| known.presence.clone()).take(MEMBERS_MAX as usize).collect();
        let absent = store::members::joined_locals(sql, MEMBERS_MAX)?
            .into_iter()
            .filter(|user| user != asker && !self.known.contains_key(user))
            .filter_map(|user| OwnedUserId::try_from(user).ok())
            .collect();
        Ok(WhoIsThere { presences, absent, ..WhoIsThere::default() })
    }

    fn has_told_all(&mut self, follower: &str) {
        let serial = self.serial;
        self.listeners.entry(follower.to_owned()).or_default().told = serial;
    }

    /// Answers those who asked before everybody was heard of.
    fn answer_askers(&mut self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<(), Error> {
        for asker in std::mem::take(&mut self.askers) {
            self.uncommitted = true;
            let WhoIsThere { presences, absent, .. } = self.who_is_there(sql, &asker)?;
            let call = PresenceTold { room_id: room_id(cx)?, presences, gone: Vec::new(), absent, complete: true };
            let listener = self.listeners.entry(asker.clone()).or_default();
            listener.in_flight = true;
            let key = Key::Presence(PresenceTo { peer: asker.clone(), serial: self.serial });
            cx.deliver(asker.as_str(), &call, key, false)?;
        }
        Ok(())
    }
}

impl Room {
    pub(super) fn tell_presence(&self, sql: &dyn Sql, cx: &Cx<'_>, call: TellPresence) -> Result<WhoIsThere, Error> {
        let user = call.presence.user.to_string();
        let is_member = store::members::membership(sql, &user)?.as_deref() == Some("join");
        if !is_member || store::members::joined_exceed(sql, MEMBERS_MAX)? {
            return Ok(WhoIsThere::default());
        }
        let followers = self.live_followers(sql, cx.now_ms)?;
        let servers = if call.is_news { self.servers_of_presence(sql, cx)? } else { Vec::new() };
        if call.is_news {
            self.appservices_hear_presences(sql, cx, std::slice::from_ref(&call.presence))?;
        }
        let mut presences = self.presences.borrow_mut();
        let presences = presences.get_or_insert_default();
        presences.uncommitted = true;
        let listener = presences.listeners.entry(user.clone()).or_default();
        (listener.is_deaf, listener.asked) = (false, true);
        presences.hears(call.presence, call.is_news);
        followers.iter().try_for_each(|follower| presences.tell(cx, follower, call.asks))?;
        if !call.asks {
            return Ok(WhoIsThere { servers, ..WhoIsThere::default() });
        }
        self.ask_servers(sql, cx, presences)?;
        if presences.knows_all(&followers) {
            presences.has_told_all(&user);
            return Ok(WhoIsThere { servers, ..presences.who_is_there(sql, &user)? });
        }
        presences.askers.insert(user);
        Ok(WhoIsThere { more_comes: true, servers, ..WhoIsThere::default() })
    }

    /// A follower was told, or could not be reached.
    pub(super) fn presence_answered(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        (follower, serial): (&str, u64),
        reply: Option<&[u8]>,
    ) -> Result<(), Error> {
        let mut presences = self.presences.borrow_mut();
        let Some(presences) = presences.as_mut() else { return Ok(()) };
        let Some(listener) = presences.listeners.get_mut(follower) else { return Ok(()) };
        presences.uncommitted = true;
        listener.in_flight = false;
        listener.told = listener.told.max(serial);
        // Presence is told as well as that goes: one who cannot be reached is told of the next news.
        if let Some(Ok(heard)) = reply.map(call::open::<PresenceTold>) {
            listener.is_deaf = !heard.listens;
            presences.hears(heard.own, false);
        }
        self.pass_presences_on(tx, cx, presences)
    }

    /// Tells followers what they were not told, and answers those who asked if all is known by now.
    pub(super) fn pass_presences_on(&self, tx: &Tx<'_>, cx: &Cx<'_>, presences: &mut Presences) -> Result<(), Error> {
        let followers = self.live_followers(&**tx, cx.now_ms)?;
        let asks = !presences.askers.is_empty();
        followers.iter().try_for_each(|follower| presences.tell(cx, follower, asks))?;
        if presences.knows_all(&followers) {
            presences.answer_askers(&**tx, cx)?;
        }
        Ok(())
    }

    /// Who reads listens.
    pub(super) fn presence_listened(&self, user: &str) {
        if let Some(presences) = self.presences.borrow_mut().as_mut()
            && let Some(listener) = presences.listeners.get_mut(user)
        {
            listener.is_deaf = false;
        }
    }

    /// Memory follows the memberships that an operation changed.
    pub(super) fn presence_committed(&self, sql: &dyn Sql, cx: &Cx<'_>, left: &[String]) -> Result<(), Error> {
        let followers = if left.is_empty() { Vec::new() } else { self.live_followers(sql, cx.now_ms)? };
        let mut presences = self.presences.borrow_mut();
        let Some(presences) = presences.as_mut() else { return Ok(()) };
        left.iter().for_each(|user| presences.leaves(user));
        followers.iter().try_for_each(|follower| presences.tell(cx, follower, false))?;
        presences.uncommitted = false;
        Ok(())
    }

    pub(super) fn presence_rolled_back(&self) {
        let mut presences = self.presences.borrow_mut();
        if presences.as_ref().is_some_and(|presences| presences.uncommitted) {
            *presences = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Presence, Presences};
    use crate::presence::{PresenceState, PresenceStatus};

    /// Whoever stays is told anew now and then: that is no news, and whoever comes next hears of it.
    #[test]
    fn who_was_active_since_was_so_to_those_who_come() {
        let alice = |since_ms, last_active_ms| {
            let status =
                PresenceStatus { state: PresenceState::Online, last_active_ms, since_ms, ..PresenceStatus::default() };
            Presence { status, ..Presence::absent("@alice:myelin.test".try_into().unwrap()) }
        };
        let mut presences = Presences::default();
        let mut hears = |presence, is_news| {
            presences.hears(presence, is_news);
            let known = &presences.known["@alice:myelin.test"];
            (known.presence.status.last_active_ms, known.serial)
        };
        assert_eq!(hears(alice(5, 10), true), (10, 1));
        assert_eq!(hears(alice(5, 20), false), (20, 1));
        assert_eq!(hears(alice(5, 15), true), (20, 1), "late");
        assert_eq!(hears(alice(4, 30), true), (20, 1), "of what she was before");
        assert_eq!(hears(alice(6, 6), true), (6, 2));
    }
}
