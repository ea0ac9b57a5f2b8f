//! Telling application services: a nudge to the actor of each that has an interest, when there is something for it.
//!
//! A service is interested in the room while a user of its own is in it, or while the room or an alias of it is its
//! own; and in memberships of its users in any case: invitations. Spec: Application Service API, "Registration",
//! «Events will be sent to the AS if a local user matching one of the namespaces is the target of the event, or is a
//! joined member of the room where the event occurred».
//!
//! Guarantees: each event of interest since the service was first known here is told to its actor; a crash forgets what
//! was told, and the alarm set in the commit tells again, which actors do not mind. How many users of a service are in
//! the room is counted once, and then moves with the memberships: a message reads and writes nothing for it. Without
//! services that are told of anything there is no cost at all.

use std::collections::BTreeMap;

use domain::{Appservice, backoff, config::Config};
use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::{OwnedRoomAliasId, RoomAliasId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Room, Typing, append::room_id, follow::NUDGE_CHECK_MS, store};
use crate::{
    Call, Cx, Error,
    appservice::{PresenceChanged, RoomMoved, TypingChanged, TypingUser},
    call,
    cx::{Key, Nudged},
    presence::Presence,
};

/// Where it is kept among the small facts.
const FACT: &str = "appservices";
/// Where the aliases are kept that only the directory knows.
const ALIASES: &str = "aliases";
/// The most aliases that are kept.
const ALIASES_MAX: usize = 100;
/// The longest an actor that cannot be reached is left alone, in milliseconds: ten minutes.
const PAUSE_MS_MAX: u64 = 600_000;
/// Members that are counted at once.
const COUNTED_AT_ONCE: u64 = 1_000;
/// How often a service's interest came or went, as far as that is kept: whoever was away for longer gets what happened
/// between, too.
const TURNS_MAX: usize = 32;

/// An alias of the room came to an application service, or went: one that the room need not list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetAlias {
    pub alias: OwnedRoomAliasId,
    pub points_here: bool,
}

impl Call for SetAlias {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "set_alias";
    type Reply = ();
}

/// What is kept of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// By which names its users were counted.
    names: String,
    /// What was up to here is not for it.
    since: u64,
    /// How many of its users are in the room.
    joined: u64,
    /// From where on it is interested in everything, or is no longer, turn about; oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    turns: Vec<(u64, bool)>,
    /// The newest membership of one of its users while it was not interested in anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aside: Option<u64>,
}

impl Kept {
    fn is_interested(&self) -> bool {
        self.turns.last().is_some_and(|(_, is)| *is)
    }

    /// Whether it was interested after what happened at a position.
    fn was_interested(&self, position: u64) -> bool {
        match self.turns.iter().rev().find(|(turn, _)| *turn <= position) {
            Some((_, is)) => *is,
            None => self.turns.first().is_some_and(|(_, is)| !is),
        }
    }

    /// From a position on it is interested, or not. Answers whether that is another matter than before.
    fn turns(&mut self, position: u64, is: bool) -> bool {
        if self.is_interested() == is {
            return false;
        }
        self.turns.push((position, is));
        if self.turns.len() > TURNS_MAX {
            self.turns.remove(0);
        }
        true
    }
}

/// A service, and what it was told.
struct Following {
    id: String,
    actor: String,
    receives_ephemeral: bool,
    kept: Kept,
    /// Whether all of the room is of interest, whoever is in it.
    is_own: bool,
    /// The newest position of interest.
    due: u64,
    told: u64,
    in_flight: bool,
    failures: u32,
    not_before_ms: u64,
}

/// The services that are told of anything.
pub(super) struct Appservices {
    following: Vec<Following>,
    /// Who types, as they were told.
    typing: Typing,
    /// Whether an operation changed this memory and is not committed yet.
    uncommitted: bool,
}

