//! Appending an event: the one way anything takes a position that is told of (history is placed by [`super::history`]).
//!
//! Guarantees: an event of ours is built on the forward extremities, authorised by the state after them, hashed and
//! signed; its position is new; the current state, its history and the memberships move with it; whoever must learn of
//! a changed membership is owed that, in the same transaction.

use std::collections::HashMap;

use domain::{
    Pdu, Refusal, RoomVersion, auth,
    event::{self, Draft, EventRef, Place},
    policy_server,
};
use platform::{
    Fault, Sql, Tx,
    planted::{self, Planted},
};
use ruma_common::{OwnedEventId, OwnedRoomId, RoomId, UserId};
use ruma_events::{StateEventType, room::member::MembershipState};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Room, device_lists, directory,
    graph::StateAt,
    omitted_members, open,
    restricted_join::is_membership,
    retention,
    store::{
        self,
        graph::{StateBefore, Verdict},
        log::Logged,
    },
    transactions,
};
use crate::{
    Call, Cx, Error,
    cx::MemberMoved,
    destination::{DevicesChanged, QueueEdu},
    outbox,
    user::{MembershipChanged, RoomForgotten, SHOWN_EVENT_BYTES_MAX, TransferSettings},
};

/// How deep a room may grow: canonical JSON's largest integer.
const DEPTH_MAX: u64 = (1 << 53) - 1;

/// The most events that one may come after. Spec: the event format of each room version.
const PREV_EVENTS_MAX: usize = 20;

/// The most forward extremities: all meet whenever an event comes that forks. Of more, the oldest are dropped, and the
/// current state meets the others in their place: nothing comes after them any more but what says so itself.
pub(super) const EXTREMITIES_MAX: usize = if cfg!(test) { 30 } else { 50 };

/// State that lets an invited or knocking user recognise the room. Spec: "Stripped state".
const STRIPPED_STATE: [&str; 9] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.name",
    "m.room.encryption",
    "m.room.topic",
    "m.room.history_visibility",
    "m.room.guest_access",
];

/// The most users who are told anew what a room looks like from outside, those who came last.
const WAITING_MAX: u64 = 1_000;

/// The calls a room makes through its outbox.
pub(super) fn owed_call(name: &str) -> Option<&'static str> {
    [MembershipChanged::NAME, RoomForgotten::NAME, TransferSettings::NAME, QueueEdu::NAME, DevicesChanged::NAME]
        .into_iter()
        .find(|known| *known == name)
}

pub(super) fn room_id(cx: &Cx<'_>) -> Result<OwnedRoomId, Error> {
    Ok(RoomId::parse(cx.id).map_err(|_| Fault::new("a room has an id that is none"))?)
}

/// Refused: `Forbidden` for who is not in the room, in the words that a room that is not there has, too: nobody from
/// outside learns of it.
pub(super) fn check_joined(sql: &dyn Sql, user_id: &UserId) -> Result<(), Error> {
    match store::members::membership(sql, user_id.as_str())?.as_deref() {
        Some("join") => Ok(()),
        _ => Err(Refusal::Forbidden(format!("{user_id} is not in this room")).into()),
    }
}

impl Room {
    /// Builds, authorises and appends an event of one of our users.
    pub(super) fn append(&self, tx: &Tx<'_>, cx: &Cx<'_>, draft: &Draft, txn: Option<&str>) -> Result<Pdu, Error> {
        let pdu = self.authorised(&**tx, cx, draft)?;
        self.insert(tx, cx, &pdu, txn)?;
        Ok(pdu)
    }

    /// The event that a draft makes here and now, if it may happen.
    pub(super) fn authorised(&self, sql: &dyn Sql, cx: &Cx<'_>, draft: &Draft) -> Result<Pdu, Error> {
        self.authorised_for(sql, cx, draft, &[], cx.now_ms)
    }

