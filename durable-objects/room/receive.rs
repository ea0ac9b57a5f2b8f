//! Receiving: an event of another server comes into the graph, or is refused.
//!
//! Guarantees: an event is judged and takes its place in one transaction. Its format, signatures and hash were checked
//! by the tier; here it is judged by the rules of authorisation, three times: by the events it names itself, by the
//! state before it, and by the current state. What it needs and the room does not hold is named, nothing changes, and
//! the same call succeeds once that was brought. Received again, it changes nothing; one for which there was no room
//! ([`super::beside`]) is judged again.
//!
//! Another server's word counts for the events before it that are not here, and for nothing else: what it says of the
//! state there meets the states after those that are here, which the room knows itself, and takes the place of none.
//! What only its word forbids is not refused for good.
//! Spec: Server-Server API, "Checks performed on receipt of a PDU", "Rejection", "Soft failure".

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use domain::{Pdu, Refusal, RoomVersion, auth};
use platform::{
    ActorKind, Fault, Sql, Tx,
    planted::{self, Planted},
};
use ruma_common::{EventId, OwnedEventId, OwnedServerName};
use ruma_events::TimelineEventType;
use serde::{Deserialize, Serialize};

use super::{
    Room,
    append::AuthState,
    graph::{Missing, StateAt},
    history::begin_edge,
    omitted_members,
    store::{
        self,
        graph::{Node, StateBefore, Verdict},
        history::Edge,
    },
};
use crate::{Call, Cx, Error};

/// An event that passed the checks which need no room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedEvent {
    pub event_id: OwnedEventId,
    /// Canonical JSON with hashes and signatures, without `unsigned`.
    pub json: String,
}

/// Takes an event of another server into the graph.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReceiveEvent {
    pub event: CheckedEvent,
    /// Of events before it, at which the state is not known here, what another server says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<ToldState>,
    /// Where such an event cannot be had: the state before this one, as another server has it. The ids of that state's
    /// events, all held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_before: Option<Vec<OwnedEventId>>,
    /// The room's policy server was asked about it, and did not sign it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_unwanted: bool,
}

/// The state before an event, as another server has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldState {
    /// Held.
    pub event_id: OwnedEventId,
    /// The ids of the state's events, all held.
    pub state_before: Vec<OwnedEventId>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Received {
    /// It is in the log, now or since earlier.
    Accepted,
    /// The rules refuse it; why.
    Rejected(String),
    /// It is held, and told to nobody.
    SoftFailed,
    /// It was not looked at: first bring these.
    Needs(Needs),
}

/// What a room has to hold before it can judge an event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Of the events before it, those at which the state is not known; also where it was told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prev_events: Vec<OwnedEventId>,
    /// Of the events it names as its authorisation, those that are not held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub auth_events: Vec<OwnedEventId>,
    /// Of what was told, the events that are not held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<OwnedEventId>,
    /// What was told forbids it, by this rule: somebody else may know better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The policy server that has to sign it: see [`KeepSigned`](super::KeepSigned).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_server: Option<OwnedServerName>,
}

impl Needs {
    fn is_empty(&self) -> bool {
        self.prev_events.is_empty()
            && self.auth_events.is_empty()
            && self.state.is_empty()
            && self.refused.is_none()
            && self.policy_server.is_none()
    }
}

/// Holds events for what they say of a state or of an auth chain: beside the log, each judged by the events it names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HoldEvents {
    /// Each after those that it names as its authorisation, at most [`HELD_AT_ONCE_MAX`].
    pub events: Vec<CheckedEvent>,
}

/// The most events in one [`HoldEvents`].
pub const HELD_AT_ONCE_MAX: usize = 500;

impl Call for ReceiveEvent {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "receive_event";
    type Reply = Received;
}

impl Call for HoldEvents {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "hold_events";
    /// The events of auth chains that are still missing; those that name them are not held yet.
    type Reply = Vec<OwnedEventId>;
}

impl ReceiveEvent {
    /// An event, with nobody's word on what is before it.
    pub fn of(event: CheckedEvent) -> Self {
        Self { event, told: Vec::new(), state_before: None, is_unwanted: false }
    }
}