impl Appservices {
    /// What is known of them before what is after `end`, and whether that differs from what is kept.
    fn load(sql: &dyn Sql, cx: &Cx<'_>, end: u64) -> Result<(Self, bool), Error> {
        let mut kept = load_kept(sql)?;
        let (room_id, aliases) = (room_id(cx)?, aliases(sql)?);
        let (mut following, mut is_changed) = (Vec::new(), false);
        for appservice in cx.settings.config.told_appservices() {
            let names = digest(&appservice.own_users());
            let known = kept.remove(&appservice.id);
            let mut now = match known.clone() {
                Some(known) if known.names == names => known,
                known => {
                    let joined = count(sql, appservice)?;
                    let turns = known.as_ref().map(|known| known.turns.clone()).unwrap_or_default();
                    Kept { names, since: known.map_or(end, |known| known.since), joined, turns, aside: None }
                }
            };
            let is_own = is_own(appservice, &room_id, &aliases);
            now.turns(end, is_own || now.joined > 0);
            is_changed |= known.as_ref() != Some(&now);
            let last = now.turns.last().map_or(0, |(turn, _)| *turn).max(now.aside.unwrap_or(0));
            // Who forgot what was told tells it again.
            let due = if now.is_interested() { end } else { last };
            following.push(Following {
                id: appservice.id.clone(),
                actor: appservice.actor(),
                receives_ephemeral: appservice.receives_ephemeral,
                is_own,
                due,
                told: now.since,
                in_flight: false,
                failures: 0,
                not_before_ms: 0,
                kept: now,
            });
        }
        // Those that are gone are counted anew when they come back.
        is_changed |= !kept.is_empty();
        Ok((Self { following, typing: Typing::default(), uncommitted: true }, is_changed))
    }

    fn save(&self, tx: &Tx<'_>) -> Result<(), Error> {
        let kept: BTreeMap<&str, &Kept> = self.following.iter().map(|one| (&*one.id, &one.kept)).collect();
        Ok(store::meta::set(tx, FACT, serde_json::to_string(&kept)?.into())?)
    }

    /// Tells those who were not told.
    fn tell(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        for one in &mut self.following {
            if one.in_flight || one.due <= one.told || one.not_before_ms > cx.now_ms {
                continue;
            }
            one.in_flight = true;
            self.uncommitted = true;
            let to = one.due;
            let moved = RoomMoved { room_id: room_id(cx)?, since: one.kept.since, to };
            let nudged = Nudged { follower: one.actor.clone(), to, typing: Typing::default(), reads: 0, more: 0 };
            cx.deliver(one.actor.as_str(), &moved, Key::Nudge(nudged), false)?;
        }
        Ok(())
    }

    /// Those who hear what is in no log.
    fn hearing(&self) -> impl Iterator<Item = &Following> {
        self.following.iter().filter(|one| one.receives_ephemeral && one.kept.is_interested())
    }
}

fn load_kept(sql: &dyn Sql) -> Result<BTreeMap<String, Kept>, Error> {
    Ok(match store::meta::text(sql, FACT)? {
        Some(kept) => serde_json::from_str(&kept)?,
        None => BTreeMap::new(),
    })
}

/// The aliases that the room lists, and those that only the directory knows.
fn aliases(sql: &dyn Sql) -> Result<Vec<String>, Error> {
    let listed = store::state::current(sql, "m.room.canonical_alias", "")?;
    // What is malformed lists nothing.
    let mut all = listed.and_then(|event| domain::alias::listed(event.pdu.content()).ok()).unwrap_or_default();
    all.extend(unlisted(sql)?.iter().map(ToString::to_string));
    Ok(all)
}

fn unlisted(sql: &dyn Sql) -> Result<Vec<OwnedRoomAliasId>, Error> {
    Ok(match store::meta::text(sql, ALIASES)? {
        Some(aliases) => serde_json::from_str(&aliases)?,
        None => Vec::new(),
    })
}

