//! A room that was joined without its members: the answer to the join left them out, and they are fetched afterwards.
//! Or without some of its state, which could not be checked: the keys that it is signed with were not to be had. Then
//! what came is kept, and looked at again.
//!
//! Until they are here
//! - users of ours who joined read what there is, and say what no other membership decides;
//! - no event of another server is judged: it waits, as while a join is under way;
//! - memberships that are not known here are neither changed nor told, and no other server is told of the state or let
//!   in: whoever asks is asked to come again;
//! - one fetcher at a time gets the state, from one server after the other, later and later, for as long as somebody of
//!   ours is in the room.
//!
//! What comes is staged and judged like what comes with a join. Then, in one transaction, the members are there from
//! before the join on, and devices learn the room anew. Of what comes only memberships are taken that are not known:
//! the rest came with the join. Of what is looked at again that is taken of which nothing is known; no server is asked
//! for it, and after [`UNCHECKED_TRIES_MAX`] tries the room goes on without what can still not be checked. While that
//! may be its encryption nobody of ours says anything that is not encrypted.
//! Spec: Server-Server API, "Joining Rooms", `omit_members`.

use std::collections::{BTreeMap, BTreeSet};

use domain::{Pdu, Refusal, backoff, event::Draft};
use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::{OwnedEventId, OwnedServerName, UserId};
use ruma_events::TimelineEventType;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Room,
    company::Company,
    get_outgoing::state_page,
    graph::StateAt,
    inbox,
    state::MEMBER,
    store::{
        self,
        graph::{Key, Node},
    },
};
use crate::{Call, Cx, Error, schedule};

/// Where it is noted.
const OMITTED: &str = "omitted";
/// Where it is kept what could not be checked, and how many bytes of that at most.
const UNCHECKED: &str = "unchecked";
const UNCHECKED_BYTES_MAX: usize = 1_500_000;
/// Where the position is noted at which they were here.
const WHOLE_SINCE: &str = "whole_since";
/// With fewer memberships than this an answer to a join has them all. In the simulation rooms are small.
const MEMBERS_MIN: usize = if cfg!(test) || platform::planted::IS_SIMULATED { 4 } else { 500 };
/// Servers that are remembered to be asked.
const SERVERS_ASKED_MAX: usize = 10;
/// Servers in the room that are believed of one that omits its members.
const SERVERS_MAX: usize = 10_000;
/// How long a fetcher has to come, in milliseconds; then another one is looked for.
const COMES_WITHIN_MS: u64 = 5_000;
/// How long the next try waits, in milliseconds, and how long at most.
const PAUSE_MS_MIN: u64 = 10_000;
const PAUSE_MS_MAX: u64 = 3_600_000;
/// So many times it is looked whether something can be checked, by the pauses above within some three minutes. The
/// simulation has longer outages, and looks whether all servers agree in the end.
const UNCHECKED_TRIES_MAX: u32 = if platform::planted::IS_SIMULATED && !cfg!(test) { 1_000_000 } else { 5 };
/// When to come again who asks for what is not known yet, in milliseconds.
const AGAIN_MS: u64 = 500;

/// What an answer to a join says instead of the members, or of what could not be checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OmittedMembers {
    /// Who answered.
    pub resident: OwnedServerName,
    /// The servers in the room.
    pub servers: Vec<OwnedServerName>,
    /// Where the answer left nothing out: what of it could not be checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<UncheckedEvent>,
}

/// An event that nobody could check: its servers do not tell their keys, and a notary did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncheckedEvent {
    /// As it came.
    pub json: String,
    /// Whether it is of the state, and not only of its auth chain.
    pub is_state: bool,
}

/// A fetcher asks whether members are to be fetched. Who gets an answer is the only one who does so, for as long as
/// something of it is heard: stages and judges under its name, and then makes the state whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TakeOmitted {
    /// Names the fetcher.
    pub carrier: String,
}

