//! The room's state, for who may see it: whole, in pages, or one event of it.

use domain::Refusal;
use platform::{ActorKind, Sql};
use ruma_common::{OwnedDeviceId, OwnedUserId};
use ruma_events::StateEventType;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    EventFilter, EventFormat, Room,
    required_state::Places,
    store::{
        self,
        log::Logged,
        state::{Edge, between},
    },
    viewer::{Sight, Viewer},
};
use crate::{Call, Cx, Error};

/// Bytes of events after which a page of state ends.
const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Keys looked at for one page, shown or not; a page may be empty and still have a `next`.
const PAGE_KEYS_MAX: usize = 5_000;
/// Keys read from the state at once: their events may have 64 KiB each.
const BATCH_KEYS: u64 = 100;
/// The type of the events that lazily loading clients do not want all of.
pub(super) const MEMBER: &str = "m.room.member";
/// Where the types behind that one begin: no type is between the two.
const BEHIND_MEMBER: &str = "m.room.member\0";

/// All state events: the current ones, or those at the time the user left. Spec: `GET /rooms/{roomId}/state`.
///
/// Refused: `Forbidden` for who was never in the room, unless it is world-readable.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetState {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    /// As it was then; no later than the user may see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    /// Where the page before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<StateKey>,
    #[serde(default)]
    pub filter: EventFilter,
    /// For what a sync has no room for: as it shows events, and what changed since a position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synced: Option<Synced>,
}

/// How a sync shows state.
#[derive(Debug, Serialize, Deserialize)]
pub struct Synced {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    #[serde(default, skip_serializing_if = "EventFormat::is_usual")]
    pub format: EventFormat,
}

/// A key of the state: a type and a state key.
pub type StateKey = (String, String);

/// A part of the state at one position.
#[derive(Debug, Serialize, Deserialize)]
pub struct StatePage {
    /// The position: further pages are asked for as of the same.
    pub at: u64,
    pub events: Vec<Box<RawValue>>,
    /// Where the next page starts; none: this is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<StateKey>,
}

impl Call for GetState {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "state_page";
    type Reply = StatePage;
}

/// One state event. Spec: `GET /rooms/{roomId}/state/{eventType}/{stateKey}`.
///
/// Refused: as [`GetState`], and `NotFound`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetStateEvent {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    #[serde(rename = "type")]
    pub event_type: StateEventType,
    pub state_key: String,
}

/// A state event, whole and its content alone: the client says which it wants.
#[derive(Debug, Serialize, Deserialize)]
pub struct StateEvent {
    pub event: Box<RawValue>,
    pub content: Box<RawValue>,
}

impl Call for GetStateEvent {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "state_event";
    type Reply = StateEvent;
}

/// What of the state a page is taken from.
pub(super) struct StateSpan<'a> {
    at: u64,
    ranges: Vec<[Edge<'a>; 2]>,
    /// What did not change since is left out.
    since: Option<u64>,
    with_room_id: bool,
    /// Bytes of events after which the page ends.
    bytes_max: usize,
}

impl<'a> StateSpan<'a> {
    /// The state at a position, behind a key; without the members if the filter wants them lazily.
    pub(super) fn of(at: u64, filter: &EventFilter, after: Option<&'a StateKey>) -> Self {
        let start = after.map_or(Edge::Start, |(event_type, state_key)| Edge::Behind(event_type, state_key));
        let before_members = after.is_none_or(|(event_type, _)| event_type.as_str() < MEMBER);
        let ranges = if filter.lazy_load_members && before_members {
            vec![[start, Edge::BeforeType(MEMBER)], [Edge::BehindType(MEMBER), Edge::End]]
        } else {
            vec![[start, Edge::End]]
        };
        Self { at, ranges, since: None, with_room_id: true, bytes_max: PAGE_BYTES_MAX }
    }