    /// [`Room::authorised`] for a sender who is known to be in the rooms `member_of`, with the time that the event
    /// shall have.
    pub(super) fn authorised_for(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        draft: &Draft,
        member_of: &[OwnedRoomId],
        at_ms: u64,
    ) -> Result<Pdu, Error> {
        omitted_members::check_draft(sql, draft)?;
        let vouched;
        let draft = if is_membership(draft) {
            vouched = self.vouched(sql, draft, member_of)?;
            &vouched
        } else {
            draft
        };
        let version = &*self.version(sql)?;
        let after = self.newest(sql, cx)?;
        let state = AuthState::load(sql, version, &auth::needed_for(draft, version)?, after.state.as_ref())?;
        let place = Place {
            room_id: Some(&room_id(cx)?),
            prev_events: &after.events.iter().map(|pdu| reference(pdu, version)).collect::<Result<Vec<_>, Fault>>()?,
            auth_events: &state.references(version)?,
            depth: after.events.iter().map(Pdu::depth).max().unwrap_or(0).saturating_add(1).min(DEPTH_MAX),
            origin_server_ts: at_ms,
        };
        let pdu = event::build(draft, &place, version, &cx.settings.identity, cx.random()?)?;
        auth::check(&pdu, version, &state.selected, &|event_type, state_key| state.get(event_type, state_key))?;
        Ok(pdu)
    }

