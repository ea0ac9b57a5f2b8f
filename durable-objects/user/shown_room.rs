//! What is kept, for a user, of what a room that they are not in looks like: invitations come from anybody, also of
//! rooms that are not there, and must not fill the user's storage, nor the answer of their next sync.
//! Spec: "Stripped state".

use std::collections::BTreeMap;

use platform::{Fault, Sql};
use serde::Deserialize;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use super::store;

/// The largest event, in bytes, but for the create event and the membership itself.
pub(crate) const SHOWN_EVENT_BYTES_MAX: usize = 4 * 1024;
/// As that, for the create event and the membership itself: without them it is no room, and no invitation. Of larger
/// ones less is kept.
const FIRST_BYTES_MAX: usize = 8 * 1024;
/// All events of a room, in bytes.
const ROOM_BYTES_MAX: usize = 32 * 1024;
/// When a user has more invitations than this, less is kept of the next ones.
const WHOLE_MAX: u64 = if cfg!(test) { 3 } else { 100 };
/// All events of one of those, in bytes.
const BRIEF_BYTES_MAX: usize = 2 * 1024;
/// The most invitations that a user has at a time.
pub(super) const INVITATIONS_MAX: u64 = if cfg!(test) { 6 } else { 1_000 };

/// What of a create event matters from outside.
const OF_CREATE: [&str; 4] = ["type", "room_version", "m.federate", "predecessor"];
/// What of a membership matters.
const OF_MEMBERSHIP: [&str; 1] = ["membership"];

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    event_type: String,
    state_key: String,
    sender: String,
    content: Map<String, Value>,
}

/// Of stripped events as much as is kept, in their order.
pub(super) fn kept(sql: &dyn Sql, user_id: &str, events: Vec<Box<RawValue>>) -> Result<Vec<Box<RawValue>>, Fault> {
    let is_brief = store::rooms::count(sql, "invite", WHOLE_MAX)? >= WHOLE_MAX;
    bounded(user_id, events, if is_brief { BRIEF_BYTES_MAX } else { ROOM_BYTES_MAX })
}

/// The event that ended an invitation or a knock, as clients see it.
pub(super) fn kept_end(event: &RawValue) -> Result<String, Fault> {
    if event.get().len() <= SHOWN_EVENT_BYTES_MAX {
        return Ok(event.get().to_owned());
    }
    let mut event: Map<String, Value> = serde_json::from_str(event.get())?;
    event.retain(|field, _| field != "unsigned");
    if let Some(Value::Object(content)) = event.get_mut("content") {
        content.retain(|field, _| OF_MEMBERSHIP.contains(&&**field));
    }
    Ok(serde_json::to_string(&event)?)
}

fn bounded(user_id: &str, events: Vec<Box<RawValue>>, bytes_max: usize) -> Result<Vec<Box<RawValue>>, Fault> {
    let mut read: Vec<(Head, Box<RawValue>)> = Vec::new();
    for event in events {
        read.extend(serde_json::from_str(event.get()).ok().map(|head| (head, event)));
    }
    // The invitation itself comes last: what is before it is only what the inviting server says.
    let own = read.iter().rposition(|(head, _)| head.event_type == "m.room.member" && head.state_key == user_id);
    let create = read.iter().position(|(head, _)| head.event_type == "m.room.create" && head.state_key.is_empty());
    let mut left = bytes_max;
    let mut kept = BTreeMap::new();
    for (place, fields) in [(own, OF_MEMBERSHIP.as_slice()), (create, &OF_CREATE)] {
        let Some((place, (head, event))) = place.and_then(|place| Some((place, read.get(place)?))) else { continue };
        let is_large = event.get().len() > FIRST_BYTES_MAX.min(left / 2);
        let event = if is_large { in_short(head, fields)? } else { event.clone() };
        let bytes = event.get().len();
        if bytes <= left {
            left = left.saturating_sub(bytes);
            kept.insert(place, event);
        }
    }
    for (place, (_, event)) in read.into_iter().enumerate() {
        let bytes = event.get().len();
        let is_first = Some(place) == own || Some(place) == create;
        if !is_first && bytes <= SHOWN_EVENT_BYTES_MAX.min(left) {
            left = left.saturating_sub(bytes);
            kept.insert(place, event);
        }
    }
    Ok(kept.into_values().collect())
}

