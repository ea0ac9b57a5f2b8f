//! The state that a sync shows of a room: all of it, or what changed; up to the timeline's start, or its end.

use std::collections::{BTreeMap, BTreeSet};

use platform::Sql;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Delta, EventFilter, Room,
    company::Summary,
    delta::Newest,
    sent_members::{SentMembers, is_member},
    state::{MEMBER, StateKey, StateSpan},
    store::{self, log::Logged, state::Redacted},
    viewer::Viewer,
};
use crate::{Cx, Error};

/// Changes of state that are looked up one by one; of more, the whole state is gone through.
const CHANGES_MAX: u64 = 500;
/// More changes than a timeline is long: it has at most as many entries.
const WINDOW_CHANGES_MAX: u64 = 5_000;
/// Bytes of the whole state in a reply, for a sync has many of these in memory; the rest comes in pages.
const STATE_BYTES_MAX: usize = 256 * 1024;
/// Events read from the log at once.
const BATCH_EVENTS: usize = 50;

/// What of the state a sync shows.
pub(super) struct SyncedState<'a> {
    /// What changed since this position; `None`: all of it.
    pub since: Option<u64>,
    /// Where the timeline ends.
    pub end: u64,
    pub call: &'a Delta,
    pub viewer: &'a Viewer,
    pub timeline: &'a Newest,
    pub summary: Option<&'a Summary>,
    /// The members that a lazily loading device has, if it does not want them again.
    pub sent: Option<&'a SentMembers>,
    /// What became of the viewer's membership, if that came after the end.
    pub outcome: Option<&'a Logged>,
}

/// What of it goes into the reply, and where the rest is found.
#[derive(Default)]
pub(super) struct ShownState {
    pub events: Vec<Box<RawValue>>,
    /// The positions of the membership events among them that were looked up one by one.
    pub members: Vec<u64>,
    pub more: Option<MoreState>,
}

/// State that the reply to a [`Delta`] has no room for: pages of [`super::GetState`], each to go before what is there.
#[derive(Debug, Serialize, Deserialize)]
pub struct MoreState {
    pub at: u64,
    pub after: StateKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
}

impl SyncedState<'_> {
    pub(super) fn show(&self, room: &Room, sql: &dyn Sql, cx: &Cx<'_>) -> Result<ShownState, Error> {
        let Self { call, viewer, timeline, .. } = *self;
        let at = if call.wants_state_after() { self.end } else { timeline.start.min(self.end) };
        let few = match self.since {
            Some(since) => few_changes(sql, since, at)?,
            None => None,
        };
        let is_large = few.is_none();
        let mut keys = few.unwrap_or_default();
        // A change that the client's filter keeps out of the timeline is not kept from it altogether.
        let in_timeline: BTreeSet<u64> = timeline.events.iter().map(|event| event.position).collect();
        for (key, event) in changes(sql, at, self.end, WINDOW_CHANGES_MAX)?.0 {
            if !in_timeline.contains(&event) {
                keys.insert(key, event);
            }
        }
        // «The client knows» what was there before: a redaction that it is not shown changes no key of the state.
        if let Some(since) = self.since {
            for Redacted { event_type, state_key, position, by } in store::state::redacted(sql, since, self.end)? {
                // Of many changes the pages tell this one, too.
                let in_pages = is_large && position > since;
                if position <= at && !in_pages && !in_timeline.contains(&by) {
                    keys.entry((event_type, state_key)).or_insert(position);
                }
            }
        }
        if call.state.lazy_load_members {
            for user in self.named() {
                let position = store::state::position_at(sql, MEMBER, user, at)?;
                // Of many changes the pages tell them, too.
                let in_pages = |position: &u64| is_large && self.since.is_some_and(|since| *position > since);
                let is_sent = |position: &u64| self.sent.is_some_and(|sent| sent.has(*position));
                if let Some(position) = position.filter(|position| !in_pages(position) && !is_sent(position)) {
                    keys.entry((MEMBER.to_owned(), user.to_owned())).or_insert(position);
                }
            }
        }
        keys.extend(self.outcome.map(|event| (key_of(event), event.position)));
        let mut shown = ShownState::default();
        if is_large {
            let span =
                StateSpan::of(at, &call.state, None).since(self.since).without_room_id().of_bytes(STATE_BYTES_MAX);
            let wanted = |event: &Logged| Ok(call.state.allows(event) && !keys.contains_key(&key_of(event)));
            let page = room.state_page(sql, cx, viewer, span, wanted)?;
            shown.more = page.next.map(|after| MoreState { at, after, since: self.since });
            shown.events = page.events;
        }
        let positions: Vec<u64> = keys.into_values().collect();
        for batch in positions.chunks(BATCH_EVENTS) {
            for event in store::log::at(sql, batch)?.iter().filter(|event| call.state.allows(event)) {
                shown.events.push(viewer.sees(sql, cx, event, false)?);
                shown.members.extend(is_member(event).then_some(event.position));
            }
        }
        Ok(shown)
    }

    /// The members that a lazy-loading client needs to show what it gets. Spec: "Lazy-loading room members".
    fn named(&self) -> BTreeSet<&str> {
        let senders = self.timeline.events.iter().map(|event| event.pdu.sender().as_str());
        let heroes = self.summary.into_iter().flat_map(|summary| &summary.heroes).map(String::as_str);
        let own = self.since.is_none().then_some(self.viewer.user.as_str());
        senders.chain(heroes).chain(own).collect()
    }
}