    /// Those places of the state at a position, behind a key.
    pub(super) fn of_places(at: u64, places: &Places<'a>, after: Option<&'a StateKey>) -> Self {
        let mut ranges = Vec::new();
        if places.others {
            ranges.push(("", [Edge::Start, Edge::BeforeType(MEMBER)]));
            ranges.push((BEHIND_MEMBER, [Edge::BehindType(MEMBER), Edge::End]));
        }
        let types = places.types.iter().filter(|event_type| !places.others || **event_type == MEMBER);
        ranges.extend(
            types.map(|event_type| (*event_type, [Edge::BeforeType(event_type), Edge::BehindType(event_type)])),
        );
        ranges.sort_by_key(|(begins, _)| *begins);
        let ranges = match after {
            None => ranges.into_iter().map(|(_, range)| range).collect(),
            Some((event_type, state_key)) => {
                let behind = ranges.iter().rposition(|(begins, _)| *begins <= event_type.as_str());
                let here = behind.unwrap_or(0);
                let rest = ranges.into_iter().skip(here).enumerate();
                rest.map(|(index, (_, [from, to]))| {
                    [if index == 0 && behind.is_some() { Edge::Behind(event_type, state_key) } else { from }, to]
                })
                .collect()
            }
        };
        Self { at, ranges, since: None, with_room_id: true, bytes_max: PAGE_BYTES_MAX }
    }

    /// The members at a position, behind one of them.
    pub(super) fn of_members(at: u64, after: Option<&'a str>) -> Self {
        let start = after.map_or(Edge::BeforeType(MEMBER), |user_id| Edge::Behind(MEMBER, user_id));
        let ranges = vec![[start, Edge::BehindType(MEMBER)]];
        Self { at, ranges, since: None, with_room_id: true, bytes_max: PAGE_BYTES_MAX }
    }

    /// What changed since a position: members too, however lazily they are wanted, as the client may know what they
    /// were.
    pub(super) fn since(self, since: Option<u64>) -> Self {
        let Some((first, last)) = self.ranges.first().zip(self.ranges.last()).filter(|_| since.is_some()) else {
            return self;
        };
        let [[start, _], [_, end]] = [first, last];
        Self { since, ranges: vec![[start.clone(), end.clone()]], ..self }
    }

    /// As events stand in a sync, which says whose room it is.
    pub(super) fn without_room_id(self) -> Self {
        Self { with_room_id: false, ..self }
    }

    /// Less than fills a page.
    pub(super) fn of_bytes(self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self }
    }
}

impl Room {
    pub(super) fn state(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetState) -> Result<StatePage, Error> {
        let mut viewer = Viewer::load(sql, call.user, call.device)?;
        let newest = match viewer.sight()? {
            Sight::Now => self.head(sql)?,
            Sight::Until(left) => left,
        };
        let at = call.at.unwrap_or(newest).min(newest);
        // Whoever got one page may have the rest of it.
        if call.after.is_none() && at < newest && !viewer.may_see_state_at(at) {
            return Err(Refusal::Forbidden("You may not see the state of this room then".to_owned()).into());
        }
        let wanted = |event: &Logged| Ok(call.filter.allows(event));
        let mut span = StateSpan::of(at, &call.filter, call.after.as_ref());
        if let Some(Synced { since, format }) = &call.synced {
            viewer = viewer.with_format(format);
            span = span.since(*since).without_room_id();
        }
        self.state_page(sql, cx, &viewer, span, wanted)
    }

    /// A page of the state's events, those wanted of them.
    pub(super) fn state_page(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        viewer: &Viewer,
        span: StateSpan<'_>,
        wanted: impl Fn(&Logged) -> Result<bool, Error>,
    ) -> Result<StatePage, Error> {
        let mut page = StatePage { at: span.at, events: Vec::new(), next: None };
        let (mut keys, mut bytes) = (0_usize, 0_usize);
        for [from, to] in &span.ranges {
            let mut behind: Option<StateKey> = None;
            loop {
                let from = match &behind {
                    Some((event_type, state_key)) => &Edge::Behind(event_type, state_key),
                    None => from,
                };
                let batch = between(sql, [from, to], span.at, BATCH_KEYS)?;
                let is_last = (batch.len() as u64) < BATCH_KEYS;
                for (key, event) in batch {
                    keys = keys.saturating_add(1);
                    behind = Some(key);
                    if let Some(event) = event
                        && span.since.is_none_or(|since| event.position > since)
                        && wanted(&event)?
                    {
                        let shown = viewer.sees(sql, cx, &event, span.with_room_id)?;
                        bytes = bytes.saturating_add(shown.get().len());
                        page.events.push(shown);
                    }
                    if bytes >= span.bytes_max || keys >= PAGE_KEYS_MAX {
                        page.next = behind;
                        return Ok(page);
                    }
                }
                if is_last {
                    break;
                }
            }
        }
        Ok(page)
    }

