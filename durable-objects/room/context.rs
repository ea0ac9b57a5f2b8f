//! What happened around an event.

use domain::Refusal;
use platform::{ActorKind, Fault, Sql};
use ruma_common::{OwnedDeviceId, OwnedEventId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Direction, EventFilter, Gap, Room, RoomToken, StatePage,
    messages::senders,
    state::StateSpan,
    store::{self, log::Logged},
    viewer::Viewer,
};
use crate::{Call, Cx, Error};

/// The events before and after one, and the state at the last of them. Spec: "Event Context".
///
/// Refused: `Forbidden` for who was never in the room, unless it is world-readable; `NotFound` for an event that is not
/// there, that the user may not see, or that is of somebody they ignore.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetContext {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    pub event_id: OwnedEventId,
    /// The most events before and after together.
    pub limit: u64,
    #[serde(default)]
    pub filter: EventFilter,
    /// Whether to go on where history is missing, as if nothing were.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub past_gaps: bool,
}

/// What surrounds an event; of the state, the first page.
#[derive(Debug, Serialize, Deserialize)]
pub struct EventContext {
    /// From here pages go backwards, and from `end` forwards.
    pub start: String,
    pub end: String,
    /// Newest first.
    pub events_before: Vec<Box<RawValue>>,
    pub event: Box<RawValue>,
    /// Oldest first.
    pub events_after: Vec<Box<RawValue>>,
    pub state: StatePage,
    /// What is missing before the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
}

impl Call for GetContext {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "context";
    type Reply = EventContext;
}

impl Room {
    pub(super) fn context(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetContext) -> Result<EventContext, Error> {
        let viewer = Viewer::load(sql, call.user, call.device)?.ignoring(call.ignored);
        let head = self.head(sql)?;
        viewer.sight()?;
        // Spec, "Ignoring Users": «the client will no longer receive events sent by that user».
        let is_shown = |event: &Logged| viewer.may_see(event) && !viewer.ignores(event);
        let event = store::log::by_id(sql, call.event_id.as_str())?.filter(is_shown);
        let event =
            event.ok_or_else(|| Refusal::NotFound("There is no such event, or it is not yours to see".to_owned()))?;

        let limit = call.limit.min(call.filter.limit.unwrap_or(u64::MAX));
        let around = |direction, span, limit| {
            let filter = EventFilter { limit: Some(limit), ..call.filter.clone() };
            let past_gaps = call.past_gaps || direction == Direction::Forwards;
            self.page_back(sql, cx, (&viewer, &filter, direction), span, past_gaps)
        };
        let (before, gap) = around(Direction::Backwards, (0, event.position.saturating_sub(1)), limit / 2)?;
        let (after, _) = around(Direction::Forwards, (event.position, head), limit.saturating_sub(limit / 2))?;

        let last = after.events.last().unwrap_or(&event).position;
        let wanted = |event: &Logged| Ok(call.filter.allows(event));
        let mut state = self.state_page(sql, cx, &viewer, StateSpan::of(last, &call.filter, None), wanted)?;
        if call.filter.lazy_load_members {
            let shown = before.events.iter().chain([&event]).chain(&after.events);
            for member in senders(sql, shown, last)?.iter().filter(|member| call.filter.allows(member)) {
                state.events.push(viewer.sees(sql, cx, member, true)?);
            }
        }
        let around: Vec<&Logged> = before.events.iter().chain([&event]).chain(&after.events).collect();
        let mut shown = viewer.sees_all(sql, cx, &around, true)?.into_iter();
        Ok(EventContext {
            start: RoomToken(before.place).to_string(),
            end: RoomToken(after.place).to_string(),
            events_before: shown.by_ref().take(before.events.len()).collect(),
            event: shown.next().ok_or_else(|| Fault::new("an event was not shown"))?,
            events_after: shown.collect(),
            state,
            gap,
        })
    }
}