type StateKeys = BTreeMap<StateKey, u64>;

/// Lets a timeline begin behind every event in it whose state did not last to its end, unless a later one in it is what
/// is the state then: one that lost in state resolution, or was followed by one that is hidden. To who takes the state
/// from the timeline's start and then from its events, such an event would be the last word on its key. What the filter
/// keeps from the timeline the client does not want to hear there: for that nothing is left out.
pub(super) fn begin_behind_outdated(
    sql: &dyn Sql,
    timeline: &mut Newest,
    filter: &EventFilter,
    end: u64,
) -> Result<(), Error> {
    let mut last = StateKeys::new();
    for event in timeline.events.iter().filter(|event| event.pdu.state_key().is_some()) {
        last.insert(key_of(event), event.position);
    }
    if last.is_empty() {
        return Ok(());
    }
    let (changed, _) = changes(sql, timeline.start, end, WINDOW_CHANGES_MAX)?;
    let mut start = None;
    for (key, position) in last {
        let now = changed.get(&key).copied();
        if now == Some(position) {
            continue;
        }
        let is_unwanted = match now {
            Some(now) => store::log::one(sql, now)?.is_some_and(|event| !filter.allows(&event)),
            None => false,
        };
        start = start.max(Some(position).filter(|_| !is_unwanted));
    }
    if let Some(start) = start {
        timeline.events.retain(|event| event.position > start);
        (timeline.start, timeline.limited) = (start, true);
    }
    Ok(())
}

/// What changed in the state in `(since, at]`, as it is then, if that is little. Members too, however lazily the client
/// loads them: it may know what they were before.
fn few_changes(sql: &dyn Sql, since: u64, at: u64) -> Result<Option<StateKeys>, Error> {
    let (keys, count) = changes(sql, since, at, CHANGES_MAX.saturating_add(1))?;
    Ok((count <= CHANGES_MAX).then_some(keys))
}

fn changes(sql: &dyn Sql, since: u64, at: u64, limit: u64) -> Result<(StateKeys, u64), Error> {
    let mut keys = StateKeys::new();
    let changes = store::state::changes(sql, since, at, limit)?;
    let count = changes.len() as u64;
    for change in changes {
        match change.after {
            Some(after) => keys.insert((change.event_type, change.state_key), after),
            None => keys.remove(&(change.event_type, change.state_key)),
        };
    }
    Ok((keys, count))
}

