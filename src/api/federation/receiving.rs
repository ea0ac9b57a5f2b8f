//! Bringing an event of another server into its room, with whatever the room lacks to judge it.
//!
//! The room names what it needs; this asks the server that made the event, if it is in the room, and the one that sent
//! it, and calls again. Every round adds facts: events that lie between; the events before it that are missing, with
//! the state before each and the auth chains of that; or else, where these are not to be had, the state before the
//! event itself. What cannot be had after [`ROUNDS_MAX`] rounds is not taken in; the server may send it again.
//! Spec: Server-Server API, "Backfilling and retrieving missing events", "Retrieving events".

use std::collections::BTreeSet;

use actors::room::{
    CheckedEvent, GetExtremities, GetMissing, IsServerJoined, Needs, ReceiveEvent, Received, ToldState, Unsigned,
};
use domain::{Pdu, Refusal, RoomVersion};
use futures_util::{StreamExt, stream};
use http::StatusCode;
use js_int::UInt;
use platform::LocalFuture;
use ruma_common::{EventId, OwnedEventId, OwnedServerName, RoomId, ServerName};
use ruma_federation_api::{
    authorization::get_event_authorization,
    event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
};
use serde_json::value::RawValue;

use super::{AskError, Bounds, pdus::SortedPdus};
use crate::{Context, Failure};

/// Calls for one event.
const ROUNDS_MAX: usize = 8;
/// What a policy server says that is asked too often: it neither signs nor refuses.
const TOO_MANY: u16 = StatusCode::TOO_MANY_REQUESTS.as_u16();
/// Events asked for that lie between what is held and what came.
const MISSING_EVENTS_MAX: u32 = 50;
/// When more events of a state are missing than this, all of it is asked for at once.
const STATE_ONE_BY_ONE_MAX: usize = 50;
/// Events asked for at the same time.
const EVENTS_AT_ONCE: usize = 8;
/// The most events of a state and its auth chain that are named in one answer, and of all states that the room is told
/// of at once: of more it is told nothing.
const STATE_EVENTS_MAX: usize = 300_000;
/// The largest state that is taken in one answer, in bytes.
const STATE_BYTES_MAX: usize = 24 * 1024 * 1024;
const STATE_TIMEOUT_MS: u64 = 60_000;

/// A room of which events come from a server.
#[derive(Clone, Copy)]
pub(crate) struct Receiving<'a> {
    pub cx: &'a Context,
    pub origin: &'a ServerName,
    pub room_id: &'a RoomId,
    pub version: &'a RoomVersion,
    /// After that nothing more is asked for: others wait for their turn.
    pub until_ms: u64,
    /// Whether what cannot be judged now is given up: then a policy server that gives no answer does not recommend it.
    pub is_last_try: bool,
    /// Whether a state is taken without what of it is not to be had now.
    pub takes_gaps: bool,
}

/// What other servers are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// What authorises the event.
    Authorisation,
    /// And what is before it.
    State,
    /// And what lies between that and what is here.
    Between,
}

/// An event before another one, as another server has it.
enum Before {
    /// It is here now.
    Here,
    Told(ToldState),
}

impl<'a> Receiving<'a> {
    fn is_over(&self) -> bool {
        self.cx.now_ms() >= self.until_ms
    }

    /// Brings an event into the room. Answers what became of it.
    ///
    /// # Errors
    /// A fault of ours. What cannot be had is [`Received::Needs`].
    pub(crate) async fn receive(&self, pdu: &Pdu) -> Result<Received, Failure> {
        self.receive_with(pdu, Asked::Between).await
    }