fn is_own(appservice: &Appservice, room_id: &RoomId, aliases: &[String]) -> bool {
    let mut aliases = aliases.iter().filter_map(|alias| <&RoomAliasId>::try_from(alias.as_str()).ok());
    appservice.has_room(room_id) || aliases.any(|alias| appservice.has_alias(alias))
}

/// How many users of a service are in the room.
fn count(sql: &dyn Sql, appservice: &Appservice) -> Result<u64, Fault> {
    let (mut joined, mut after) = (0_u64, String::new());
    loop {
        let users = store::members::joined_locals_after(sql, &after, COUNTED_AT_ONCE)?;
        let own = |user: &&String| <&UserId>::try_from(user.as_str()).is_ok_and(|user| appservice.has_user(user));
        joined = joined.saturating_add(users.iter().filter(own).count() as u64);
        match users.into_iter().last() {
            Some(last) => after = last,
            None => return Ok(joined),
        }
    }
}

/// The start of a text's SHA-256, in hexadecimal digits.
fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn is_any_told(config: &Config) -> bool {
    config.told_appservices().next().is_some()
}

impl Room {
    /// Something of the log is about to take its place at `position`: which services are interested is known before it.
    pub(super) fn appservices_are_known(&self, tx: &Tx<'_>, cx: &Cx<'_>, position: u64) -> Result<bool, Error> {
        if !is_any_told(&cx.settings.config) {
            return Ok(false);
        }
        let mut appservices = self.appservices.borrow_mut();
        if appservices.is_none() {
            let (loaded, is_changed) = Appservices::load(&**tx, cx, position.saturating_sub(1))?;
            if is_changed {
                loaded.save(tx)?;
            }
            *appservices = Some(loaded);
        }
        Ok(true)
    }

    /// An event took its place in the log.
    pub(super) fn appservices_see(&self, tx: &Tx<'_>, cx: &Cx<'_>, position: u64) -> Result<(), Error> {
        if self.appservices_are_known(tx, cx, position)?
            && let Some(appservices) = self.appservices.borrow_mut().as_mut()
        {
            appservices.uncommitted = true;
            let interested = appservices.following.iter_mut().filter(|one| one.kept.is_interested());
            interested.for_each(|one| one.due = position);
        }
        Ok(())
    }

    /// A receipt took its place in the log: one that is for its owner alone is told to whom that user belongs.
    pub(super) fn appservices_see_receipt(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        position: u64,
        owner: Option<&UserId>,
    ) -> Result<(), Error> {
        if self.appservices_are_known(tx, cx, position)?
            && let Some(appservices) = self.appservices.borrow_mut().as_mut()
        {
            appservices.uncommitted = true;
            for one in &mut appservices.following {
                let is_for_it = owner.is_none_or(|owner| has_user(cx, &one.id, owner));
                if one.receives_ephemeral && one.kept.is_interested() && is_for_it {
                    one.due = position;
                }
            }
        }
        Ok(())
    }

    /// A local user's membership changed at `position`, before which the services were known.
    pub(super) fn appservices_see_member(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        user_id: &UserId,
        (was_joined, joined): (bool, bool),
        position: u64,
    ) -> Result<(), Error> {
        let mut appservices = self.appservices.borrow_mut();
        let Some(appservices) = appservices.as_mut() else { return forget_if_nobody_counts(tx, cx) };
        let mut is_changed = false;
        for one in appservices.following.iter_mut().filter(|one| has_user(cx, &one.id, user_id)) {
            let kept = &mut one.kept;
            match (was_joined, joined) {
                (false, true) => kept.joined = kept.joined.saturating_add(1),
                (true, false) => kept.joined = kept.joined.saturating_sub(1),
                _ => {}
            }
            is_changed |= was_joined != joined;
            kept.turns(position, one.is_own || kept.joined > 0);
            if !kept.is_interested() {
                kept.aside = Some(position);
                is_changed = true;
            }
            one.due = position;
            appservices.uncommitted = true;
        }
        if is_changed { appservices.save(tx) } else { Ok(()) }
    }