/// The state to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToFetch {
    pub room_version: String,
    /// The event before which it is.
    pub event_id: OwnedEventId,
    /// Who is in the room, the one to ask first.
    pub servers: Vec<OwnedServerName>,
    /// What is to be looked at again, and nobody asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<UncheckedEvent>,
    /// Whether what of it cannot be checked now is done without.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_last_try: bool,
}

impl Call for TakeOmitted {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "take_omitted";
    type Reply = Option<ToFetch>;
}

/// All that came of the state is staged and judged: it becomes the room's.
///
/// Refused: `Unknown` for a stage that was given up, or that is no state of the room.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompleteState {
    /// The fetcher, under whose name it is staged.
    pub carrier: String,
    /// What of it could not be checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<UncheckedEvent>,
}

impl Call for CompleteState {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "complete_state";
    type Reply = ();
}

/// Whether all members are known here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IsWhole {}

impl Call for IsWhole {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "is_whole";
    type Reply = bool;
}

/// What the room knows of a state without members.
#[derive(Debug, Serialize, Deserialize)]
struct Omitted {
    /// The join before which that state is.
    join: OwnedEventId,
    /// The position from which on it holds.
    floor: u64,
    /// Who can be asked.
    servers: Vec<OwnedServerName>,
    attempts: u32,
    /// In milliseconds since the Unix epoch.
    not_before_ms: u64,
    /// Whether nothing was left out, and something could not be checked.
    #[serde(default)]
    is_unchecked: bool,
    /// Whether that may be how the room is encrypted.
    #[serde(default)]
    may_be_encrypted: bool,
}

impl Omitted {
    /// What could not be checked is kept, to be looked at again.
    fn unchecked(
        tx: &Tx<'_>,
        (join, floor): (OwnedEventId, u64),
        not_before_ms: u64,
        unchecked: Vec<UncheckedEvent>,
    ) -> Result<(), Error> {
        let mut bytes = 0_usize;
        let kept: Vec<UncheckedEvent> = unchecked
            .into_iter()
            .take_while(|event| {
                bytes = bytes.saturating_add(event.json.len());
                bytes <= UNCHECKED_BYTES_MAX
            })
            .collect();
        let may_be_encrypted = kept.iter().any(UncheckedEvent::is_encryption);
        store::meta::set(tx, UNCHECKED, serde_json::to_string(&kept)?.into())?;
        let servers = Vec::new();
        Self { join, floor, servers, attempts: 0, not_before_ms, is_unchecked: true, may_be_encrypted }.keep(tx)
    }

    fn load(sql: &dyn Sql) -> Result<Option<Self>, Error> {
        Ok(match store::meta::text(sql, OMITTED)? {
            Some(text) => Some(serde_json::from_str(&text)?),
            None => None,
        })
    }

    /// What is still to be fetched.
    fn wanted(tx: &Tx<'_>) -> Result<Option<Self>, Error> {
        let Some(omitted) = Self::load(&**tx)? else { return Ok(None) };
        if store::members::joined_locals(&**tx, 1)?.is_empty() {
            // Nobody here is to know them any more.
            Self::forget(tx)?;
            return Ok(None);
        }
        Ok(Some(omitted))
    }

    fn forget(tx: &Tx<'_>) -> Result<(), Error> {
        store::meta::forget(tx, UNCHECKED)?;
        Ok(store::meta::forget(tx, OMITTED)?)
    }

    fn keep(&self, tx: &Tx<'_>) -> Result<(), Error> {
        Ok(store::meta::set(tx, OMITTED, serde_json::to_string(self)?.into())?)
    }
}

impl UncheckedEvent {
    fn is_encryption(&self) -> bool {
        #[derive(Deserialize)]
        struct Form {
            #[serde(rename = "type")]
            event_type: String,
            state_key: String,
        }
        let form = serde_json::from_str::<Form>(&self.json);
        self.is_state && form.is_ok_and(|form| form.event_type == "m.room.encryption" && form.state_key.is_empty())
    }
}