/// What another server says of states.
struct Told {
    of_prev_events: Vec<ToldState>,
    /// The ids of the state where all events before the one that came meet.
    of_all: Option<Vec<OwnedEventId>>,
}

/// The state before an event.
struct Before {
    at: StateAt,
    /// The events before it of which it is another server that says what the state was.
    on_word_of: Missing,
}

impl CheckedEvent {
    /// What a room is given of an event.
    pub fn of(pdu: &Pdu) -> Self {
        Self { event_id: pdu.event_id().to_owned(), json: pdu.json().to_owned() }
    }

    pub(super) fn pdu(self, cx: &Cx<'_>) -> Result<Pdu, Error> {
        let pdu = Pdu::from_stored(self.event_id, self.json, false).map_err(Refusal::from)?;
        if pdu.room_id().as_str() != cx.id {
            return Err(Refusal::BadJson("An event of another room".to_owned()).into());
        }
        Ok(pdu)
    }
}

impl Room {
    pub(super) fn hold_events(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: HoldEvents) -> Result<Vec<OwnedEventId>, Error> {
        let version = self.version(&**tx)?;
        let (mut missing, named) = (BTreeSet::new(), Named::default());
        for event in call.events.into_iter().take(HELD_AT_ONCE_MAX) {
            let pdu = event.pdu(cx)?;
            if store::graph::by_id(&**tx, pdu.event_id())?.is_some() {
                continue;
            }
            let not_held = self.missing_authorisation(&**tx, cx, &pdu)?;
            if not_held.is_empty() {
                let verdict = match self.check_by_own_events(&**tx, cx, &pdu, &version, &named)? {
                    Ok(()) => Verdict::Accepted,
                    Err(_) => Verdict::Rejected,
                };
                self.hold_alone_if_there_is_room(tx, cx, &pdu, verdict)?;
            }
            missing.extend(not_held);
        }
        Ok(missing.into_iter().collect())
    }

    pub(super) fn receive_event(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: ReceiveEvent) -> Result<Received, Error> {
        self.receive(tx, cx, call, None)
    }

    /// Takes an event into the graph; `txn` says in the log what brought it.
    pub(super) fn receive(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        call: ReceiveEvent,
        txn: Option<&str>,
    ) -> Result<Received, Error> {
        let ReceiveEvent { event, told, state_before, is_unwanted } = call;
        let told = Told { of_prev_events: told, of_all: state_before };
        let pdu = event.pdu(cx)?;
        omitted_members::check_whole(&**tx)?;
        let held = store::graph::by_id(&**tx, pdu.event_id())?;
        if let Some(received) = held.as_ref().and_then(already) {
            return Ok(received);
        }
        self.keep_auth_uses(tx, cx, &pdu)?;
        let before = match self.state_before(&**tx, cx, &pdu, &told)? {
            Ok(before) => before,
            Err(needs) => return Ok(Received::Needs(needs)),
        };
        // Of what was refused by the events that it names, no more than that is held.
        if held.as_ref().is_some_and(|node| node.verdict == Verdict::Rejected) {
            self.hold(tx, &pdu, held.as_ref(), Verdict::Rejected, &before.at)?;
            self.note_word(tx, &pdu, &before)?;
            return Ok(Received::Rejected(REFUSED_BEFORE.to_owned()));
        }
        // What was held before is what was checked before: a redacted copy must not take its place.
        let pdu = held.as_ref().map_or(pdu, |node| node.pdu.clone());
        let version = self.version(&**tx)?;
        if let Err(refusal) = self.check_by_own_events(&**tx, cx, &pdu, &version, &Named::default())? {
            self.keep_beside(tx, cx, &pdu, held.as_ref(), Verdict::Rejected, &before)?;
            return Ok(Received::Rejected(refusal.to_string()));
        }
        if let Err(refusal) = self.check_by_state(&**tx, &pdu, &version, Some(&before.at))? {
            if !before.on_word_of.is_empty() {
                let (prev_events, refused) = (before.on_word_of, Some(refusal.to_string()));
                return Ok(Received::Needs(Needs { prev_events, refused, ..Needs::default() }));
            }
            self.keep_beside(tx, cx, &pdu, held.as_ref(), Verdict::Rejected, &before)?;
            return Ok(Received::Rejected(refusal.to_string()));
        }
        if !self.is_allowed_now(&**tx, &pdu)? && !planted::is(Planted::ForgottenSoftFail) {
            self.keep_beside(tx, cx, &pdu, held.as_ref(), Verdict::SoftFailed, &before)?;
            return Ok(Received::SoftFailed);
        }
        match self.signed_as_it_came(&**tx, cx, &pdu)? {
            Ok(pdu) => {
                self.accept(tx, cx, &pdu, before.at, txn)?;
                Ok(Received::Accepted)
            }
            // A join of ours that another server let in: the others ask.
            Err(_) if txn.is_some() && cx.is_local(pdu.sender()) => {
                self.accept(tx, cx, &pdu, before.at, txn)?;
                Ok(Received::Accepted)
            }
            Err(_) if is_unwanted => {
                self.keep_beside(tx, cx, &pdu, held.as_ref(), Verdict::SoftFailed, &before)?;
                Ok(Received::SoftFailed)
            }
            Err(server) => Ok(Received::Needs(Needs { policy_server: Some(server), ..Needs::default() })),
        }
    }

