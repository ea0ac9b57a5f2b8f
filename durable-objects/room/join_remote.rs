//! A room of other servers, which a user of ours joins through one that is in it.
//!
//! That server answers the join with the whole state before it and the auth chain of that. The request tier checks
//! these and brings them in slices ([`super::staging`]); nothing shows of them until [`CompleteJoin`] makes them the
//! state of the room, with the join as the newest event, in one transaction. What that server says of the room's
//! version holds until then: the event that made the room has to say the same. Where nobody of ours was in the room any
//! more, its old state gives way: it knows less than the new one. Where somebody is, the state that came counts for
//! what is not here, as with any event.
//! Spec: Server-Server API, "Joining Rooms".

use std::collections::BTreeMap;

use domain::{Pdu, Refusal, RoomVersion, event};
use platform::{ActorKind, Fault, Tx};
use ruma_common::{OwnedEventId, UserId};
use serde::{Deserialize, Serialize};

use super::{
    CheckedEvent, Needs, ReceiveEvent, Received, Room,
    append::follow_state,
    graph::StateAt,
    history::begin_edge,
    omitted_members::{self, OmittedMembers},
    state::MEMBER,
    store::{self, graph::Key, history::Edge},
    transactions,
};
use crate::{Call, Cx, Error};

const CREATE: &str = "m.room.create";

/// Keys of the state that are written by one statement.
const STATE_AT_ONCE: usize = 1_000;

/// Makes the room ready to hold what comes with a join.
///
/// Refused: `UnsupportedRoomVersion`, and `Unknown` where the room is held with another version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BeginJoin {
    pub room_version: String,
    /// The name under which events are staged.
    pub join: String,
}

impl Call for BeginJoin {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "begin_join";
    type Reply = ();
}

/// The join happened: another server took it into the room.
///
/// [`Received::Rejected`]: the state told with it does not allow it, or is of a room of another version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompleteJoin {
    pub call_id: String,
    /// The join, as that server has it.
    pub event: CheckedEvent,
    /// The name under which the state before it is staged.
    pub join: String,
    /// Said instead of the members where the answer left them out, and of what could not be checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<OmittedMembers>,
}

impl Call for CompleteJoin {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "complete_join";
    type Reply = Received;
}

/// Nothing comes of a join any more. Repeated, and for one that is complete, it changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GiveUpJoin {
    pub join: String,
}

impl Call for GiveUpJoin {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "give_up_join";
    type Reply = ();
}

impl Room {
    pub(super) fn begin_join(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: BeginJoin) -> Result<(), Error> {
        let version = RoomVersion::parse(&call.room_version)?;
        // The id says which of the two kinds it is, whatever another server says.
        if version.room_id_is_create_event() == cx.id.contains(':') {
            let sentence = format!("A room with this id does not have version {}", version.as_str());
            return Err(Refusal::Unknown(sentence).into());
        }
        match store::meta::text(&**tx, "version")? {
            Some(known) if known == version.as_str() => {}
            Some(known) => {
                // Somebody said so with whom no join came about. What was held on their word goes with it.
                let is_believed = store::log::head(&**tx)?.is_some();
                if is_believed || self.is_another_staged(&**tx, cx, &call.join)? {
                    return Err(Refusal::Unknown(format!("The room is known to have version {known}")).into());
                }
                store::graph::forget_beside(tx)?;
                store::inbox::clear(tx)?;
                store::meta::set(tx, "version", version.as_str().into())?;
                *self.version.borrow_mut() = None;
            }
            None => store::meta::set(tx, "version", version.as_str().into())?,
        }
        self.begin_stage(tx, cx, &call.join)
    }

    pub(super) fn give_up_join(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: GiveUpJoin) -> Result<(), Error> {
        self.end_stage(tx, &call.join)?;
        self.nothing_is_joined(tx, cx)
    }

    pub(super) fn complete_join(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: CompleteJoin) -> Result<Received, Error> {
        let CompleteJoin { call_id, event, join, mut omitted } = call;
        if store::graph::by_id(&**tx, &event.event_id)?.is_some_and(|node| node.is_in_log()) {
            return Ok(Received::Accepted);
        }
        let state = self.staged_state(&**tx, &join)?;
        if let Some(omitted) = omitted.as_mut().filter(|omitted| !omitted.unchecked.is_empty()) {
            omitted.unchecked.extend(self.staged_in_vain(&**tx, &join)?);
        }
        omitted = omitted
            .filter(|omitted| omitted.unchecked.is_empty() || omitted_members::is_state_among(&omitted.unchecked));
        let received = self.complete(tx, cx, &call_id, event, (state, omitted))?;
        // Whatever became of it, nothing more comes of this answer.
        self.end_stage(tx, &join)?;
        if received == Received::Accepted {
            self.take_in_what_came(tx, cx)?;
        } else {
            self.nothing_is_joined(tx, cx)?;
        }
        Ok(received)
    }

