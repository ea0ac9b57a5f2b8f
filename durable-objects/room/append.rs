//! Appending an event: the one way anything gets into the log.
//!
//! Guarantees: the event is built on the newest event, authorised by the current state, hashed and signed; its
//! position is new; the current state, its history and the memberships move with it; whoever must learn of a
//! changed membership is owed that, in the same transaction.

use std::collections::{BTreeMap, HashMap};

use domain::{
    Pdu, Refusal, RoomVersion, auth,
    event::{self, Draft, EventRef, Place},
};
use platform::{Fault, Sql, Tx};
use ruma_common::{OwnedRoomId, RoomId, UserId};
use ruma_events::{StateEventType, TimelineEventType, room::member::MembershipState};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{Room, store};
use crate::{Call, Cx, Error, outbox, user::MembershipChanged};

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
    (name == MembershipChanged::NAME).then_some(MembershipChanged::NAME)
}

pub(super) fn room_id(cx: &Cx<'_>) -> Result<OwnedRoomId, Error> {
    Ok(RoomId::parse(cx.id).map_err(|_| Fault::new("a room has an id that is none"))?)
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
        if draft.event_type == TimelineEventType::RoomMember {
            check_member(cx, draft)?;
        }
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
        if *pdu.event_type() == TimelineEventType::RoomMember {
            self.move_member(tx, cx, pdu, state_key, position)?;
        }
        Ok(())
    }

    fn move_member(&self, tx: &Tx<'_>, cx: &Cx<'_>, pdu: &Pdu, user_id: &str, position: u64) -> Result<(), Error> {
        let membership = membership_of(pdu)?;
        let local = <&UserId>::try_from(user_id)
            .is_ok_and(|user_id| user_id.server_name() == cx.settings.identity.server_name());
        store::members::set(tx, user_id, membership.as_str(), position, local)?;
        cx.room.members_changed.set(true);
        if !local {
            return Ok(());
        }
        let joined = membership == MembershipState::Join;
        if !joined && let Ok(user_id) = user_id.try_into() {
            cx.room.typing.borrow_mut().push((user_id, None));
        }
        cx.room.followers.borrow_mut().push((user_id.to_owned(), joined, position));
        owe_membership(tx, cx, user_id, pdu, position)
    }
}

/// Owes a local user what this membership event makes of them.
pub(super) fn owe_membership(tx: &Tx<'_>, cx: &Cx<'_>, user_id: &str, pdu: &Pdu, position: u64) -> Result<(), Error> {
    let membership = membership_of(pdu)?;
    let profile = (membership == MembershipState::Join).then(|| pdu.content_as().unwrap_or_default());
    let stripped_state = match membership {
        MembershipState::Invite | MembershipState::Knock => stripped_state(&**tx, pdu)?,
        _ => Vec::new(),
    };
    let effect = MembershipChanged { room_id: room_id(cx)?, position, membership, profile, stripped_state };
    outbox::owe(tx, cx, user_id, &effect, true)
}

/// What the rules of authorisation leave to the server that signs a membership.
///
/// Refused: `BadJson` for a restricted join that names who let them in, which is the server's to say, not the client's;
/// `Forbidden` for an invitation to another server, as long as we do not federate.
fn check_member(cx: &Cx<'_>, draft: &Draft) -> Result<(), Refusal> {
    let content: BTreeMap<String, Value> = serde_json::from_str(draft.content.get())
        .map_err(|error| Refusal::BadJson(format!("the content of m.room.member: {error}")))?;
    if content.contains_key("join_authorised_via_users_server") {
        return Err(Refusal::BadJson("`join_authorised_via_users_server` is not a client's to set".to_owned()));
    }
    let target = draft.state_key.as_deref().and_then(|user| <&UserId>::try_from(user).ok());
    let remote = target.is_some_and(|user| user.server_name() != cx.settings.identity.server_name());
    if remote && content.get("membership").and_then(Value::as_str) == Some("invite") {
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
