//! History from before the room was here, or from while this server heard nothing of it.
//!
//! Where an event came without what is before it there is an *edge* in the log, and below it numbers are kept free. A
//! page that reaches an edge says so ([`Gap`]); the request tier asks servers that were in the room there, and what
//! they give is placed here, the earliest event at the lowest number: clients find it by paging. It takes no position
//! that anybody is told of, and no timeline of a sync goes past an edge. Where the numbers are used up nothing more is
//! asked for.
//!
//! The log's state reaches down there, too: at the number before each event is the state before it, as the graph has
//! it. From the edge on nothing changes. The earliest event's state is told by whoever gave it, unless nothing in
//! between changes any.
//! Spec: Server-Server API, "Backfilling and retrieving missing events".

use std::collections::{BTreeMap, BTreeSet};

use domain::Pdu;
use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::{OwnedEventId, OwnedServerName};
use serde::{Deserialize, Serialize};

use super::{
    CheckedEvent, Room,
    graph::StateAt,
    retention,
    store::{
        self,
        graph::{Key, Node, StateBefore, Verdict},
        history::Edge,
    },
    transactions,
};
use crate::{Call, Cx, Error};

#[cfg(test)]
mod tests;

/// The most events that are placed at once.
pub const HISTORY_EVENTS_MAX: usize = 100;
/// The most missing events that another server is asked for what is before.
const ASKED_MAX: u64 = 20;
/// The most servers that are named for it.
const SERVERS_MAX: u64 = 10;
/// Members looked at for who was in the room.
const MEMBERS_LOOKED_AT: u64 = 1_000;
/// The most edges of a room: of more, what is missing at the oldest is not asked for any more, but at the first of all,
/// before which is all that was before the room was here.
pub(super) const EDGES_MAX: u64 = if cfg!(test) { 20 } else { 500 };
/// Of so many missing events no more are noted that come before history: whoever tells it may name what it likes.
const MISSING_MAX: u64 = 10_000;
/// The most events of which the state before is asked for at once.
const STATES_MAX: usize = 8;

/// Something is missing where a page ends, and others may have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub edge: u64,
    /// The missing events that are next.
    pub missing: Vec<OwnedEventId>,
    /// Servers that were in the room there, the likeliest first.
    pub servers: Vec<OwnedServerName>,
    pub room_version: String,
}

/// Places events before an edge: those that are before it in the graph, and no others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlaceHistory {
    pub edge: u64,
    /// What was missing there, as [`Gap`] told it. Where that is no longer so, these events are not what is next;
    /// empty: the caller takes them to be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<OwnedEventId>,
    pub events: Vec<CheckedEvent>,
    /// For some of them the state before, by ids; all of them held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<(OwnedEventId, Vec<OwnedEventId>)>,
    /// Whether this is one event from further back than what is missing next: it gets a place, and an edge, of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_apart: bool,
    /// Whether to do without what is needed and not there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_final: bool,
}

/// What became of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placed {
    /// So many were placed; the others are here already, or have no place.
    Placed(usize),
    /// Nothing changed: another reader filled some of the gap meanwhile, and something else is missing there now.
    Moved,
    /// Nothing changed: first bring these.
    Needs {
        /// Events of which the state before is not known.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        states: Vec<OwnedEventId>,
        /// Events that others name as their authorisation.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        auth_events: Vec<OwnedEventId>,
    },
}

impl Call for PlaceHistory {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "place_history";
    type Reply = Placed;
}

/// From here on history is missing.
pub(super) fn begin_edge(tx: &Tx<'_>, edge: Edge) -> Result<(), Fault> {
    store::history::insert(tx, edge)?;
    let beyond = store::history::beyond(&**tx, edge.position, EDGES_MAX)?;
    beyond.into_iter().try_for_each(|edge| store::history::forget(tx, edge))
}

/// Where a page that goes back has to stop, for history is missing there.
pub(super) struct Stop {
    edge: Edge,
    /// The place that the page does not go beyond.
    pub place: u64,
}

impl Room {
    /// The first place on a way back from `up_to` at which history is missing.
    pub(super) fn history_stop(&self, sql: &dyn Sql, up_to: u64) -> Result<Option<Stop>, Fault> {
        let edge = store::history::open_below(sql, up_to)?;
        Ok(edge.map(|edge| Stop { edge, place: up_to.min(edge.place.saturating_sub(1)) }))
    }

