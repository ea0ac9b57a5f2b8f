//! What happened in a room since a cursor: one room of one sync.

use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedDeviceId, OwnedUserId, push::Ruleset};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    DeviceLists, EventFilter, EventFormat, Room, RoomToken, Typing,
    company::Summary,
    device_lists,
    ephemeral::{Ephemeral, Wanted, own_receipts},
    messages::Direction,
    retention,
    sent_members::is_member,
    store::{self, log::Logged, receipts::Receipt},
    synced_state::{MoreState, ShownState, SyncedState, begin_behind_outdated},
    unread::{self, Unread, UnreadByThread},
    viewer::Viewer,
    walk::Walk,
};
use crate::{Call, Cx, Error};

/// Timeline events when the client names no limit, as other servers do.
const TIMELINE_EVENTS_DEFAULT: u64 = 10;
/// The most timeline events in one answer.
const TIMELINE_EVENTS_MAX: u64 = 200;
/// Log entries looked at for one timeline, seen or not.
const TIMELINE_SCAN_MAX: u64 = 2_000;
/// Bytes of events after which a timeline is limited, whatever was asked for: an operation stays small.
const TIMELINE_BYTES_MAX: usize = 512 * 1024;

/// Reads the log from a cursor to its head, as one user may see it. The room nudges that user again from here on.
///
/// A cursor at which the user was not joined, or that the log does not know, gets the whole state and a limited
/// timeline. Spec: "Syncing".
#[derive(Debug, Serialize, Deserialize)]
pub struct Delta {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    /// The position read to the last time; `None` for a first look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Whether the whole state is wanted in any case.
    #[serde(default)]
    pub full_state: bool,
    /// Whether the state is wanted as of the end of the timeline, not of its start. Spec: `use_state_after`.
    #[serde(default)]
    pub state_after: bool,
    /// The same, and that it stands under the name from before that was stable. Instead of the former: a release that
    /// does not know this tells the state as of the start, which such a client takes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unstable_state_after: bool,
    #[serde(default)]
    pub timeline: EventFilter,
    #[serde(default)]
    pub state: EventFilter,
    #[serde(default, skip_serializing_if = "EventFormat::is_usual")]
    pub format: EventFormat,
    #[serde(default)]
    pub ephemeral: EventFilter,
    /// The version of the typing users that the device saw last, 0 for nobody; `None`: it does not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typing: Option<u64>,
    /// Whether to tell whose devices changed: to a device that has synced before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub device_lists: bool,
    /// What the user has changed of the push rules that everyone starts with, as far as it matters here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_rules: Option<Ruleset>,
    /// Whom the user ignores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    /// Whether to tell what is unread although nothing happened.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unread: bool,
}

/// The position read to, and what to show.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeltaReply {
    pub to: u64,
    pub section: Section,
    /// Whether the cursor told nothing of the room, so that the device learns all of it now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anew: bool,
    /// Who types, if that was asked for and is theirs to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typing: Option<Typing>,
    /// Whose devices are to be looked at again.
    #[serde(default, skip_serializing_if = "DeviceLists::is_empty")]
    pub device_lists: DeviceLists,
    /// Where the state goes on that has no room in this reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more_state: Option<MoreState>,
    /// The room in the shape of its section; `null` in none.
    pub room: Box<RawValue>,
}

/// Where in the answer of `/sync` a room stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    Join,
    Leave,
    /// The user is in the room, and there is nothing new to show.
    Quiet,
    /// There is nothing for this user in the room.
    None,
}

impl DeltaReply {
    /// Nothing to show, read up to a position.
    pub fn nothing(to: u64, section: Section) -> serde_json::Result<Self> {
        let device_lists = DeviceLists::default();
        Ok(Self { to, section, anew: false, typing: None, device_lists, more_state: None, room: to_raw_value(&())? })
    }
}

impl Call for Delta {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "delta";
    type Reply = DeltaReply;
}

impl Delta {
    /// Whether the state is wanted as of the end of the timeline, by whichever name.
    pub(super) fn wants_state_after(&self) -> bool {
        self.state_after || self.unstable_state_after
    }
}

#[derive(Serialize)]
struct SyncedRoom {
    timeline: Timeline,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Events>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_after: Option<Events>,
    #[serde(rename = "org.matrix.msc4222.state_after", skip_serializing_if = "Option::is_none")]
    unstable_state_after: Option<Events>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Summary>,
    /// Of a room that the user is in, also where there are none: clients look there.
    #[serde(skip_serializing_if = "Option::is_none")]
    ephemeral: Option<Events>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unread_notifications: Option<Unread>,
    #[serde(skip_serializing_if = "UnreadByThread::is_empty")]
    unread_thread_notifications: UnreadByThread,
}

#[derive(Serialize)]
struct Timeline {
    events: Vec<Box<RawValue>>,
    limited: bool,
    prev_batch: String,
}

