//! What was found by a search, as it is shown.

use std::collections::BTreeMap;

use domain::Refusal;
use platform::{ActorKind, Fault, Sql};
use ruma_common::{OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Direction, EventFilter, MemberProfile, Room, RoomToken,
    messages::{page, senders},
    store::{
        self,
        log::{Logged, READ_AT_ONCE},
    },
    viewer::Viewer,
};
use crate::{Call, Cx, Error};

/// The most events shown before a result, and after it.
const CONTEXT_EVENTS_MAX: u64 = 50;
/// The most results in one reply.
const RESULTS_MAX: usize = 100;

/// The events at some positions, which a search found. Spec: `POST /search`, `results`.
///
/// Refused: `Forbidden` for who was never in the room, unless it is world-readable.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetSearchResults {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    pub positions: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<WantedContext>,
    /// Bytes of events after which results come with nothing around them.
    pub bytes_max: usize,
}

/// What is wanted around each result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedContext {
    pub before: u64,
    pub after: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub profiles: bool,
}

/// One result. One that is gone since, or not to be seen, has no place among them.
#[derive(Debug, Serialize, Deserialize)]
pub struct SearchResult {
    pub position: u64,
    pub result: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ResultContext>,
}

/// What happened around a result, in the shape of the answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct ResultContext {
    pub start: String,
    pub end: String,
    pub events_before: Vec<Box<RawValue>>,
    pub events_after: Vec<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_info: Option<BTreeMap<OwnedUserId, MemberProfile>>,
}

impl Call for GetSearchResults {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "search_results";
    type Reply = Vec<SearchResult>;
}

impl Room {
    pub(super) fn search_results(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        mut call: GetSearchResults,
    ) -> Result<Vec<SearchResult>, Error> {
        let viewer = Viewer::load(sql, call.user, call.device)?.ignoring(call.ignored);
        viewer.sight()?;
        if call.positions.len() > RESULTS_MAX {
            return Err(Refusal::InvalidParam(format!("At most {RESULTS_MAX} results at once")).into());
        }
        call.positions.sort_unstable();
        let (mut bytes, mut results) = (0_usize, Vec::with_capacity(call.positions.len()));
        for slice in call.positions.chunks(READ_AT_ONCE) {
            let mut events = store::log::at(sql, slice)?;
            events.retain(|event| viewer.may_see(event) && event.redacted_by.is_none() && !viewer.is_erased(event));
            let shown = viewer.sees_all(sql, cx, &events.iter().collect::<Vec<_>>(), true)?;
            bytes = shown.iter().map(|event| event.get().len()).fold(bytes, usize::saturating_add);
            for (event, result) in events.iter().zip(shown) {
                let context = match call.context {
                    Some(wanted) => {
                        let none = WantedContext { before: 0, after: 0, ..wanted };
                        let wanted = if bytes < call.bytes_max { wanted } else { none };
                        let context = self.around(sql, cx, &viewer, event, wanted)?;
                        let around = context.events_before.iter().chain(&context.events_after);
                        bytes = around.map(|event| event.get().len()).fold(bytes, usize::saturating_add);
                        Some(context)
                    }
                    None => None,
                };
                results.push(SearchResult { position: event.position, result, context });
            }
        }
        Ok(results)
    }

    fn around(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        viewer: &Viewer,
        event: &Logged,
        wanted: WantedContext,
    ) -> Result<ResultContext, Error> {
        let events = |direction, span, limit: u64| {
            let filter = EventFilter { limit: Some(limit.min(CONTEXT_EVENTS_MAX)), ..EventFilter::default() };
            page(sql, viewer, &filter, direction, span)
        };
        let before = events(Direction::Backwards, (0, event.position.saturating_sub(1)), wanted.before)?;
        let after = events(Direction::Forwards, (event.position, self.head(sql)?), wanted.after)?;
        let show = |events: &[Logged]| {
            events.iter().map(|event| viewer.sees(sql, cx, event, true)).collect::<Result<Vec<_>, Fault>>()
        };
        let profile_info = if wanted.profiles {
            let shown = before.events.iter().chain([event]).chain(&after.events);
            Some(profiles(&senders(sql, shown, event.position)?))
        } else {
            None
        };
        Ok(ResultContext {
            start: RoomToken(before.place).to_string(),
            end: RoomToken(after.place).to_string(),
            events_before: show(&before.events)?,
            events_after: show(&after.events)?,
            profile_info,
        })
    }
}

/// What members were called, by their membership events.
fn profiles(members: &[Logged]) -> BTreeMap<OwnedUserId, MemberProfile> {
    let user = |member: &Logged| member.pdu.state_key().and_then(|user| OwnedUserId::try_from(user).ok());
    members
        .iter()
        .filter_map(|member| Some((user(member)?, member.pdu.content_as::<MemberProfile>().unwrap_or_default())))
        .collect()
}