    /// The state before an event: where those before it meet. Of those at which it is not known it is as it was told.
    fn state_before(&self, sql: &dyn Sql, cx: &Cx<'_>, pdu: &Pdu, told: &Told) -> Result<Result<Before, Needs>, Error> {
        let auth_events = self.missing_authorisation(sql, cx, pdu)?;
        let mut needs = Needs { auth_events, ..Needs::default() };
        let (mut states, unknown) = self.known_states_after(sql, pdu.prev_events())?;
        if !unknown.is_empty() {
            if planted::is(Planted::OutOfOrder) {
                states = vec![StateAt::of_log(self.log_end(sql, cx)?)];
            } else {
                match self.told_states(sql, cx, told, &unknown)? {
                    Ok(told) => states.extend(told),
                    Err(Needs { prev_events, state, .. }) => (needs.prev_events, needs.state) = (prev_events, state),
                }
            }
        }
        if !needs.is_empty() {
            return Ok(Err(needs));
        }
        Ok(Ok(Before { at: self.meet(sql, cx, states)?, on_word_of: unknown }))
    }

    /// The states after these events, at which they are not known, as they were told; or where one of them was not
    /// told, the state in which all events before the one that came meet.
    fn told_states(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        Told { of_prev_events, of_all }: &Told,
        unknown: &[OwnedEventId],
    ) -> Result<Result<Vec<StateAt>, Needs>, Error> {
        let told_of = |event_id: &OwnedEventId| of_prev_events.iter().find(|told| told.event_id == *event_id);
        let told: Option<Vec<&ToldState>> = unknown.iter().map(told_of).collect();
        let all_ids: Vec<&OwnedEventId> = match (&told, of_all) {
            (Some(told), _) => told.iter().flat_map(|told| told.state_before.iter().chain([&told.event_id])).collect(),
            (None, Some(state)) => state.iter().collect(),
            (None, None) => return Ok(Err(Needs { prev_events: unknown.to_vec(), ..Needs::default() })),
        };
        let state = store::graph::missing(sql, all_ids)?;
        if !state.is_empty() {
            return Ok(Err(Needs { state, ..Needs::default() }));
        }
        let head = self.log_end(sql, cx)?;
        let Some(told) = told else {
            let state = of_all.as_deref().unwrap_or_default();
            return Ok(Ok(vec![StateAt::told(sql, head, state)?]));
        };
        told.into_iter().map(|told| self.told_after(sql, cx, told, head)).collect::<Result<Vec<_>, _>>().map(Ok)
    }

    /// The state after an event, by the state before it that was told.
    fn told_after(&self, sql: &dyn Sql, cx: &Cx<'_>, told: &ToldState, head: u64) -> Result<StateAt, Error> {
        let before = StateAt::told(sql, head, &told.state_before)?;
        let node = store::graph::by_id(sql, &told.event_id)?;
        let Node { pdu, verdict, .. } = node.ok_or_else(|| Fault::new("an event that was told of is not held"))?;
        let is_allowed = verdict != Verdict::Rejected && self.check(sql, cx, &pdu, &before)?.is_ok();
        Ok(before.after(sql, &pdu, if is_allowed { Verdict::Accepted } else { Verdict::Rejected })?)
    }