fn key_of(event: &Logged) -> StateKey {
    (event.pdu.event_type().to_string(), event.pdu.state_key().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use domain::{event::Draft, power::Preset};
    use ruma_common::{OwnedRoomId, OwnedUserId, user_id};
    use serde::Deserialize;
    use serde_json::{
        Value, json,
        value::{RawValue, to_raw_value},
    };

    use super::MoreState;
    use crate::{
        room::{Delta, EventFilter, EventFormat, GetState, MembershipAction, ReceiveEvent, Received, Synced},
        world::World,
    };

    /// The largest reply that a room should give, in bytes.
    const REPLY_BYTES_MAX: usize = 1_600_000;
    const MEMBERS: u64 = 20_000;

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    fn delta(from: Option<u64>, state: EventFilter) -> Delta {
        Delta {
            user: alice(),
            device: "PHONE".into(),
            from,
            full_state: false,
            state_after: false,
            unstable_state_after: false,
            timeline: EventFilter { limit: Some(5), ..EventFilter::default() },
            state,
            format: EventFormat::default(),
            ephemeral: EventFilter::default(),
            typing: None,
            device_lists: false,
            push_rules: None,
            ignored: Vec::new(),
            unread: false,
        }
    }

    /// All state of a sync, by type and key, and in how many replies it came. Nothing comes twice.
    fn synced(world: &World, room_id: &OwnedRoomId, call: &Delta) -> (BTreeMap<String, Value>, usize) {
        #[derive(Deserialize)]
        struct SyncedRoom {
            state: Events,
        }
        #[derive(Deserialize)]
        struct Events {
            events: Vec<Box<RawValue>>,
        }
        let reply = world.call(room_id.as_str(), call).unwrap();
        assert!(reply.room.get().len() < REPLY_BYTES_MAX, "{} bytes", reply.room.get().len());
        let mut events = serde_json::from_str::<SyncedRoom>(reply.room.get()).unwrap().state.events;
        let (mut replies, mut more) = (1, reply.more_state);
        while let Some(MoreState { at, after, since }) = more {
            let call = GetState {
                user: alice(),
                device: "PHONE".into(),
                at: Some(at),
                after: Some(after),
                filter: call.state.clone(),
                synced: Some(Synced { since, format: EventFormat::default() }),
            };
            let page = world.call(room_id.as_str(), &call).unwrap();
            assert!(page.events.iter().map(|event| event.get().len()).sum::<usize>() < REPLY_BYTES_MAX);
            events.extend(page.events);
            replies += 1;
            more = page.next.map(|after| MoreState { at, after, since });
        }
        let mut keys = BTreeMap::new();
        for event in events {
            let event: Value = serde_json::from_str(event.get()).unwrap();
            assert_eq!(event["room_id"], Value::Null, "the sync says it");
            let known = keys.insert(format!("{} {}", event["type"], event["state_key"]), event);
            assert!(known.is_none(), "{known:?} came twice");
        }
        (keys, replies)
    }

    fn members(state: &BTreeMap<String, Value>) -> u64 {
        state.values().filter(|event| event["type"] == "m.room.member").count() as u64
    }

    #[test]
    fn twenty_thousand_members_are_synced_in_small_replies() {
        let world = World::new(1);
        let room_id = world.creates_room(&alice(), "11", Preset::PrivateChat);
        let before = world.call(room_id.as_str(), &delta(None, EventFilter::default())).unwrap();
        assert!(before.more_state.is_none());
        world.crowds(&room_id, MEMBERS);
        for _ in 0..10 {
            sends_message(&world, &room_id);
        }
        let lazy = EventFilter { lazy_load_members: true, ..EventFilter::default() };
        let (first, replies) = synced(&world, &room_id, &delta(None, EventFilter::default()));
        assert_eq!(members(&first), MEMBERS + 1);
        assert!(replies > 5, "{replies}");
        // A lazily loading client gets who matters at first, and then every change: it may know what they were.
        let (first, replies) = synced(&world, &room_id, &delta(None, lazy.clone()));
        assert!((members(&first), replies) == (6, 1), "{} in {replies}", members(&first));
        for filter in [EventFilter::default(), lazy] {
            let (since, replies) = synced(&world, &room_id, &delta(Some(before.to), filter));
            assert!(members(&since) >= MEMBERS && replies > 5, "{} in {replies}", members(&since));
            assert!(!since.keys().any(|key| key.contains("m.room.create")), "that did not change");
        }
    }

    fn carol() -> OwnedUserId {
        user_id!("@carol:myelin.test").to_owned()
    }

    /// The room's topic to a client of this user that syncs anew and takes the state first, and then the timeline; how
    /// many topics the timeline holds, and whether it is limited.
    fn topic_seen_by(world: &World, room_id: &OwnedRoomId, user: OwnedUserId) -> (Value, usize, bool) {
        let timeline = EventFilter { limit: Some(20), ..EventFilter::default() };
        let call = Delta { user, timeline, ..delta(None, EventFilter::default()) };
        let room: Value = serde_json::from_str(world.call(room_id.as_str(), &call).unwrap().room.get()).unwrap();
        let topics = |events: &Value| -> Vec<Value> {
            let is_topic = |event: &&Value| event["type"] == "m.room.topic";
            let events = events["events"].as_array().unwrap().iter().filter(is_topic);
            events.map(|event| event["content"]["topic"].clone()).collect()
        };
        let (state, timeline) = (topics(&room["state"]), topics(&room["timeline"]));
        let is_limited = room["timeline"]["limited"] == true;
        (state.iter().chain(&timeline).next_back().unwrap().clone(), timeline.len(), is_limited)
    }

    #[test]
    fn a_timeline_begins_behind_what_is_hidden() {
        let world = World::new(1);
        let room_id = world.creates_room(&alice(), "12", Preset::PublicChat);
        let sends = |kind: &str, content: Value| {
            world.sends(&alice(), &room_id, kind, Some(""), &content).unwrap();
        };
        sends("m.room.history_visibility", json!({ "history_visibility": "joined" }));
        world.changes(&carol(), &room_id, &carol(), MembershipAction::Join).unwrap();
        sends("m.room.topic", json!({ "topic": "Tea" }));
        world.changes(&carol(), &room_id, &carol(), MembershipAction::Leave).unwrap();
        sends("m.room.topic", json!({ "topic": "Cake" }));
        world.changes(&carol(), &room_id, &carol(), MembershipAction::Join).unwrap();
        assert_eq!(topic_seen_by(&world, &room_id, carol()), (json!("Cake"), 0, true));
        sends("m.room.topic", json!({ "topic": "Scones" }));
        assert_eq!(topic_seen_by(&world, &room_id, carol()), (json!("Scones"), 1, true));
    }

    /// A bot that does not want to hear itself misses nothing of what others say before it speaks.
    #[test]
    fn what_the_filter_keeps_out_of_a_timeline_cuts_nothing_off() {
        let world = World::new(1);
        let room_id = world.creates_room(&alice(), "11", Preset::PublicChat);
        world.changes(&carol(), &room_id, &carol(), MembershipAction::Join).unwrap();
        let levels = json!({ "users": { "@alice:myelin.test": 100, "@carol:myelin.test": 50 } });
        world.sends(&alice(), &room_id, "m.room.power_levels", Some(""), &levels).unwrap();
        let call = |filter: &str| Delta {
            timeline: EventFilter { limit: Some(3), ..serde_json::from_str(filter).unwrap() },
            ..delta(None, EventFilter::default())
        };
        for user in [carol(), alice()] {
            world.sends(&user, &room_id, "m.room.topic", Some(""), &json!({ "topic": user })).unwrap();
            world.sends(&user, &room_id, "m.room.message", None, &json!({ "by": user })).unwrap();
        }
        let seen = |filter: &str| {
            let reply = world.call(room_id.as_str(), &call(filter)).unwrap();
            let room: Value = serde_json::from_str(reply.room.get()).unwrap();
            let by = room["timeline"]["events"].as_array().unwrap().iter().map(|event| event["type"].clone());
            by.collect::<Vec<_>>()
        };
        let of_carol = json!(["m.room.member", "m.room.topic", "m.room.message"]);
        assert_eq!(json!(seen(r#"{"not_senders":["@alice:myelin.test"]}"#)), of_carol);
        assert_eq!(json!(seen("{}")), json!(["m.room.message", "m.room.topic", "m.room.message"]));
    }

    /// A topic is changed with a clock that was set back: where forks meet, what it was before counts as the later.
    #[test]
    fn a_timeline_begins_behind_what_resolution_takes_back() {
        let world = World::new(1);
        let zoe = user_id!("@zoe:there.test");
        let room_id = world.creates_room(&alice(), "11", Preset::PublicChat);
        world.joins_from_elsewhere(&room_id, zoe);
        let now_ms = world.now_ms();
        let sends = |topic: &str| {
            world.sends(&alice(), &room_id, "m.room.topic", Some(""), &json!({ "topic": topic })).unwrap();
        };
        world.sets_clock(now_ms + 3_600_000);
        sends("Tea");
        let fork = world.newest(&room_id, "m.room.topic", "");
        world.sets_clock(now_ms);
        sends("Cake");
        assert_eq!(topic_seen_by(&world, &room_id, alice()), (json!("Cake"), 2, false));
        let draft = Draft {
            event_type: "m.room.message".into(),
            content: to_raw_value(&json!({ "body": "Hello" })).unwrap(),
            state_key: None,
            sender: zoe.to_owned(),
            redacts: None,
        };
        let event = world.says_elsewhere(&room_id, &draft, &fork);
        assert_eq!(world.call(room_id.as_str(), &ReceiveEvent::of(event)).unwrap(), Received::Accepted);
        sends_message(&world, &room_id);
        assert_eq!(topic_seen_by(&world, &room_id, alice()), (json!("Tea"), 0, true));
    }

    fn sends_message(world: &World, room_id: &OwnedRoomId) {
        world.sends(&alice(), room_id, "m.room.message", None, &json!({})).unwrap();
    }
}
