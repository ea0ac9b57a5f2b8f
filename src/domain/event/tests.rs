//! What we build is what every check accepts, in every room version; what was tampered with is not.

use ruma_common::{CanonicalJsonObject, owned_event_id, server_name};
use ruma_events::{StateEventType, TimelineEventType};
use ruma_signatures::PublicKeyMap;
use serde_json::{Value, json, value::RawValue};

use super::{
    Draft, EventError, NESTING_MAX, Pdu, Unsigned, check, check_old, client_json, complete, countersign, object_of,
    redact, reference, stripped_json, template, version_made_with, with_origin,
};
use crate::{
    Identity, Refusal,
    fixture::{Room, identity, member, message, redaction, state, user, version, versions},
};

fn received(pdu: &Pdu, room: &Room) -> Result<super::Checked, EventError> {
    check(object_of(pdu.json()).unwrap(), &room.version, &identity().public_keys())
}

fn tampered(pdu: &Pdu, change: impl Fn(&mut CanonicalJsonObject)) -> CanonicalJsonObject {
    let mut object = object_of(pdu.json()).unwrap();
    change(&mut object);
    object
}

fn value(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap()
}

#[test]
fn everything_we_build_passes_every_check_in_every_version() {
    for version in versions() {
        let mut room = Room::of_alice(version, [member("alice", "bob", "invite"), member("bob", "bob", "join")]);
        let text = room.send(message("bob", json!({ "body": "héllo \u{1f600}\u{7f}\n", "n": -3, "z": [{}] }))).unwrap();
        room.send(redaction("alice", &text)).unwrap();
        for pdu in room.events.values() {
            let checked = received(pdu, &room).unwrap();
            assert!(!checked.redacted);
            assert_eq!(&checked.pdu, pdu, "version {}", room.version.as_str());
            let stored = Pdu::from_stored(pdu.event_id().to_owned(), pdu.json(), false).unwrap();
            assert_eq!((stored.room_id(), stored.depth()), (room.create.room_id(), pdu.depth()));
            assert_eq!((stored.prev_events(), stored.auth_events()), (pdu.prev_events(), pdu.auth_events()));
        }
    }
}

#[test]
fn events_are_named_in_the_form_of_the_version() {
    for version in versions() {
        let room = Room::of_alice(version, []);
        let pdu = room.build(&message("alice", json!({}))).unwrap();
        let id = room.create.event_id();
        let in_pairs = matches!(room.version.as_str(), "1" | "2");
        let pair = json!([id, { "sha256": "x" }]);
        let other = if in_pairs { json!(id) } else { pair };
        for field in ["prev_events", "auth_events"] {
            for wrong in [other.clone(), json!(7), json!([id]), json!([{}, id])] {
                let object = tampered(&pdu, |object| {
                    object.insert(field.to_owned(), json!([wrong]).try_into().unwrap());
                });
                for outcome in [check, check_old].map(|check| check(object.clone(), &room.version, &Default::default()))
                {
                    let is_malformed = matches!(outcome, Err(EventError::Malformed(_)));
                    assert!(is_malformed, "version {} {field} {wrong}: {outcome:?}", room.version.as_str());
                }
            }
        }
    }
}

#[test]
fn what_is_unsigned_keeps_nobody_from_signing() {
    for version in versions() {
        let room = Room::of_alice(version, []);
        let pdu = room.build(&message("alice", json!({ "body": "I agree" }))).unwrap();
        let mut told = value(&RawValue::from_string(pdu.json().to_owned()).unwrap());
        told["unsigned"] = json!({ "age": 1.5, "n": 1_u64 << 60 });
        let other = Identity::new(server_name!("elsewhere.org").to_owned(), "b", [5; 32]).unwrap();
        let signed = countersign(&serde_json::value::to_raw_value(&told).unwrap(), &room.version, &other).unwrap();
        let mut signed = value(&signed);
        assert_eq!(signed["unsigned"], told["unsigned"]);
        assert!(signed["signatures"]["elsewhere.org"].is_object());
        signed["signatures"].as_object_mut().unwrap().remove("elsewhere.org");
        assert_eq!(signed, told, "nothing else changed");
    }
}