    /// The room has other aliases, from the event at `position` on.
    pub(super) fn appservices_see_aliases(&self, tx: &Tx<'_>, cx: &Cx<'_>, position: u64) -> Result<(), Error> {
        self.other_aliases(tx, cx, position, true)
    }

    fn other_aliases(&self, tx: &Tx<'_>, cx: &Cx<'_>, position: u64, is_event: bool) -> Result<(), Error> {
        if !self.appservices_are_known(tx, cx, position)? {
            return Ok(());
        }
        let (room_id, aliases) = (room_id(cx)?, aliases(&**tx)?);
        let mut appservices = self.appservices.borrow_mut();
        let Some(appservices) = appservices.as_mut() else { return Ok(()) };
        let mut is_changed = false;
        for one in &mut appservices.following {
            let Some(appservice) = cx.settings.config.appservice(&one.id) else { continue };
            one.is_own = is_own(appservice, &room_id, &aliases);
            is_changed |= one.kept.turns(position, one.is_own || one.kept.joined > 0);
            if is_event && one.kept.is_interested() {
                one.due = position;
            }
        }
        appservices.uncommitted = true;
        if is_changed { appservices.save(tx) } else { Ok(()) }
    }

    pub(super) fn set_alias(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: SetAlias) -> Result<(), Error> {
        let mut kept = unlisted(&**tx)?;
        let is_kept = kept.contains(&call.alias);
        if is_kept == call.points_here {
            return Ok(());
        }
        kept.retain(|alias| *alias != call.alias);
        if call.points_here && kept.len() < ALIASES_MAX {
            kept.push(call.alias);
        }
        let end = self.log_end(&**tx, cx)?;
        let next = end.saturating_add(1);
        self.appservices_are_known(tx, cx, next)?;
        store::meta::set(tx, ALIASES, serde_json::to_string(&kept)?.into())?;
        self.other_aliases(tx, cx, if call.points_here { next } else { end }, false)
    }

    /// Services are told what there is for them.
    pub(super) fn appservices_committed(&self, cx: &Cx<'_>) -> Result<(), Error> {
        if let Some(appservices) = self.appservices.borrow_mut().as_mut() {
            appservices.tell(cx)?;
            appservices.uncommitted = false;
        }
        Ok(())
    }

    pub(super) fn appservices_rolled_back(&self) {
        let mut appservices = self.appservices.borrow_mut();
        if appservices.as_ref().is_some_and(|appservices| appservices.uncommitted) {
            *appservices = None;
        }
    }

    /// The alarm looks whether everyone was told.
    pub(super) fn check_appservices(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let end = self.head(&**tx)?;
        if !self.appservices_are_known(tx, cx, end.saturating_add(1))? {
            return Ok(());
        }
        let mut appservices = self.appservices.borrow_mut();
        let Some(appservices) = appservices.as_mut() else { return Ok(()) };
        appservices.tell(cx)?;
        let untold = appservices.following.iter().filter(|one| one.due > one.told);
        let next_ms = untold.map(|one| one.not_before_ms.max(cx.now_ms.saturating_add(NUDGE_CHECK_MS))).min();
        next_ms.map_or(Ok(()), |next_ms| Ok(cx.set_alarm(next_ms)?))
    }

    /// A service's actor answered, or could not be reached.
    pub(super) fn appservice_answered(&self, cx: &Cx<'_>, nudged: &Nudged, reply: Option<&[u8]>) -> Result<(), Error> {
        let mut appservices = self.appservices.borrow_mut();
        let Some(appservices) = appservices.as_mut() else { return Ok(()) };
        appservices.uncommitted = true;
        let Some(one) = appservices.following.iter_mut().find(|one| one.actor == nudged.follower) else {
            return Ok(());
        };
        one.in_flight = false;
        if let Some(Ok(())) = reply.map(call::open::<RoomMoved>) {
            one.told = one.told.max(nudged.to);
            (one.failures, one.not_before_ms) = (0, 0);
        } else {
            let pause_ms = backoff::pause_ms(NUDGE_CHECK_MS, one.failures, PAUSE_MS_MAX);
            one.failures = one.failures.saturating_add(1);
            one.not_before_ms = cx.now_ms.saturating_add(pause_ms);
            cx.set_alarm(one.not_before_ms)?;
        }
        appservices.tell(cx)
    }

