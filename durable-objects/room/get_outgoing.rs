//! What goes to another server, as its Destination asks for it, and what a server asks for besides.
//!
//! A server gets what happened while it had somebody in the room; of what was before, and of what history visibility
//! kept from its users, it gets the redacted form. Spec: Server-Server API, "Backfilling and retrieving missing
//! events", "Retrieving events"; Client-Server API, "Room history visibility".

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use domain::{Pdu, Refusal, event};
use platform::{ActorKind, Fault, Sql};
use ruma_common::{OwnedEventId, OwnedServerName, ServerName};
use ruma_events::{TimelineEventType, room::member::MembershipState};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Direction, Room,
    append::membership_of,
    graph::StateAt,
    omitted_members,
    resident::check_acl,
    retention,
    server_sight::ServerSight,
    server_stays::ServerStays,
    store::{
        self,
        graph::{Key, Node, Verdict},
    },
};
use crate::{Call, Cx, Error};

/// Bytes of events after which a page ends.
pub(super) const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Entries of the log looked at for one page.
pub(super) const SCAN_MAX: u64 = 1_000;
/// The most events that a server gets for one question.
pub(super) const EVENTS_MAX: u64 = 100;
/// The most events that are looked at for these: those that were refused are not told of.
pub(super) const VISITED_MAX: u64 = 10 * EVENTS_MAX;

/// What goes to a server of a part of the log: events of our users, and those that we bring into the room for others,
/// that happened while it was in the room; and what ended an invitation or a knock of its users.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetOutgoing {
    pub server: OwnedServerName,
    pub after: u64,
    pub up_to: u64,
    pub limit: u64,
}

/// Some of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outgoing {
    pub events: Vec<Box<RawValue>>,
    /// Up to where these are all.
    pub up_to: u64,
}

impl Call for GetOutgoing {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_outgoing";
    type Reply = Outgoing;
}

/// Which events a server asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// This one.
    Event(OwnedEventId),
    /// These and what was before them, newest first.
    Backfill { from: Vec<OwnedEventId>, limit: u64 },
    /// What lies between, oldest first.
    Missing { earliest: Vec<OwnedEventId>, latest: Vec<OwnedEventId>, limit: u64, min_depth: u64 },
}

/// A server asks for events.
///
/// Refused: `Forbidden` for a server that is not in the room, or that its ACL keeps out; `NotFound` for an event that
/// is not held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetEventsForServer {
    pub server: OwnedServerName,
    pub wanted: Wanted,
}

impl Call for GetEventsForServer {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_events_for_server";
    type Reply = Vec<Box<RawValue>>;
}

/// The ids of the state before an event, and of its auth chain; or of the auth chain of the event itself.
///
/// Refused: as [`GetEventsForServer`] is; `NotFound` also where the state is not known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetStateIds {
    /// Who asks; `None`: somebody who was just let in.
    pub server: Option<OwnedServerName>,
    pub event_id: OwnedEventId,
    /// Whether only the auth chain of the event is wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auth_chain_only: bool,
    /// Whether members need not be told of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub omit_members: bool,
    /// Wanted is a page of it, and not all: what comes behind this key. The first page is behind the empty one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<(String, String)>,
}

/// A state by its ids, or a page of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct StateIds {
    pub state: Vec<OwnedEventId>,
    /// Of these.
    pub auth_chain: Vec<OwnedEventId>,
    /// Behind which key the next page begins; none: this was the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<(String, String)>,
    /// The servers with somebody in the room.
    pub servers: Vec<String>,
    /// Whether members are left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub members_omitted: bool,
}

impl Call for GetStateIds {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_state_ids";
    type Reply = StateIds;
}

/// The room's version, for a server that sends events of it.
///
/// Refused: `Forbidden` for a server that the room's ACL keeps out; `NotFound` where nobody of this server is in the
/// room.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetVersionForServer {
    pub server: OwnedServerName,
}

impl Call for GetVersionForServer {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_version_for_server";
    type Reply = String;
}

/// The events of the log that none comes after.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetExtremities {}