#[test]
fn ids_have_the_form_of_their_version() {
    for version in versions() {
        let number: u8 = version.as_str().parse().unwrap();
        let room = Room::of_alice(version, []);
        let pdu = room.build(&message("alice", json!({}))).unwrap();
        let id = pdu.event_id().as_str();
        let is = (id.ends_with(":example.org"), pdu.json().contains(r#""event_id":"#), id.len());
        let should = if number <= 2 { (true, true, 1 + 24 + 12) } else { (false, false, 1 + 43) };
        assert_eq!(is, should, "version {number}: {id}");
        assert_eq!(room.create.json().contains(r#""room_id":"#), number < 12);
        assert_eq!(
            room.create.room_id().as_str().strip_prefix('!') == room.create.event_id().as_str().strip_prefix('$'),
            number >= 12
        );
    }
}

#[test]
fn a_wrong_hash_comes_back_redacted_and_a_wrong_signature_not_at_all() {
    for version in versions() {
        let room = Room::of_alice(version, []);
        let keys = identity().public_keys();
        let pdu = room.build(&message("alice", json!({ "body": "I agree" }))).unwrap();
        let tamper = |field: &'static str, value: Value| {
            let object = tampered(&pdu, |object| {
                object.insert(field.to_owned(), value.clone().try_into().unwrap());
            });
            check(object, &room.version, &keys)
        };
        let checked = tamper("content", json!({ "body": "I do not agree" })).unwrap();
        assert!(checked.redacted);
        assert_eq!((checked.pdu.content().get(), checked.pdu.event_id()), ("{}", pdu.event_id()));

        // What every version keeps when redacting is signed.
        for (field, value) in [
            ("sender", json!("@mallory:example.org")),
            ("depth", json!(1)),
            ("origin_server_ts", json!(1)),
            ("hashes", json!({ "sha256": "AAAA" })),
            ("signatures", json!({})),
            ("sender", json!("@mallory:elsewhere.org")),
        ] {
            let error = tamper(field, value).unwrap_err();
            assert!(matches!(error, EventError::Signature(_)), "version {} {field}: {error}", room.version.as_str());
        }
        for (field, value) in [
            ("content", json!("text")),
            ("content", json!(null)),
            ("type", json!(7)),
            ("depth", json!(-1)),
            ("prev_events", json!({})),
            ("prev_events", json!(vec!["$x"; 21])),
            ("auth_events", json!(vec!["$x"; 11])),
            ("room_id", json!(null)),
        ] {
            let error = tamper(field, value).unwrap_err();
            assert!(matches!(error, EventError::Malformed(_)), "version {} {field}: {error}", room.version.as_str());
        }
        let unsigned = tamper("unsigned", json!({ "age": 4 })).unwrap();
        assert_eq!(unsigned.pdu, pdu, "`unsigned` is signed by nobody and not kept");
        let nobodys = check(object_of(pdu.json()).unwrap(), &room.version, &Default::default());
        assert!(matches!(nobodys, Err(EventError::Signature(_))));
    }
}

#[test]
fn only_who_lets_a_user_in_signs_besides_the_sender() {
    for version in versions() {
        let number: u8 = version.as_str().parse().unwrap();
        let room = Room::of_alice(version, []);
        let named = |value: Value| json!({ "membership": "join", "join_authorised_via_users_server": value });
        for value in [json!("@a:nowhere.example"), json!("nobody"), json!(5)] {
            for draft in [
                message("alice", named(value.clone())),
                state("alice", "m.room.power_levels", "", named(value.clone())),
            ] {
                let pdu = room.build(&draft).unwrap();
                assert!(!received(&pdu, &room).unwrap().redacted, "version {number}: {value}");
            }
        }
        let join = room.build(&state("bob", "m.room.member", user("bob").as_str(), named(json!("@a:nowhere.example"))));
        let outcome = received(&join.unwrap(), &room);
        assert_eq!(matches!(outcome, Err(EventError::Signature(_))), number >= 8, "version {number}: {outcome:?}");
    }
}

#[test]
fn what_a_wrong_hash_leaves_of_an_event_must_be_signed_by_who_sent_it() {
    for version in versions() {
        let room = Room::of_alice(version, []);
        let invite = room.build(&member("alice", "bob", "invite")).unwrap();
        let unsigned = |third_party_invite: Value| {
            let object = tampered(&invite, |object| {
                let content = json!({ "membership": "invite", "third_party_invite": third_party_invite });
                object.insert("content".to_owned(), content.try_into().unwrap());
                object.insert("signatures".to_owned(), json!({}).try_into().unwrap());
            });
            check(object, &room.version, &PublicKeyMap::new())
        };
        let number: u8 = room.version.as_str().parse().unwrap();
        // In the first versions the server of the event's id signs.
        let outcome = unsigned(json!({}));
        assert!(matches!(outcome, Err(EventError::Signature(_))) || number >= 11, "version {number}: {outcome:?}");
        // Since v11 it still says what it is: the rules of authorisation ask for the signature of who invited.
        let stays = outcome.is_ok_and(|checked| checked.pdu.content().get().contains("third_party_invite"));
        assert_eq!(stays, number >= 11, "version {number}");
    }
}

#[test]
fn an_event_may_have_65536_bytes_and_no_more() {
    for version in versions() {
        let room = Room::of_alice(version, []);
        let filled = |bytes: usize| message("alice", json!({ "body": "x".repeat(bytes) }));
        let empty = room.build(&filled(0)).unwrap().json().len();

        let largest = room.build(&filled(65_536 - empty)).unwrap();
        assert_eq!(largest.json().len(), 65_536);
        assert_eq!(received(&largest, &room).unwrap().pdu, largest);

        for over in [1, 1_000, 1_000_000] {
            let refusal = room.build(&filled(65_536 - empty + over)).unwrap_err();
            assert_eq!((refusal.status(), refusal.errcode()), (413, "M_TOO_LARGE"));
        }
        let with = |field: &str| {
            let more = tampered(&largest, |object| {
                object.insert(field.to_owned(), CanonicalJsonObject::new().into());
            });
            check(more, &room.version, &identity().public_keys())
        };
        assert!(matches!(with("more").unwrap_err(), EventError::TooLarge(_)));
        assert_eq!(with("unsigned").unwrap().pdu, largest, "what is unsigned does not count");
    }
}

#[test]
fn fields_may_have_255_bytes_and_no_more() {
    let room = Room::of_alice(version("12"), []);
    // Bytes count, not characters.
    for (filler, allowed) in [("x".repeat(255), true), ("x".repeat(256), false), ("é".repeat(128), false)] {
        for draft in [state("alice", &filler, "", json!({})), state("alice", "m.x", &filler, json!({}))] {
            let built = room.build(&draft);
            let refused = matches!(built, Err(Refusal::TooLarge(_)));
            assert_eq!((built.is_ok(), refused), (allowed, !allowed), "{built:?}");
        }
    }
}

#[test]
fn what_is_not_canonical_json_is_refused_in_every_version() {
    for version in versions() {
        let room = Room::of_alice(version, []);
        for content in [
            r#"{"n":1.5}"#,
            r#"{"n":1.0}"#,
            r#"{"n":1e3}"#,
            r#"{"n":-0}"#,
            r#"{"n":9007199254740992}"#,
            r#"{"n":[{"deep":-9007199254740992}]}"#,
            r#"[]"#,
            r#""text""#,
            r#"null"#,
        ] {
            let content = RawValue::from_string(content.to_owned()).unwrap();
            let built = room.build(&Draft { content, ..message("alice", json!({})) });
            assert!(matches!(built, Err(Refusal::BadJson(_))), "{built:?}");
        }
        let limits = message("alice", json!({ "max": 9_007_199_254_740_991_i64, "min": -9_007_199_254_740_991_i64 }));
        assert!(room.build(&limits).is_ok());
    }
}

#[test]
fn content_may_be_100_levels_deep_and_no_deeper() {
    let nested = |levels: usize, open: &str, close: &str| {
        // The content itself is the first level.
        let content = format!(r#"{{"a":{}1{}}}"#, open.repeat(levels - 1), close.repeat(levels - 1));
        Draft { content: RawValue::from_string(content).unwrap(), ..message("alice", json!({})) }
    };
    for version in versions() {
        let room = Room::of_alice(version, []);
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let deepest = room.build(&nested(NESTING_MAX, open, close)).unwrap();
            assert_eq!(received(&deepest, &room).unwrap().pdu, deepest);
            assert!(reference(&deepest, &room.version).is_ok());
            let client = client_json(&deepest, &Unsigned::default(), true);
            assert!(serde_json::from_str::<Value>(client.get()).is_ok());
            // The last one is too deep for the parser.
            for levels in [NESTING_MAX + 1, 127, 10_000] {
                let built = room.build(&nested(levels, open, close));
                assert!(matches!(built, Err(Refusal::BadJson(_))), "{levels}: {built:?}");
            }
        }
    }
}

#[test]
fn a_redaction_names_its_victim_where_the_version_wants_it() {
    for version in versions() {
        let number: u8 = version.as_str().parse().unwrap();
        let mut room = Room::of_alice(version, []);
        let victim = room.send(message("alice", json!({ "body": "oops" }))).unwrap();
        let pdu = room.send(redaction("alice", &victim)).unwrap();
        assert_eq!(pdu.redacts(&room.version).as_deref(), Some(victim.event_id()));
        assert_eq!(pdu.content().get().contains("redacts"), number >= 11);
        assert_eq!(victim.redacts(&room.version), None);

        // Clients find it in both places, in every version.
        let client = value(&client_json(&pdu, &Unsigned::default(), false));
        let id = json!(victim.event_id());
        assert_eq!((&client["redacts"], &client["content"]["redacts"]), (&id, &id));
        assert_eq!(client["content"]["reason"], "spam");
    }
}

#[test]
fn redaction_keeps_the_id_and_what_the_version_protects() {
    for version in versions() {
        let number: u8 = version.as_str().parse().unwrap();
        let mut room = Room::of_alice(version, []);
        let text = room.send(message("alice", json!({ "body": "oops" }))).unwrap();
        let because = room.send(redaction("alice", &text)).unwrap();
        let gone = redact(&text, &room.version, Some(&because)).unwrap();
        assert_eq!((gone.event_id(), gone.content().get()), (text.event_id(), "{}"));
        assert_eq!(received(&gone, &room).unwrap().pdu, gone, "redacting twice changes nothing");
        assert_eq!(redact(&because, &room.version, Some(&because)), Err(EventError::NotItsRedaction));

        // Of power levels, `invite` is kept since v11.
        let levels = room.get(&StateEventType::RoomPowerLevels, "").unwrap();
        let kept = value(redact(&levels, &room.version, None).unwrap().content());
        assert_eq!((kept["ban"].is_number(), kept["invite"].is_number()), (true, number >= 11));
        // Of the create event, everything is kept since v11, the creator before.
        let kept = value(redact(&room.create, &room.version, None).unwrap().content());
        assert_eq!((kept["room_version"].is_string(), kept["creator"].is_string()), (number >= 11, number < 11));
    }
}

/// Spec: Server-Server API, "Joining Rooms"; `/invite`.
#[test]
fn what_another_server_signs_with_us_says_whose_it_is() {
    for version in versions() {
        let room = Room::of_alice(version, []);
        let invite = room.build(&member("alice", "bob", "invite")).unwrap();
        let named = with_origin(&invite, &room.version, &identity(), [7; 18]).unwrap();
        let template = template(&invite, server_name!("elsewhere.org")).unwrap();
        let completed = complete(&template, invite.content(), &room.version, &identity(), 5, [7; 18]).unwrap();
        for pdu in [named, completed] {
            let checked = received(&pdu, &room).unwrap();
            assert!(!checked.redacted, "version {}", room.version.as_str());
            assert!(pdu.json().contains(r#""origin":"example.org""#), "{}", pdu.json());
        }
    }
}

#[test]
fn a_create_event_tells_the_version_of_its_room_as_long_as_it_is_whole() {
    for version in versions() {
        let number: u8 = version.as_str().parse().unwrap();
        let room = Room::of_alice(version, []);
        assert_eq!(version_made_with(&room.create).as_deref(), Some(room.version.as_str()));
        let redacted = redact(&room.create, &room.version, None).unwrap();
        let told = (number >= 11).then(|| room.version.as_str());
        assert_eq!(version_made_with(&redacted).as_deref(), told, "version {number}");
    }
    // The first rooms said none.
    let mut of_old = message("alice", json!({ "creator": "@alice:example.org" }));
    of_old.event_type = TimelineEventType::RoomCreate;
    let room = Room::of_alice(version("1"), []);
    assert_eq!(version_made_with(&room.build(&of_old).unwrap()).as_deref(), Some("1"));
}

#[test]
fn what_a_redaction_keeps_as_a_table() {
    // Type, state key, content; then what is kept of it, each with the first version that keeps that much.
    let signed = json!({ "mxid": "@bob:example.org" });
    let member = json!({
        "membership": "join", "join_authorised_via_users_server": "@a:b", "displayname": "Eve", "reason": "x",
        "third_party_invite": { "signed": signed, "display_name": "eve" },
    });
    let levels = json!({
        "ban": 1, "events": { "a": 1 }, "events_default": 1, "kick": 1, "redact": 1, "state_default": 1,
        "users": { user("alice"): 100 }, "users_default": 0, "invite": 1, "notifications": { "room": 1 }, "x": 1,
    });
    let levels_kept = json!({
        "ban": 1, "events": { "a": 1 }, "events_default": 1, "kick": 1, "redact": 1, "state_default": 1,
        "users": { user("alice"): 100 }, "users_default": 0,
    });
    let levels_kept_11 = {
        let mut kept = levels_kept.clone();
        kept["invite"] = 1.into();
        kept
    };
    let allow = json!([{ "type": "m.room_membership", "room_id": "!a:b" }]);
    let table = [
        (
            "m.room.member",
            member,
            vec![
                (1, json!({ "membership": "join" })),
                (9, json!({ "membership": "join", "join_authorised_via_users_server": "@a:b" })),
                (
                    11,
                    json!({
                        "membership": "join", "join_authorised_via_users_server": "@a:b",
                        "third_party_invite": { "signed": signed },
                    }),
                ),
            ],
        ),
        (
            "m.room.join_rules",
            json!({ "join_rule": "restricted", "allow": allow, "x": 1 }),
            vec![(1, json!({ "join_rule": "restricted" })), (8, json!({ "join_rule": "restricted", "allow": allow }))],
        ),
        ("m.room.power_levels", levels, vec![(1, levels_kept), (11, levels_kept_11)]),
        (
            "m.room.history_visibility",
            json!({ "history_visibility": "joined", "x": 1 }),
            vec![(1, json!({ "history_visibility": "joined" }))],
        ),
        ("m.room.aliases", json!({ "aliases": ["#a:b"] }), vec![(1, json!({ "aliases": ["#a:b"] })), (6, json!({}))]),
        ("m.room.name", json!({ "name": "n" }), vec![(1, json!({}))]),
        ("m.room.message", json!({ "body": "b" }), vec![(1, json!({}))]),
        (
            "m.room.redaction",
            json!({ "redacts": "$e", "reason": "r" }),
            vec![(1, json!({})), (11, json!({ "redacts": "$e" }))],
        ),
    ];
    for version in versions() {
        let number: u8 = version.as_str().parse().unwrap();
        let room = Room::of_alice(version, []);
        for (event_type, content, kept) in &table {
            let pdu = room.build(&state("alice", event_type, "", content.clone())).unwrap();
            let redacted = redact(&pdu, &room.version, None).unwrap();
            let (_, expected) = kept.iter().rfind(|(since, _)| *since <= number).unwrap();
            assert_eq!(value(redacted.content()), *expected, "{event_type} in version {number}");
            assert_eq!(redacted.event_id(), pdu.event_id());
        }
    }
}

#[test]
fn clients_see_the_content_as_it_is() {
    let mut room = Room::of_alice(version("12"), []);
    let name = room.send(state("alice", "m.room.name", "", json!({ "name": "Tea \"room\"" }))).unwrap();
    let unsigned = Unsigned {
        age: Some(-5),
        transaction_id: Some("t1".into()),
        prev_content: Some(RawValue::from_string(r#"{"name":"Coffee"}"#.to_owned()).unwrap()),
        replaces_state: Some(owned_event_id!("$before")),
        membership: Some("join".into()),
        ..Unsigned::default()
    };
    let expected = json!({
        "content": { "name": "Tea \"room\"" },
        "event_id": name.event_id(),
        "origin_server_ts": name.origin_server_ts(),
        "room_id": room.create.room_id(),
        "sender": user("alice"),
        "state_key": "",
        "type": "m.room.name",
        "unsigned": {
            "age": -5,
            "membership": "join",
            "prev_content": { "name": "Coffee" },
            "replaces_state": "$before",
            "transaction_id": "t1",
        },
    });
    assert_eq!(value(&client_json(&name, &unsigned, true)), expected);

    let text = room.send(message("alice", json!({ "body": "hi" }))).unwrap();
    let client = value(&client_json(&text, &Unsigned::default(), false));
    assert_eq!((client.get("room_id"), client.get("state_key"), &client["unsigned"]), (None, None, &json!({})));

    let stripped = json!({
        "content": { "name": "Tea \"room\"" }, "sender": "@alice:example.org", "state_key": "", "type": "m.room.name",
    });
    assert_eq!(value(&stripped_json(&name)), stripped);
}

#[test]
fn stored_text_that_is_no_event_is_refused() {
    for json in ["", "{}", "[]", r#"{"type":"m.room.message"}"#] {
        let stored = Pdu::from_stored(owned_event_id!("$x"), json, false);
        assert!(matches!(stored, Err(EventError::Malformed(_))), "{json}");
    }
}

#[test]
fn history_may_name_more_events_than_one_may_now() {
    for version in versions() {
        let room = Room::of_alice(version, []);
        let keys = identity().public_keys();
        let pdu = room.build(&message("alice", json!({ "body": "long ago" }))).unwrap();
        let named = value(RawValue::from_string(pdu.json().to_owned()).unwrap().as_ref())["prev_events"][0].clone();
        let naming = |field: &'static str, count: usize| {
            tampered(&pdu, |object| {
                object.insert(field.to_owned(), json!(vec![named.clone(); count]).try_into().unwrap());
            })
        };
        for (field, most) in [("prev_events", 20), ("auth_events", 10)] {
            let malformed = |outcome| matches!(outcome, Err(EventError::Malformed(_)));
            assert!(malformed(check(naming(field, most + 1), &room.version, &keys).map(drop)));
            // It is read further: what was signed was another event.
            assert!(!malformed(check_old(naming(field, 35), &room.version, &keys).map(drop)), "{field}");
        }
        assert_eq!(&check_old(object_of(pdu.json()).unwrap(), &room.version, &keys).unwrap().pdu, &pdu);
    }
}
