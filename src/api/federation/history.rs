//! History that this server does not have: other servers are asked for it, when somebody here reads that far.
//!
//! The room says what is missing and who was there ([`Gap`]); this asks one server after the other, and has the room
//! place what comes. Whatever is not to be had within [`BUDGET_MS`] the reader does without.
//! Spec: Server-Server API, "Backfilling and retrieving missing events".

use actors::room::{CheckedEvent, Direction, Gap, HISTORY_EVENTS_MAX, PlaceHistory, Placed, TimedEvent};
use domain::{Pdu, RoomVersion};
use js_int::UInt;
use ruma_common::{MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, ServerName, api};
use ruma_federation_api::{
    backfill::get_backfill,
    event::{get_event, get_event_by_timestamp},
};

use super::{Bounds, receiving::Receiving};
use crate::{Context, Failure};

/// Gaps, or parts of one, that are filled for one reader's page.
const FILLED_MAX: usize = 5;
/// Servers asked for one part of a gap.
const SERVERS_ASKED_MAX: usize = 5;
/// For all that a reader waits for: after that nobody is asked any more, in milliseconds.
const BUDGET_MS: u64 = 20_000;
/// The longest that one server is waited for, in milliseconds.
const ANSWER_MS: u64 = 10_000;
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Calls of the room for one answer.
const ROUNDS_MAX: usize = 3;

/// What one reader waits for.
pub(crate) struct Backfill<'a> {
    cx: &'a Context,
    room_id: &'a RoomId,
    left: usize,
    until_ms: u64,
}

/// What became of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    /// It is smaller.
    More,
    /// Nobody has what is missing.
    Nothing,
    /// Enough was asked for this reader.
    Enough,
}

impl<'a> Backfill<'a> {
    pub(crate) fn new(cx: &'a Context, room_id: &'a RoomId) -> Self {
        Self { cx, room_id, left: FILLED_MAX, until_ms: cx.now_ms().saturating_add(BUDGET_MS) }
    }

    /// Asks for what is missing.
    ///
    /// # Errors
    /// A fault of ours.
    pub(crate) async fn fill(&mut self, gap: &Gap) -> Result<Filled, Failure> {
        if self.left == 0 {
            return Ok(Filled::Enough);
        }
        self.left = self.left.saturating_sub(1);
        let version = RoomVersion::parse(&gap.room_version)?;
        for server in gap.servers.iter().take(SERVERS_ASKED_MAX) {
            let Some(bounds) = self.bounds() else { return Ok(Filled::Enough) };
            let limit = UInt::try_from(HISTORY_EVENTS_MAX).unwrap_or_default();
            let request = get_backfill::v1::Request::new(self.room_id.to_owned(), gap.missing.clone(), limit);
            let pdus = match self.cx.ask_within(server, request, bounds).await {
                Ok(response) => response.pdus,
                Err(error) => {
                    tracing::debug!(room_id = %self.room_id, %server, %error, "a server does not tell of history");
                    continue;
                }
            };
            let pdus = pdus.get(..HISTORY_EVENTS_MAX).unwrap_or(&pdus);
            let events = self.cx.old_pdus(self.room_id, &version, pdus).await?;
            match self.place(server, &version, gap, &events, false).await {
                Ok(true) => return Ok(Filled::More),
                Ok(false) => {}
                // The reader does without what cannot be placed.
                Err(failure) => {
                    let (room_id, fault) = (self.room_id, failure.into_fault());
                    tracing::error!(%room_id, %server, %fault, "history could not be placed");
                }
            }
        }
        Ok(Filled::Nothing)
    }