/// The forward extremities.
#[derive(Debug, Serialize, Deserialize)]
pub struct Extremities {
    pub event_ids: Vec<OwnedEventId>,
    /// The depth at which the log begins; 0 where that is the room's beginning. What is before it is history, and none
    /// of what lies between these events and others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub min_depth: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Call for GetExtremities {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_extremities";
    type Reply = Extremities;
}

/// Which of these events are not held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetMissing {
    pub event_ids: Vec<OwnedEventId>,
}

impl Call for GetMissing {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_missing";
    type Reply = Vec<OwnedEventId>;
}

/// Held events by their ids, as many as have room in one reply; the others are asked for again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetHeldEvents {
    pub event_ids: Vec<OwnedEventId>,
}

impl Call for GetHeldEvents {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_held_events";
    type Reply = Vec<Box<RawValue>>;
}

/// The text of a held event.
pub(super) fn raw(json: &str) -> Result<Box<RawValue>, Fault> {
    Ok(RawValue::from_string(json.to_owned())?)
}

impl Room {
    pub(super) fn get_outgoing(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetOutgoing) -> Result<Outgoing, Error> {
        let (between, servers) = ((call.after, call.up_to), [cx.own_server(), &*call.server]);
        let outgoing = store::log::outgoing(sql, between, Direction::Forwards, servers, SCAN_MAX)?;
        let mut page = Outgoing { events: Vec::new(), up_to: outgoing.seen.unwrap_or(call.up_to) };
        if outgoing.positions.is_empty() {
            return Ok(page);
        }
        let stays = ServerStays::behind(sql, &call.server, call.after)?;
        let mut bytes = 0;
        for event in store::log::each(&outgoing.positions, |slice| store::graph::at(sql, slice)) {
            let event = event?;
            if page.events.len() as u64 >= call.limit || bytes > PAGE_BYTES_MAX {
                page.up_to = event.number.saturating_sub(1);
                break;
            }
            if stays.are_told(&event)? {
                bytes += event.pdu.json().len();
                page.events.push(raw(event.pdu.json())?);
            }
        }
        Ok(page)
    }

    pub(super) fn get_events_for_server(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        call: GetEventsForServer,
    ) -> Result<Vec<Box<RawValue>>, Error> {
        self.check_server(sql, &call.server)?;
        let sight = ServerSight::load(sql, &call.server)?;
        let nodes = match call.wanted {
            Wanted::Event(event_id) => {
                let missing = || Refusal::NotFound("There is no such event in this room".to_owned());
                let node = store::graph::by_id(sql, &event_id)?.filter(|node| node.verdict != Verdict::Rejected);
                vec![node.ok_or_else(missing)?]
            }
            Wanted::Backfill { from, limit } => before(sql, &from, &BTreeSet::new(), limit, 0)?,
            Wanted::Missing { earliest, latest, limit, min_depth } => {
                let stop: BTreeSet<OwnedEventId> = earliest.into_iter().chain(latest.iter().cloned()).collect();
                let mut between = Vec::new();
                for event_id in &latest {
                    between.extend(store::graph::by_id(sql, event_id)?);
                }
                let parents: Vec<OwnedEventId> =
                    between.iter().flat_map(|node| node.pdu.prev_events()).cloned().collect();
                let mut nodes = before(sql, &parents, &stop, limit, min_depth)?;
                nodes.reverse();
                nodes
            }
        };
        let version = self.version(sql)?;
        let came = store::servers::one(sql, call.server.as_str())?.map_or(0, |following| following.since);
        let erased = store::erased::for_who_came_at(sql, came)?;
        let hidden = retention::hidden_up_to(sql)?;
        let is_hidden = |node: &Node| node.is_in_log() && node.number <= hidden && node.pdu.state_key().is_none();
        let (mut events, mut bytes) = (Vec::new(), 0);
        for node in nodes {
            let json = if sight.sees(sql, &node)? && !erased.has(&node.pdu) && !is_hidden(&node) {
                node.pdu.json().to_owned()
            } else {
                let redacted = event::redact(&node.pdu, &version, None);
                redacted.map_err(|error| Fault::new(format!("a stored event: {error}")))?.json().to_owned()
            };
            bytes += json.len();
            if bytes > PAGE_BYTES_MAX {
                break;
            }
            events.push(raw(&json)?);
        }
        Ok(events)
    }

