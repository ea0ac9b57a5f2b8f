//! Events of other servers that build on what is not here: they wait, durably, while one *fetcher* of the request tier
//! gets that.
//!
//! Whoever sent them has its answer at once. A fetcher holds a lease; when it dies, the alarm at the lease's end finds
//! another one. What is not to be had is tried again, later and later, and given up in the end: whoever builds on it
//! names it again. A try counts from its beginning: what fetchers die of keeps the rest waiting once. What one server
//! may have waiting is bounded, more narrowly for one that is not in the room, and servers take turns.
//! Spec: Server-Server API, "Transactions", "Backfilling and retrieving missing events".

use domain::backoff;
use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedEventId, OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};

use super::{CheckedEvent, Room, store};
use crate::{Call, Cx, Error, schedule};

/// The schedule's name for finding a fetcher.
pub(super) const DUE: &str = "fetch";
/// How long a fetcher may take between two calls, in milliseconds. On Workers none lives for longer than half a minute.
pub(super) const LEASE_MS: u64 = if cfg!(target_family = "wasm") { 35_000 } else { 120_000 };
/// When the alarm looks whether the fetcher that was asked to come did, in milliseconds.
const COMES_WITHIN_MS: u64 = 5_000;
/// How long what is not to be had is left alone at first, in milliseconds.
const PAUSE_MS_MIN: u64 = 10_000;
/// How long it is left alone at most, in milliseconds.
const PAUSE_MS_MAX: u64 = 600_000;
/// How often that is tried.
const ATTEMPTS_MAX: u64 = 6;
/// The most events that wait here, and of those that one server sent.
const WAITING_MAX: u64 = 1_000;
const OF_ORIGIN_MAX: u64 = 200;
/// The most of those that a server sent which is not in the room.
pub(super) const OF_STRANGER_MAX: u64 = 10;
/// Events that a fetcher gets at once.
const TAKEN_MAX: u64 = 10;

/// An event cannot be judged yet: it is to wait.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeepWaiting {
    /// Whose transaction brought it.
    pub origin: OwnedServerName,
    pub event: CheckedEvent,
}

/// A fetcher asks for which events to fetch what they need. It turns to the first of them at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TakeWaiting {
    /// Names the fetcher.
    pub carrier: String,
}

/// An event that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub origin: OwnedServerName,
    pub event: CheckedEvent,
    /// Whether it is given up if it cannot be judged this time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_last_try: bool,
}

/// Those next in turn.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct AllWaiting {
    pub room_version: String,
    pub events: Vec<Waiting>,
}

/// What became of an event that waited.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EndWaiting {
    pub carrier: String,
    pub event_id: OwnedEventId,
    /// Whether it was judged.
    pub is_judged: bool,
    /// To which of those taken the fetcher turns now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns_to: Option<OwnedEventId>,
}

/// A fetcher stops although there may be more: the next one need not wait for the end of its lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StopFetching {
    pub carrier: String,
}

impl Call for KeepWaiting {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "keep_waiting";
    /// Whether it waits: no more than so many do.
    type Reply = bool;
}

impl Call for TakeWaiting {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "take_waiting";
    type Reply = AllWaiting;
}

impl Call for EndWaiting {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "end_waiting";
    type Reply = ();
}

impl Call for StopFetching {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "stop_fetching";
    type Reply = ();
}

/// Who fetches, in memory alone: after a crash another one comes at once.
#[derive(Debug, Default)]
pub(super) struct Fetching {
    /// And until when, in milliseconds since the Unix epoch.
    fetcher: Option<(String, u64)>,
    /// What the fetcher has turned to, whose try is counted.
    tried: Option<OwnedEventId>,
    /// Until then what was not to be had is left alone.
    not_before_ms: u64,
}

impl Fetching {
    fn is_fetched(&self, now_ms: u64) -> bool {
        self.fetcher.as_ref().is_some_and(|(_, until_ms)| now_ms < *until_ms)
    }

    /// Until when somebody fetches, in milliseconds since the Unix epoch; `None`: nobody does.
    pub(super) fn fetched_until_ms(&self, now_ms: u64) -> Option<u64> {
        self.fetcher.as_ref().map(|(_, until_ms)| *until_ms).filter(|until_ms| now_ms < *until_ms)
    }

    /// Whether another one than this fetches.
    pub(super) fn is_anothers(&self, carrier: &str, now_ms: u64) -> bool {
        self.is_fetched(now_ms) && !self.is_by(carrier)
    }

