//! What is kept, for a user, of what a room that they are not in looks like: invitations come from anybody, also of rooms
//! that are not there, and must not fill the user's storage, nor the answer of their next sync.
//! Spec: "Stripped state".

use platform::{Fault, Sql};
use serde::Deserialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::store;

/// The largest event, in bytes, but for the create event and the membership itself.
pub(crate) const SHOWN_EVENT_BYTES_MAX: usize = 4 * 1024;
/// As that, for the create event and the membership itself: without them it is no room, and no invitation.
const FIRST_BYTES_MAX: usize = 8 * 1024;
/// All events of a room, in bytes.
const ROOM_BYTES_MAX: usize = 32 * 1024;
/// When a user has more invitations than this, less is kept of the next ones.
const WHOLE_MAX: u64 = if cfg!(test) { 3 } else { 100 };
/// All events of one of those, in bytes.
const BRIEF_BYTES_MAX: usize = 2 * 1024;
/// The most invitations that a user has at a time.
pub(super) const INVITATIONS_MAX: u64 = if cfg!(test) { 6 } else { 1_000 };

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    event_type: String,
    state_key: String,
    sender: String,
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    membership: Option<String>,
}

/// Of stripped events as much as is kept, in their order.
pub(super) fn kept(sql: &dyn Sql, user_id: &str, events: Vec<Box<RawValue>>) -> Result<Vec<Box<RawValue>>, Fault> {
    let is_brief = store::rooms::count(sql, "invite", WHOLE_MAX)? >= WHOLE_MAX;
    bounded(user_id, events, if is_brief { BRIEF_BYTES_MAX } else { ROOM_BYTES_MAX })
}

fn bounded(user_id: &str, events: Vec<Box<RawValue>>, bytes_max: usize) -> Result<Vec<Box<RawValue>>, Fault> {
    let mut left = bytes_max;
    let mut kept: Vec<(usize, Box<RawValue>)> = Vec::new();
    let mut later = Vec::new();
    for (place, event) in events.into_iter().enumerate() {
        let Ok(head) = serde_json::from_str::<Head>(event.get()) else { continue };
        let is_own = head.event_type == "m.room.member" && head.state_key == user_id;
        if !is_own && head.event_type != "m.room.create" {
            later.push((place, event));
            continue;
        }
        let most = FIRST_BYTES_MAX.min(left);
        let event = if is_own && event.get().len() > most { in_short(&head)? } else { event };
        if event.get().len() <= most {
            left = left.saturating_sub(event.get().len());
            kept.push((place, event));
        }
    }
    for (place, event) in later {
        let bytes = event.get().len();
        if bytes <= SHOWN_EVENT_BYTES_MAX && bytes <= left {
            left = left.saturating_sub(bytes);
            kept.push((place, event));
        }
    }
    kept.sort_by_key(|(place, _)| *place);
    Ok(kept.into_iter().map(|(_, event)| event).collect())
}

/// A membership without its sender's words.
fn in_short(head: &Head) -> Result<Box<RawValue>, Fault> {
    Ok(to_raw_value(&json!({
        "type": head.event_type,
        "state_key": head.state_key,
        "sender": head.sender,
        "content": { "membership": head.content.membership },
    }))?)
}

#[cfg(test)]
mod tests {
    use domain::Refusal;
    use platform::Sql;
    use ruma_events::room::member::MembershipState;
    use serde_json::{
        Value, json,
        value::{RawValue, to_raw_value},
    };

    use super::{BRIEF_BYTES_MAX, FIRST_BYTES_MAX, INVITATIONS_MAX, ROOM_BYTES_MAX, WHOLE_MAX, bounded};
    use crate::{
        CallError,
        user::{AskInvite, Create, MembershipChanged},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn event(event_type: &str, state_key: &str, bytes: usize) -> Box<RawValue> {
        let content = json!({ "membership": "invite", "x": "x".repeat(bytes) });
        let event =
            json!({ "type": event_type, "state_key": state_key, "sender": "@bob:there.test", "content": content });
        to_raw_value(&event).unwrap()
    }

    fn types(events: &[Box<RawValue>]) -> Vec<String> {
        let read = |event: &RawValue| serde_json::from_str::<Value>(event.get()).unwrap()["type"].clone();
        events.iter().map(|event| read(event).as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_matters_most_is_kept_first_and_in_its_place() {
        let many = (0..50).map(|number| event(&format!("m.{number:02}"), "", 3_000));
        let events: Vec<_> = [event("m.large", "", 5_000), event("m.room.name", "", 10)]
            .into_iter()
            .chain(many)
            .chain([event("m.room.create", "", 5_000), event("m.room.member", ALICE, 5_000)])
            .collect();
        let kept = bounded(ALICE, events.clone(), ROOM_BYTES_MAX).unwrap();
        assert!(kept.iter().map(|event| event.get().len()).sum::<usize>() <= ROOM_BYTES_MAX);
        let names = types(&kept);
        assert_eq!((&*names[0], &*names[1]), ("m.room.name", "m.00"));
        assert_eq!(names[names.len() - 2..], ["m.room.create", "m.room.member"]);
        // Less of it where there is less room; who invites is always known.
        let brief = bounded(ALICE, events, BRIEF_BYTES_MAX).unwrap();
        assert_eq!(types(&brief), ["m.room.name", "m.room.member"]);
        let own: Value = serde_json::from_str(brief[1].get()).unwrap();
        assert_eq!((&own["sender"], &own["content"]), (&json!("@bob:there.test"), &json!({ "membership": "invite" })));
        let large =
            vec![event("m.room.create", "", FIRST_BYTES_MAX), event("m.room.member", "@bob:there.test", 60_000)];
        assert!(bounded(ALICE, large, ROOM_BYTES_MAX).unwrap().is_empty());
        assert!(bounded(ALICE, vec![to_raw_value(&1).unwrap()], ROOM_BYTES_MAX).unwrap().is_empty());
    }

    #[test]
    fn invitations_fill_no_account() {
        let world = World::new(1);
        let create = Create { password_hash: Some("h".to_owned()), call_id: "a".to_owned(), ..Create::default() };
        world.call(ALICE, &create).unwrap();
        let changes = |number: u64, membership: MembershipState| {
            let call = MembershipChanged {
                room_id: format!("!{number}:there.test").try_into().unwrap(),
                position: if membership == MembershipState::Invite { 10 } else { 20 },
                membership,
                event_id: None,
                profile: None,
                stripped_state: vec![event("m.room.name", "", 3_000), event("m.room.member", ALICE, 10)],
                predecessor: None,
            };
            world.call(ALICE, &call).unwrap();
        };
        let bytes = |number: u64| {
            let sql = world.sql(&platform::Address::new(platform::ActorKind::User, ALICE));
            let row = sql.query("SELECT length(stripped_state) FROM room WHERE number = ?1", &[number.into()]);
            row.unwrap().pop().unwrap().unsigned(0).unwrap()
        };
        for number in 1..=INVITATIONS_MAX {
            assert!(world.call(ALICE, &AskInvite {}).is_ok());
            changes(number, MembershipState::Invite);
            assert_eq!(bytes(number) > 2_000, number <= WHOLE_MAX, "{number}");
        }
        let refused = world.call(ALICE, &AskInvite {});
        assert!(matches!(refused, Err(CallError::Refused(Refusal::Forbidden(_)))), "{refused:?}");
        changes(1, MembershipState::Leave);
        assert!(world.call(ALICE, &AskInvite {}).is_ok());
    }
}