/// Whether something of the state could not be checked, or would have to be judged by what could not.
pub(super) fn is_state_among(unchecked: &[UncheckedEvent]) -> bool {
    unchecked.iter().any(|event| event.is_state)
}

fn come_again() -> Error {
    Refusal::Unavailable { retry_after_ms: AGAIN_MS }.into()
}

/// Refused: `Unavailable` while members are missing.
pub(super) fn check_whole(sql: &dyn Sql) -> Result<(), Error> {
    if is_whole(sql)? { Ok(()) } else { Err(come_again()) }
}

pub(super) fn is_whole(sql: &dyn Sql) -> Result<bool, Error> {
    Ok(store::meta::text(sql, OMITTED)?.is_none())
}

/// Refused: `Unavailable` for a membership of somebody of whom nothing is known yet, and for what all could read where
/// the room may be encrypted.
pub(super) fn check_draft(sql: &dyn Sql, draft: &Draft) -> Result<(), Error> {
    let is_for_all = draft.state_key.is_none()
        && !matches!(draft.event_type, TimelineEventType::RoomEncrypted | TimelineEventType::RoomRedaction);
    if is_for_all && Omitted::load(sql)?.is_some_and(|omitted| omitted.may_be_encrypted) {
        return Err(come_again());
    }
    let Some(user_id) = draft.state_key.as_deref().filter(|_| draft.event_type == TimelineEventType::RoomMember) else {
        return Ok(());
    };
    // What is known of others may be of an earlier time here.
    if is_whole(sql)? || store::members::membership(sql, user_id)?.as_deref() == Some("join") {
        return Ok(());
    }
    Err(come_again())
}

/// The position at which the members were here, where they had been missing.
pub(super) fn whole_since(sql: &dyn Sql) -> Result<u64, Fault> {
    match store::meta::text(sql, WHOLE_SINCE)? {
        Some(text) => text.parse().map_err(|_| Fault::new("a position is none")),
        None => Ok(0),
    }
}

/// A state without members, with the memberships that let a join happen: it names them.
pub(super) fn with_named(sql: &dyn Sql, mut state: StateAt, join: &Pdu) -> Result<StateAt, Fault> {
    for event_id in join.auth_events() {
        let Some(Node { pdu: named, verdict, .. }) = store::graph::by_id(sql, event_id)? else { continue };
        let user_id = named.state_key().filter(|_| *named.event_type() == TimelineEventType::RoomMember);
        if let Some(user_id) = user_id
            && state.get(sql, MEMBER, user_id)?.is_none()
        {
            state = state.after(sql, &named, verdict)?;
        }
    }
    Ok(state)
}

/// The founding join of a room, with what it lacks, or nothing.
pub(super) fn note(
    tx: &Tx<'_>,
    cx: &Cx<'_>,
    join: OwnedEventId,
    (floor, position): (u64, u64),
    omitted: Option<OmittedMembers>,
) -> Result<(), Error> {
    let Some(OmittedMembers { resident, servers, unchecked }) = omitted else { return Omitted::forget(tx) };
    if !unchecked.is_empty() {
        return Omitted::unchecked(tx, (join, floor), cx.now_ms, unchecked);
    }
    let mut seen = BTreeSet::from([cx.own_server().to_owned()]);
    let servers: Vec<_> = servers.into_iter().filter(|server| seen.insert(server.clone())).take(SERVERS_MAX).collect();
    store::servers::are_said_to_be_joined(tx, &servers, position)?;
    cx.room.servers.borrow_mut().extend(servers.iter().map(ToString::to_string));
    let others = servers.into_iter().filter(|server| *server != resident);
    let servers = std::iter::once(resident.clone()).chain(others).take(SERVERS_ASKED_MAX).collect();
    let not_before_ms = cx.now_ms;
    Omitted { join, floor, servers, attempts: 0, not_before_ms, is_unchecked: false, may_be_encrypted: false }.keep(tx)
}

