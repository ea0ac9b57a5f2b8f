//! The user's own presence: what their devices say, and what others were told.
//!
//! A user is as present as the most present of their devices, but idle after a while in which none of them did
//! anything. A device is there while a sync of its waits and a moment longer; that it syncs is nothing that anybody
//! does. Nothing is written as long as the outcome stays the same; a change is one row, and every room of the user is
//! told, once, as well as that goes. An alarm looks now and then whether anybody is still there.
//!
//! Memory may be lost at any time: then whoever waits on the user's actor counts as what was told last.

use std::collections::{BTreeMap, BTreeSet};

use platform::{Sql, Tx};
use ruma_common::{OwnedDeviceId, RoomId};

use super::{
    User,
    others_presence::{Asking, FIRST_TRY},
    own_id, profile, store,
};
use crate::{
    Cx, Error,
    cx::{Key, PresenceTo},
    presence::{Presence, PresenceState, PresenceStatus},
    room::TellPresence,
};

/// How long a device counts as there after its sync ended or it did something, in milliseconds.
pub(super) const PRESENT_MS: u64 = 30_000;
/// How often an alarm looks whether anybody is still there, in milliseconds: a written row for each look.
pub(super) const CHECK_MS: u64 = 300_000;
/// Who does nothing for so long is idle, in milliseconds. Spec: "Idle timeout".
const IDLE_MS: u64 = 300_000;
/// What the user did last is stored when so much later than what is stored, in milliseconds: memory may be gone before
/// they are idle.
const ACTIVE_KEPT_MS: u64 = 240_000;
/// How often other servers are told of who is still there, in milliseconds: they forget who is not heard of for half an
/// hour.
const REPEATED_EVERY_MS: u64 = 25 * 60_000;
/// The most rooms that are told of a presence.
const ROOMS_TOLD_MAX: usize = 200;

/// The user's own presence in memory.
pub(super) struct OwnPresence {
    /// As it is stored, and as others were told last.
    pub told: Presence,
    devices: BTreeMap<OwnedDeviceId, Seen>,
    last_active_ms: u64,
    /// Whether those who wait unknown to this memory count as what was told last.
    trusts_waiting: bool,
    /// The servers that were told how the user is.
    pub servers_told: BTreeSet<String>,
    /// Those that came to a room of the user's, and when they are to be told, in milliseconds since the Unix epoch.
    pub servers_coming: BTreeMap<String, u64>,
    /// When they were told again last, in milliseconds since the Unix epoch.
    repeated_ms: u64,
    /// Whether an operation changed this memory and is not committed yet.
    pub uncommitted: bool,
}

/// What a device said last.
struct Seen {
    state: PresenceState,
    said_at_ms: u64,
    until_ms: u64,
    /// Until when its sync waits, if nothing comes; 0 if none does.
    waits_until_ms: u64,
}

impl OwnPresence {
    fn load(sql: &dyn Sql, cx: &Cx<'_>) -> Result<Self, Error> {
        let user = own_id(cx)?;
        let status: PresenceStatus = match store::account::presence(sql)? {
            Some(stored) => serde_json::from_str(&stored)?,
            None => PresenceStatus::default(),
        };
        let profile = profile::shown_in_rooms(&store::profile::get(sql)?);
        let last_active_ms = status.last_active_ms;
        let told = Presence { user, status, profile };
        // What it holds may just have been written by the operation that reads it.
        Ok(Self {
            told,
            devices: BTreeMap::new(),
            last_active_ms,
            trusts_waiting: true,
            servers_told: BTreeSet::new(),
            servers_coming: BTreeMap::new(),
            repeated_ms: 0,
            uncommitted: true,
        })
    }

    /// A device asks for a sync that says how it is there. Whoever waits is asked again and again: only the first time
    /// says anything.
    pub(super) fn hears(&mut self, device: &OwnedDeviceId, state: PresenceState, said_at_ms: u64, waits_ms: u64) {
        let until_ms = said_at_ms.saturating_add(waits_ms);
        let waits_until_ms = if waits_ms > 0 { until_ms } else { 0 };
        if let Some(seen) = self.devices.get_mut(device)
            && seen.said_at_ms >= said_at_ms
        {
            seen.waits_until_ms = waits_until_ms.max(seen.waits_until_ms);
            return;
        }
        let until_ms = until_ms.saturating_add(PRESENT_MS);
        let before = self.devices.insert(device.clone(), Seen { state, said_at_ms, until_ms, waits_until_ms });
        if state == PresenceState::Online && self.comes(before.as_ref()) {
            self.last_active_ms = self.last_active_ms.max(said_at_ms);
        }
    }