    fn receive_with<'b>(&'b self, pdu: &'b Pdu, asked: Asked) -> LocalFuture<'b, Result<Received, Failure>> {
        Box::pin(async move {
            let room = self.cx.room(self.room_id);
            let mut call = ReceiveEvent::of(CheckedEvent::of(pdu));
            let mut may_ask_between = asked == Asked::Between;
            let mut givers: Option<Vec<Receiving<'b>>> = None;
            let (mut asks_state_of, mut asks_authorisation) = (0_usize, 0_usize);
            for _ in 0..ROUNDS_MAX {
                if self.is_over() {
                    break;
                }
                let needs = match room.call(&call).await? {
                    Received::Needs(needs) => needs,
                    received => return Ok(received),
                };
                if let Some(server) = needs.policy_server.clone() {
                    if !self.is_asked_about(server, &mut call).await? {
                        if !self.is_last_try {
                            return Ok(Received::Needs(needs));
                        }
                        // Spec: "Validating Policy Server signatures": «If the event was received over federation …,
                        // soft fail the event.»
                        call.is_unwanted = true;
                    }
                    continue;
                }
                let givers = match &givers {
                    Some(givers) => givers,
                    None => givers.insert(self.givers(pdu).await?),
                };
                if !needs.prev_events.is_empty() && std::mem::take(&mut may_ask_between) {
                    for giver in givers {
                        if giver.fetch_between(pdu).await? {
                            break;
                        }
                    }
                    continue;
                }
                if !needs.auth_events.is_empty() {
                    // One after the other, and each once more: what comes may need more.
                    let Some(giver) = givers.iter().chain(givers).nth(asks_authorisation) else {
                        return Ok(Received::Needs(needs));
                    };
                    asks_authorisation = asks_authorisation.saturating_add(1);
                    giver.fetch_auth_chain(pdu, &needs.auth_events).await?;
                }
                if !needs.prev_events.is_empty() {
                    let giver = givers.get(asks_state_of).filter(|_| asked != Asked::Authorisation);
                    let Some(giver) = giver else { return Ok(Received::Needs(needs)) };
                    asks_state_of = asks_state_of.saturating_add(1);
                    giver.tells_of(pdu, &needs.prev_events, &mut call).await?;
                } else if !needs.state.is_empty() {
                    let giver = givers.get(asks_state_of.saturating_sub(1)).unwrap_or(self);
                    giver.fetch_one_by_one(needs.state).await?;
                }
            }
            match room.call(&call).await? {
                Received::Needs(needs) => {
                    self.log_lack(pdu, &needs);
                    Ok(Received::Needs(needs))
                }
                received => Ok(received),
            }
        })
    }

    /// Brings these events, of which nothing but their names is here, into the room. Whether all of them are held now.
    ///
    /// # Errors
    /// A fault of ours.
    pub(super) async fn receive_all(&self, event_ids: &[OwnedEventId]) -> Result<bool, Failure> {
        for event_id in event_ids {
            if self.is_over() {
                break;
            }
            // With an earlier one it may have come.
            if !self.missing_of(vec![event_id.clone()]).await?.is_empty()
                && let Some(event) = self.fetch_event(event_id).await?
            {
                self.receive(&event).await?;
            }
        }
        Ok(self.missing_of(event_ids.to_vec()).await?.is_empty())
    }

    /// Whom to ask what is before an event: the server that made it knows, if it is in the room; then whoever sent it.
    async fn givers<'b>(&'b self, pdu: &'b Pdu) -> Result<Vec<Receiving<'b>>, Failure> {
        let author = pdu.sender().server_name();
        let mut givers = vec![*self];
        if author != self.origin && author != self.cx.identity().server_name() {
            let is_joined = IsServerJoined { server: author.to_owned() };
            if self.cx.room(self.room_id).call(&is_joined).await? {
                givers.insert(0, Receiving { origin: author, ..*self });
            }
        }
        Ok(givers)
    }

