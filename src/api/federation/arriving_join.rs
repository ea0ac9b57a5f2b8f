//! The answer to a join: a whole room, checked and staged as it arrives. Of it there is a slice in memory, whatever its
//! size. A state that is asked for afterwards arrives like it.
//! Spec: Server-Server API, "Joining Rooms", "Retrieving events".

use std::collections::BTreeSet;

use actors::room::{CheckedEvent, GetMissing, JudgeStaged, OmittedMembers, StageEvents, UncheckedEvent};
use domain::{
    Pdu, Refusal, RoomVersion,
    event::{self, PDU_BYTES_MAX},
};
use futures_util::StreamExt;
use platform::Arriving;
use ruma_common::{OwnedServerName, RoomId, ServerName};
use ruma_events::TimelineEventType;
use serde_json::value::RawValue;

use super::{
    pdus::{ReadPdu, SortedPdus},
    taken_apart::{Piece, TakenApart},
};
use crate::{Context, Failure};

/// Events that are checked and staged at once.
const SLICE_EVENTS: usize = 500;
const SLICE_BYTES: usize = 512 * 1024;
/// How often what is staged is gone through: events are judged by such as are less deep, so that once is enough where
/// depths are right.
const PASSES_MAX: usize = 10;
/// The largest list of servers that is taken, in bytes: a thousand and more have long names.
const SERVERS_BYTES_MAX: usize = 512 * 1024;
/// Events that cannot be checked, because a notary does not answer, are kept up to so many bytes, and tried so often
/// again, with pauses in milliseconds.
const UNCHECKED_BYTES_MAX: usize = 1024 * 1024;
const PAUSES_MS: [u64; 2] = [1_000, 4_000];
/// When the host ends this in so many milliseconds, what has come is judged, and stays.
const JUDGING_MS: u64 = 6_000;

/// Which answer arrives, by the names of its parts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Join,
    State,
}

impl Answer {
    /// The list with the state first.
    fn lists(self) -> &'static [&'static str; 2] {
        match self {
            Answer::Join => &["state", "auth_chain"],
            Answer::State => &["pdus", "auth_chain"],
        }
    }
}

/// A join whose answer arrives, or a state.
pub(super) struct ArrivingJoin<'a> {
    pub cx: &'a Context,
    pub server: &'a ServerName,
    pub room_id: &'a RoomId,
    pub version: &'a RoomVersion,
    /// The name that its events are staged under.
    pub join: &'a str,
    pub answer: Answer,
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
    /// Whether members are left out of the state.
    pub members_omitted: bool,
    /// The servers in the room, if it says so.
    pub servers: Vec<OwnedServerName>,
    /// The version that the room was made with, as far as the event that made it says so.
    pub room_version: Option<String>,
    staged: u64,
    has_create: bool,
    unchecked: Unchecked,
}

/// What could not be checked: its servers do not tell their keys, and a notary did not answer.
#[derive(Default)]
struct Unchecked {
    state: Vec<Box<RawValue>>,
    others: Vec<Box<RawValue>>,
    bytes: usize,
}

impl Unchecked {
    fn keep(&mut self, are_state: bool, events: Vec<Box<RawValue>>) {
        let list = if are_state { &mut self.state } else { &mut self.others };
        for event in events {
            self.bytes = self.bytes.saturating_add(event.get().len());
            if self.bytes <= UNCHECKED_BYTES_MAX {
                list.push(event);
            }
        }
    }

    fn into_events(self) -> Vec<UncheckedEvent> {
        let of = |is_state: bool, events: Vec<Box<RawValue>>| {
            events.into_iter().map(move |json| UncheckedEvent { json: String::from(Box::<str>::from(json)), is_state })
        };
        of(true, self.state).chain(of(false, self.others)).collect()
    }
}

impl Arrived {
    /// What is to come afterwards: the answer left it out, or it could not be checked.
    pub(super) fn omitted(self, resident: &ServerName) -> Option<OmittedMembers> {
        // What of members that were left out cannot be checked comes with all of them.
        let unchecked = if self.members_omitted { Vec::new() } else { self.unchecked.into_events() };
        (self.members_omitted || !unchecked.is_empty()).then(|| OmittedMembers {
            resident: resident.to_owned(),
            servers: self.servers,
            unchecked,
        })
    }

    /// What could not be checked.
    pub(super) fn into_unchecked(self) -> Vec<UncheckedEvent> {
        self.unchecked.into_events()
    }
}

