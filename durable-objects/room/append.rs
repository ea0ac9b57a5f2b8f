//! Appending an event: the one way anything gets into the log.
//!
//! Guarantees: the event is built on the newest event, authorised by the current state, hashed and signed; its
//! position is new; the current state, its history and the memberships move with it; whoever must learn of a
//! changed membership is owed that, in the same transaction.

use std::collections::HashMap;

use domain::{
    Pdu, Refusal, RoomVersion, auth,
    event::{self, Draft, EventRef, Place},
};
use platform::{Fault, Sql, Tx};
use ruma_common::{OwnedRoomId, RoomId, UserId};
use ruma_events::{StateEventType, TimelineEventType, room::member::MembershipState};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Room, directory,
    restricted_join::is_membership,
    store::{self, log::Logged},
    transactions,
};
use crate::{
    Call, Cx, Error,
    cx::MemberMoved,
    outbox,
    user::{MembershipChanged, RoomForgotten},
};

/// How deep a room may grow: canonical JSON's largest integer.
const DEPTH_MAX: u64 = (1 << 53) - 1;

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

/// The largest event of stripped state, in bytes, the create event and the membership itself apart.
const STRIPPED_EVENT_BYTES_MAX: usize = 4096;

/// The calls a room makes through its outbox.
pub(super) fn owed_call(name: &str) -> Option<&'static str> {
    [MembershipChanged::NAME, RoomForgotten::NAME].into_iter().find(|known| *known == name)
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
        self.authorised_for(sql, cx, draft, &[])
    }

    /// [`Room::authorised`] for a sender who is known to be in the rooms `member_of`.
    pub(super) fn authorised_for(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        draft: &Draft,
        member_of: &[OwnedRoomId],
    ) -> Result<Pdu, Error> {
        let vouched;
        let draft = if is_membership(draft) {
            vouched = self.vouched(sql, draft, member_of)?;
            check_invitation(cx, &vouched)?;
            &vouched
        } else {
            draft
        };
        let version = &*self.version(sql)?;
        let state = AuthState::load(sql, version, draft)?;
        let newest = store::log::head(sql)?.ok_or_else(|| Fault::new("the room has no event"))?;
        let place = Place {
            room_id: Some(&room_id(cx)?),
            prev_events: &[reference(&newest.pdu, version)?],
            auth_events: &state.references(version)?,
            depth: newest.pdu.depth().saturating_add(1).min(DEPTH_MAX),
            origin_server_ts: cx.now_ms,
        };
        let pdu = event::build(draft, &place, version, &cx.settings.identity, cx.random()?)?;
        auth::check(&pdu, version, &state.selected, &|event_type, state_key| state.get(event_type, state_key))?;
        Ok(pdu)
    }

    /// The next position of the log: never one used before. Whoever takes it, followers must be told.
    pub(super) fn next_position(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<u64, Error> {
        let last = match cx.head.get() {
            Some(head) => head,
            None => self.heads(sql)?.log,
        };
        let position = last.saturating_add(1).max(cx.now_ms);
        cx.head.set(Some(position));
        cx.set_alarm(cx.now_ms.saturating_add(super::follow::NUDGE_CHECK_MS))?;
        Ok(position)
    }

    /// Puts an accepted event into the log and moves everything that follows from it.
    pub(super) fn insert(&self, tx: &Tx<'_>, cx: &Cx<'_>, pdu: &Pdu, txn: Option<&str>) -> Result<(), Error> {
        let position = self.next_position(&**tx, cx)?;
        store::log::insert(tx, position, pdu, txn)?;
        cx.room.public_head.set(Some(position));
        if let Some(txn) = txn {
            cx.room.transactions.borrow_mut().push((position, txn.to_owned(), pdu.event_id().to_owned()));
        }
        let Some(state_key) = pdu.state_key() else { return Ok(()) };
        let event_type = pdu.event_type().to_string();
        store::state::set(tx, &event_type, state_key, position, position)?;
        if *pdu.event_type() == TimelineEventType::RoomPowerLevels {
            cx.room.power_changed.set(true);
        }
        if *pdu.event_type() == TimelineEventType::RoomMember {
            self.move_member(
                tx,
                cx,
                &Logged { position, pdu: pdu.clone(), txn: txn.map(ToOwned::to_owned), redacted_by: None },
                state_key,
            )?;
        }
        if *pdu.event_type() == TimelineEventType::RoomGuestAccess {
            self.expel_guests(tx, cx)?;
        }
        directory::follow(tx, cx, &event_type, state_key)
    }

    fn move_member(&self, tx: &Tx<'_>, cx: &Cx<'_>, member: &Logged, user_id: &str) -> Result<(), Error> {
        let (membership, position) = (membership_of(&member.pdu)?, member.position);
        let local = <&UserId>::try_from(user_id)
            .is_ok_and(|user_id| user_id.server_name() == cx.settings.identity.server_name());
        let before = store::members::set(tx, user_id, membership.as_str(), position, local)?;
        let moved = MemberMoved { user: user_id.to_owned(), before, now: membership.clone() };
        cx.room.members.borrow_mut().push(moved);
        if !local {
            return Ok(());
        }
        let joined = membership == MembershipState::Join;
        if !joined && let Ok(user_id) = user_id.try_into() {
            cx.room.typing.borrow_mut().push((user_id, None));
        }
        cx.room.followers.borrow_mut().push((user_id.to_owned(), joined, position));
        owe_membership(tx, cx, user_id, member)
    }
}

