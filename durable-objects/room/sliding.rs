//! What a room tells a connection of sliding sync: one room of one answer. Spec: MSC4186, "Room results".
//!
//! The log, who may see what of it, the counts and the receipts are those of [`super::Delta`]; the state is the one at
//! the end of the timeline, of which a client names what it wants, and the shape is another.

use std::collections::BTreeMap;

use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedDeviceId, OwnedUserId, push::Ruleset};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, Serialize};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::{
    EventFilter, RequiredState, Room, RoomToken, Section, StateKey, Typing,
    append::check_joined,
    delta::{Newest, newest, untold},
    ephemeral::{Ephemeral, Wanted, own_receipts, receipts_as_one},
    retention,
    sent_members::{SentMembers, is_member},
    state::{MEMBER, StateSpan},
    store::{self, log::Logged, receipts::Receipt, state::Redacted},
    unread,
    viewer::Viewer,
};
use crate::{Call, Cx, Error};

/// Changes of state that are told as such; of more, the room is told anew.
const CHANGES_MAX: u64 = 500;
/// Bytes of state in one reply; the rest comes in pages.
const STATE_BYTES_MAX: usize = 256 * 1024;
/// Events read from the log at once.
const BATCH_EVENTS: usize = 50;
/// Events among which the last one is looked for that people take for activity.
const BUMP_EVENTS_MAX: u64 = 200;
const NAME: &str = "m.room.name";
const AVATAR: &str = "m.room.avatar";

/// Reads the room from where a connection stands to its head, as one user may see it. The room nudges that user again
/// from here on.
///
/// A place at which the user was not joined, or that the log does not know, gets the room anew (`initial`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SlidingDelta {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    /// Which of the device's connections it is: what is remembered of one is not remembered of another.
    pub connection: String,
    /// The position read to before on this connection; `None`: it does not know the room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// What came after this has just happened; `None`: all of it is history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_after: Option<u64>,
    pub timeline_limit: u64,
    /// Whether the newest events are wanted, sent before or not: more are wanted than were.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expanded: bool,
    #[serde(default)]
    pub required: RequiredState,
    /// What was wanted of the state when the room was read before, if that was less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<RequiredState>,
    /// The position after which receipts are wanted, 0 for all that matter now; `None`: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<u64>,
    /// As in [`super::Delta`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typing: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_rules: Option<Ruleset>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SlidingReply {
    pub to: u64,
    pub section: Section,
    /// Whether the room tells all of itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anew: bool,
    /// Whether there are events between what the connection knew and the timeline.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub limited: bool,
    /// The room without its state: a JSON object; `None` if nothing happened that is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required_state: Vec<Box<RawValue>>,
    /// Where the state goes on that has no room in this reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more_state: Option<StateKey>,
    /// The event of receipts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<Box<RawValue>>,
    /// The event of who types, and its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typing_event: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typing: Option<Typing>,
    /// What lists of rooms are filtered by, where that may be news.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
}

impl Call for SlidingDelta {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "sliding_delta";
    type Reply = SlidingReply;
}

/// What lists of rooms are filtered by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
}

/// The same, asked for alone.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetFacts {}

impl Call for GetFacts {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_facts";
    type Reply = Facts;
}

/// A member's clients want to be told what happens, though they do not read it. Answers up to where the room has news
/// for them.
///
/// Refused: `Forbidden` for who is not in the room.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listen {
    pub user: OwnedUserId,
}

impl Call for Listen {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "listen";
    type Reply = u64;
}

impl SlidingReply {
    /// Nothing to show, read up to a position.
    pub fn nothing(to: u64, section: Section) -> Self {
        Self {
            to,
            section,
            anew: false,
            limited: false,
            room: None,
            required_state: Vec::new(),
            more_state: None,
            receipts: None,
            typing_event: None,
            typing: None,
            facts: None,
        }
    }
}