    fn complete(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        call_id: &str,
        event: CheckedEvent,
        (state, omitted): (Vec<OwnedEventId>, Option<OmittedMembers>),
    ) -> Result<Received, Error> {
        let txn = transactions::of_membership(call_id);
        if !store::members::joined_locals(&**tx, 1)?.is_empty() {
            // Somebody else of ours is in the room: it is one more event from elsewhere. A state without members says
            // nothing.
            let state_before = omitted.is_none_or(|omitted| !omitted.unchecked.is_empty()).then_some(state);
            let receive = ReceiveEvent { state_before, ..ReceiveEvent::of(event) };
            return Ok(match self.receive(tx, cx, receive, Some(&txn))? {
                Received::Needs(Needs { refused: Some(rule), .. }) => Received::Rejected(rule),
                received => received,
            });
        }
        let pdu = event.pdu(cx)?;
        let auth_events = self.missing_authorisation(&**tx, cx, &pdu)?;
        if !auth_events.is_empty() {
            return Ok(Received::Needs(Needs { auth_events, ..Needs::default() }));
        }
        let head = self.log_end(&**tx, cx)?;
        let mut before = StateAt::told(&**tx, head, &state)?;
        if omitted.is_some() {
            before = omitted_members::with_named(&**tx, before, &pdu)?;
        }
        let create = before.event(&**tx, CREATE, "")?;
        if let Some(said) = create.and_then(|create| event::version_made_with(&create))
            && said != self.version(&**tx)?.as_str()
        {
            return Ok(Received::Rejected(format!(
                "the room was made with version {said:?}, not with the one it was told"
            )));
        }
        if let Err(refusal) = self.check(&**tx, cx, &pdu, &before)? {
            return Ok(Received::Rejected(refusal.to_string()));
        }
        let floor = self.keep_free(&**tx, cx)?;
        let position = self.log(tx, cx, &pdu, Some(&txn))?;
        store::graph::set_extremities(tx, None)?;
        let mut changes = before.into_changes();
        if omitted.is_some() {
            // Of whom nothing is said what was last known holds until it is.
            changes.retain(|key, event| event.is_some() || key.0 != MEMBER);
        }
        self.state_is_found(tx, cx, &pdu, (floor, position), changes)?;
        let missing = store::history::not_in_graph(&**tx, pdu.prev_events())?;
        begin_edge(tx, Edge { position, floor, place: position })?;
        store::graph::insert_gap(tx, &missing, position)?;
        omitted_members::note(tx, cx, pdu.event_id().to_owned(), (floor, position), omitted)?;
        Ok(Received::Accepted)
    }

    /// Makes what came of a state the room's from `floor` on, for those who read on from before `position`.
    pub(super) fn place_found(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        found: &[(Key, Option<OwnedEventId>)],
        (floor, position): (u64, u64),
    ) -> Result<(), Error> {
        for slice in found.chunks(STATE_AT_ONCE) {
            let entries: Vec<_> = slice.iter().map(|((event_type, key), event)| (event_type, key, event)).collect();
            let entries = serde_json::to_string(&entries)?;
            store::stage::set_state(tx, &entries, floor)?;
            store::stage::set_members(tx, &entries, position)?;
        }
        store::stage::count_servers(tx, position)?;
        self.forget_company();
        for (event_type, state_key) in found.iter().map(|(key, _)| key).filter(|key| key.1.is_empty()) {
            follow_state(tx, cx, event_type, state_key)?;
        }
        self.appservices_see_aliases(tx, cx, position)?;
        if found.iter().any(|(key, _)| key.0 == "m.room.guest_access") {
            self.expel_guests(tx, cx)?;
        }
        Ok(())
    }

    /// The state before a join becomes the room's, from `floor` on, and the join at its `position`.
    fn state_is_found(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        join: &Pdu,
        (floor, position): (u64, u64),
        changes: BTreeMap<Key, Option<OwnedEventId>>,
    ) -> Result<(), Error> {
        let own = (join.event_type().to_string(), join.state_key().unwrap_or_default().to_owned());
        let is_told_later = |key: &Key| {
            let user = <&UserId>::try_from(key.1.as_str()).ok().filter(|_| key.0 == MEMBER);
            user.is_some_and(|user| cx.is_local(user))
        };
        // Users of ours learn of what became of them when it came here.
        let (mut later, before): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(key, _)| is_told_later(key));
        self.place_found(tx, cx, &before, (floor, position))?;
        // Their Destinations are to know that the room is shared, also before anything is said in it.
        cx.room.servers.borrow_mut().extend(store::servers::joined(&**tx)?);
        if let Some(index) = later.iter().position(|(key, _)| *key == own)
            && let (key, Some(event_id)) = later.swap_remove(index)
        {
            let held = store::graph::by_id(&**tx, &event_id)?;
            let held = held.ok_or_else(|| Fault::new("an event of a state is not held"))?;
            store::state::set(tx, &key.0, &key.1, floor, Some(held.number))?;
        }
        later.push((own, Some(join.event_id().to_owned())));
        self.state_changes(tx, cx, position, later)
    }
}