    /// Has the policy server sign an event. Whether there is something new to tell the room.
    async fn is_asked_about(&self, server: OwnedServerName, call: &mut ReceiveEvent) -> Result<bool, Failure> {
        let unsigned = Unsigned { server, event: call.event.clone() };
        match self.cx.has_signed(&unsigned).await {
            Ok(()) => Ok(true),
            // It may do so another time.
            Err(Failure::Refused(Refusal::OtherServer(_))) => Ok(false),
            Err(Failure::Refused(Refusal::ByPolicyServer { status, .. })) if status == TOO_MANY => Ok(false),
            Err(Failure::Refused(_)) => {
                call.is_unwanted = true;
                Ok(true)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Has this server tell of the events before this one at which the state is not known; or else of the state before
    /// this one, which meets those after the events that are here.
    async fn tells_of(&self, pdu: &Pdu, missing: &[OwnedEventId], call: &mut ReceiveEvent) -> Result<(), Failure> {
        (call.told, call.state_before) = (Vec::new(), None);
        let mut named = 0_usize;
        for event_id in missing {
            let before = if self.is_over() { None } else { self.fetch_before(event_id).await? };
            match before {
                Some(Before::Here) => {}
                Some(Before::Told(told)) if named.saturating_add(told.state_before.len()) <= STATE_EVENTS_MAX => {
                    named = named.saturating_add(told.state_before.len());
                    call.told.push(told);
                }
                Some(Before::Told(_)) | None => {
                    call.told.clear();
                    call.state_before = self.fetch_state(pdu.event_id()).await?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// An event before one that came: it comes in like any other, or else is held, with the state before it told.
    async fn fetch_before(&self, event_id: &EventId) -> Result<Option<Before>, Failure> {
        let Some(pdu) = self.fetch_event(event_id).await? else { return Ok(None) };
        if !matches!(self.receive_with(&pdu, Asked::Authorisation).await?, Received::Needs(_)) {
            return Ok(Some(Before::Here));
        }
        let Some(state_before) = self.fetch_state(event_id).await? else { return Ok(None) };
        self.cx.hold_pdus(self.room_id, vec![pdu]).await?;
        let held = GetMissing { event_ids: vec![event_id.to_owned()] };
        let is_held = self.cx.room(self.room_id).call(&held).await?.is_empty();
        Ok(is_held.then(|| Before::Told(ToldState { event_id: event_id.to_owned(), state_before })))
    }

    async fn fetch_event(&self, event_id: &EventId) -> Result<Option<Pdu>, Failure> {
        let answer = match self.cx.ask(self.origin, get_event::v1::Request::new(event_id.to_owned())).await {
            Ok(answer) => answer,
            Err(error) => {
                self.did_not_say("an event", &error);
                return Ok(None);
            }
        };
        let events = self.cx.good_pdus(self.room_id, self.version, &[answer.pdu]).await?;
        Ok(events.into_iter().find(|pdu| pdu.event_id() == event_id))
    }

    fn log_lack(&self, pdu: &Pdu, needs: &Needs) {
        let lacks = needs.prev_events.len() + needs.auth_events.len() + needs.state.len();
        tracing::info!(room_id = %self.room_id, event_id = %pdu.event_id(), origin = %self.origin, lacks,
            "an event cannot be judged: what it builds on is not to be had");
    }

    fn did_not_say(&self, what: &str, error: &AskError) {
        tracing::debug!(room_id = %self.room_id, origin = %self.origin, what, %error, "the other server did not say");
    }

    /// Receives what lies between what the room holds and this event. Whether this server told of anything.
    async fn fetch_between(&self, pdu: &Pdu) -> Result<bool, Failure> {
        let extremities = self.cx.room(self.room_id).call(&GetExtremities {}).await?;
        let mut request = get_missing_events::v1::Request::new(
            self.room_id.to_owned(),
            extremities.event_ids,
            vec![pdu.event_id().to_owned()],
        );
        request.limit = MISSING_EVENTS_MAX.into();
        // Another branch of the room may have begun long before ours ended, but what was there before the room came to
        // be here is history: it is not to come as if it had just happened.
        let min_depth = extremities.min_depth;
        request.min_depth = UInt::try_from(min_depth).unwrap_or(UInt::MAX);
        let events = match self.cx.ask(self.origin, request).await {
            Ok(response) => response.events,
            Err(error) => {
                self.did_not_say("what lies between", &error);
                return Ok(false);
            }
        };
        let events = events.get(..MISSING_EVENTS_MAX as usize).unwrap_or(&events);
        let mut between = self.cx.good_pdus(self.room_id, self.version, events).await?;
        between.retain(|event| event.event_id() != pdu.event_id() && event.depth() >= min_depth);
        between.sort_by_key(Pdu::depth);
        let checked: Vec<CheckedEvent> = between.iter().map(CheckedEvent::of).collect();
        let mut done = 0_usize;
        while let Some(rest) = checked.get(done..).filter(|rest| !rest.is_empty() && !self.is_over()) {
            let received = self.cx.receive_some(self.room_id, rest).await?;
            done = done.saturating_add(received.len());
            // Only the last one can need more.
            if let (Some(Received::Needs(_)), Some(event)) = (received.last(), between.get(done.saturating_sub(1))) {
                self.receive_with(event, Asked::State).await?;
            }
        }
        Ok(!between.is_empty())
    }

    async fn fetch_auth_chain(&self, pdu: &Pdu, missing: &[OwnedEventId]) -> Result<(), Failure> {
        let request = get_event_authorization::v1::Request::new(self.room_id.to_owned(), pdu.event_id().to_owned());
        match self.cx.ask_within(self.origin, request, state_bounds()).await {
            Ok(response) => {
                let chain = self.cx.good_pdus(self.room_id, self.version, &response.auth_chain).await?;
                self.cx.hold_pdus(self.room_id, chain).await
            }
            Err(error) => {
                self.did_not_say("an auth chain", &error);
                self.fetch_one_by_one(missing.to_vec()).await.map(drop)
            }
        }
    }

    /// The ids of the state before an event, all of it held; `None` if it is not to be had, or not now.
    pub(super) async fn fetch_state(&self, event_id: &EventId) -> Result<Option<Vec<OwnedEventId>>, Failure> {
        let request = get_room_state_ids::v1::Request::new(event_id.to_owned(), self.room_id.to_owned());
        let ids = match self.cx.ask_within(self.origin, request, state_bounds()).await {
            Ok(ids) => ids,
            Err(error) => {
                self.did_not_say("a state", &error);
                return Ok(None);
            }
        };
        let named = ids.pdu_ids.len().saturating_add(ids.auth_chain_ids.len());
        if named > STATE_EVENTS_MAX {
            tracing::info!(room_id = %self.room_id, %event_id, origin = %self.origin, named,
                "a state is larger than is taken");
            return Ok(None);
        }
        let all: BTreeSet<&OwnedEventId> = ids.pdu_ids.iter().chain(&ids.auth_chain_ids).collect();
        let all = GetMissing { event_ids: all.into_iter().cloned().collect() };
        let missing = self.cx.room(self.room_id).call(&all).await?;
        let is_told = if missing.len() > STATE_ONE_BY_ONE_MAX {
            let request = get_room_state::v1::Request::new(event_id.to_owned(), self.room_id.to_owned());
            match self.cx.ask_within(self.origin, request, state_bounds()).await {
                Ok(state) => {
                    let events: Vec<_> = state.auth_chain.into_iter().chain(state.pdus).collect();
                    self.hold(&events).await?
                }
                Err(error) => {
                    self.did_not_say("a state", &error);
                    return Ok(None);
                }
            }
        } else {
            self.fetch_one_by_one(missing).await?
        };
        // What is not to be had, or is no event of this room, is no part of the state.
        let lost = self.cx.room(self.room_id).call(&GetMissing { event_ids: ids.pdu_ids.clone() }).await?;
        if !lost.is_empty() {
            tracing::info!(room_id = %self.room_id, %event_id, lost = lost.len(), "a state has gaps");
            // Without what is only late, this server's state would be another one than everybody else's for good.
            if !is_told && !self.takes_gaps {
                return Ok(None);
            }
        }
        let lost: BTreeSet<OwnedEventId> = lost.into_iter().collect();
        Ok(Some(ids.pdu_ids.into_iter().filter(|event_id| !lost.contains(event_id)).collect()))
    }

    /// Those of these events that the room does not hold, as many as are asked for one by one.
    pub(super) async fn missing_of(&self, event_ids: Vec<OwnedEventId>) -> Result<Vec<OwnedEventId>, Failure> {
        let mut missing = self.cx.room(self.room_id).call(&GetMissing { event_ids }).await?;
        missing.truncate(STATE_ONE_BY_ONE_MAX);
        Ok(missing)
    }

    /// Has the room hold these events. Whether each of them was told of: those that were not may be had another time.
    pub(super) async fn fetch_one_by_one(&self, event_ids: Vec<OwnedEventId>) -> Result<bool, Failure> {
        let asked = stream::iter(event_ids)
            .map(async |event_id| self.cx.ask(self.origin, get_event::v1::Request::new(event_id)).await);
        let answers: Vec<_> = asked.buffer_unordered(EVENTS_AT_ONCE).collect().await;
        let (mut events, mut is_told) = (Vec::new(), true);
        for answer in answers {
            match answer {
                Ok(response) => events.push(response.pdu),
                Err(error) => {
                    is_told &= matches!(&error, AskError::Refused { status, .. }
                        if status.is_client_error() && status.as_u16() != TOO_MANY);
                    self.did_not_say("an event", &error);
                }
            }
        }
        Ok(self.hold(&events).await? && is_told)
    }

    /// Has the room hold what is good of these events. Whether all could be checked.
    async fn hold(&self, events: &[Box<RawValue>]) -> Result<bool, Failure> {
        let SortedPdus { good, unchecked } =
            self.cx.good_and_unchecked_pdus(self.room_id, self.version, events).await?;
        self.cx.hold_pdus(self.room_id, good).await?;
        Ok(unchecked.is_empty())
    }
}

fn state_bounds() -> Bounds {
    Bounds { response_bytes_max: STATE_BYTES_MAX, timeout_ms: STATE_TIMEOUT_MS }
}