/// The room as clients see it, but for its state.
#[derive(Default, Serialize)]
struct SlidingRoom {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    initial: bool,
    membership: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heroes: Option<Vec<Hero>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    timeline: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    limited: bool,
    /// By both its names: clients of today know the former.
    #[serde(rename = "unstable_expanded_timeline", skip_serializing_if = "std::ops::Not::not")]
    unstable_expanded: bool,
    #[serde(rename = "expanded_timeline", skip_serializing_if = "std::ops::Not::not")]
    expanded: bool,
    num_live: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    joined_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invited_count: Option<u64>,
    #[serde(flatten)]
    unread: Option<unread::Unread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bump_stamp: Option<u64>,
}

#[derive(Serialize)]
struct Hero {
    user_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    displayname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MemberContent {
    displayname: Option<String>,
    avatar_url: Option<String>,
}

/// One look into the room.
#[derive(Clone, Copy)]
struct Looking<'a> {
    viewer: &'a Viewer,
    call: &'a SlidingDelta,
    /// The viewer's receipts, the one that moved last first.
    own: &'a [Receipt],
    /// What the connection knows; `None`: nothing.
    since: Option<u64>,
    to: u64,
    /// What changed of the state since.
    changes: &'a Changes,
}

/// What of the state goes into a reply.
struct ShownState {
    events: Vec<Box<RawValue>>,
    /// Where it goes on.
    more: Option<StateKey>,
    /// The positions of the members among it that were looked up one by one.
    members: Vec<u64>,
}

/// What changed of the state, by the positions of the events; nothing where a key has none any more.
type Changes = BTreeMap<StateKey, Option<u64>>;

impl Room {
    pub(super) fn sliding_delta(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: SlidingDelta) -> Result<SlidingReply, Error> {
        retention::came(tx, cx)?;
        let heads = self.heads(&**tx)?;
        let viewer = Viewer::load(&**tx, call.user.clone(), call.device.clone())?.ignoring(call.ignored.clone());
        match (viewer.membership(), viewer.forgotten()) {
            (Some((MembershipState::Join, _)), _) => {
                let own = own_receipts(&**tx, call.user.as_str())?;
                let known = call.from.filter(|from| *from <= heads.log);
                let told = own.first().map_or(0, |newest| newest.position).max(heads.public);
                let to = told.max(known.unwrap_or(0));
                self.has_read(tx, cx, call.user.as_str(), to)?;
                let since = known.filter(|from| viewer.joined_throughout(*from));
                let changes = since.map(|since| changes(&**tx, since, to)).transpose()?.flatten();
                let since = since.filter(|_| changes.is_some());
                let changes = &changes.unwrap_or_default();
                self.shows(&**tx, cx, Looking { viewer: &viewer, call: &call, own: &own, since, to, changes })
            }
            (Some((MembershipState::Leave | MembershipState::Ban, left)), _) | (None, Some(left))
                if call.from.is_some_and(|from| from < left) =>
            {
                Self::shows_gone(&**tx, cx, &viewer, &call, left)
            }
            (Some((_, position)), _) | (None, Some(position)) => Ok(SlidingReply::nothing(position, Section::None)),
            (None, None) => Ok(SlidingReply::nothing(heads.log, Section::None)),
        }
    }

    pub(super) fn listen(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: Listen) -> Result<u64, Error> {
        check_joined(&**tx, &call.user)?;
        let public = self.heads(&**tx)?.public;
        self.has_read(tx, cx, call.user.as_str(), public)?;
        Ok(public)
    }

    pub(super) fn facts(&self, sql: &dyn Sql, _: &Cx<'_>, _: GetFacts) -> Result<Facts, Error> {
        facts(sql)
    }