    /// Whom to ask there, and for what.
    pub(super) fn gap_at(&self, sql: &dyn Sql, cx: &Cx<'_>, stop: &Stop) -> Result<Gap, Error> {
        let edge = stop.edge;
        // Who made the event after the gap knows what it came after.
        let next = store::log::one(sql, edge.place)?.map(|event| event.pdu.sender().server_name().to_string());
        let before = edge.place.saturating_sub(1);
        let there = store::history::servers_at(sql, before, MEMBERS_LOOKED_AT, SERVERS_MAX)?;
        let mut seen = BTreeSet::from([cx.own_server().to_string()]);
        let all = next.into_iter().chain(there).chain(store::servers::joined(sql)?);
        let servers = all.filter(|server| seen.insert(server.clone()));
        let servers = servers.filter_map(|server| OwnedServerName::try_from(server).ok());
        Ok(Gap {
            edge: edge.position,
            missing: store::history::missing_at(sql, edge, ASKED_MAX)?,
            servers: servers.take(SERVERS_MAX as usize).collect(),
            room_version: self.version(sql)?.as_str().to_owned(),
        })
    }

    pub(super) fn place_history(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: PlaceHistory) -> Result<Placed, Error> {
        let Some(edge) = store::history::one(&**tx, call.edge)? else { return Ok(Placed::Placed(0)) };
        let missing = store::history::missing_at(&**tx, edge, ASKED_MAX)?;
        if !call.is_apart && !call.missing.is_empty() && call.missing != missing {
            return Ok(Placed::Moved);
        }
        let mut found = BTreeMap::new();
        for event in call.events.into_iter().take(HISTORY_EVENTS_MAX) {
            let pdu = event.pdu(cx)?;
            match store::graph::by_id(&**tx, pdu.event_id())? {
                // It has its place.
                Some(held) if held.is_in_log() || held.before != StateBefore::Unknown => {}
                // What was held before is what was checked before: a redacted copy must not take its place.
                Some(held) => drop(found.insert(held.pdu.event_id().to_owned(), held.pdu)),
                None => drop(found.insert(pdu.event_id().to_owned(), pdu)),
            }
        }
        let mut ordered = if call.is_apart { found.into_values().take(1).collect() } else { ordered(&missing, &found) };
        let free = usize::try_from(edge.place.saturating_sub(edge.floor).saturating_sub(2) / 2).unwrap_or(usize::MAX);
        ordered.drain(..ordered.len().saturating_sub(free));
        let states: BTreeMap<OwnedEventId, Vec<OwnedEventId>> = call.states.into_iter().collect();
        let is_still = !call.is_apart && self.is_still(&**tx, edge, &ordered)?;
        let placing = Placing { room: self, edge, is_still, states };
        let needs = placing.needs(&**tx, cx, &ordered)?;
        if !call.is_final && needs != Placed::Placed(0) {
            return Ok(needs);
        }
        if call.is_apart {
            let Some(lower) = placing.split() else { return Ok(Placed::Placed(0)) };
            return lower.place_apart(edge, tx, cx, &ordered);
        }
        placing.place(tx, cx, &ordered)
    }

    /// Whether these events, one after the other up to the edge, change no state: before them it is as after them.
    fn is_still(&self, sql: &dyn Sql, edge: Edge, ordered: &[Pdu]) -> Result<bool, Fault> {
        let Some(next) = store::log::one(sql, edge.place)? else { return Ok(false) };
        let after = ordered.iter().skip(1).chain([&next.pdu]);
        let is_chain = ordered.iter().zip(after).all(|(pdu, next)| next.prev_events() == [pdu.event_id().to_owned()]);
        Ok(is_chain && ordered.iter().all(|pdu| pdu.state_key().is_none()))
    }
}

