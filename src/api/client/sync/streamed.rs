//! A long answer, told in pieces: rooms left, rooms joined, then what is the user's own.
//!
//! Only so many rooms are in memory at a time, and so many bytes of them, and of a large one's state one page. Their
//! account data is read with them, that of rooms with nothing to show at the end, and the token stands where the plan
//! did: what became the user's own meanwhile is told by the next sync. A room that turns out to be in the other
//! section, because the user left or joined it meanwhile, is owed to the device like one that could not be read.

use std::collections::{BTreeSet, VecDeque};

use actors::user::{Plan, PlannedRoom, ReadRoom, RoomsAccountData, SyncClose};
use bytes::Bytes;
use domain::Refusal;
use futures_util::{TryStreamExt, stream};
use platform::{Fault, Pieces};
use ruma_common::OwnedRoomId;

use super::{
    ROOMS_AT_A_TIME, Reading, answer,
    answer::{Rooms, entries},
    event_filter,
    json::Json,
};
use crate::{Body, Failure, OrAbsent, client::device_lists::DeviceLists};

/// The answer to a plan. Nothing is read before the client takes it.
pub(super) fn body(reading: Reading, since: Option<String>, plan: Plan) -> Body {
    let (gone, joined): (VecDeque<_>, VecDeque<_>) = plan.rooms.into_iter().partition(|room| room.gone);
    let telling = Telling {
        reading,
        since,
        position: plan.position,
        rooms: gone,
        joined,
        read: Vec::new(),
        nothing: BTreeSet::new(),
        device_lists: DeviceLists::default(),
        stage: Stage::Beginning,
        is_first: true,
    };
    Body::pieces(stream::try_unfold(telling, Telling::next_pieces).try_flatten())
}

struct Telling {
    reading: Reading,
    since: Option<String>,
    /// The position of the plan.
    position: u64,
    /// The rooms of this section that are still to be told.
    rooms: VecDeque<PlannedRoom>,
    /// Those of the section `join`, until that is this section.
    joined: VecDeque<PlannedRoom>,
    read: Vec<ReadRoom>,
    /// Rooms read so far that are not the user's to see.
    nothing: BTreeSet<OwnedRoomId>,
    /// What the rooms told so far say of devices.
    device_lists: DeviceLists,
    stage: Stage,
    /// Whether no room was told in this section yet.
    is_first: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Beginning,
    Leave,
    Join,
    Over,
}

impl Telling {
    async fn next_pieces(mut self) -> Result<Option<(Pieces, Self)>, Fault> {
        let pieces = match self.stage {
            Stage::Beginning => {
                self.stage = Stage::Leave;
                text(br#"{"rooms":{"leave":{"#)
            }
            Stage::Leave | Stage::Join if !self.rooms.is_empty() => self.some_rooms().await.map_err(cut)?.pieces(),
            Stage::Leave => {
                (self.stage, self.is_first) = (Stage::Join, true);
                std::mem::swap(&mut self.rooms, &mut self.joined);
                text(br#"},"join":{"#)
            }
            Stage::Join => {
                self.stage = Stage::Over;
                self.end().await.map_err(cut)?.pieces()
            }
            Stage::Over => return Ok(None),
        };
        Ok(Some((pieces, self)))
    }

    /// The next rooms of this section.
    async fn some_rooms(&mut self) -> Result<Json, Failure> {
        let mut planned: Vec<PlannedRoom> = self.rooms.drain(..self.rooms.len().min(ROOMS_AT_A_TIME)).collect();
        let (mut rooms, mut read) = self.reading.read(&planned).await?;
        let were_read: BTreeSet<_> = read.iter().map(|room| room.number).collect();
        self.rooms.extend(planned.extract_if(.., |room| !were_read.contains(&room.number)));
        self.device_lists.append(&mut rooms.device_lists);
        let (told, others) = match self.stage {
            Stage::Leave => (&mut rooms.leave, &rooms.join),
            _ => (&mut rooms.join, &rooms.leave),
        };
        for room in planned.iter().filter(|room| others.contains_key(&room.room_id)) {
            for read in read.iter_mut().filter(|read| read.number == room.number) {
                *read = ReadRoom::failed(room);
            }
        }
        for room in planned.iter().filter(|room| !told.contains_key(&room.room_id)) {
            read.iter_mut().filter(|read| read.number == room.number).for_each(|read| read.untold = true);
        }
        self.read.append(&mut read);
        self.nothing.append(&mut rooms.nothing);
        let reading = &self.reading;
        let call =
            RoomsAccountData { token_hash: reading.bearer.token_hash.clone(), rooms: told.keys().cloned().collect() };
        for (room_id, mut events) in reading.bearer.call(&reading.cx, &call).await? {
            let wanted = event_filter(&reading.filter.room.account_data, &room_id);
            events.retain(|event| wanted.allows_account_data(&event.event_type));
            if let Some(room) = told.get_mut(&room_id) {
                room.account_data.events = events;
            }
        }
        let was_first = self.is_first;
        self.is_first &= told.is_empty();
        Ok(entries(std::mem::take(told), was_first)?)
    }

    /// What is the user's own, and the token.
    async fn end(&mut self) -> Result<Json, Failure> {
        let reading = &self.reading;
        let close = SyncClose {
            token_hash: reading.bearer.token_hash.clone(),
            since: self.since.take(),
            position: self.position,
            rooms: std::mem::take(&mut self.read),
            rooms_told: true,
            presence: reading.presence.clone(),
            without_messages: false,
        };
        let user = reading.cx.user(&reading.bearer.user_id);
        let closed = user.call(&close).await.or_absent(Refusal::UnknownToken { soft_logout: false })?;
        self.device_lists.settle(&reading.cx, &reading.bearer).await?;
        let (device_lists, nothing) = (std::mem::take(&mut self.device_lists), std::mem::take(&mut self.nothing));
        let rooms = Rooms { device_lists, nothing, ..Rooms::default() };
        Ok(answer(closed, rooms, reading)?.into_end(self.is_first)?)
    }
}

fn text(text: &'static [u8]) -> Pieces {
    Box::pin(stream::iter([Ok(Bytes::from_static(text))]))
}

/// Why an answer ends before its time.
pub(super) fn cut(failure: Failure) -> Fault {
    match failure {
        Failure::Fault(fault) => fault,
        Failure::Refused(refusal) => Fault::new(format!("refused in the middle of a sync: {}", refusal.errcode())),
        Failure::Absent | Failure::Challenge(_) => Fault::new("refused in the middle of a sync"),
    }
}