/// Owes a local user what this membership event makes of them.
pub(super) fn owe_membership(tx: &Tx<'_>, cx: &Cx<'_>, user_id: &str, member: &Logged) -> Result<(), Error> {
    let Logged { position, pdu, txn, redacted_by: _ } = member;
    let membership = membership_of(pdu)?;
    // A name that a client gave itself in this room alone is not the profile's to correct.
    let shows_profile = membership == MembershipState::Join && transactions::shows_profile(txn.as_deref());
    let profile = shows_profile.then(|| pdu.content_as().unwrap_or_default());
    let stripped_state = match membership {
        MembershipState::Invite | MembershipState::Knock => stripped_state(&**tx, pdu)?,
        _ => Vec::new(),
    };
    let predecessor = if membership == MembershipState::Join { predecessor(&**tx)? } else { None };
    let room_id = room_id(cx)?;
    let effect = MembershipChanged { room_id, position: *position, membership, profile, stripped_state, predecessor };
    outbox::owe(tx, cx, user_id, &effect, true)
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

/// Refused: `Forbidden` for an invitation to another server, as long as we do not federate.
fn check_invitation(cx: &Cx<'_>, draft: &Draft) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct Content {
        membership: String,
    }
    let target = draft.state_key.as_deref().and_then(|user| <&UserId>::try_from(user).ok());
    let remote = target.is_some_and(|user| user.server_name() != cx.settings.identity.server_name());
    let invites = || serde_json::from_str::<Content>(draft.content.get()).is_ok_and(|it| it.membership == "invite");
    if remote && invites() {
        return Err(Refusal::Forbidden("this server does not federate: it cannot invite to another".to_owned()));
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

fn stripped_state(sql: &dyn Sql, membership: &Pdu) -> Result<Vec<Box<RawValue>>, Fault> {
    let mut stripped = Vec::with_capacity(STRIPPED_STATE.len().saturating_add(2));
    for event_type in STRIPPED_STATE {
        if let Some(event) = store::state::current(sql, event_type, "")? {
            let json = event::stripped_json(&event.pdu);
            // Invitations lie in the user's own storage: whoever invites must not fill it.
            if json.get().len() <= STRIPPED_EVENT_BYTES_MAX || event_type == "m.room.create" {
                stripped.push(json);
            }
        }
    }
    // Who invites: clients show their name.
    if membership.state_key() != Some(membership.sender().as_str())
        && let Some(event) = store::state::current(sql, "m.room.member", membership.sender().as_str())?
    {
        stripped.push(event::stripped_json(&event.pdu));
    }
    stripped.push(event::stripped_json(membership));
    Ok(stripped)
}

fn reference(pdu: &Pdu, version: &RoomVersion) -> Result<EventRef, Fault> {
    event::reference(pdu, version).map_err(|error| Fault::new(format!("a stored event: {error}")))
}

/// The part of the current state that decides whether an event may happen.
struct AuthState {
    /// The events the new one names.
    selected: Vec<Pdu>,
    state: HashMap<(StateEventType, String), Pdu>,
}

impl AuthState {
    fn load(sql: &dyn Sql, version: &RoomVersion, draft: &Draft) -> Result<Self, Error> {
        let mut loaded = Self { selected: Vec::new(), state: HashMap::new() };
        for key in auth::needed_for(draft, version)? {
            if let Some(event) = store::state::current(sql, &key.0.to_string(), &key.1)? {
                loaded.selected.push(event.pdu.clone());
                loaded.state.insert(key, event.pdu);
            }
        }
        // Since v12 the create event is implied by the room id, and still decides.
        let create = (StateEventType::RoomCreate, String::new());
        if !loaded.state.contains_key(&create)
            && let Some(event) = store::state::current(sql, "m.room.create", "")?
        {
            loaded.state.insert(create, event.pdu);
        }
        Ok(loaded)
    }

    fn get(&self, event_type: &StateEventType, state_key: &str) -> Option<Pdu> {
        self.state.get(&(event_type.clone(), state_key.to_owned())).cloned()
    }

    fn references(&self, version: &RoomVersion) -> Result<Vec<EventRef>, Fault> {
        self.selected.iter().map(|pdu| reference(pdu, version)).collect()
    }
}