    /// Which events of a part of the log are of interest to a service: what is kept of it says so.
    pub(super) fn interest_of(&self, sql: &dyn Sql, appservice: &Appservice) -> Result<Interest, Error> {
        Ok(Interest(load_kept(sql)?.remove(&appservice.id)))
    }

    /// Somebody types, or does no longer: services hear of it. Nobody tries that again.
    pub(super) fn appservices_hear_typing(&self, sql: &dyn Sql, cx: &Cx<'_>, typing: Typing) -> Result<(), Error> {
        let told = self.appservices.borrow().as_ref().map_or(Typing::default(), |appservices| appservices.typing);
        if told == typing {
            return Ok(());
        }
        let Some(hearing) = self.hearing(sql, cx)? else { return Ok(()) };
        if let Some(appservices) = self.appservices.borrow_mut().as_mut() {
            appservices.typing = typing;
        }
        let typists = self.typists.borrow();
        let users = typists.until().map(|(user, until_ms)| TypingUser { user: user.clone(), until_ms }).collect();
        let call = TypingChanged { room_id: room_id(cx)?, users };
        hearing.into_iter().try_for_each(|actor| cx.deliver(actor, &call, Key::Unsettled, false))
    }

    /// Members are another way now: services hear of it. Nobody tries that again.
    pub(super) fn appservices_hear_presences(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        presences: &[Presence],
    ) -> Result<(), Error> {
        let Some(hearing) = self.hearing(sql, cx)? else { return Ok(()) };
        let call = PresenceChanged { presences: presences.to_vec() };
        hearing.into_iter().try_for_each(|actor| cx.deliver(actor, &call, Key::Unsettled, false))
    }

    /// The actors of those who hear what is in no log, if there are any.
    fn hearing(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<Option<Vec<String>>, Error> {
        if !cx.settings.config.told_appservices().any(|appservice| appservice.receives_ephemeral) {
            return Ok(None);
        }
        let mut appservices = self.appservices.borrow_mut();
        if appservices.is_none() {
            // Where something is to be written first, the next event does so.
            let (loaded, is_changed) = Appservices::load(sql, cx, self.head(sql)?)?;
            if is_changed {
                return Ok(None);
            }
            *appservices = Some(loaded);
        }
        let hearing = appservices.iter().flat_map(Appservices::hearing).map(|one| one.actor.clone());
        let hearing: Vec<String> = hearing.collect();
        Ok((!hearing.is_empty()).then_some(hearing))
    }
}

/// What of the log is of interest to a service.
pub(super) struct Interest(Option<Kept>);

impl Interest {
    /// Whether an event at a position is, whatever it says.
    pub(super) fn is_in_all(&self, position: u64) -> bool {
        let Some(kept) = &self.0 else { return false };
        let came = kept.turns.iter().any(|(turn, is)| *turn == position && *is);
        position > kept.since && (came || kept.was_interested(position.saturating_sub(1)))
    }
}

fn has_user(cx: &Cx<'_>, appservice: &str, user_id: &UserId) -> bool {
    cx.settings.config.appservice(appservice).is_some_and(|appservice| appservice.has_user(user_id))
}

/// Memberships that move while no service is told of anything are counted by nobody: what was counted no longer holds.
fn forget_if_nobody_counts(tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
    if !is_any_told(&cx.settings.config) && store::meta::text(&**tx, FACT)?.is_some() {
        store::meta::forget(tx, FACT)?;
    }
    Ok(())
}
