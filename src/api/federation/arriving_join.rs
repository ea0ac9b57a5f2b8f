//! The answer to a join: a whole room, checked and staged as it arrives. Of it there is a slice in memory, whatever its size.
//! Spec: Server-Server API, "Joining Rooms".

use actors::room::{CheckedEvent, JudgeStaged, StageEvents};
use domain::{Refusal, RoomVersion, event::PDU_BYTES_MAX};
use futures_util::StreamExt;
use platform::Arriving;
use ruma_common::{RoomId, ServerName};
use ruma_events::TimelineEventType;
use serde_json::value::RawValue;

use super::taken_apart::{Piece, TakenApart};
use crate::{Context, Failure};

/// Events that are checked and staged at once.
const SLICE_EVENTS: usize = 500;
const SLICE_BYTES: usize = 512 * 1024;
/// How often what is staged is gone through: events are judged by such as are less deep, so that once is enough where
/// depths are right.
const PASSES_MAX: usize = 10;

/// A join whose answer arrives.
pub(super) struct ArrivingJoin<'a> {
    pub cx: &'a Context,
    pub server: &'a ServerName,
    pub room_id: &'a RoomId,
    pub version: &'a RoomVersion,
    /// The name that its events are staged under.
    pub join: &'a str,
}

/// What is in memory of the answer.
struct Slice {
    events: Vec<Box<RawValue>>,
    bytes: usize,
    /// Whether they are of the state.
    are_state: bool,
}

/// What the answer said besides.
#[derive(Default)]
pub(super) struct Arrived {
    /// The join, as the other server signed it.
    pub event: Option<Box<RawValue>>,
    staged: u64,
    has_create: bool,
}

impl ArrivingJoin<'_> {
    /// Stages and judges everything.
    ///
    /// # Errors
    /// `Unknown` for an answer that is none.
    pub(super) async fn take(&self, mut body: Arriving) -> Result<Arrived, Failure> {
        let mut object = TakenApart::new(&["state", "auth_chain"], &["event"], PDU_BYTES_MAX * 2);
        let mut arrived = Arrived::default();
        let mut slice = Slice { events: Vec::new(), bytes: 0, are_state: true };
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|error| self.nonsense(&error.to_string()))?;
            for piece in object.read(&bytes).map_err(|error| self.nonsense(&error))? {
                self.add(&mut arrived, &mut slice, piece).await?;
            }
        }
        self.stage(&mut arrived, &mut slice).await?;
        if !object.is_whole() {
            return Err(self.nonsense("it ends too early").into());
        }
        if !arrived.has_create {
            return Err(self.nonsense("a room that was never created").into());
        }
        self.judge().await?;
        Ok(arrived)
    }

    async fn add(&self, arrived: &mut Arrived, slice: &mut Slice, piece: Piece) -> Result<(), Failure> {
        if piece.of == "event" {
            arrived.event = Some(piece.json);
            return Ok(());
        }
        let are_state = piece.of == "state";
        let is_full = slice.events.len() >= SLICE_EVENTS || slice.bytes >= SLICE_BYTES;
        if is_full || slice.are_state != are_state {
            self.stage(arrived, slice).await?;
            slice.are_state = are_state;
        }
        slice.bytes = slice.bytes.saturating_add(piece.json.get().len());
        slice.events.push(piece.json);
        Ok(())
    }

    async fn stage(&self, arrived: &mut Arrived, slice: &mut Slice) -> Result<(), Failure> {
        let events = std::mem::take(&mut slice.events);
        slice.bytes = 0;
        let good = self.cx.good_pdus(self.room_id, self.version, &events).await?;
        if good.is_empty() {
            return Ok(());
        }
        arrived.has_create |= good.iter().any(|pdu| *pdu.event_type() == TimelineEventType::RoomCreate);
        let call = StageEvents {
            join: self.join.to_owned(),
            first: arrived.staged,
            are_state: slice.are_state,
            events: good.iter().map(CheckedEvent::of).collect(),
        };
        self.cx.room(self.room_id).call(&call).await?;
        arrived.staged = arrived.staged.saturating_add(good.len() as u64);
        Ok(())
    }

    async fn judge(&self) -> Result<(), Failure> {
        for _ in 0..PASSES_MAX {
            let (mut held, mut waiting, mut next) = (0, 0, Some(0));
            while let Some(after) = next {
                let call = JudgeStaged { join: self.join.to_owned(), after };
                let judged = self.cx.room(self.room_id).call(&call).await?;
                held += judged.held;
                waiting += judged.waiting;
                next = judged.next;
            }
            if waiting == 0 || held == 0 {
                break;
            }
        }
        Ok(())
    }

    fn nonsense(&self, why: &str) -> Refusal {
        Refusal::Unknown(format!("{} answers nonsense: {why}", self.server))
    }
}