    /// The room for one who is in it.
    fn shows(&self, sql: &dyn Sql, cx: &Cx<'_>, look: Looking<'_>) -> Result<SlidingReply, Error> {
        let Looking { viewer, call, own, since, to, changes } = look;
        let (anew, after) = (since.is_none(), since.unwrap_or(0));
        let expanded = call.expanded && !anew;
        let filter = EventFilter { limit: Some(call.timeline_limit), ..EventFilter::default() };
        let mut newest = newest(sql, viewer, &filter, if expanded { 0 } else { after }, to)?;
        newest.limited |= call.from.is_some() && anew;
        let connection: OwnedDeviceId = format!("{} {}", call.device, call.connection).into();
        let mut members = self.sent_members(&viewer.user, &connection, since);
        let ShownState { events: required_state, more: more_state, members: shown } =
            self.state_shown(sql, cx, look, &newest, members.as_ref())?;
        if call.required.lazy_members {
            let in_timeline = newest.events.iter().filter(|event| is_member(event)).map(|event| event.position);
            members.get_or_insert_default().are_sent(after, to, shown.into_iter().chain(in_timeline));
        }
        self.keep_sent_members(&viewer.user, &connection, members);
        let typing_only = EventFilter { types: Some(vec!["m.typing".to_owned()]), ..EventFilter::default() };
        let wanted = Wanted { filter: &typing_only, after, up_to: to, typing: call.typing };
        let Ephemeral { mut events, typing } = self.ephemeral(sql, cx, own, &wanted)?;
        let receipts = match call.receipts {
            Some(since) => receipts_as_one(sql, own, (if anew { 0 } else { since }, to), &newest.events)?,
            None => None,
        };
        let own_moved = own.first().is_some_and(|newest| newest.position > after);
        let has_changed = |event_type: &str| changes.contains_key(&(event_type.to_owned(), String::new()));
        let members_changed = changes.keys().any(|(event_type, _)| event_type == MEMBER);
        let is_news = anew
            || own_moved
            || members_changed
            || !newest.events.is_empty() && newest.events.iter().any(|event| expanded || event.position > after)
            || newest.limited && !expanded
            || !required_state.is_empty()
            || [NAME, AVATAR].into_iter().any(has_changed);
        let facts = if anew || has_changed("m.room.encryption") { Some(facts(sql)?) } else { None };
        let reply = SlidingReply {
            anew,
            receipts,
            typing,
            typing_event: events.pop(),
            facts,
            ..SlidingReply::nothing(to, if is_news { Section::Join } else { Section::Quiet })
        };
        if !is_news {
            return Ok(reply);
        }
        let unread = self.unread(sql, cx, viewer, own, call.push_rules.as_ref(), to)?;
        let bump_stamp = bump_stamp(sql, viewer, after, to)?;
        let mut room = SlidingRoom {
            initial: anew,
            unstable_expanded: expanded,
            expanded,
            unread: Some(unread::sum(&unread)),
            bump_stamp,
            ..timeline(sql, cx, viewer, call, &newest)?
        };
        self.describes(sql, look, members_changed, &mut room)?;
        let limited = room.limited;
        Ok(SlidingReply { limited, room: Some(to_raw_value(&room)?), required_state, more_state, ..reply })
    }

    /// What the room is called, and who is in it, as far as that is news.
    fn describes(
        &self,
        sql: &dyn Sql,
        look: Looking<'_>,
        members_changed: bool,
        room: &mut SlidingRoom,
    ) -> Result<(), Error> {
        let Looking { viewer, since, changes, .. } = look;
        let anew = since.is_none();
        let has_changed = |event_type: &str| changes.contains_key(&(event_type.to_owned(), String::new()));
        let name = store::state::text(sql, NAME, "", "name")?.filter(|name| !name.is_empty());
        let is_named = name.is_some();
        // What is not set is left out at first, and null where it is not set any more.
        let told = |text: Option<String>, changed: bool| if anew { text.map(Some) } else { changed.then_some(text) };
        room.avatar = told(store::state::text(sql, AVATAR, "", "url")?, has_changed(AVATAR));
        let name_changed = has_changed(NAME);
        room.name = told(name, name_changed);
        if !anew && !members_changed && !name_changed {
            return Ok(());
        }
        let summary = self.summary(sql, viewer)?;
        (room.joined_count, room.invited_count) = (Some(summary.joined), Some(summary.invited));
        if !is_named {
            let hero = |user_id: String| {
                let member = store::state::current(sql, MEMBER, &user_id)?;
                let MemberContent { displayname, avatar_url } =
                    member.and_then(|member| member.pdu.content_as().ok()).unwrap_or_default();
                Ok(Hero { user_id, displayname, avatar_url })
            };
            room.heroes = Some(summary.heroes.into_iter().map(hero).collect::<Result<_, Error>>()?);
        }
        Ok(())
    }