/// The state before a join without its members, but for those after whom clients call a room that says no name; `None`
/// where they are so few that it is not worth it. Spec: `omit_members`.
pub(super) fn without_members(
    sql: &dyn Sql,
    before: &StateAt,
    company: &Company,
    join: &Pdu,
) -> Result<Option<Vec<OwnedEventId>>, Error> {
    let heroes =
        if has_name(sql, before)? { Vec::new() } else { company.heroes_for(join.state_key().unwrap_or_default()) };
    let (mut state, mut members, mut next) = (Vec::new(), 0_usize, Some(Key::default()));
    while let Some(after) = next {
        let (page, following) = state_page(sql, before, after)?;
        for (key, event) in page {
            let Some(event_id) = event else { continue };
            let is_member = key.0 == MEMBER;
            members = members.saturating_add(usize::from(is_member));
            if !is_member || heroes.contains(&key.1) {
                state.push(event_id);
            }
        }
        next = following;
    }
    Ok((members >= MEMBERS_MIN).then_some(state))
}

/// Whether the room says how it is called.
fn has_name(sql: &dyn Sql, at: &StateAt) -> Result<bool, Error> {
    for (event_type, field) in [("m.room.name", "name"), ("m.room.canonical_alias", "alias")] {
        let Some(event) = at.event(sql, event_type, "")? else { continue };
        let content: Map<String, Value> = event.content_as().unwrap_or_default();
        if content.get(field).and_then(Value::as_str).is_some_and(|said| !said.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Room {
    /// Has a fetcher come, if it is time for one. Answers whether members are missing.
    pub(super) fn look_for_omitted(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<bool, Error> {
        let Some(omitted) = Omitted::wanted(tx)? else { return Ok(false) };
        let until_ms = self.fetching.borrow().fetched_until_ms(cx.now_ms).max(Some(omitted.not_before_ms));
        if let Some(until_ms) = until_ms.filter(|until_ms| *until_ms > cx.now_ms) {
            schedule::at(tx, cx, inbox::DUE, until_ms)?;
            return Ok(true);
        }
        cx.carry();
        schedule::at(tx, cx, inbox::DUE, cx.now_ms.saturating_add(COMES_WITHIN_MS))?;
        Ok(true)
    }

    pub(super) fn take_omitted(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: TakeOmitted) -> Result<Option<ToFetch>, Error> {
        let Some(mut omitted) = Omitted::wanted(tx)? else { return Ok(None) };
        let mut fetching = self.fetching.borrow_mut();
        if fetching.is_anothers(&call.carrier, cx.now_ms) || omitted.not_before_ms > cx.now_ms {
            return Ok(None);
        }
        // Who was to try last did not get to.
        if omitted.is_unchecked && omitted.attempts > UNCHECKED_TRIES_MAX {
            drop(fetching);
            self.is_whole_now(tx, cx)?;
            return Ok(None);
        }
        let lease_ms = fetching.lease(&call.carrier, cx.now_ms);
        schedule::at(tx, cx, inbox::DUE, lease_ms)?;
        let pause_ms = backoff::pause_ms(PAUSE_MS_MIN, omitted.attempts, PAUSE_MS_MAX);
        let mut servers = omitted.servers.clone();
        let first = usize::try_from(omitted.attempts).unwrap_or(0) % servers.len().max(1);
        servers.rotate_left(first);
        omitted.attempts = omitted.attempts.saturating_add(1);
        let is_last_try = omitted.is_unchecked && omitted.attempts >= UNCHECKED_TRIES_MAX;
        let unchecked = match store::meta::text(&**tx, UNCHECKED)? {
            Some(kept) if omitted.is_unchecked => serde_json::from_str(&kept)?,
            _ => Vec::new(),
        };
        omitted.not_before_ms = cx.now_ms.saturating_add(pause_ms);
        omitted.keep(tx)?;
        let room_version = self.version(&**tx)?.as_str().to_owned();
        Ok(Some(ToFetch { room_version, event_id: omitted.join, servers, unchecked, is_last_try }))
    }

    pub(super) fn is_whole(&self, sql: &dyn Sql, _: &Cx<'_>, _: IsWhole) -> Result<bool, Error> {
        is_whole(sql)
    }

    pub(super) fn complete_state(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: CompleteState) -> Result<(), Error> {
        let CompleteState { carrier, mut unchecked } = call;
        let Some(omitted) = Omitted::load(&**tx)? else { return self.end_stage(tx, &carrier) };
        let state = self.staged_state(&**tx, &carrier)?;
        let known: BTreeMap<Key, OwnedEventId> = store::graph::state_at(&**tx, omitted.floor)?.into_iter().collect();
        let create = known.get(&("m.room.create".to_owned(), String::new()));
        if !omitted.is_unchecked && create.is_none_or(|create| !state.contains(create)) {
            return Err(Refusal::Unknown("This is no state of the room".to_owned()).into());
        }
        let came_with_join: BTreeSet<Key> =
            store::graph::changed_keys(&**tx, omitted.floor.saturating_sub(1), omitted.floor)?.into_iter().collect();
        let told = StateAt::told(&**tx, omitted.floor, &state)?.into_changes();
        let is_ours =
            |key: &Key| key.0 == MEMBER && <&UserId>::try_from(key.1.as_str()).is_ok_and(|user| cx.is_local(user));
        let mut found: Vec<(Key, Option<OwnedEventId>)> = Vec::new();
        for (key, event) in told.into_iter().filter(|(_, event)| event.is_some()) {
            let now = || store::state::current(&**tx, &key.0, &key.1);
            let is_new = if is_ours(&key) {
                // What was last known here of users of ours holds until then, unless they did something since.
                now()?.as_ref().map(|now| now.pdu.event_id()) == known.get(&key).map(|known| &**known)
            } else if key.0 == MEMBER {
                !came_with_join.contains(&key)
            } else {
                omitted.is_unchecked && !known.contains_key(&key) && now()?.is_none()
            };
            if is_new {
                found.push((key, event));
            }
        }
        let position = self.next_position(&**tx, cx)?;
        let (ours, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|(key, _)| is_ours(key));
        self.place_found(tx, cx, &others, (omitted.floor, position))?;
        cx.room.servers.borrow_mut().extend(store::servers::all(&**tx)?.into_iter().map(|following| following.name));
        // As with a whole answer: users of ours learn what became of them when it comes here, and what comes after the
        // join comes after that.
        let join = store::graph::by_id(&**tx, &omitted.join)?.ok_or_else(|| Fault::new("a join is not held"))?;
        self.state_changes(tx, cx, join.number, ours)?;
        self.fetching.borrow_mut().ends(&carrier);
        if !unchecked.is_empty() {
            unchecked.extend(self.staged_in_vain(&**tx, &carrier)?);
        }
        let lacks_more = !omitted.is_unchecked && is_state_among(&unchecked);
        if lacks_more {
            let not_before_ms = cx.now_ms.saturating_add(PAUSE_MS_MIN);
            Omitted::unchecked(tx, (omitted.join, omitted.floor), not_before_ms, unchecked)?;
            schedule::at(tx, cx, inbox::DUE, not_before_ms)?;
        }
        self.end_stage(tx, &carrier)?;
        if lacks_more { Ok(()) } else { self.is_whole_now(tx, cx) }
    }

    /// Nothing more of the state is to come.
    fn is_whole_now(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let position = self.next_position(&**tx, cx)?;
        Omitted::forget(tx)?;
        store::meta::set(tx, WHOLE_SINCE, position.to_string().into())?;
        cx.room.public_head.set(Some(position));
        self.take_in_what_came(tx, cx)
    }
}

#[cfg(test)]
mod tests;