/// An event with these fields of its content only.
fn in_short(head: &Head, fields: &[&str]) -> Result<Box<RawValue>, Fault> {
    let content: BTreeMap<_, _> = head.content.iter().filter(|(field, _)| fields.contains(&&***field)).collect();
    Ok(to_raw_value(&json!({
        "type": head.event_type,
        "state_key": head.state_key,
        "sender": head.sender,
        "content": content,
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

    use super::{BRIEF_BYTES_MAX, FIRST_BYTES_MAX, INVITATIONS_MAX, ROOM_BYTES_MAX, WHOLE_MAX, bounded, kept_end};
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

    fn read(event: &RawValue) -> Value {
        serde_json::from_str(event.get()).unwrap()
    }

    fn types(events: &[Box<RawValue>]) -> Vec<String> {
        events.iter().map(|event| read(event)["type"].as_str().unwrap().to_owned()).collect()
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
        // Less of it where there is less room; who invites, and to what, is always known.
        let brief = bounded(ALICE, events, BRIEF_BYTES_MAX).unwrap();
        assert_eq!(types(&brief), ["m.room.name", "m.room.create", "m.room.member"]);
        assert_eq!(read(&brief[1])["content"], json!({}));
        let own = read(&brief[2]);
        assert_eq!((&own["sender"], &own["content"]), (&json!("@bob:there.test"), &json!({ "membership": "invite" })));
        assert!(bounded(ALICE, vec![to_raw_value(&1).unwrap()], ROOM_BYTES_MAX).unwrap().is_empty());
    }

    #[test]
    fn a_room_with_a_large_beginning_is_still_a_room() {
        let content = json!({
            "type": "m.space", "room_version": "12", "m.federate": true, "predecessor": { "room_id": "!a:a" },
            "x": "x".repeat(FIRST_BYTES_MAX),
        });
        let create =
            json!({ "type": "m.room.create", "state_key": "", "sender": "@bob:there.test", "content": content });
        let events = vec![to_raw_value(&create).unwrap(), event("m.room.member", "@bob:there.test", 60_000)];
        let kept = bounded(ALICE, events, ROOM_BYTES_MAX).unwrap();
        let mut short = content;
        short.as_object_mut().unwrap().remove("x");
        assert_eq!((kept.len(), &read(&kept[0])["content"]), (1, &short));
    }

    #[test]
    fn whoever_invites_hides_behind_no_beginnings() {
        for create in [event("m.room.create", "", FIRST_BYTES_MAX - 200), event("m.room.create", "x", 3_000)] {
            let before = [vec![create; 20], vec![event("m.room.member", ALICE, 3_000); 20]].concat();
            for bytes_max in [ROOM_BYTES_MAX, BRIEF_BYTES_MAX] {
                for bytes in [10, 1_900, 7_000, 60_000] {
                    let events = [before.clone(), vec![event("m.room.member", ALICE, bytes)]].concat();
                    let kept = bounded(ALICE, events, bytes_max).unwrap();
                    let last = read(kept.last().unwrap());
                    assert_eq!((&last["type"], &last["state_key"]), (&json!("m.room.member"), &json!(ALICE)));
                    let words = last["content"]["x"].as_str().map_or(bytes, str::len);
                    assert_eq!(words, bytes, "it is the last of them");
                    assert!(kept.iter().map(|event| event.get().len()).sum::<usize>() <= bytes_max);
                }
            }
        }
    }

    #[test]
    fn of_a_large_end_the_membership_is_kept() {
        let end = |reason: String| {
            let content = json!({ "membership": "leave", "reason": reason });
            to_raw_value(&json!({ "type": "m.room.member", "event_id": "$e", "content": content })).unwrap()
        };
        assert_eq!(kept_end(&end("no".to_owned())).unwrap(), end("no".to_owned()).get());
        let short: Value = serde_json::from_str(&kept_end(&end("x".repeat(5_000))).unwrap()).unwrap();
        let content = json!({ "membership": "leave" });
        assert_eq!(short, json!({ "type": "m.room.member", "event_id": "$e", "content": content }));
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
                elsewhere: None,
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