/// The events that are before the missing ones, these included, each after those before it. Events that are before
/// themselves are left out.
fn ordered(missing: &[OwnedEventId], found: &BTreeMap<OwnedEventId, Pdu>) -> Vec<Pdu> {
    let mut waiting: BTreeMap<&OwnedEventId, usize> = BTreeMap::new();
    let mut after: BTreeMap<&OwnedEventId, Vec<&OwnedEventId>> = BTreeMap::new();
    let mut ahead: Vec<&OwnedEventId> = missing.iter().collect();
    while let Some(event_id) = ahead.pop() {
        let Some((event_id, pdu)) = found.get_key_value(event_id) else { continue };
        if waiting.contains_key(event_id) {
            continue;
        }
        let before: BTreeSet<&OwnedEventId> = pdu.prev_events().iter().filter(|id| found.contains_key(*id)).collect();
        waiting.insert(event_id, before.len());
        for earlier in before {
            after.entry(earlier).or_default().push(event_id);
            ahead.push(earlier);
        }
    }
    // Depths are claimed: they decide only where the graph does not.
    let rank = |event_id: &OwnedEventId| found.get(event_id).map(|pdu| (pdu.depth(), pdu.origin_server_ts()));
    let ready = waiting.iter().filter(|(_, count)| **count == 0);
    let mut ready: BTreeSet<_> = ready.map(|(event_id, _)| (rank(event_id), *event_id)).collect();
    let mut ordered = Vec::with_capacity(waiting.len());
    while let Some((_, event_id)) = ready.pop_first() {
        for later in after.remove(event_id).unwrap_or_default() {
            if let Some(count) = waiting.get_mut(later) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    ready.insert((rank(later), later));
                }
            }
        }
        ordered.extend(found.get(event_id).cloned());
    }
    ordered
}

/// Events on their way to before an edge.
struct Placing<'a> {
    room: &'a Room,
    edge: Edge,
    is_still: bool,
    states: BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
}

