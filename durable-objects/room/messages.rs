//! Pages of history, and single events.

use std::collections::BTreeSet;

use domain::Refusal;
use platform::{ActorKind, Fault, Sql};
use ruma_common::{OwnedDeviceId, OwnedEventId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    EventFilter, Gap, Room, RoomToken,
    state::MEMBER,
    store::{self, log::Logged},
    viewer::{Sight, Viewer},
    walk::Walk,
};
use crate::{Call, Cx, Error};

/// Events on a page when the client names no number. Spec: `GET …/messages`.
const PAGE_EVENTS_DEFAULT: u64 = 10;
/// The most events on a page.
const PAGE_EVENTS_MAX: u64 = 1_000;
/// Log entries looked at for one page, seen or not; a page may be short and still have an `end`.
const PAGE_SCAN_MAX: u64 = 4_000;
/// Bytes of events after which a page ends, whatever was asked for: an operation stays small.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// A page of the log, as one user may see it. Spec: `GET /rooms/{roomId}/messages`.
///
/// Refused: `Forbidden` for who was never in the room, unless it is world-readable.
#[derive(Debug, Serialize, Deserialize)]
pub struct Messages {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    /// Where to start: from the end or the beginning of the log, by direction, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Where to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    pub direction: Direction,
    #[serde(default)]
    pub filter: EventFilter,
    /// Whether to go on where history is missing, as if nothing were.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub past_gaps: bool,
}

/// Which way a page goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Newest first.
    Backwards,
    /// Oldest first.
    Forwards,
}

impl Direction {
    pub fn reversed(self) -> Self {
        match self {
            Self::Backwards => Self::Forwards,
            Self::Forwards => Self::Backwards,
        }
    }

    /// Where a page starts that the client wants from one place to another, and the stretch `(after, up_to]` of the log
    /// that it is taken from.
    pub(super) fn span(self, from: Option<u64>, to: Option<u64>, head: u64) -> (u64, (u64, u64)) {
        match self {
            Self::Backwards => {
                let start = from.unwrap_or(head);
                (start, (to.unwrap_or(0), start))
            }
            Self::Forwards => {
                let start = from.unwrap_or(0);
                (start, (start, to.unwrap_or(head).min(head)))
            }
        }
    }
}

/// A page in the shape of the answer. No `end`: there is nothing further in this direction.
#[derive(Debug, Serialize, Deserialize)]
pub struct MessagesPage {
    pub chunk: Vec<Box<RawValue>>,
    pub start: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<Box<RawValue>>,
    /// What is missing where the page ends too early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
}

impl Call for Messages {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "messages";
    type Reply = MessagesPage;
}

/// One event, as one user may see it. Spec: `GET /rooms/{roomId}/event/{eventId}`.
///
/// Refused: `NotFound` for an event that is not there, that the user may not see, or that is of somebody they ignore.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetEvent {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    pub event_id: OwnedEventId,
}

impl Call for GetEvent {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "event";
    type Reply = Box<RawValue>;
}

impl Room {
    pub(super) fn messages(&self, sql: &dyn Sql, cx: &Cx<'_>, call: Messages) -> Result<MessagesPage, Error> {
        let viewer = Viewer::load(sql, call.user, call.device)?.ignoring(call.ignored);
        let head = self.head(sql)?;
        let newest = match viewer.sight()? {
            Sight::Now => head,
            Sight::Until(left) => left,
        };
        let (start, span) = call.direction.span(call.from, call.to, head);
        let past_gaps = call.past_gaps || call.direction == Direction::Forwards;
        let (page, gap) = self.page_back(sql, cx, (&viewer, &call.filter, call.direction), span, past_gaps)?;
        let mut state = Vec::new();
        if call.filter.lazy_load_members {
            let at = page.events.iter().map(|event| event.position).max().unwrap_or(0).min(newest);
            state = senders(sql, page.events.iter(), at)?;
        }
        Ok(MessagesPage {
            chunk: viewer.sees_all(sql, cx, &page.events.iter().collect::<Vec<_>>(), true)?,
            start: RoomToken(start).to_string(),
            end: (!page.is_last).then(|| RoomToken(page.place).to_string()),
            state: state.iter().map(|event| viewer.sees(sql, cx, event, true)).collect::<Result<_, _>>()?,
            gap,
        })
    }