    /// Something is heard of who fetches.
    pub(super) fn goes_on(&mut self, carrier: &str, now_ms: u64) {
        if self.is_by(carrier) {
            self.lease(carrier, now_ms);
        }
    }

    /// Who fetched is done.
    pub(super) fn ends(&mut self, carrier: &str) {
        self.fetcher.take_if(|(name, _)| *name == carrier);
    }

    fn is_by(&self, carrier: &str) -> bool {
        self.fetcher.as_ref().is_some_and(|(name, _)| name == carrier)
    }

    /// Answers until when.
    pub(super) fn lease(&mut self, carrier: &str, now_ms: u64) -> u64 {
        let until_ms = now_ms.saturating_add(LEASE_MS);
        self.fetcher = Some((carrier.to_owned(), until_ms));
        until_ms
    }

    /// The fetcher tries this event, and may not live to say what came of it.
    fn turns_to(&mut self, tx: &Tx<'_>, cx: &Cx<'_>, event_id: OwnedEventId) -> Result<(), Error> {
        store::inbox::tried(tx, &event_id, &cx.settings.config.server_name, ATTEMPTS_MAX)?;
        self.tried = Some(event_id);
        Ok(())
    }
}

impl Room {
    pub(super) fn keep_waiting(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: KeepWaiting) -> Result<bool, Error> {
        let event_id = call.event.event_id.clone();
        // Nobody has more kept than what is an event of this room.
        CheckedEvent { event_id, json: call.event.json.clone() }.pdu(cx)?;
        if !self.is_joining(&**tx, cx)? && store::members::joined_locals(&**tx, 1)?.is_empty() {
            return Ok(false);
        }
        self.waits(tx, cx, &call.origin, &call.event)
    }

    /// Has an event of a server, or of ours, wait. Answers whether it does.
    pub(super) fn waits(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        origin: &ServerName,
        event: &CheckedEvent,
    ) -> Result<bool, Error> {
        // What this server does without anybody waiting for it is not given up, however much that is.
        let is_ours = *origin == cx.settings.config.server_name;
        let (of_origin_max, max) = if is_ours {
            let no_bound = platform::INTEGER_MAX.unsigned_abs();
            (no_bound, no_bound)
        } else if self.is_joining(&**tx, cx)? {
            // Until the state is here nobody knows who is in the room.
            (OF_ORIGIN_MAX, WAITING_MAX)
        } else {
            (of_origin_max(&**tx, origin)?, WAITING_MAX)
        };
        if of_origin_max == OF_ORIGIN_MAX {
            store::inbox::make_room(tx, &cx.settings.config.server_name, WAITING_MAX)?;
        }
        let waits = store::inbox::put(tx, event, origin.as_str(), of_origin_max, max)?;
        if waits {
            self.look_for_a_fetcher(tx, cx)?;
        }
        Ok(waits)
    }

    /// Has a fetcher come if something waits and nobody fetches; else looks again when that may change.
    pub(super) fn look_for_a_fetcher(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        // What waits is judged by a state that is whole.
        if self.look_for_omitted(tx, cx)? {
            return Ok(());
        }
        let Some(attempts) = store::inbox::fewest_attempts(&**tx)? else { return Ok(()) };
        if self.is_joining(&**tx, cx)? {
            return Ok(());
        }
        let fetching = self.fetching.borrow();
        if let Some(until_ms) = fetching.fetched_until_ms(cx.now_ms) {
            return Ok(schedule::at(tx, cx, DUE, until_ms)?);
        }
        if fetching.not_before_ms > cx.now_ms && attempts > 0 {
            return Ok(schedule::at(tx, cx, DUE, fetching.not_before_ms)?);
        }
        cx.carry();
        Ok(schedule::at(tx, cx, DUE, cx.now_ms.saturating_add(COMES_WITHIN_MS))?)
    }

    pub(super) fn take_waiting(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: TakeWaiting) -> Result<AllWaiting, Error> {
        let mut fetching = self.fetching.borrow_mut();
        if self.is_joining(&**tx, cx)? {
            return Ok(AllWaiting::default());
        }
        if fetching.is_anothers(&call.carrier, cx.now_ms) {
            return Ok(AllWaiting::default());
        }
        // What is new is fetched for at once.
        let attempts_max = if fetching.not_before_ms > cx.now_ms { 0 } else { ATTEMPTS_MAX };
        store::inbox::give_up(tx, &cx.settings.config.server_name, ATTEMPTS_MAX)?;
        let own = &cx.settings.config.server_name;
        let events = store::inbox::next(&**tx, own, (attempts_max, ATTEMPTS_MAX), TAKEN_MAX)?;
        let Some(first) = events.first() else {
            fetching.fetcher = None;
            return Ok(AllWaiting::default());
        };
        fetching.lease(&call.carrier, cx.now_ms);
        fetching.turns_to(tx, cx, first.event.event_id.clone())?;
        Ok(AllWaiting { room_version: self.version(&**tx)?.as_str().to_owned(), events })
    }