    pub(super) fn get_state_ids(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetStateIds) -> Result<StateIds, Error> {
        let node = store::graph::by_id(sql, &call.event_id)?.filter(|node| node.verdict != Verdict::Rejected);
        match &call.server {
            Some(server) if node.as_ref().is_some_and(|node| is_join_of(&node.pdu, server)) => {
                check_acl(sql, server)?;
                omitted_members::check_whole(sql)?;
            }
            Some(server) => self.check_server(sql, server)?,
            None => omitted_members::check_whole(sql)?,
        }
        let missing = || Refusal::NotFound("There is no such event in this room".to_owned());
        let node = node.ok_or_else(missing)?;
        if call.auth_chain_only {
            let mut auth_chain = store::graph::auth_chain(sql, std::slice::from_ref(&call.event_id))?;
            // «The complete auth chain»: since v12 the room's id names its root.
            if self.version(sql)?.room_id_is_create_event()
                && let Ok(create) = OwnedEventId::try_from(cx.id.replacen('!', "$", 1))
                && create != call.event_id
                && !auth_chain.contains(&create)
            {
                auth_chain.push(create);
            }
            return Ok(StateIds { auth_chain, ..StateIds::default() });
        }
        let before = node
            .state_before(sql)?
            .ok_or_else(|| Refusal::NotFound("The state before this event is not known here".to_owned()))?;
        let is_first = call.after.as_ref().is_none_or(|after| *after == Key::default());
        if call.omit_members
            && is_first
            && let Some(state) = omitted_members::without_members(sql, &before, &*self.company(sql)?, &node.pdu)?
        {
            return self.state_without_members(sql, cx, &node, state);
        }
        let (state, next) = match call.after {
            Some(after) => state_page(sql, &before, after)?,
            None => {
                let at = store::graph::state_at(sql, before.base())?;
                let mut state: BTreeMap<_, _> = at.into_iter().map(|(key, event_id)| (key, Some(event_id))).collect();
                state.extend(before.into_changes());
                (state, None)
            }
        };
        let state: Vec<OwnedEventId> = state.into_values().flatten().collect();
        let auth_chain = store::graph::auth_chain(sql, &state)?;
        let mut servers = store::servers::joined_before(sql, node.number)?;
        servers.push(cx.own_server().to_string());
        Ok(StateIds { state, auth_chain, next, servers, members_omitted: false })
    }

    /// An answer with this state, and the chain of what is in it and of what the event names.
    fn state_without_members(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        node: &Node,
        state: Vec<OwnedEventId>,
    ) -> Result<StateIds, Error> {
        let named = node.pdu.auth_events();
        let mut auth_chain: BTreeSet<_> =
            store::graph::auth_chain(sql, &[&state, named].concat())?.into_iter().collect();
        auth_chain.extend(named.iter().cloned());
        let in_state: BTreeSet<_> = state.iter().collect();
        auth_chain.retain(|event_id| !in_state.contains(event_id));
        let mut servers = store::servers::joined_before(sql, node.number)?;
        servers.push(cx.own_server().to_string());
        let auth_chain = auth_chain.into_iter().collect();
        Ok(StateIds { state, auth_chain, next: None, servers, members_omitted: true })
    }