    /// What a new event comes after: the forward extremities, as many as it may name.
    fn newest(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<Newest, Error> {
        let mut extremities = store::graph::extremities(sql)?.ids;
        let state = if extremities.len() > PREV_EVENTS_MAX {
            extremities.truncate(PREV_EVENTS_MAX);
            let state = self.state_after_all(sql, cx, &extremities)?;
            Some(state.map_err(|_| Fault::new("the state at an extremity is not known"))?)
        } else {
            None
        };
        let held = |event_id: OwnedEventId| {
            store::graph::by_id(sql, &event_id)?.ok_or_else(|| Fault::new("an extremity is not held"))
        };
        let events = extremities.into_iter().map(|id| Ok(held(id)?.pdu)).collect::<Result<Vec<_>, Fault>>()?;
        if events.is_empty() {
            return Err(Fault::new("the room has no event").into());
        }
        Ok(Newest { events, state })
    }

    /// The newest position of the log, what this operation added included.
    pub(super) fn log_end(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<u64, Fault> {
        cx.head.get().map_or_else(|| self.head(sql), Ok)
    }

    /// The next position of the log: never one used before. Whoever takes it, followers must be told.
    pub(super) fn next_position(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<u64, Error> {
        let now_ms = if planted::is(Planted::ReusedPosition) { 0 } else { cx.now_ms };
        let position = self.log_end(sql, cx)?.saturating_add(1).max(now_ms).max(store::graph::LOG_START);
        cx.head.set(Some(position));
        cx.set_alarm(cx.now_ms.saturating_add(super::follow::NUDGE_CHECK_MS))?;
        Ok(position)
    }

    /// Puts an accepted event into the log and moves everything that follows from it.
    pub(super) fn insert(&self, tx: &Tx<'_>, cx: &Cx<'_>, pdu: &Pdu, txn: Option<&str>) -> Result<(), Error> {
        self.insert_after(tx, cx, pdu, txn, None).map(|_| ())
    }

    /// As [`Room::insert`], with the state before the event, if that is known already. Answers its position.
    pub(super) fn insert_after(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        pdu: &Pdu,
        txn: Option<&str>,
        before: Option<StateAt>,
    ) -> Result<u64, Error> {
        let extremities = store::graph::extremities(&**tx)?;
        let comes_after = |event_id: &OwnedEventId| pdu.prev_events().contains(event_id);
        if !extremities.ids.iter().all(comes_after) || extremities.ids.len() != pdu.prev_events().len() {
            let before = match before {
                Some(before) => before,
                None => {
                    let before = self.state_after_all(&**tx, cx, pdu.prev_events())?;
                    before.map_err(|_| Fault::new("an event came after one that is not held"))?
                }
            };
            return self.insert_elsewhere(tx, cx, pdu, txn, before, extremities.ids);
        }
        let position = self.log(tx, cx, pdu, txn)?;
        if extremities.stored {
            store::graph::set_extremities(tx, None)?;
        }
        if let Some(state_key) = pdu.state_key() {
            let key = (pdu.event_type().to_string(), state_key.to_owned());
            self.state_changes(tx, cx, position, vec![(key, Some(pdu.event_id().to_owned()))])?;
        }
        Ok(position)
    }

    /// Puts an accepted event into the log that did not come after everything that is there. Answers its position.
    fn insert_elsewhere(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        pdu: &Pdu,
        txn: Option<&str>,
        before: StateAt,
        mut extremities: Vec<OwnedEventId>,
    ) -> Result<u64, Error> {
        // What came after it was here first: nothing new is to come after it itself.
        let is_late = store::graph::fill_gap(tx, pdu.event_id())?;
        let head = self.log_end(&**tx, cx)?;
        let position = self.log(tx, cx, pdu, txn)?;
        let mut now = StateAt::of_log(head);
        if !is_late {
            let behind = self.behind(&**tx, pdu)?;
            extremities.retain(|event_id| !behind.contains(event_id));
            // All of them at once: a state that two make is not one of those that meet.
            let mut states = self
                .states_after(&**tx, &extremities)?
                .map_err(|_| Fault::new("the state at an extremity is not known"))?;
            states.push(before.clone().after(&**tx, pdu, Verdict::Accepted)?);
            if store::graph::are_extremities_dropped(&**tx)? {
                // What they brought is in what the state is now.
                states.push(StateAt::of_log(head));
            }
            now = self.meet(&**tx, cx, states)?.rebased(&**tx, head)?;
            extremities.push(pdu.event_id().to_owned());
            let dropped = extremities.len().saturating_sub(EXTREMITIES_MAX);
            if dropped > 0 {
                extremities.drain(..dropped);
                store::graph::drop_extremities(tx)?;
            }
        }
        let before = before.write(tx)?;
        store::graph::judge(tx, position, Verdict::Accepted, StateBefore::Elsewhere(before))?;
        store::graph::set_extremities(tx, (is_late || extremities.len() > 1).then_some(extremities.as_slice()))?;
        self.note_taken_back(&**tx, cx, pdu, &now)?;
        self.state_changes(tx, cx, position, now.into_changes().into_iter().collect())?;
        Ok(position)
    }

    /// Gives an event its place at the end of the log.
    pub(super) fn log(&self, tx: &Tx<'_>, cx: &Cx<'_>, pdu: &Pdu, txn: Option<&str>) -> Result<u64, Error> {
        let position = self.next_position(&**tx, cx)?;
        self.appservices_see(tx, cx, position)?;
        match store::graph::by_id(&**tx, pdu.event_id())? {
            Some(held) => {
                self.number_is_free(&held);
                store::graph::enter_log(tx, &held, position, txn)?;
            }
            None => store::log::insert(tx, position, pdu, txn)?,
        }
        cx.room.public_head.set(Some(position));
        cx.room.event_head.set(Some(position));
        if cx.is_local(pdu.sender()) || txn == Some(transactions::RELAYED) {
            cx.room.outgoing.set(Some(position));
        }
        if let Some(txn) = txn {
            cx.room.transactions.borrow_mut().push((position, txn.to_owned()));
        }
        if pdu.state_key().is_none() {
            retention::came(tx, cx)?;
        }
        Ok(position)
    }

    /// The current state changes, and whatever follows it. Changes that are none are left out.
    pub(super) fn state_changes(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        position: u64,
        changes: Vec<((String, String), Option<OwnedEventId>)>,
    ) -> Result<(), Error> {
        let mut guests_concerned = false;
        for ((event_type, state_key), event_id) in changes {
            cx.room.state_moved.set(true);
            let event = match &event_id {
                Some(event_id) => {
                    let event = store::log::anywhere(&**tx, event_id.as_str())?;
                    Some(event.ok_or_else(|| Fault::new("an event of the state is not held"))?)
                }
                None => None,
            };
            store::state::set(tx, &event_type, &state_key, position, event.as_ref().map(|event| event.position))?;
            match event_type.as_str() {
                "m.room.member" => self.move_member(tx, cx, &state_key, position, event.as_ref())?,
                "m.room.guest_access" => guests_concerned = true,
                _ => {}
            }
            follow_state(tx, cx, &event_type, &state_key)?;
            if event_type == "m.room.canonical_alias" && state_key.is_empty() {
                self.appservices_see_aliases(tx, cx, position)?;
            }
        }
        if guests_concerned {
            self.expel_guests(tx, cx)?;
        }
        Ok(())
    }

    fn move_member(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        user_id: &str,
        position: u64,
        event: Option<&Logged>,
    ) -> Result<(), Error> {
        // Without a membership one is as one who left.
        let membership = event.map_or(Ok(MembershipState::Leave), |event| membership_of(&event.pdu))?;
        let local = <&UserId>::try_from(user_id).ok().filter(|user_id| cx.is_local(user_id));
        if local.is_some() {
            self.appservices_are_known(tx, cx, position)?;
        }
        let before = store::members::set(tx, user_id, membership.as_str(), position, local.is_some())?;
        let was_joined = before.as_deref() == Some("join");
        let was_asked = matches!(before.as_deref(), Some("invite" | "knock"));
        let moved = MemberMoved { user: user_id.to_owned(), before, now: membership.clone() };
        cx.room.members.borrow_mut().push(moved);
        let joined = membership == MembershipState::Join;
        let Some(local) = local else {
            if was_asked && !joined && event.is_some_and(|event| cx.is_local(event.pdu.sender())) {
                tell_who_is_not_here(tx, cx, user_id, position)?;
            }
            return move_server(tx, cx, user_id, (was_joined, joined), position, event);
        };
        if !joined {
            cx.room.typing.borrow_mut().push((local.to_owned(), None));
        }
        self.appservices_see_member(tx, cx, local, (was_joined, joined), position)?;
        cx.room.followers.borrow_mut().push((user_id.to_owned(), joined, position));
        owe_membership(tx, cx, user_id, position, event)
    }
}

/// What is remembered and projected of the room's current state follows what changed of it, or was stripped.
pub(super) fn follow_state(tx: &Tx<'_>, cx: &Cx<'_>, event_type: &str, state_key: &str) -> Result<(), Error> {
    if event_type == "m.room.power_levels" {
        cx.room.power_changed.set(true);
    }
    if event_type == policy_server::EVENT_TYPE {
        cx.room.policy_changed.set(true);
    }
    directory::follow(tx, cx, event_type, state_key)?;
    retention::follow(tx, cx, event_type, state_key)?;
    open::follow(tx, cx, event_type, state_key)
}

/// A member of another server came, went, or stayed what they were.
fn move_server(
    tx: &Tx<'_>,
    cx: &Cx<'_>,
    user_id: &str,
    joined: (bool, bool),
    position: u64,
    event: Option<&Logged>,
) -> Result<(), Error> {
    let Some((_, server)) = user_id.split_once(':') else { return Ok(()) };
    match joined {
        (false, true) => {
            if let Some(event) = event
                && !store::servers::is_joined(&**tx, server)?
            {
                device_lists::owe_missed(tx, cx, server, &event.pdu)?;
            }
            store::servers::joins(tx, server, position)?;
        }
        (true, false) => store::servers::leaves(tx, server, position)?,
        _ => return Ok(()),
    }
    cx.room.servers.borrow_mut().insert(server.to_owned());
    Ok(())
}

/// An invitation or a knock of a user of another server came to nothing, by one of ours: that server is told of it, and
/// of nothing else, unless it is in the room and hears of everything.
fn tell_who_is_not_here(tx: &Tx<'_>, cx: &Cx<'_>, user_id: &str, position: u64) -> Result<(), Error> {
    let Some((_, server)) = user_id.split_once(':') else { return Ok(()) };
    if store::servers::is_told_once(tx, server, position)? {
        cx.room.servers.borrow_mut().insert(server.to_owned());
    }
    Ok(())
}

/// Tells a local user again what became of their membership.
pub(super) fn owe_membership_again(tx: &Tx<'_>, cx: &Cx<'_>, user_id: &str) -> Result<(), Error> {
    let Some(position) = store::members::position(&**tx, user_id)? else { return Ok(()) };
    let event = store::state::current(&**tx, "m.room.member", user_id)?;
    owe_membership(tx, cx, user_id, position, event.as_ref())
}

/// Owes a local user what became of their membership at `position`, by this event.
fn owe_membership(tx: &Tx<'_>, cx: &Cx<'_>, user_id: &str, position: u64, event: Option<&Logged>) -> Result<(), Error> {
    let membership = event.map_or(Ok(MembershipState::Leave), |event| membership_of(&event.pdu))?;
    let joined = membership == MembershipState::Join;
    // A name that a client gave itself in this room alone is not the profile's to correct.
    let shown = event.filter(|event| joined && transactions::shows_profile(event.txn.as_deref()));
    let profile = shown.map(|event| event.pdu.content_as().unwrap_or_default());
    let stripped_state = match (&membership, event) {
        (MembershipState::Invite | MembershipState::Knock, Some(event)) => stripped_state(&**tx, &event.pdu)?,
        _ => Vec::new(),
    };
    let predecessor = if joined { predecessor(&**tx)? } else { None };
    let room_id = room_id(cx)?;
    let event_id = event.map(|event| event.pdu.event_id().to_owned());
    let effect = MembershipChanged {
        room_id,
        position,
        membership,
        event_id,
        profile,
        stripped_state,
        predecessor,
        elsewhere: None,
    };
    outbox::owe(tx, cx, user_id, &effect, true)
}

/// Owes those who are invited or knock what the room looks like from outside, when an event that tells them of it was
/// redacted: they have a copy, which must not keep what it said.
pub(super) fn owe_stripped_state(tx: &Tx<'_>, cx: &Cx<'_>, redacted: &Logged, position: u64) -> Result<(), Error> {
    let event_type = redacted.pdu.event_type().to_string();
    let (true, Some(state_key)) =
        (event_type == "m.room.member" || STRIPPED_STATE.contains(&&*event_type), redacted.pdu.state_key())
    else {
        return Ok(());
    };
    if store::state::position_at(&**tx, &event_type, state_key, position)? != Some(redacted.position) {
        return Ok(());
    }
    for user_id in store::members::waiting_locals(&**tx, WAITING_MAX)? {
        if let Some(member) = store::state::current(&**tx, "m.room.member", &user_id)? {
            owe_membership(tx, cx, &user_id, position, Some(&member))?;
        }
    }
    Ok(())
}

/// The room whose place this one takes. Spec: "Room Upgrades".
fn predecessor(sql: &dyn Sql) -> Result<Option<OwnedRoomId>, Fault> {
    #[derive(Deserialize)]
    struct Content {
        predecessor: Predecessor,
    }
    #[derive(Deserialize)]
    struct Predecessor {
        room_id: OwnedRoomId,
    }
    let create = store::state::current(sql, "m.room.create", "")?;
    Ok(create.and_then(|create| create.pdu.content_as::<Content>().ok()).map(|content| content.predecessor.room_id))
}

/// Refused: `Forbidden` for an invitation to another server, which has to sign it first: see [`super::PrepareInvite`].
pub(super) fn check_invitation(cx: &Cx<'_>, draft: &Draft) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct Content {
        membership: String,
    }
    let target = draft.state_key.as_deref().and_then(|user| <&UserId>::try_from(user).ok());
    let remote = target.is_some_and(|user| !cx.is_local(user));
    let invites = || serde_json::from_str::<Content>(draft.content.get()).is_ok_and(|it| it.membership == "invite");
    if remote && is_membership(draft) && invites() {
        return Err(Refusal::Forbidden("The other server has to sign this invitation first".to_owned()));
    }
    Ok(())
}

/// The membership that an `m.room.member` event makes.
pub(super) fn membership_of(pdu: &Pdu) -> Result<MembershipState, Fault> {
    #[derive(Deserialize)]
    struct Content {
        membership: MembershipState,
    }
    let content: Content = pdu.content_as().map_err(|error| Fault::new(format!("a stored membership: {error}")))?;
    Ok(content.membership)
}

pub(super) fn stripped_state(sql: &dyn Sql, membership: &Pdu) -> Result<Vec<Box<RawValue>>, Fault> {
    let mut stripped: Vec<_> = shown_state(sql, membership)?.iter().map(event::stripped_json).collect();
    stripped.push(event::stripped_json(membership));
    Ok(stripped)
}

/// The events that let whoever gets this membership recognise the room.
pub(super) fn shown_state(sql: &dyn Sql, membership: &Pdu) -> Result<Vec<Pdu>, Fault> {
    let mut shown = Vec::with_capacity(STRIPPED_STATE.len().saturating_add(1));
    for event_type in STRIPPED_STATE {
        if let Some(event) = store::state::current(sql, event_type, "")? {
            // Invitations lie in the user's own storage: whoever invites must not fill it.
            let bytes = event::stripped_json(&event.pdu).get().len();
            if bytes <= SHOWN_EVENT_BYTES_MAX || event_type == "m.room.create" {
                shown.push(event.pdu);
            }
        }
    }
    // Who invites: clients show their name.
    if membership.state_key() != Some(membership.sender().as_str())
        && let Some(event) = store::state::current(sql, "m.room.member", membership.sender().as_str())?
    {
        shown.push(event.pdu);
    }
    Ok(shown)
}

fn reference(pdu: &Pdu, version: &RoomVersion) -> Result<EventRef, Fault> {
    event::reference(pdu, version).map_err(|error| Fault::new(format!("a stored event: {error}")))
}

/// What a new event comes after.
struct Newest {
    events: Vec<Pdu>,
    /// The state there; `None`: the current one.
    state: Option<StateAt>,
}

/// The part of a state that decides whether an event may happen.
pub(super) struct AuthState {
    /// The events that the new one names.
    selected: Vec<Pdu>,
    state: HashMap<(StateEventType, String), Pdu>,
}

impl AuthState {
    /// What is `needed` of the state at a place of the graph; without one, of the current state.
    pub(super) fn load(
        sql: &dyn Sql,
        version: &RoomVersion,
        needed: &[(StateEventType, String)],
        at: Option<&StateAt>,
    ) -> Result<Self, Error> {
        let event = |event_type: &str, state_key: &str| match at {
            Some(state) => state.event(sql, event_type, state_key),
            None => Ok(store::state::current(sql, event_type, state_key)?.map(|event| event.pdu)),
        };
        let mut loaded = Self { selected: Vec::new(), state: HashMap::new() };
        for key in needed {
            if let Some(pdu) = event(&key.0.to_string(), &key.1)? {
                loaded.selected.push(pdu.clone());
                loaded.state.insert(key.clone(), pdu);
            }
        }
        // Since v12 the create event is implied by the room id, and still decides.
        let create = (StateEventType::RoomCreate, String::new());
        if version.room_id_is_create_event()
            && let Some(pdu) = event("m.room.create", "")?
        {
            loaded.state.insert(create, pdu);
        }
        Ok(loaded)
    }

    pub(super) fn get(&self, event_type: &StateEventType, state_key: &str) -> Option<Pdu> {
        self.state.get(&(event_type.clone(), state_key.to_owned())).cloned()
    }

    fn references(&self, version: &RoomVersion) -> Result<Vec<EventRef>, Fault> {
        self.selected.iter().map(|pdu| reference(pdu, version)).collect()
    }
}