    /// Keeps an event that gets no place in the log, if there is room, and whether it is another server's word what
    /// state was before it.
    fn keep_beside(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        pdu: &Pdu,
        held: Option<&Node>,
        verdict: Verdict,
        before: &Before,
    ) -> Result<(), Error> {
        self.hold_if_there_is_room(tx, cx, pdu, held, verdict, &before.at)?;
        self.note_word(tx, pdu, before)
    }

    fn note_word(&self, tx: &Tx<'_>, pdu: &Pdu, before: &Before) -> Result<(), Error> {
        if !before.on_word_of.is_empty() {
            store::graph::rests_on_word(tx, pdu.event_id())?;
        }
        Ok(())
    }

    /// Steps 4 and 5. The inner error says which rule was broken.
    pub(super) fn check(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        pdu: &Pdu,
        before: &StateAt,
    ) -> Result<Result<(), Refusal>, Error> {
        let version = self.version(sql)?;
        if let Err(refusal) = self.check_by_own_events(sql, cx, pdu, &version, &Named::default())? {
            return Ok(Err(refusal));
        }
        self.check_by_state(sql, pdu, &version, Some(before))
    }

    /// Of the events that an event is judged by, those that are not held.
    pub(super) fn missing_authorisation(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        pdu: &Pdu,
    ) -> Result<Vec<OwnedEventId>, Error> {
        let create = implied_create(cx, &*self.version(sql)?)?;
        let create = create.filter(|create| create != pdu.event_id());
        Ok(store::graph::missing(sql, pdu.auth_events().iter().chain(&create))?)
    }

    /// Step 4: «Passes authorisation rules based on the event's auth events».
    pub(super) fn check_by_own_events(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        pdu: &Pdu,
        version: &RoomVersion,
        known: &Named,
    ) -> Result<Result<(), Refusal>, Error> {
        if *pdu.event_type() == TimelineEventType::RoomCreate {
            return Ok(auth::check_create(pdu, version));
        }
        let mut named = Vec::new();
        for event_id in pdu.auth_events() {
            named.extend(known.event(sql, event_id)?);
        }
        if let Some(create) = implied_create(cx, version)? {
            named.extend(known.event(sql, &create)?);
        }
        let find = |event_id: &EventId| named.iter().find(|event| event.event_id() == event_id).cloned();
        Ok(auth::check_auth_events(pdu, version, &find)
            .and_then(|()| auth::check_against_auth_events(pdu, version, &named)))
    }