#[derive(Default, Serialize)]
struct Events {
    events: Vec<Box<RawValue>>,
}

/// The newest events of a span, oldest first.
pub(super) struct Newest {
    pub events: Vec<Logged>,
    /// Whether the span holds more.
    pub limited: bool,
    /// The position before the first of them.
    pub start: u64,
}

impl Newest {
    /// None, at a position.
    pub(super) fn empty(start: u64) -> Self {
        Self { events: Vec::new(), limited: false, start }
    }

    /// Makes place for one that comes last.
    fn leave_out_oldest(&mut self) {
        if !self.events.is_empty() {
            (self.start, self.limited) = (self.events.remove(0).position, true);
        }
    }
}

impl Room {
    pub(super) fn delta(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: Delta) -> Result<DeltaReply, Error> {
        retention::came(tx, cx)?;
        let heads = self.heads(&**tx)?;
        let viewer = Viewer::load(&**tx, call.user.clone(), call.device.clone())?
            .with_format(&call.format)
            .ignoring(call.ignored.clone());
        let nothing = |to| Ok(DeltaReply::nothing(to, Section::None)?);
        match viewer.membership() {
            Some((MembershipState::Join, _)) => {
                let own = own_receipts(&**tx, call.user.as_str())?;
                // What is told to followers reaches as far, so that most tokens need not name the room.
                let known = call.from.filter(|from| *from <= heads.log);
                let told = own.first().map_or(0, |newest| newest.position).max(heads.public);
                let reading =
                    Reading { viewer: &viewer, call: &call, known, own: &own, to: told.max(known.unwrap_or(0)) };
                self.has_read(tx, cx, call.user.as_str(), reading.to)?;
                self.presence_listened(call.user.as_str());
                let device_lists = if call.device_lists {
                    let since = known.filter(|from| viewer.joined_throughout(*from));
                    device_lists::of_member(&**tx, &call.user, since, reading.to)?
                } else {
                    DeviceLists::default()
                };
                Ok(DeltaReply { device_lists, ..self.joined(&**tx, cx, &reading)? })
            }
            Some((MembershipState::Leave | MembershipState::Ban, left)) if call.from.is_none_or(|from| from < left) => {
                self.gone(&**tx, cx, &viewer, &call, left)
            }
            Some((_, position)) => nothing(position),
            None => match viewer.forgotten() {
                // A device that took them for a member learns that they are none, and nothing else.
                Some(left) if call.from.is_some_and(|from| from < left) => self.gone(&**tx, cx, &viewer, &call, left),
                Some(left) => nothing(left),
                None => nothing(heads.log),
            },
        }
    }

    /// The room for one who is in it.
    fn joined(&self, sql: &dyn Sql, cx: &Cx<'_>, reading: &Reading<'_>) -> Result<DeltaReply, Error> {
        let Reading { viewer, call, known, own, to } = *reading;
        // A cursor from before a time away, or from beyond the log, tells nothing of the state.
        let since = known.filter(|from| viewer.joined_throughout(*from));
        let mut newest = timeline(sql, viewer, call, known.unwrap_or(0), to)?;
        // Between what the client knows and this timeline there is what is hidden, or forgotten.
        newest.limited |= call.from.is_some() && since.is_none();
        let anew = since.is_none();
        let whole = anew || call.full_state;
        let summary = if whole || store::state::members_changed(sql, since.unwrap_or(0), to)? {
            Some(self.summary(sql, viewer)?)
        } else {
            None
        };
        let mut members = self.sent_members(&viewer.user, &viewer.device, since);
        let state = SyncedState {
            since: if whole { None } else { since },
            end: to,
            call,
            viewer,
            timeline: &newest,
            summary: summary.as_ref(),
            sent: members.as_ref().filter(|_| !whole && !call.state.include_redundant_members),
            outcome: None,
        };
        let state = state.show(self, sql, cx)?;
        let after = since.unwrap_or(0);
        if call.state.lazy_load_members {
            let in_timeline = newest.events.iter().filter(|event| is_member(event)).map(|event| event.position);
            let shown = state.members.iter().copied().chain(in_timeline);
            members.get_or_insert_default().are_sent(after, to, shown);
        }
        self.keep_sent_members(&viewer.user, &viewer.device, members);
        let wanted = Wanted { filter: &call.ephemeral, after, up_to: to, typing: call.typing };
        let Ephemeral { events, typing } = self.ephemeral(sql, cx, own, &wanted)?;
        let own_moved = own.first().is_some_and(|newest| newest.position > after);
        let is_empty = newest.events.is_empty() && !newest.limited && state.events.is_empty() && events.is_empty();
        if is_empty && !whole && !own_moved && !call.unread && summary.is_none() {
            return Ok(DeltaReply { anew, typing, ..DeltaReply::nothing(to, Section::Quiet)? });
        }
        let unread = Some(self.unread(sql, cx, viewer, own, call.push_rules.as_ref(), to)?);
        let shown = Shown { timeline: newest, state, summary, ephemeral: Some(Events { events }), unread };
        let reply = shown.render(sql, cx, viewer, call)?;
        Ok(DeltaReply { to, section: Section::Join, anew, typing, ..reply })
    }