    /// A page; one that goes back stops where history is missing, unless it is to go past that, and says what is.
    pub(super) fn page_back(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        (viewer, filter, direction): (&Viewer, &EventFilter, Direction),
        (after, up_to): (u64, u64),
        past_gaps: bool,
    ) -> Result<(Page, Option<Gap>), Error> {
        if filter.allows_nothing() {
            let place = if direction == Direction::Backwards { up_to } else { after };
            return Ok((Page { events: Vec::new(), place, is_last: true, is_full: false }, None));
        }
        // What is too old to be shown need not be fetched.
        let old = viewer.hidden_up_to();
        let is_wanted = |place: u64| place > after.max(old);
        let stop = if past_gaps { None } else { self.history_stop(sql, up_to)?.filter(|stop| is_wanted(stop.place)) };
        let span = (stop.as_ref().map_or(after, |stop| stop.place), up_to);
        let mut page = page(sql, viewer, filter, direction, span)?;
        if !page.is_last {
            return Ok((page, None));
        }
        if let Some(stop) = stop {
            (page.place, page.is_last) = (stop.place, false);
            let gap = if page.is_full { None } else { Some(self.gap_at(sql, cx, &stop)?) };
            return Ok((page, gap));
        }
        if direction == Direction::Backwards
            && let Some(edge) = store::history::open_at_beginning(sql)?
                .filter(|edge| edge.floor > after && up_to >= edge.floor && is_wanted(edge.place))
        {
            // It was not the beginning; below what may be found there it is, or who pages on would never be done.
            (page.place, page.is_last) = (edge.place.saturating_sub(1).min(up_to), false);
        }
        Ok((page, None))
    }

    pub(super) fn event(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetEvent) -> Result<Box<RawValue>, Error> {
        let viewer = Viewer::load(sql, call.user, call.device)?.ignoring(call.ignored);
        // Spec, "Ignoring Users": «the client will no longer receive events sent by that user».
        let is_shown = |event: &Logged| viewer.may_see(event) && !viewer.ignores(event);
        let event = store::log::by_id(sql, call.event_id.as_str())?.filter(is_shown);
        let event =
            event.ok_or_else(|| Refusal::NotFound("There is no such event, or it is not yours to see".to_owned()))?;
        let shown = viewer.sees_all(sql, cx, &[&event], true)?.pop();
        Ok(shown.ok_or_else(|| Fault::new("an event was not shown"))?)
    }
}

/// A part of the log.
pub(super) struct Page {
    pub events: Vec<Logged>,
    /// Where the next page starts.
    pub place: u64,
    /// Whether there is nothing on the next page.
    pub is_last: bool,
    /// Whether it has as much as was wanted.
    is_full: bool,
}

/// One page of `(after, up_to]`, in the given direction.
pub(super) fn page(
    sql: &dyn Sql,
    viewer: &Viewer,
    filter: &EventFilter,
    direction: Direction,
    span: (u64, u64),
) -> Result<Page, Error> {
    let wanted = filter.limit(PAGE_EVENTS_DEFAULT, PAGE_EVENTS_MAX);
    let mut walk = Walk::new(sql, viewer, direction, span, wanted);
    let (mut events, mut bytes) = (Vec::new(), 0_usize);
    loop {
        let place = walk.place();
        let is_full = events.len() as u64 == wanted || bytes >= PAGE_BYTES_MAX;
        if walk.scanned() >= PAGE_SCAN_MAX {
            return Ok(Page { events, place, is_last: false, is_full });
        }
        let Some(event) = walk.next()? else { return Ok(Page { events, place, is_last: true, is_full }) };
        if is_full {
            return Ok(Page { events, place, is_last: false, is_full });
        }
        if filter.allows(&event) {
            bytes = bytes.saturating_add(event.pdu.json().len());
            events.push(event);
        }
    }
}

/// The membership events of those who sent what is shown, as they were at a position.
pub(super) fn senders<'a>(
    sql: &dyn Sql,
    shown: impl Iterator<Item = &'a Logged>,
    at: u64,
) -> Result<Vec<Logged>, Error> {
    let senders: BTreeSet<&str> = shown.map(|event| event.pdu.sender().as_str()).collect();
    let mut members = Vec::with_capacity(senders.len());
    for sender in senders {
        members.extend(store::state::at(sql, MEMBER, sender, at)?);
    }
    Ok(members)
}