    pub(super) fn end_waiting(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: EndWaiting) -> Result<(), Error> {
        let mut fetching = self.fetching.borrow_mut();
        if fetching.is_by(&call.carrier) {
            fetching.lease(&call.carrier, cx.now_ms);
        }
        let was_counted = fetching.tried.take_if(|tried| *tried == call.event_id).is_some();
        if call.is_judged {
            store::inbox::forget(tx, &call.event_id)?;
        } else {
            // A fetcher of an earlier release does not say to what it turns.
            if !was_counted {
                store::inbox::tried(tx, &call.event_id, &cx.settings.config.server_name, ATTEMPTS_MAX)?;
            }
            store::inbox::give_up(tx, &cx.settings.config.server_name, ATTEMPTS_MAX)?;
            self.rest_if_all_were_tried(tx, cx, &mut fetching)?;
        }
        match call.turns_to {
            Some(event_id) => fetching.turns_to(tx, cx, event_id),
            None => Ok(()),
        }
    }

    /// Once all were tried, they are left alone for a while.
    fn rest_if_all_were_tried(&self, tx: &Tx<'_>, cx: &Cx<'_>, fetching: &mut Fetching) -> Result<(), Error> {
        if let Some(attempts) = store::inbox::fewest_attempts(&**tx)?.filter(|attempts| *attempts > 0) {
            let failures = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
            let pause_ms = backoff::pause_ms(PAUSE_MS_MIN, failures, PAUSE_MS_MAX);
            fetching.not_before_ms = cx.now_ms.saturating_add(pause_ms);
            schedule::at(tx, cx, DUE, fetching.not_before_ms)?;
        }
        Ok(())
    }

    pub(super) fn stop_fetching(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: StopFetching) -> Result<(), Error> {
        let stopped = self.fetching.borrow_mut().fetcher.take_if(|(name, _)| *name == call.carrier);
        // By the alarm: carriers that call actors that call carriers would soon be deeper than the platform lets them.
        if stopped.is_some() { Ok(schedule::at(tx, cx, DUE, cx.now_ms)?) } else { Ok(()) }
    }
}