    /// The room for one who left it or was banned: up to the end of their time in it, and what became of them since.
    fn gone(&self, sql: &dyn Sql, cx: &Cx<'_>, viewer: &Viewer, call: &Delta, left: u64) -> Result<DeltaReply, Error> {
        let (since, end) = untold(viewer, call.from);
        let mut newest = match end {
            Some(end) => timeline(sql, viewer, call, since.unwrap_or(0), end)?,
            None => Newest::empty(left.saturating_sub(1)),
        };
        // It may be hidden by the history visibility from the very one it is about; and where resolution made it, it is
        // from before, and another's event has its position.
        let own = store::state::current(sql, "m.room.member", viewer.user.as_str())?
            .filter(|own| newest.events.iter().all(|event| event.position != own.position));
        let limit = call.timeline.limit(TIMELINE_EVENTS_DEFAULT, TIMELINE_EVENTS_MAX);
        let has_place = end.is_none() || own.as_ref().is_some_and(|own| limit > 0 && call.timeline.allows(own));
        if has_place && end.is_some() && newest.events.len() as u64 >= limit {
            // It is told nowhere else: whoever was removed, and then banned, would never learn of that.
            newest.leave_out_oldest();
        }
        // Clients that ask for it take the state from there alone.
        let outcome = own.as_ref().filter(|own| call.wants_state_after() && call.state.allows(own));
        let state = match (end, outcome) {
            (Some(end), outcome) => {
                let timeline = &newest;
                SyncedState { since, end, call, viewer, timeline, summary: None, sent: None, outcome }
                    .show(self, sql, cx)?
            }
            (None, Some(own)) => {
                ShownState { events: vec![viewer.sees(sql, cx, own, false)?], ..ShownState::default() }
            }
            (None, None) => ShownState::default(),
        };
        newest.events.extend(own.filter(|_| has_place));
        let shown = Shown { timeline: newest, state, summary: None, ephemeral: None, unread: None };
        // What one who forgot the room was by then is forgotten, too.
        let known = since.or(call.from.filter(|_| viewer.forgotten().is_some()));
        let device_lists = match known {
            Some(since) if call.device_lists => device_lists::of_gone(sql, &viewer.user, since, left)?,
            _ => DeviceLists::default(),
        };
        Ok(DeltaReply { to: left, section: Section::Leave, device_lists, ..shown.render(sql, cx, viewer, call)? })
    }
}

/// One look into the room by one who is in it.
#[derive(Clone, Copy)]
struct Reading<'a> {
    viewer: &'a Viewer,
    call: &'a Delta,
    /// The position read to the last time, unless the log does not know it.
    known: Option<u64>,
    /// The viewer's receipts, the one that moved last first.
    own: &'a [Receipt],
    to: u64,
}

/// What a viewer gets to see of the room.
struct Shown {
    timeline: Newest,
    state: ShownState,
    summary: Option<Summary>,
    ephemeral: Option<Events>,
    unread: Option<UnreadByThread>,
}

impl Shown {
    /// A reply that says this, and nothing else yet.
    fn render(self, sql: &dyn Sql, cx: &Cx<'_>, viewer: &Viewer, call: &Delta) -> Result<DeltaReply, Error> {
        let Shown { timeline, state: ShownState { events, more, .. }, summary, ephemeral, unread } = self;
        // Spec: bundled «when the relevant section has a `limited` value of `true`». Otherwise the client has it all.
        let shown = if timeline.limited {
            viewer.sees_all(sql, cx, &timeline.events.iter().collect::<Vec<_>>(), false)?
        } else {
            timeline.events.iter().map(|event| viewer.sees(sql, cx, event, false)).collect::<Result<_, _>>()?
        };
        let timeline =
            Timeline { events: shown, limited: timeline.limited, prev_batch: RoomToken(timeline.start).to_string() };
        let state = Some(Events { events });
        let (state, state_after, unstable_state_after) = match (call.state_after, call.unstable_state_after) {
            (true, _) => (None, state, None),
            (false, true) => (None, None, state),
            (false, false) => (state, None, None),
        };
        let (unread_notifications, unread_thread_notifications) = match unread {
            Some(threads) if call.timeline.unread_thread_notifications => {
                let (main, threads) = unread::apart(threads);
                (Some(main), threads)
            }
            Some(threads) => (Some(unread::sum(&threads)), UnreadByThread::new()),
            None => (None, UnreadByThread::new()),
        };
        let room = to_raw_value(&SyncedRoom {
            timeline,
            state,
            state_after,
            unstable_state_after,
            summary,
            ephemeral,
            unread_notifications,
            unread_thread_notifications,
        })?;
        Ok(DeltaReply { more_state: more, room, ..DeltaReply::nothing(0, Section::None)? })
    }
}