    /// Whether somebody comes, or comes back, as a device says that they are online which said `before`, or nothing
    /// that is remembered. Spec: "Last active ago".
    fn comes(&self, before: Option<&Seen>) -> bool {
        let told = &self.told.status;
        let was_idle = told.last_active_ms > 0 && told.since_ms.saturating_sub(told.last_active_ms) >= IDLE_MS;
        match (told.state, before) {
            (PresenceState::Offline, _) => true,
            (_, Some(before)) => before.state != PresenceState::Online,
            (PresenceState::Unavailable, None) => !was_idle,
            (PresenceState::Online, None) => false,
        }
    }

    /// What the user is now. `waiting`: how many callers wait on their actor.
    fn state(&mut self, now_ms: u64, waiting: usize) -> PresenceState {
        self.devices.retain(|_, seen| seen.until_ms > now_ms);
        let known = self.devices.values().filter(|seen| seen.waits_until_ms > now_ms).count();
        let said = self.devices.values().map(|seen| seen.state).max().unwrap_or_default();
        let state = if self.trusts_waiting && waiting > known { said.max(self.told.status.state) } else { said };
        let is_idle = now_ms.saturating_sub(self.last_active_ms) >= IDLE_MS;
        if is_idle { state.min(PresenceState::Unavailable) } else { state }
    }

    /// Whether the user did something of which the stored presence is not to be without.
    fn is_active_anew(&self) -> bool {
        let stored = &self.told.status;
        stored.state == PresenceState::Online
            && self.last_active_ms >= stored.last_active_ms.saturating_add(ACTIVE_KEPT_MS)
    }

    /// The time of a change, later than the one before and than any token: they are compared.
    fn next_ms(&self, now_ms: u64, newest: u64) -> u64 {
        now_ms.max(self.told.status.since_ms.saturating_add(1)).max(newest.saturating_add(1))
    }

    /// What others are told.
    pub(super) fn current(&self) -> Presence {
        let mut current = self.told.clone();
        current.status.last_active_ms = self.last_active_ms;
        current
    }

    /// What whoever asks is shown.
    pub(super) fn shown(&mut self, cx: &Cx<'_>) -> Presence {
        let mut shown = self.current();
        // Without any device nothing was heard since the memory was lost: the alarm will find out.
        if !self.devices.is_empty() {
            shown.status.state = self.state(cx.now_ms, cx.waiting());
        }
        shown
    }
}

impl User {
    /// Runs `body` on the user's own presence, read from the database if need be.
    pub(super) fn with_own_presence<T>(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        body: impl FnOnce(&mut OwnPresence) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut own = self.own_presence.borrow_mut();
        let own = match own.as_mut() {
            Some(own) => own,
            None => own.insert(OwnPresence::load(sql, cx)?),
        };
        body(own)
    }

    /// A device's sync waits, or is answered: with something, or quietly. What nothing else will write and tell is left
    /// to the alarm.
    pub(super) fn presence_planned(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        device: &OwnedDeviceId,
        quiet: Option<bool>,
    ) -> Result<(), Error> {
        if quiet.is_some() {
            self.with_own_presence(sql, cx, |own| {
                own.devices.get_mut(device).into_iter().for_each(|seen| seen.waits_until_ms = 0);
                Ok(())
            })?;
        }
        // A sync that brings something ends with a close, which writes.
        if quiet == Some(false) { Ok(()) } else { self.presence_soon(sql, cx) }
    }

    /// The person behind a device did something. Who is idle is so no longer; who hides stays hidden.
    /// Spec: "Idle timeout".
    pub(super) fn presence_active(&self, sql: &dyn Sql, cx: &Cx<'_>, device: &OwnedDeviceId) -> Result<(), Error> {
        let is_back = self.with_own_presence(sql, cx, |own| {
            own.last_active_ms = own.last_active_ms.max(cx.now_ms);
            let until_ms = cx.now_ms.saturating_add(PRESENT_MS);
            match own.devices.get_mut(device) {
                Some(seen) if seen.state == PresenceState::Offline => return Ok(false),
                Some(seen) => {
                    seen.state = PresenceState::Online;
                    seen.until_ms = seen.until_ms.max(until_ms);
                }
                None if own.told.status.state == PresenceState::Offline => return Ok(false),
                None => {
                    let seen =
                        Seen { state: PresenceState::Online, said_at_ms: cx.now_ms, until_ms, waits_until_ms: 0 };
                    own.devices.insert(device.clone(), seen);
                }
            }
            Ok(own.told.status.state == PresenceState::Unavailable)
        })?;
        if is_back { Ok(cx.set_alarm(cx.now_ms)?) } else { Ok(()) }
    }

