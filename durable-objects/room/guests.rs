//! Guests of this server: they join where guests may, and stay as long as that is so. Who is one, the request tier
//! says; other servers' guests are theirs to look after. Spec: "Guest Access".

use domain::{Refusal, event::Draft};
use platform::{ActorKind, Sql, Tx};
use ruma_common::OwnedUserId;
use ruma_events::TimelineEventType;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{MemberProfile, MembershipAction, Room, change_membership::membership_content, store};
use crate::{Call, Cx, Error, schedule};

/// The schedule's name for guests who are to go.
pub(super) const DUE: &str = "guests";
/// Guests who go in one transaction.
const SLICE_GUESTS: u64 = if cfg!(test) { 5 } else { 50 };
/// How long the room rests between two slices, in milliseconds.
const NEXT_SLICE_MS: u64 = 200;
/// Where it is kept among the small facts who of them went last.
const EXPELLED: &str = "expelled_guest";

/// A guest became a user like any other, who stays whatever becomes of guests.
#[derive(Debug, Serialize, Deserialize)]
pub struct GuestUpgraded {
    pub user: OwnedUserId,
}

impl Call for GuestUpgraded {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "guest_upgraded";
    type Reply = ();
}

impl Room {
    pub(super) fn guest_upgraded(&self, tx: &Tx<'_>, _cx: &Cx<'_>, call: GuestUpgraded) -> Result<(), Error> {
        Ok(store::members::set_guest(tx, call.user.as_str(), false)?)
    }

    /// Takes the guests out of a room that no longer lets them in: the first ones with the event that says so, and the
    /// rest by the alarm, in slices, as each has an event of their own. Nobody comes meanwhile.
    ///
    /// Spec: "If the `m.room.guest_access` event is changed to stop this from being the case, the server MUST set those
    /// users' `m.room.member` state to `leave`."
    pub(super) fn expel_guests(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        self.expel_guests_after(tx, cx, "")
    }

    /// It is time that more of them go.
    pub(super) fn expel_more_guests(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let last = store::meta::text(&**tx, EXPELLED)?.unwrap_or_default();
        self.expel_guests_after(tx, cx, &last)
    }

    fn expel_guests_after(&self, tx: &Tx<'_>, cx: &Cx<'_>, last: &str) -> Result<(), Error> {
        let may_stay = guests_may_join(&**tx)?;
        let guests = if may_stay { Vec::new() } else { store::members::guests(&**tx, last, SLICE_GUESTS)? };
        for guest in &guests {
            self.expel(tx, cx, guest)?;
        }
        match guests.last() {
            // One whose event waits to be signed is there still, and not to be asked again.
            Some(last) if guests.len() as u64 == SLICE_GUESTS => {
                store::meta::set(tx, EXPELLED, last.as_str().into())?;
                schedule::at(tx, cx, DUE, cx.now_ms.saturating_add(NEXT_SLICE_MS))?;
            }
            _ if !last.is_empty() => store::meta::forget(tx, EXPELLED)?,
            _ => {}
        }
        Ok(())
    }

    fn expel(&self, tx: &Tx<'_>, cx: &Cx<'_>, guest: &str) -> Result<(), Error> {
        let Ok(guest) = OwnedUserId::try_from(guest) else { return Ok(()) };
        let draft = Draft {
            event_type: TimelineEventType::RoomMember,
            content: membership_content(MembershipAction::Leave, &MemberProfile::default(), None)?,
            state_key: Some(guest.to_string()),
            sender: guest,
            redacts: None,
        };
        match self.authorised(&**tx, cx, &draft) {
            Ok(pdu) => self.insert_unattended(tx, cx, pdu, None),
            // What is not allowed to one of them is in no other's way, nor in the room's.
            Err(Error::Refused(refusal)) => {
                warn!(room = cx.id, %refusal, "a guest stays");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Refuses a guest where guests may not join, with `GuestAccessForbidden`.
pub(super) fn check_guest_access(sql: &dyn Sql) -> Result<(), Error> {
    if guests_may_join(sql)? { Ok(()) } else { Err(Refusal::GuestAccessForbidden.into()) }
}

fn guests_may_join(sql: &dyn Sql) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Content {
        guest_access: String,
    }
    let event = store::state::current(sql, "m.room.guest_access", "")?;
    let content = event.and_then(|event| event.pdu.content_as::<Content>().ok());
    Ok(content.is_some_and(|content| content.guest_access == "can_join"))
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use platform::{ActorKind, Address, Sql};
    use ruma_common::{UserId, user_id};
    use serde_json::json;

    use super::SLICE_GUESTS;
    use crate::{
        room::{ChangeMembership, MembershipAction},
        world::World,
    };

    #[test]
    fn many_guests_go_in_slices() {
        let (world, alice) = (World::new(1), user_id!("@alice:myelin.test"));
        let room_id = world.creates_room(alice, "12", Preset::PublicChat);
        let room = Address::new(ActorKind::Room, room_id.as_str());
        let says = |access: &str| {
            let content = json!({ "guest_access": access });
            world.sends(alice, &room_id, "m.room.guest_access", Some(""), &content).unwrap();
        };
        let inside = || {
            let statement = "SELECT count(*) FROM member WHERE guest = 1 AND membership = 'join'";
            world.sql(&room).query(statement, &[]).unwrap()[0].unsigned(0).unwrap()
        };
        let total = SLICE_GUESTS * 3 + 2;
        says("can_join");
        for number in 0..total {
            let guest = UserId::parse(format!("@{number:03}:myelin.test")).unwrap();
            let join = ChangeMembership::new(number.to_string(), guest.clone(), guest, MembershipAction::Join);
            world.call(room_id.as_str(), &ChangeMembership { guest: true, ..join }).unwrap();
        }
        world.settle();
        // One of them may not leave, as the state knows nothing of them. The others go all the same, and so does the
        // room.
        let unknown = "UPDATE member SET user_id = '@001x:myelin.test' WHERE user_id = '@001:myelin.test'";
        world.sql(&room).query(unknown, &[]).unwrap();
        says("forbidden");
        assert_eq!(inside(), total - SLICE_GUESTS + 1);
        world.evict(&room);
        world.passes(1_000);
        assert_eq!(inside(), total - SLICE_GUESTS * 2 + 1);
        // Those who are there still stay, if that is allowed again meanwhile.
        says("can_join");
        world.passes(1_000);
        assert_eq!(inside(), total - SLICE_GUESTS * 2 + 1);
        says("forbidden");
        (0..5).for_each(|_| world.passes(1_000));
        assert_eq!(inside(), 1);
        let left = world.sql(&room).query("SELECT 1 FROM due WHERE what = 'guests'", &[]).unwrap();
        assert!(left.is_empty());
    }
}