/// What one who is gone is still to be told of their time in the room: since when, if they know some of it, and up to
/// its end, unless they know of that. Who already knows that they are out learns only of a change in that: a ban, an
/// invitation that ended.
pub(super) fn untold(viewer: &Viewer, from: Option<u64>) -> (Option<u64>, Option<u64>) {
    let since = from.filter(|from| viewer.membership_at(*from) == MembershipState::Join);
    (since, if since.is_none() && from.is_some() { None } else { viewer.left_at() })
}

/// The timeline of `(after, up_to]`, such that it agrees with the state that is told with it.
fn timeline(sql: &dyn Sql, viewer: &Viewer, call: &Delta, after: u64, up_to: u64) -> Result<Newest, Error> {
    let mut timeline = newest(sql, viewer, &call.timeline, after, up_to)?;
    if !call.wants_state_after() {
        begin_behind_outdated(sql, &mut timeline, &call.timeline, up_to)?;
    }
    Ok(timeline)
}

/// The newest events in `(after, up_to]` that the viewer may see and wants.
pub(super) fn newest(
    sql: &dyn Sql,
    viewer: &Viewer,
    filter: &EventFilter,
    after: u64,
    up_to: u64,
) -> Result<Newest, Error> {
    if filter.allows_nothing() {
        return Ok(Newest::empty(up_to));
    }
    let wanted = filter.limit(TIMELINE_EVENTS_DEFAULT, TIMELINE_EVENTS_MAX);
    // Nor does it reach past where history is missing, or was: what was found of that is old.
    let edge = store::history::newest(sql, after, up_to)?;
    let after = edge.map_or(after, |edge| edge.position.saturating_sub(1));
    let mut walk = Walk::new(sql, viewer, Direction::Backwards, (after, up_to), wanted);
    let (mut events, mut bytes) = (Vec::new(), 0_usize);
    let limited = loop {
        if walk.scanned() >= TIMELINE_SCAN_MAX {
            break true;
        }
        let Some(event) = walk.next()? else { break edge.is_some() };
        let is_wanted = filter.allows(&event);
        // A timeline has no hole: what lies before a stretch that is hidden comes by paging.
        if walk.has_stepped_over() && !events.is_empty() {
            break true;
        }
        // What the filter leaves out is not what the limit cuts off.
        if is_wanted && (events.len() as u64 == wanted || bytes >= TIMELINE_BYTES_MAX) {
            break true;
        }
        if is_wanted {
            bytes = bytes.saturating_add(event.pdu.json().len());
            events.push(event);
        }
    };
    events.reverse();
    let start = events.first().map_or(up_to, |first: &Logged| first.position.saturating_sub(1));
    Ok(Newest { events, limited, start })
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use ruma_common::user_id;
    use serde_json::Value;

    use super::{Delta, TIMELINE_SCAN_MAX};
    use crate::{
        room::{Direction, EventFilter, Messages},
        world::World,
    };

    #[test]
    fn a_filter_that_allows_nothing_reads_nothing() {
        let world = World::new(1);
        let alice = user_id!("@alice:myelin.test");
        let room_id = world.creates_room(alice, "12", Preset::PublicChat);
        world.crowds(&room_id, TIMELINE_SCAN_MAX * 3);
        let nothing = |filter: &str| serde_json::from_str::<EventFilter>(filter).unwrap();
        for filter in [r#"{"types":[]}"#, r#"{"senders":[]}"#, r#"{"not_types":["m.a","*"]}"#] {
            let call = Delta {
                user: alice.to_owned(),
                device: "ANY".into(),
                from: None,
                full_state: false,
                state_after: false,
                unstable_state_after: false,
                timeline: nothing(filter),
                state: nothing(filter),
                format: Default::default(),
                ephemeral: EventFilter::default(),
                typing: None,
                device_lists: false,
                push_rules: None,
                ignored: Vec::new(),
                unread: false,
            };
            let reply = world.call(room_id.as_str(), &call).unwrap();
            let room: Value = serde_json::from_str(reply.room.get()).unwrap();
            assert_eq!(room["timeline"]["limited"], false, "{filter}");
            let call = Messages {
                user: alice.to_owned(),
                device: "ANY".into(),
                ignored: Vec::new(),
                from: None,
                to: None,
                direction: Direction::Backwards,
                filter: nothing(filter),
                past_gaps: false,
            };
            assert_eq!(world.call(room_id.as_str(), &call).unwrap().end, None, "{filter}");
        }
    }
}