    pub(super) fn state_event(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetStateEvent) -> Result<StateEvent, Error> {
        let viewer = Viewer::load(sql, call.user, call.device)?;
        let event_type = call.event_type.to_string();
        let event = match viewer.sight()? {
            Sight::Now => store::state::current(sql, &event_type, &call.state_key)?,
            Sight::Until(position) => store::state::at(sql, &event_type, &call.state_key, position)?,
        };
        let event =
            event.ok_or_else(|| Refusal::NotFound(format!("The room has no {event_type} with this state key")))?;
        let content = viewer.shown(sql, &event)?.content().to_owned();
        Ok(StateEvent { event: viewer.sees(sql, cx, &event, true)?, content })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use domain::power::Preset;
    use ruma_common::{OwnedRoomId, OwnedUserId, user_id};
    use serde_json::{Value, json};

    use super::{EventFilter, GetState, StatePage};
    use crate::world::World;

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    fn sets(world: &World, room_id: &OwnedRoomId, event_type: &str, state_key: &str, content: &Value) {
        world.sends(&alice(), room_id, event_type, Some(state_key), content).unwrap();
    }

    /// All pages, and how many there were.
    fn pages(world: &World, room_id: &OwnedRoomId, at: Option<u64>, filter: &EventFilter) -> (Vec<Value>, usize) {
        let mut call =
            GetState { user: alice(), device: "PHONE".into(), at, after: None, filter: filter.clone(), synced: None };
        let (mut events, mut count) = (Vec::new(), 0);
        loop {
            let StatePage { at, events: page, next } = world.call(room_id.as_str(), &call).unwrap();
            events.extend(page.iter().map(|event| serde_json::from_str::<Value>(event.get()).unwrap()));
            count += 1;
            if next.is_none() {
                return (events, count);
            }
            (call.at, call.after) = (Some(at), next);
            // What happens between two pages is on neither.
            sets(world, room_id, "org.test.key", "1", &json!({ "value": "late" }));
            sets(world, room_id, "org.test.late", &world.dice.roll(1_000).to_string(), &json!({}));
        }
    }

    #[test]
    fn a_state_of_many_pages_is_the_state_at_one_moment() {
        let world = World::new(1);
        let room_id = world.creates_room(&alice(), "12", Preset::PrivateChat);
        let large = "x".repeat(20_000);
        for number in 0..250 {
            sets(&world, &room_id, "org.test.key", &number.to_string(), &json!({ "value": large }));
        }
        let (before, _) = pages(&world, &room_id, None, &EventFilter::default());
        let keys = |events: &[Value]| {
            let key = |event: &Value| (event["type"].to_string(), event["state_key"].to_string());
            events.iter().map(key).collect::<BTreeSet<_>>()
        };
        assert_eq!(keys(&before).len(), before.len(), "each key once");
        let custom: Vec<_> = before.iter().filter(|event| event["type"] == "org.test.key").collect();
        assert_eq!(custom.len(), 250);
        assert!(
            custom.iter().all(|event| event["content"]["value"] == large),
            "as it was when the first page was read"
        );
        assert!(!keys(&before).iter().any(|(event_type, _)| event_type.contains("late")));

        let (after, count) = pages(&world, &room_id, None, &EventFilter::default());
        assert!(count > 4, "{count} pages");
        let changed = after.iter().find(|event| event["type"] == "org.test.key" && event["state_key"] == "1").unwrap();
        assert_eq!(changed["content"]["value"], "late");
        let lazy = EventFilter { lazy_load_members: true, ..EventFilter::default() };
        let (lazy, _) = pages(&world, &room_id, None, &lazy);
        let members = |events: &[Value]| events.iter().filter(|event| event["type"] == "m.room.member").count();
        assert_eq!((members(&after), members(&lazy)), (1, 0));
        assert!(lazy.len() + 1 >= after.len());
        let only = EventFilter { types: Some(vec!["m.room.create".to_owned()]), ..EventFilter::default() };
        assert_eq!(pages(&world, &room_id, None, &only).0.len(), 1);
    }
}