    /// Asks for an event closer to a time than the one that is here, and has the room place it apart. Whether there was
    /// one.
    ///
    /// # Errors
    /// A fault of ours.
    pub(crate) async fn find(
        &self,
        gap: &Gap,
        ts_ms: u64,
        direction: Direction,
        here: Option<&TimedEvent>,
    ) -> Result<bool, Failure> {
        let version = RoomVersion::parse(&gap.room_version)?;
        let is_closer = |time: MilliSecondsSinceUnixEpoch| {
            let distance = |time: MilliSecondsSinceUnixEpoch| match direction {
                Direction::Forwards => u64::from(time.get()).checked_sub(ts_ms),
                Direction::Backwards => ts_ms.checked_sub(time.get().into()),
            };
            let here = here.and_then(|here| distance(here.origin_server_ts));
            distance(time).is_some_and(|distance| here.is_none_or(|here| distance < here))
        };
        for server in gap.servers.iter().take(SERVERS_ASKED_MAX) {
            let Some(bounds) = self.bounds() else { return Ok(false) };
            let dir = match direction {
                Direction::Forwards => api::Direction::Forward,
                Direction::Backwards => api::Direction::Backward,
            };
            let ts = MilliSecondsSinceUnixEpoch(UInt::try_from(ts_ms).unwrap_or(UInt::MAX));
            let request = get_event_by_timestamp::v1::Request::new(self.room_id.to_owned(), ts, dir);
            let Ok(found) = self.cx.ask_within(server, request, bounds).await else { continue };
            if !is_closer(found.origin_server_ts) {
                continue;
            }
            let request = get_event::v1::Request::new(found.event_id.clone());
            let Ok(answer) = self.cx.ask_within(server, request, bounds).await else { continue };
            let mut events = self.cx.old_pdus(self.room_id, &version, &[answer.pdu]).await?;
            events.retain(|pdu| pdu.event_id() == found.event_id && is_closer(pdu.origin_server_ts()));
            if !events.is_empty() && self.place(server, &version, gap, &events, true).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// For the next question; `None` when the time is over.
    fn bounds(&self) -> Option<Bounds> {
        let timeout_ms = self.until_ms.saturating_sub(self.cx.now_ms()).min(ANSWER_MS);
        (timeout_ms > 0).then_some(Bounds { response_bytes_max: ANSWER_BYTES_MAX, timeout_ms })
    }

    /// Has the room place events, with whatever it needs from who gave them. Whether the gap is another one now.
    async fn place(
        &self,
        server: &ServerName,
        version: &RoomVersion,
        gap: &Gap,
        events: &[Pdu],
        is_apart: bool,
    ) -> Result<bool, Failure> {
        let (cx, room_id) = (self.cx, self.room_id);
        let giver = Receiving {
            cx,
            origin: server,
            room_id,
            version,
            until_ms: u64::MAX,
            is_last_try: false,
            takes_gaps: true,
        };
        let mut call = PlaceHistory {
            edge: gap.edge,
            missing: gap.missing.clone(),
            events: events.iter().map(CheckedEvent::of).collect(),
            states: Vec::new(),
            is_apart,
            is_final: false,
        };
        for round in 0..=ROUNDS_MAX {
            call.is_final = round == ROUNDS_MAX;
            let (states, auth_events) = match self.cx.room(self.room_id).call(&call).await? {
                Placed::Placed(count) => return Ok(count > 0),
                Placed::Moved => return Ok(true),
                Placed::Needs { states, auth_events } => (states, auth_events),
            };
            for event_id in states {
                call.states.extend(self.state_before(&giver, events, &event_id).await?);
            }
            giver.fetch_one_by_one(giver.missing_of(auth_events).await?).await?;
        }
        Ok(false)
    }

    async fn state_before(
        &self,
        giver: &Receiving<'_>,
        events: &[Pdu],
        event_id: &OwnedEventId,
    ) -> Result<Option<(OwnedEventId, Vec<OwnedEventId>)>, Failure> {
        let Some(pdu) = events.iter().find(|pdu| pdu.event_id() == event_id) else { return Ok(None) };
        Ok(giver.fetch_state(pdu.event_id()).await?.map(|state| (event_id.clone(), state)))
    }
}