    /// Has the alarm write and tell what only an operation that writes can.
    fn presence_soon(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<(), Error> {
        let changed =
            self.with_own_presence(sql, cx, |own| Ok(own.state(cx.now_ms, cx.waiting()) != own.told.status.state))?;
        if changed || self.others_are_wanted() {
            cx.set_alarm(cx.now_ms)?;
        }
        Ok(())
    }

    /// A device says how it is there, and what others shall read beside it, whatever it said before.
    pub(super) fn presence_set(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        device: &OwnedDeviceId,
        (state, status_msg): (PresenceState, Option<String>),
    ) -> Result<(), Error> {
        let state = self.with_own_presence(&**tx, cx, |own| {
            own.uncommitted = true;
            let waits = own.devices.get(device).map_or(0, |seen| seen.waits_until_ms);
            own.devices.remove(device);
            own.hears(device, state, cx.now_ms, waits.saturating_sub(cx.now_ms));
            own.last_active_ms = cx.now_ms;
            // Most likely it is this very device that waits.
            own.trusts_waiting = false;
            Ok(own.state(cx.now_ms, cx.waiting()))
        })?;
        self.presence_becomes(tx, cx, state, status_msg)
    }

    /// Devices that were removed are not there any more.
    pub(super) fn presence_left(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let gone = cx.user.gone.take();
        if gone.is_empty() {
            return Ok(());
        }
        let was_last = !store::device::is_any_logged_in(&**tx)?;
        self.with_own_presence(&**tx, cx, |own| {
            own.uncommitted = true;
            own.devices.retain(|device, _| !gone.contains(device));
            own.trusts_waiting &= !was_last;
            Ok(())
        })?;
        self.presence_settles(tx, cx)
    }

    /// Tells what has changed since others were told last, and asks for theirs if a device wants them.
    pub(super) fn presence_settles(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let (state, status_msg) = self.with_own_presence(&**tx, cx, |own| {
            Ok((own.state(cx.now_ms, cx.waiting()), own.told.status.status_msg.clone()))
        })?;
        self.presence_becomes(tx, cx, state, status_msg)?;
        let active = self.with_own_presence(&**tx, cx, |own| {
            if !own.is_active_anew() {
                return Ok(None);
            }
            own.uncommitted = true;
            own.told.status.last_active_ms = own.last_active_ms;
            Ok(Some(own.told.status.clone()))
        })?;
        if let Some(status) = active {
            store::account::set_presence(tx, &serde_json::to_string(&status)?)?;
        }
        if self.others_are_wanted() {
            self.tell_rooms_presence(tx, cx, false)?;
        }
        Ok(())
    }

    /// The alarm: whoever is there is looked for again later.
    pub(super) fn presence_checked(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        self.presence_settles(tx, cx)?;
        self.others_overdue(cx)?;
        self.tell_servers_that_came(&**tx, cx)?;
        let (told, repeated_ms) =
            self.with_own_presence(&**tx, cx, |own| Ok((own.told.status.clone(), own.repeated_ms)))?;
        if told.state != PresenceState::Offline {
            // By the clock alone, as memory may be gone: once in so many looks.
            let period = |ms: u64| ms.saturating_sub(told.since_ms) / REPEATED_EVERY_MS;
            let is_due = period(cx.now_ms) > period(cx.now_ms.saturating_sub(CHECK_MS));
            // There are alarms for other things, too.
            let is_repeated = cx.now_ms.saturating_sub(repeated_ms) < CHECK_MS;
            if cx.settings.config.federation.is_on && is_due && !is_repeated {
                self.with_own_presence(&**tx, cx, |own| {
                    (own.uncommitted, own.repeated_ms) = (true, cx.now_ms);
                    Ok(())
                })?;
                self.tell_rooms_presence(tx, cx, true)?;
            }
            // Callers past their time count as waiting until somebody wakes them.
            cx.wake();
            cx.set_alarm(cx.now_ms.saturating_add(CHECK_MS))?;
        }
        Ok(())
    }

    /// The profile that presence shows beside it changed.
    pub(super) fn presence_renamed(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let profile = profile::shown_in_rooms(&store::profile::get(&**tx)?);
        let newest = self.others_newest();
        let shown = self.with_own_presence(&**tx, cx, |own| {
            own.uncommitted = true;
            own.told.profile = profile;
            if own.told.status.state == PresenceState::Offline {
                return Ok(false);
            }
            own.told.status.since_ms = own.next_ms(cx.now_ms, newest);
            Ok(true)
        })?;
        if shown { self.tell_presence(tx, cx) } else { Ok(()) }
    }

    /// What changed is gone with its transaction, and so is what others were asked with it.
    pub(super) fn presence_rolled_back(&self) {
        let mut own = self.own_presence.borrow_mut();
        if own.as_ref().is_some_and(|own| own.uncommitted) {
            *own = None;
            self.others_not_asked();
        }
    }

    fn presence_becomes(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        state: PresenceState,
        status_msg: Option<String>,
    ) -> Result<(), Error> {
        let newest = self.others_newest();
        let changed = self.with_own_presence(&**tx, cx, |own| {
            if own.told.status.state == state && own.told.status.status_msg == status_msg {
                return Ok(false);
            }
            own.uncommitted = true;
            let since_ms = own.next_ms(cx.now_ms, newest);
            let last_active_ms = own.last_active_ms;
            own.told.status = PresenceStatus { state, status_msg, last_active_ms, since_ms, currently_active: None };
            Ok(true)
        })?;
        if changed { self.tell_presence(tx, cx) } else { Ok(()) }
    }

    /// Stores the presence as it is, and tells the user's devices and rooms.
    fn tell_presence(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let status = self.with_own_presence(&**tx, cx, |own| Ok(own.told.status.clone()))?;
        store::account::set_presence(tx, &serde_json::to_string(&status)?)?;
        if status.state != PresenceState::Offline {
            cx.set_alarm(cx.now_ms.saturating_add(CHECK_MS))?;
        }
        cx.wake();
        self.tell_rooms_presence(tx, cx, true)
    }

    /// Whether anybody is here to see how others are, or was a moment ago.
    pub(super) fn is_listening(&self, cx: &Cx<'_>) -> bool {
        let is_there = |own: &OwnPresence| own.devices.values().any(|seen| seen.until_ms > cx.now_ms);
        cx.waiting() > 0 || self.lingers(cx) || self.own_presence.borrow().as_ref().is_some_and(is_there)
    }

    /// A room was joined: those in it and the user learn of each other.
    pub(super) fn presence_joins(&self, tx: &Tx<'_>, cx: &Cx<'_>, room_id: &RoomId) -> Result<(), Error> {
        let presence = self.with_own_presence(&**tx, cx, |own| Ok(own.current()))?;
        let is_news = presence.status.state != PresenceState::Offline;
        let asks = self.is_listening(cx);
        if is_news || asks {
            let key = Key::Presence(PresenceTo { peer: room_id.to_string(), serial: FIRST_TRY });
            cx.deliver(room_id.as_str(), &TellPresence { presence, is_news, asks }, key, false)?;
        }
        Ok(())
    }

    /// Tells every room, as well as that goes, and asks them for the presence of others if that is wanted.
    fn tell_rooms_presence(&self, tx: &Tx<'_>, cx: &Cx<'_>, is_news: bool) -> Result<(), Error> {
        let presence = self.with_own_presence(&**tx, cx, |own| Ok(own.current()))?;
        let mut rooms = store::rooms::with_membership(&**tx, "join")?;
        rooms.truncate(ROOMS_TOLD_MAX);
        if is_news {
            self.with_own_presence(&**tx, cx, |own| {
                own.servers_told.clear();
                Ok(())
            })?;
        }
        let asks = self.others_are_wanted();
        let call = TellPresence { presence, is_news, asks };
        for room in &rooms {
            cx.deliver(
                room.room_id.as_str(),
                &call,
                Key::Presence(PresenceTo { peer: room.room_id.clone(), serial: FIRST_TRY }),
                false,
            )?;
        }
        if asks {
            self.others_asked(cx, Asking::of(rooms.into_iter().map(|room| room.room_id).collect(), cx.now_ms))?;
        }
        Ok(())
    }
}