impl ArrivingJoin<'_> {
    /// Stages and judges everything.
    ///
    /// # Errors
    /// `Unknown` for an answer that is none.
    pub(super) async fn take(&self, mut body: Arriving) -> Result<Arrived, Failure> {
        const VALUES: &[&str] = &["event", "members_omitted", "servers_in_room"];
        let bytes_max = SERVERS_BYTES_MAX.max(PDU_BYTES_MAX * 2);
        let mut object = TakenApart::new(self.answer.lists(), VALUES, bytes_max);
        let mut arrived = Arrived::default();
        let mut slice = Slice { events: Vec::new(), bytes: 0, are_state: true };
        while let Some(bytes) = body.next().await {
            if self.cx.in_time(u64::MAX) < JUDGING_MS {
                self.stage(&mut arrived, &mut slice).await?;
                self.judge().await?;
                return Err(self.nonsense("it takes too long").into());
            }
            let bytes = bytes.map_err(|error| self.nonsense(&error.to_string()))?;
            for piece in object.read(&bytes).map_err(|error| self.nonsense(&error))? {
                self.add(&mut arrived, &mut slice, piece).await?;
            }
        }
        self.stage(&mut arrived, &mut slice).await?;
        if !object.is_whole() {
            return Err(self.nonsense("it ends too early").into());
        }
        if !arrived.has_create && self.answer == Answer::Join {
            return Err(self.nonsense("a room that was never created").into());
        }
        self.try_unchecked(&mut arrived).await?;
        self.judge().await?;
        Ok(arrived)
    }

    /// Tries again what could not be checked: without it this server's state would be another one than everybody
    /// else's. What is still not checked then the room keeps, to look at it later.
    async fn try_unchecked(&self, arrived: &mut Arrived) -> Result<(), Failure> {
        for pause_ms in PAUSES_MS {
            let Unchecked { state, others, .. } = std::mem::take(&mut arrived.unchecked);
            let is_time = self.cx.in_time(u64::MAX) > JUDGING_MS.saturating_add(pause_ms);
            if !is_time || (state.is_empty() && others.is_empty()) {
                break;
            }
            self.cx.pause(pause_ms).await;
            for (are_state, events) in [(true, state), (false, others)] {
                let mut slice = Slice { events, bytes: 0, are_state };
                self.stage(arrived, &mut slice).await?;
            }
        }
        Ok(())
    }

    /// Stages and judges what could not be checked before. Whether all of it could be now.
    ///
    /// # Errors
    /// A fault of ours.
    pub(super) async fn take_again(&self, unchecked: Vec<UncheckedEvent>) -> Result<bool, Failure> {
        let mut arrived = Arrived::default();
        let (state, others): (Vec<_>, Vec<_>) = unchecked.into_iter().partition(|event| event.is_state);
        for (are_state, events) in [(true, state), (false, others)] {
            let events = events.into_iter().map(|event| RawValue::from_string(event.json)).collect::<Result<_, _>>()?;
            self.stage(&mut arrived, &mut Slice { events, bytes: 0, are_state }).await?;
        }
        self.judge().await?;
        Ok(arrived.into_unchecked().is_empty())
    }

    async fn add(&self, arrived: &mut Arrived, slice: &mut Slice, piece: Piece) -> Result<(), Failure> {
        match piece.of {
            "event" => {
                arrived.event = Some(piece.json);
                return Ok(());
            }
            "members_omitted" => {
                arrived.members_omitted = piece.json.get() == "true";
                return Ok(());
            }
            "servers_in_room" => {
                let names: Vec<String> = serde_json::from_str(piece.json.get()).unwrap_or_default();
                arrived.servers = names.into_iter().filter_map(|name| name.try_into().ok()).collect();
                return Ok(());
            }
            _ => {}
        }
        let [state, _] = self.answer.lists();
        let are_state = piece.of == *state;
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
        let (mut staged, unknown) = match self.answer {
            Answer::Join => (Vec::new(), events),
            Answer::State => self.without_held(events).await?,
        };
        let SortedPdus { good, unchecked } =
            self.cx.good_and_unchecked_pdus(self.room_id, self.version, &unknown).await?;
        arrived.unchecked.keep(slice.are_state, unchecked);
        let makes_room =
            |pdu: &&Pdu| *pdu.event_type() == TimelineEventType::RoomCreate && pdu.prev_events().is_empty();
        if let Some(create) = good.iter().find(makes_room) {
            arrived.has_create = true;
            arrived.room_version = event::version_made_with(create);
        }
        staged.extend(good.iter().map(CheckedEvent::of));
        if staged.is_empty() {
            return Ok(());
        }
        let (first, count) = (arrived.staged, staged.len() as u64);
        let call = StageEvents { join: self.join.to_owned(), first, are_state: slice.are_state, events: staged };
        self.cx.room(self.room_id).call(&call).await?;
        arrived.staged = arrived.staged.saturating_add(count);
        Ok(())
    }

    /// Parts the events that the room holds, which need not be checked again, from the others: an attempt goes on where
    /// the one before had to end.
    async fn without_held(
        &self,
        events: Vec<Box<RawValue>>,
    ) -> Result<(Vec<CheckedEvent>, Vec<Box<RawValue>>), Failure> {
        let named: Vec<_> =
            events.iter().map(|json| ReadPdu::read(json, self.version).ok().map(|pdu| pdu.event_id)).collect();
        let event_ids = named.iter().flatten().cloned().collect();
        let missing: BTreeSet<_> =
            self.cx.room(self.room_id).call(&GetMissing { event_ids }).await?.into_iter().collect();
        let (mut held, mut unknown) = (Vec::new(), Vec::new());
        for (event_id, json) in named.into_iter().zip(events) {
            match event_id.filter(|event_id| !missing.contains(event_id)) {
                Some(event_id) => held.push(CheckedEvent { event_id, json: String::from(Box::<str>::from(json)) }),
                None => unknown.push(json),
            }
        }
        Ok((held, unknown))
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