    pub(super) fn get_held_events(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        call: GetHeldEvents,
    ) -> Result<Vec<Box<RawValue>>, Error> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        for event_id in call.event_ids {
            let node = store::graph::by_id(sql, &event_id)?;
            let node = node.ok_or_else(|| Refusal::NotFound(format!("{event_id} is not held")))?;
            bytes += node.pdu.json().len();
            events.push(raw(node.pdu.json())?);
            if bytes > PAGE_BYTES_MAX {
                break;
            }
        }
        Ok(events)
    }

    pub(super) fn get_version_for_server(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        call: GetVersionForServer,
    ) -> Result<String, Error> {
        check_acl(sql, &call.server)?;
        self.check_resident(sql)?;
        Ok(self.version(sql)?.as_str().to_owned())
    }

    pub(super) fn get_extremities(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        _call: GetExtremities,
    ) -> Result<Extremities, Error> {
        let event_ids = store::graph::extremities(sql)?.ids;
        Ok(Extremities { event_ids, min_depth: store::history::first_depth(sql)?.unwrap_or(0) })
    }

    pub(super) fn get_missing(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        call: GetMissing,
    ) -> Result<Vec<OwnedEventId>, Error> {
        Ok(store::graph::missing(sql, &call.event_ids)?)
    }

    /// Refused: `Forbidden` for a server without anybody in the room, or that is kept out of it.
    pub(super) fn check_server(&self, sql: &dyn Sql, server: &ServerName) -> Result<(), Error> {
        check_acl(sql, server)?;
        omitted_members::check_whole(sql)?;
        if store::servers::is_joined(sql, server.as_str())? {
            return Ok(());
        }
        Err(Refusal::Forbidden(format!("{server} is not in this room")).into())
    }
}

/// Whether somebody of a server came into the room with this event. The state before it they were told, or may ask for,
/// even if they were put out since: how should they know?
fn is_join_of(pdu: &Pdu, server: &ServerName) -> bool {
    pdu.sender().server_name() == server
        && *pdu.event_type() == TimelineEventType::RoomMember
        && pdu.state_key() == Some(pdu.sender().as_str())
        && membership_of(pdu).is_ok_and(|membership| membership == MembershipState::Join)
}

/// Some keys of a state, with the event that each has, if it has one.
type StatePage = BTreeMap<Key, Option<OwnedEventId>>;

/// A page of a state, behind a key, and its last one if there are more.
pub(super) fn state_page(sql: &dyn Sql, state: &StateAt, after: Key) -> Result<(StatePage, Option<Key>), Fault> {
    let behind = if after == Key::default() { None } else { Some(&after) };
    let of_log = store::history::state_page(sql, state.base(), behind)?;
    let is_last = (of_log.len() as u64) < store::history::KEYS_AT_ONCE;
    let last = of_log.last().filter(|_| !is_last).map(|(key, _)| key.clone());
    let is_here = |key: &Key| behind.is_none_or(|behind| key > behind) && last.as_ref().is_none_or(|last| key <= last);
    let changes = state.changes().iter().filter(|(key, _)| is_here(key));
    let mut page: BTreeMap<Key, Option<OwnedEventId>> = of_log.into_iter().collect();
    page.extend(changes.map(|(key, event_id)| (key.clone(), event_id.clone())));
    Ok((page, last))
}

/// These events and those before them, newest first, as far as they are held, and as one answer has room for them; no
/// further than `stop`. [`VISITED_MAX`] are looked at.
fn before(
    sql: &dyn Sql,
    from: &[OwnedEventId],
    stop: &BTreeSet<OwnedEventId>,
    limit: u64,
    min_depth: u64,
) -> Result<Vec<Node>, Fault> {
    let limit = usize::try_from(limit.min(EVENTS_MAX)).unwrap_or_default();
    let mut seen = stop.clone();
    let mut ahead: VecDeque<OwnedEventId> = from.iter().cloned().collect();
    let (mut nodes, mut bytes, mut visited): (Vec<Node>, _, _) = (Vec::new(), 0_usize, 0);
    while let Some(event_id) = ahead.pop_front() {
        if nodes.len() >= limit || bytes > PAGE_BYTES_MAX || visited >= VISITED_MAX {
            break;
        }
        if !seen.insert(event_id.clone()) {
            continue;
        }
        visited += 1;
        let Some(node) = store::graph::by_id(sql, &event_id)? else { continue };
        if node.pdu.depth() < min_depth {
            continue;
        }
        ahead.extend(node.pdu.prev_events().iter().cloned());
        // A refused event is not told of; what was before it is.
        if node.verdict != Verdict::Rejected {
            bytes = bytes.saturating_add(node.pdu.json().len());
            nodes.push(node);
        }
    }
    nodes.sort_by_key(|node| std::cmp::Reverse((node.pdu.depth(), node.number)));
    Ok(nodes)
}