    /// The state that is wanted, or news of it.
    fn state_shown(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        look: Looking<'_>,
        newest: &Newest,
        sent: Option<&SentMembers>,
    ) -> Result<ShownState, Error> {
        let Looking { viewer, call, since, to, changes, .. } = look;
        let known = if since.is_some() { call.known.as_ref() } else { None };
        let (mut events, mut more) = (Vec::new(), None);
        let mut keys: BTreeMap<StateKey, u64> = BTreeMap::new();
        let is_new = |event_type: &str, state_key: &str| {
            call.required.selects(event_type, state_key)
                && known.is_none_or(|known| !known.selects(event_type, state_key))
        };
        if since.is_none() || known.is_some() {
            for (event_type, state_key) in call.required.places().keys {
                if is_new(event_type, state_key)
                    && let Some(position) = store::state::position_at(sql, event_type, state_key, to)?
                {
                    keys.insert((event_type.to_owned(), state_key.to_owned()), position);
                }
            }
            let span =
                StateSpan::of_places(to, &call.required.places(), None).without_room_id().of_bytes(STATE_BYTES_MAX);
            let page = self.state_page(sql, cx, viewer, span, |event| {
                let (event_type, state_key) = key_of(event);
                Ok(is_new(&event_type, &state_key) && !keys.contains_key(&(event_type, state_key)))
            })?;
            (events, more) = (page.events, page.next);
        }
        for (key, position) in changes {
            let (event_type, state_key) = key;
            // A client keeps the members that it was told of, as long as it is told what becomes of them.
            let is_lazy = call.required.lazy_members && event_type == MEMBER && !newest.limited;
            // It has this very event, as it was before it was redacted.
            let is_stale = sent.zip(*position).is_some_and(|(sent, position)| sent.has(position));
            if !is_lazy && !is_stale && !call.required.selects(event_type, state_key) {
                continue;
            }
            match position {
                Some(position) => drop(keys.insert(key.clone(), *position)),
                // MSC4186, `StateStub`: the state has nothing for this key any more.
                None => events.push(to_raw_value(&json!({ "type": event_type, "state_key": state_key }))?),
            }
        }
        if call.required.lazy_members {
            for user in named(newest) {
                let position = store::state::position_at(sql, MEMBER, &user, to)?;
                let is_sent = |position: &u64| sent.is_some_and(|sent| sent.has(*position));
                if let Some(position) = position.filter(|position| !is_sent(position)) {
                    keys.entry((MEMBER.to_owned(), user)).or_insert(position);
                }
            }
        }
        let mut members = Vec::new();
        let positions: Vec<u64> = keys.into_values().collect();
        for batch in positions.chunks(BATCH_EVENTS) {
            for event in store::log::at(sql, batch)? {
                events.push(viewer.sees(sql, cx, &event, false)?);
                members.extend(is_member(&event).then_some(event.position));
            }
        }
        Ok(ShownState { events, more, members })
    }

    /// The room for one who left it or was banned: up to the end of their time in it, and what became of them since.
    fn shows_gone(
        sql: &dyn Sql,
        cx: &Cx<'_>,
        viewer: &Viewer,
        call: &SlidingDelta,
        left: u64,
    ) -> Result<SlidingReply, Error> {
        let (since, end) = untold(viewer, call.from);
        let filter = EventFilter { limit: Some(call.timeline_limit), ..EventFilter::default() };
        let mut newest = match end {
            Some(end) => newest(sql, viewer, &filter, since.unwrap_or(0), end)?,
            None => Newest::empty(left.saturating_sub(1)),
        };
        // Clients learn from the state alone that they are out.
        let own = store::state::current(sql, MEMBER, viewer.user.as_str())?;
        let mut required_state = Vec::new();
        if let (Some(since), Some(end)) = (since, end) {
            let changed = changes(sql, since, end)?.unwrap_or_default();
            let wanted = |(event_type, state_key): &StateKey| {
                call.required.selects(event_type, state_key)
                    && (event_type != MEMBER || *state_key != viewer.user.as_str())
            };
            let positions: Vec<u64> =
                changed.iter().filter(|(key, _)| wanted(key)).filter_map(|(_, position)| *position).collect();
            for batch in positions.chunks(BATCH_EVENTS) {
                for event in store::log::at(sql, batch)? {
                    required_state.push(viewer.sees(sql, cx, &event, false)?);
                }
            }
        }
        if let Some(own) = own {
            required_state.push(viewer.sees(sql, cx, &own, false)?);
            if newest.events.iter().all(|event| event.position != own.position) {
                newest.events.push(own);
            }
        }
        let is_banned = matches!(viewer.membership(), Some((MembershipState::Ban, _)));
        let room = SlidingRoom {
            membership: if is_banned { "ban" } else { "leave" },
            bump_stamp: Some(left),
            ..timeline(sql, cx, viewer, call, &newest)?
        };
        let room = Some(to_raw_value(&room)?);
        Ok(SlidingReply { room, required_state, ..SlidingReply::nothing(left, Section::Leave) })
    }
}