/// How many events of a server may wait.
pub(super) fn of_origin_max(sql: &dyn Sql, origin: &ServerName) -> Result<u64, Error> {
    Ok(if store::servers::is_joined(sql, origin.as_str())? { OF_ORIGIN_MAX } else { OF_STRANGER_MAX })
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::{event::Draft, power::Preset};
    use platform::{ActorKind, Address};
    use ruma_common::{OwnedRoomId, user_id};
    use serde_json::{json, value::to_raw_value};

    use super::{
        ATTEMPTS_MAX, EndWaiting, KeepWaiting, LEASE_MS, OF_ORIGIN_MAX, OF_STRANGER_MAX, PAUSE_MS_MAX, StopFetching,
        TAKEN_MAX, TakeWaiting, WAITING_MAX, Waiting,
    };
    use crate::{room::CheckedEvent, world::World};

    fn room() -> (Rc<World>, OwnedRoomId) {
        let world = World::new(1);
        let room_id = world.creates_room(user_id!("@alice:myelin.test"), "11", Preset::PublicChat);
        world.joins_from_elsewhere(&room_id, user_id!("@zoe:there.test"));
        world.carriers.take();
        (world, room_id)
    }

    fn event(world: &World, room_id: &OwnedRoomId, number: u64) -> CheckedEvent {
        let draft = Draft {
            event_type: "m.room.message".into(),
            content: to_raw_value(&json!({ "n": number })).unwrap(),
            state_key: None,
            sender: user_id!("@zoe:there.test").to_owned(),
            redacts: None,
        };
        world.says_elsewhere(room_id, &draft, &world.newest(room_id, "m.room.create", ""))
    }

    fn keeps(world: &World, room_id: &OwnedRoomId, origin: &str, event: &CheckedEvent) -> bool {
        let call = KeepWaiting { origin: origin.try_into().unwrap(), event: event.clone() };
        world.call(room_id.as_str(), &call).unwrap()
    }

    fn takes(world: &World, room_id: &OwnedRoomId, carrier: &str) -> Vec<Waiting> {
        world.call(room_id.as_str(), &TakeWaiting { carrier: carrier.to_owned() }).unwrap().events
    }

    fn ends(world: &World, room_id: &OwnedRoomId, event: &CheckedEvent, is_judged: bool) {
        ends_and_turns_to(world, room_id, event, is_judged, None);
    }

    fn ends_and_turns_to(
        world: &World,
        room_id: &OwnedRoomId,
        event: &CheckedEvent,
        is_judged: bool,
        next: Option<&CheckedEvent>,
    ) {
        let turns_to = next.map(|next| next.event_id.clone());
        let call = EndWaiting { carrier: "one".to_owned(), event_id: event.event_id.clone(), is_judged, turns_to };
        world.call(room_id.as_str(), &call).unwrap();
    }

    fn is_called(world: &World, room_id: &OwnedRoomId) -> bool {
        world.carriers.take().contains(&room_id.to_string())
    }

    #[test]
    fn what_waits_is_fetched_for_by_one_and_whoever_dies_is_replaced() {
        let (world, room_id) = room();
        let (first, second) = (event(&world, &room_id, 1), event(&world, &room_id, 2));
        assert!(keeps(&world, &room_id, "there.test", &first));
        assert!(is_called(&world, &room_id));
        assert!(keeps(&world, &room_id, "there.test", &second));
        assert!(keeps(&world, &room_id, "other.test", &first), "it waits already");
        let ids = |taken: Vec<Waiting>| taken.into_iter().map(|waiting| waiting.event.event_id).collect::<Vec<_>>();
        assert_eq!(ids(takes(&world, &room_id, "one")), [first.event_id.clone(), second.event_id.clone()]);
        assert_eq!(takes(&world, &room_id, "two"), []);
        is_called(&world, &room_id);
        world.passes(LEASE_MS + 1);
        assert!(is_called(&world, &room_id), "the first one is dead");
        assert_eq!(takes(&world, &room_id, "two").len(), 2);
        ends(&world, &room_id, &first, true);
        let stops = |carrier: &str| {
            world.call(room_id.as_str(), &StopFetching { carrier: carrier.to_owned() }).unwrap();
            assert!(!is_called(&world, &room_id), "whoever calls a fetcher was not called by one");
            world.passes(0);
        };
        stops("one");
        assert!(!is_called(&world, &room_id), "it is another's by now");
        stops("two");
        assert!(is_called(&world, &room_id));
        // Also after a crash of all.
        world.crash();
        world.passes(LEASE_MS);
        assert!(is_called(&world, &room_id));
        assert_eq!(ids(takes(&world, &room_id, "three")), std::slice::from_ref(&second.event_id));
        ends(&world, &room_id, &second, true);
        assert_eq!(takes(&world, &room_id, "three"), []);
        world.passes(10 * LEASE_MS);
        assert!(!is_called(&world, &room_id), "it is quiet in the end");
    }

    #[test]
    fn what_is_not_to_be_had_is_given_up_in_the_end() {
        let (world, room_id) = room();
        let lost = event(&world, &room_id, 1);
        keeps(&world, &room_id, "there.test", &lost);
        let mut pauses = Vec::new();
        for attempt in 1..=ATTEMPTS_MAX {
            is_called(&world, &room_id);
            let taken = takes(&world, &room_id, "one");
            assert_eq!((taken.len(), taken[0].is_last_try), (1, attempt == ATTEMPTS_MAX));
            ends(&world, &room_id, &lost, false);
            assert_eq!(takes(&world, &room_id, "one"), [], "it is left alone");
            let began_ms = world.now_ms();
            while !is_called(&world, &room_id) && world.now_ms() < began_ms + 2 * PAUSE_MS_MAX {
                world.passes(1_000);
            }
            pauses.push(world.now_ms() - began_ms);
        }
        assert!(pauses[..5].windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
        assert_eq!(pauses.last(), Some(&(2 * PAUSE_MS_MAX)), "nobody comes any more");
        // Something new is fetched for at once.
        assert!(keeps(&world, &room_id, "there.test", &event(&world, &room_id, 2)));
        assert!(is_called(&world, &room_id));
    }

    #[test]
    fn what_every_fetcher_dies_of_goes_last_and_is_given_up_in_the_end() {
        let (world, room_id) = room();
        let [deadly, second, third] = [1, 2, 3].map(|number| event(&world, &room_id, number));
        let ids = |events: &[&CheckedEvent]| events.iter().map(|event| event.event_id.clone()).collect::<Vec<_>>();
        let taken = |carrier: &str| {
            let taken = takes(&world, &room_id, carrier);
            taken.into_iter().map(|waiting| waiting.event.event_id).collect::<Vec<_>>()
        };
        for event in [&deadly, &second, &third] {
            assert!(keeps(&world, &room_id, "there.test", event));
        }
        assert_eq!(taken("0"), ids(&[&deadly, &second, &third]));
        let dies = |is_evicted: bool| match is_evicted {
            true => world.evict(&Address::new(ActorKind::Room, room_id.as_str())),
            false => world.passes(LEASE_MS + 1),
        };
        dies(true);
        assert_eq!(taken("one"), ids(&[&second, &third, &deadly]), "the others are not kept waiting");
        ends_and_turns_to(&world, &room_id, &second, true, Some(&third));
        ends_and_turns_to(&world, &room_id, &third, true, Some(&deadly));
        dies(false);
        for attempt in 2..ATTEMPTS_MAX {
            assert_eq!(taken(&format!("carrier {attempt}")), ids(&[&deadly]));
            dies(attempt % 2 == 0);
        }
        assert_eq!(taken("the last"), ids(&[]));
    }

    /// It is told of nobody else: given up, it would never happen.
    #[test]
    fn what_is_our_own_waits_for_as_long_as_it_takes() {
        let (world, room_id) = room();
        let ours = |number| event(&world, &room_id, number);
        let first = ours(0);
        assert!(keeps(&world, &room_id, "myelin.test", &first));
        for _ in 0..2 * ATTEMPTS_MAX {
            let taken = takes(&world, &room_id, "one");
            assert_eq!((taken.len(), taken[0].is_last_try), (1, false));
            ends(&world, &room_id, &first, false);
            world.passes(PAUSE_MS_MAX);
        }
        for number in 1..=OF_ORIGIN_MAX {
            assert!(keeps(&world, &room_id, "myelin.test", &ours(number)), "{number}");
        }
    }

    #[test]
    fn servers_that_are_not_in_the_room_keep_nobody_out() {
        let (world, room_id) = room();
        let mut number = 0;
        let mut next = || {
            number += 1;
            event(&world, &room_id, number)
        };
        for server in 0..WAITING_MAX / OF_STRANGER_MAX {
            for _ in 0..OF_STRANGER_MAX {
                assert!(keeps(&world, &room_id, &format!("s{server}.test"), &next()));
            }
            assert!(!keeps(&world, &room_id, &format!("s{server}.test"), &next()));
        }
        assert!(!keeps(&world, &room_id, "late.test", &next()), "it is full");
        let (first, second) = (next(), next());
        assert!(keeps(&world, &room_id, "there.test", &first));
        assert!(keeps(&world, &room_id, "there.test", &second));
        // And its turn comes at once.
        let taken = takes(&world, &room_id, "one");
        assert_eq!(taken[0].event.event_id, first.event_id);
        let mut origins: Vec<_> = taken.iter().map(|waiting| waiting.origin.clone()).collect();
        origins.dedup();
        assert_eq!(origins.len() as u64, TAKEN_MAX);
    }

    #[test]
    fn one_server_keeps_out_no_other() {
        let (world, room_id) = room();
        world.joins_from_elsewhere(&room_id, user_id!("@max:other.test"));
        for number in 0..OF_ORIGIN_MAX {
            assert!(keeps(&world, &room_id, "there.test", &event(&world, &room_id, number)));
        }
        let more = event(&world, &room_id, OF_ORIGIN_MAX);
        assert!(!keeps(&world, &room_id, "there.test", &more));
        assert!(keeps(&world, &room_id, "other.test", &more));
        assert_eq!(takes(&world, &room_id, "one").len() as u64, TAKEN_MAX);
        let foreign = CheckedEvent { json: more.json.replace(room_id.as_str(), "!other:myelin.test"), ..more };
        let call = KeepWaiting { origin: "other.test".try_into().unwrap(), event: foreign };
        assert!(world.call(room_id.as_str(), &call).is_err(), "an event of another room");
        world.evict(&Address::new(ActorKind::Room, room_id.as_str()));
        assert_eq!(takes(&world, &room_id, "two").len() as u64, TAKEN_MAX);
    }
}