    /// Whether a state allows the event: that at a place of the graph, or the current one.
    pub(super) fn check_by_state(
        &self,
        sql: &dyn Sql,
        pdu: &Pdu,
        version: &RoomVersion,
        at: Option<&StateAt>,
    ) -> Result<Result<(), Refusal>, Error> {
        if *pdu.event_type() == TimelineEventType::RoomCreate {
            return Ok(auth::check_create(pdu, version));
        }
        let needed = match auth::needed(pdu.event_type(), pdu.sender(), pdu.state_key(), pdu.content(), version) {
            Ok(needed) => needed,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let state = AuthState::load(sql, version, &needed, at)?;
        Ok(auth::check_against_state(pdu, version, &|event_type, state_key| state.get(event_type, state_key)))
    }

    /// Step 6: «Passes authorisation rules based on the current state of the room, otherwise it is "soft failed"».
    fn is_allowed_now(&self, sql: &dyn Sql, pdu: &Pdu) -> Result<bool, Error> {
        let version = self.version(sql)?;
        Ok(self.check_by_state(sql, pdu, &version, None)?.is_ok())
    }

    /// Keeps an event beside the log, with the state before it, for those that may come after it.
    pub(super) fn hold(
        &self,
        tx: &Tx<'_>,
        pdu: &Pdu,
        held: Option<&Node>,
        verdict: Verdict,
        before: &StateAt,
    ) -> Result<(), Error> {
        let before = StateBefore::Elsewhere(before.write(tx)?);
        match held {
            Some(node) => store::graph::judge(tx, node.number, verdict, before)?,
            None => {
                store::graph::insert_beside(tx, pdu, verdict, before)?;
            }
        }
        Ok(())
    }

    fn accept(&self, tx: &Tx<'_>, cx: &Cx<'_>, pdu: &Pdu, before: StateAt, txn: Option<&str>) -> Result<(), Error> {
        let missing = store::history::not_in_graph(&**tx, pdu.prev_events())?;
        let floor = if missing.is_empty() { None } else { Some(self.keep_free(&**tx, cx)?) };
        let position = self.insert_after(tx, cx, pdu, txn, Some(before))?;
        if let Some(floor) = floor {
            begin_edge(tx, Edge { position, floor, place: position })?;
            store::graph::insert_gap(tx, &missing, position)?;
        }
        self.redactions_follow(tx, cx, pdu, position)?;
        self.early_receipts_follow(tx, cx, pdu.event_id())
    }

    /// Leaves positions free before the next event, for history that may still be found: positions are arrivals, and it
    /// comes before them. Answers the first one.
    ///
    /// Those that nothing took while nothing came are free. For more of them positions run ahead of the clock, which
    /// they are compared with: half of what is left of [`LEAD_MAX`], so that there is some for each of several gaps,
    /// and that the clock gives back.
    pub(super) fn keep_free(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<u64, Error> {
        let end = self.log_end(sql, cx)?;
        if end < store::graph::LOG_START {
            // All of them are free.
            return Ok(store::graph::LOG_START);
        }
        let left = LEAD_MAX.saturating_sub(end.saturating_sub(cx.now_ms));
        let reserved = end.saturating_add((left / 2).max(GAP_POSITIONS_MIN));
        cx.head.set(Some(reserved.max(cx.now_ms.saturating_sub(1))));
        Ok(end.saturating_add(1))
    }
}

/// Events that others name as their authorisation: many name the same, and these are read once.
#[derive(Default)]
pub(super) struct Named(RefCell<BTreeMap<OwnedEventId, Pdu>>);

/// How many of them are remembered.
const NAMED_MAX: usize = 100;

impl Named {
    fn event(&self, sql: &dyn Sql, event_id: &EventId) -> Result<Option<Pdu>, Fault> {
        if let Some(pdu) = self.0.borrow().get(event_id) {
            return Ok(Some(pdu.clone()));
        }
        let pdu = store::graph::by_id(sql, event_id)?.map(|node| node.pdu);
        let mut known = self.0.borrow_mut();
        // Who joined or was invited is asked for once.
        if known.len() < NAMED_MAX
            && let Some(pdu) = pdu.as_ref().filter(|pdu| pdu.state_key() == Some(""))
        {
            known.insert(event_id.to_owned(), pdu.clone());
        }
        Ok(pdu)
    }
}

/// The create event, where nobody names it because the room's id does.
fn implied_create(cx: &Cx<'_>, version: &RoomVersion) -> Result<Option<OwnedEventId>, Fault> {
    if !version.room_id_is_create_event() {
        return Ok(None);
    }
    let create = OwnedEventId::try_from(format!("${}", cx.id.trim_start_matches('!')));
    Ok(Some(create.map_err(|_| Fault::new("a room's id is no hash"))?))
}

/// How far positions may be ahead of the clock to leave some free, in milliseconds: a minute.
pub(crate) const LEAD_MAX: u64 = 1 << 16;
/// So many are left free before an event that came without those before it, whatever the clock says.
const GAP_POSITIONS_MIN: u64 = 4;

const REFUSED_BEFORE: &str = "the event was rejected before";

/// What became of an event that was judged before.
fn already(node: &Node) -> Option<Received> {
    if node.is_in_log() {
        return Some(Received::Accepted);
    }
    match node.verdict {
        _ if node.before == StateBefore::Unknown => None,
        Verdict::Accepted => None,
        Verdict::Rejected => Some(Received::Rejected(REFUSED_BEFORE.to_owned())),
        Verdict::SoftFailed => Some(Received::SoftFailed),
    }
}

#[cfg(test)]
mod tests;