/// A room of which nothing is told but its timeline.
fn timeline(
    sql: &dyn Sql,
    cx: &Cx<'_>,
    viewer: &Viewer,
    call: &SlidingDelta,
    newest: &Newest,
) -> Result<SlidingRoom, Error> {
    // «If `limited` is true then we include bundle aggregations for the event, as per `/v3/sync`.»
    let timeline = if newest.limited || call.expanded {
        viewer.sees_all(sql, cx, &newest.events.iter().collect::<Vec<_>>(), false)?
    } else {
        newest.events.iter().map(|event| viewer.sees(sql, cx, event, false)).collect::<Result<_, _>>()?
    };
    let live = newest.events.iter().rev().take_while(|event| call.live_after.is_some_and(|live| event.position > live));
    Ok(SlidingRoom {
        membership: "join",
        num_live: live.count() as u64,
        prev_batch: (!timeline.is_empty() || newest.limited).then(|| RoomToken(newest.start).to_string()),
        limited: newest.limited,
        timeline,
        ..SlidingRoom::default()
    })
}

/// What changed of the state in `(since, to]`, or was redacted there, unless that is too much.
fn changes(sql: &dyn Sql, since: u64, to: u64) -> Result<Option<Changes>, Error> {
    let changes = store::state::changes(sql, since, to, CHANGES_MAX.saturating_add(1))?;
    if changes.len() as u64 > CHANGES_MAX {
        return Ok(None);
    }
    let mut changed: Changes =
        changes.into_iter().map(|change| ((change.event_type, change.state_key), change.after)).collect();
    for Redacted { event_type, state_key, position, .. } in store::state::redacted(sql, since, to)? {
        changed.entry((event_type, state_key)).or_insert(Some(position));
    }
    Ok(Some(changed))
}

/// The members that a lazily loading client needs to show a timeline: who sent it, and whom it is about.
fn named(newest: &Newest) -> Vec<String> {
    let about = newest.events.iter().filter(|event| is_member(event)).filter_map(|event| event.pdu.state_key());
    let senders = newest.events.iter().map(|event| event.pdu.sender().as_str());
    senders.chain(about).map(ToOwned::to_owned).collect()
}

/// The position of the last event that people take for activity, if there is one in `(after, to]`. «Proper activity is
/// defined as an event being received [that] is one of the following types».
///
/// A room that is told anew has one in any case: where there was no activity for long it is that of an earlier event.
fn bump_stamp(sql: &dyn Sql, viewer: &Viewer, after: u64, to: u64) -> Result<Option<u64>, Error> {
    let (bump, oldest) = store::log::newest_activity(sql, after, to, BUMP_EVENTS_MAX)?;
    Ok(bump.or_else(|| if after == 0 { oldest.or(viewer.joined_at()) } else { None }))
}

fn facts(sql: &dyn Sql) -> Result<Facts, Error> {
    Ok(Facts {
        room_type: store::state::text(sql, "m.room.create", "", "type")?,
        encrypted: store::state::current(sql, "m.room.encryption", "")?.is_some(),
    })
}

fn key_of(event: &Logged) -> StateKey {
    (event.pdu.event_type().to_string(), event.pdu.state_key().unwrap_or_default().to_owned())
}