impl Placing<'_> {
    /// What is needed to judge them; [`Placed::Placed`] if that is nothing.
    fn needs(&self, sql: &dyn Sql, cx: &Cx<'_>, ordered: &[Pdu]) -> Result<Placed, Error> {
        let (mut states, mut auth_events) = (Vec::new(), BTreeSet::new());
        let mut here: BTreeSet<OwnedEventId> = BTreeSet::new();
        for (index, pdu) in ordered.iter().enumerate() {
            let others = pdu.prev_events().iter().filter(|event_id| !here.contains(*event_id));
            let is_told = self.states.contains_key(pdu.event_id()) || (self.is_still && index == 0);
            if !is_told && !store::history::not_in_graph(sql, others)?.is_empty() && states.len() < STATES_MAX {
                states.push(pdu.event_id().to_owned());
            }
            auth_events.extend(self.room.missing_authorisation(sql, cx, pdu)?);
            here.insert(pdu.event_id().to_owned());
        }
        let auth_events: Vec<OwnedEventId> = auth_events.into_iter().filter(|id| !here.contains(id)).collect();
        if states.is_empty() && auth_events.is_empty() {
            return Ok(Placed::Placed(0));
        }
        Ok(Placed::Needs { states, auth_events })
    }

    /// The lower half of the numbers that are free: what stands between is looked for later.
    fn split(&self) -> Option<Self> {
        let Edge { floor, place, .. } = self.edge;
        let middle = floor.midpoint(place);
        let edge = Edge { position: middle, floor, place: middle.saturating_add(2) };
        (middle.saturating_sub(floor) > 2 && place.saturating_sub(middle) > 4).then(|| Self {
            room: self.room,
            edge,
            is_still: false,
            states: self.states.clone(),
        })
    }

    /// Places one event in the middle of the free numbers, and lets the upper ones begin above it.
    fn place_apart(&self, upper: Edge, tx: &Tx<'_>, cx: &Cx<'_>, event: &[Pdu]) -> Result<Placed, Error> {
        let placed = self.place(tx, cx, event)?;
        if placed == Placed::Placed(1) {
            let edge = Edge { place: self.edge.position, ..self.edge };
            begin_edge(tx, edge)?;
            store::history::raise_floor(tx, upper.position, self.edge.place.saturating_sub(1))?;
        }
        Ok(placed)
    }

    fn place(&self, tx: &Tx<'_>, cx: &Cx<'_>, ordered: &[Pdu]) -> Result<Placed, Error> {
        let Edge { position: edge, floor, place } = self.edge;
        let top = place.saturating_sub(1);
        let mut count = 0;
        // Of the two numbers for each event the one before its own is where the state before it begins.
        let below = |left: usize| place.saturating_sub(u64::try_from(left).unwrap_or(u64::MAX).saturating_mul(2));
        let mut first = None;
        for (index, pdu) in ordered.iter().enumerate() {
            let position = below(ordered.len().saturating_sub(index));
            let is_first = first.is_none();
            let last_position = if is_first { floor } else { position.saturating_sub(2) };
            let Some(before) = self.state_before(&**tx, cx, pdu, is_first, last_position)? else { continue };
            if !self.room.missing_authorisation(&**tx, cx, pdu)?.is_empty() {
                continue;
            }
            let begins = if is_first { floor } else { position.saturating_sub(1) };
            for (key, event) in before.differences(&**tx, last_position)? {
                self.state_turns(tx, &key, begins, event)?;
            }
            self.settle(tx, cx, pdu, position)?;
            first.get_or_insert(position);
            count += 1;
        }
        store::history::forget_idle_changes(tx, top)?;
        if let Some(first) = first {
            store::history::move_place(tx, edge, first)?;
            retention::came_late(tx, cx, first)?;
        }
        Ok(Placed::Placed(count))
    }

    /// The state before an event, if it is known or was told.
    fn state_before(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        pdu: &Pdu,
        is_first: bool,
        last_position: u64,
    ) -> Result<Option<StateAt>, Error> {
        if let Ok(before) = self.room.state_after_all(sql, cx, pdu.prev_events())? {
            return Ok(Some(before));
        }
        if let Some(told) = self.states.get(pdu.event_id()) {
            return Ok(Some(StateAt::told(sql, last_position, told)?));
        }
        if !(is_first && self.is_still) {
            return Ok(None);
        }
        let Some(next) = store::log::one(sql, self.edge.place)? else { return Ok(None) };
        let next = store::graph::by_id(sql, next.pdu.event_id())?;
        Ok(next.map(|next| next.state_before(sql)).transpose()?.flatten())
    }

    /// Judges an event before which the log's state is the right one, and gives it its place.
    fn settle(&self, tx: &Tx<'_>, cx: &Cx<'_>, pdu: &Pdu, position: u64) -> Result<(), Error> {
        let held = store::graph::by_id(&**tx, pdu.event_id())?;
        let before = StateAt::of_log(position.saturating_sub(1));
        // Of what was refused before no more is held than that.
        let is_refused = held.as_ref().is_some_and(|held| held.verdict == Verdict::Rejected);
        let is_allowed = !is_refused && self.room.check(&**tx, cx, pdu, &before)?.is_ok();
        if is_allowed {
            self.enter(tx, pdu, held.as_ref(), position)?;
        } else {
            self.room.hold(tx, pdu, held.as_ref(), Verdict::Rejected, &before)?;
        }
        store::history::found(tx, pdu.event_id())?;
        if !store::history::gaps_exceed(&**tx, MISSING_MAX)? {
            let missing = store::history::not_in_graph(&**tx, pdu.prev_events())?;
            store::graph::insert_gap(tx, &missing, position)?;
        }
        if is_allowed {
            self.room.redactions_follow(tx, cx, pdu, position)?;
        }
        Ok(())
    }

    fn enter(&self, tx: &Tx<'_>, pdu: &Pdu, held: Option<&Node>, position: u64) -> Result<(), Error> {
        match held {
            Some(held) => {
                self.room.number_is_free(held);
                store::graph::enter_log(tx, held, position, Some(transactions::HISTORY))?;
                store::graph::judge(tx, position, Verdict::Accepted, StateBefore::InTurn)?;
            }
            None => store::log::insert(tx, position, pdu, Some(transactions::HISTORY))?,
        }
        store::search::add_late(tx, position)?;
        if let Some(state_key) = pdu.state_key() {
            let key = (pdu.event_type().to_string(), state_key.to_owned());
            self.state_turns(tx, &key, position, Some(pdu.event_id().to_owned()))?;
        }
        Ok(())
    }

    /// From `position` on the state for a key is this; at the edge it is what it was.
    fn state_turns(&self, tx: &Tx<'_>, key: &Key, position: u64, event: Option<OwnedEventId>) -> Result<(), Error> {
        store::history::keep_state(tx, key, self.edge.place.saturating_sub(1))?;
        let event = match event {
            Some(event_id) => {
                let held = store::graph::by_id(&**tx, &event_id)?;
                Some(held.ok_or_else(|| Fault::new("an event of a state is not held"))?.number)
            }
            None => None,
        };
        Ok(store::history::set_state(tx, key, position, event)?)
    }
}
