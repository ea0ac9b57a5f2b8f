//! Events of other servers: alone, and as a room.

use std::{collections::BTreeMap, rc::Rc};

use ruma_common::{CanonicalJsonObject, push::Ruleset, room_id, user_id};
use ruma_events::StateEventType;
use ruma_signatures::hash_and_sign_event;
use serde_json::{Value, value::RawValue};

use super::{halves, identity, us};
use crate::{
    Pdu, RoomVersion, alias, auth,
    directory::PublishedRoom,
    event::{self, Checked, EventFields, Relation, Unsigned, check, check_old},
    policy_server::PolicyServer,
    push::{self, Recipient},
    redaction, restricted_join,
    retention::RoomRetention,
    server_acl,
    space::Child,
    visibility,
};

pub(super) const ONE: &[&[u8]] = &[
    br#"11
{"auth_events":["$a","$b"],"content":{"body":"x","m.relates_to":{"rel_type":"m.thread","event_id":"$c"}},"depth":3,"hashes":{"sha256":""},"origin_server_ts":1,"prev_events":["$d"],"room_id":"!r:a.test","sender":"@a:a.test","type":"m.room.message","signatures":{"b.test":{"ed25519:1":"AAAA"}},"unsigned":{"age":1}}"#,
    br#"1
{"event_id":"$1:a.test","auth_events":[["$a:a.test",{"sha256":"AAAA"}]],"content":{"membership":"invite","third_party_invite":{"display_name":"x","signed":{"mxid":"@b:b.test","token":"t","signatures":{}}}},"depth":3,"hashes":{"sha256":""},"origin_server_ts":1,"prev_events":[["$d:a.test",{"sha256":"AAAA"}]],"room_id":"!r:a.test","sender":"@a:a.test","state_key":"@b:b.test","type":"m.room.member"}"#,
    br#"12
{"auth_events":[],"content":{"room_version":"12","additional_creators":["@b:b.test"],"type":"m.space"},"depth":1,"hashes":{"sha256":""},"origin_server_ts":1,"prev_events":[],"sender":"@a:a.test","state_key":"","type":"m.room.create"}"#,
    br#"10
{"auth_events":["$a"],"content":{"membership":"join","join_authorised_via_users_server":"@c:c.test"},"depth":9007199254740991,"hashes":{"sha256":""},"origin_server_ts":1,"prev_events":["$d"],"redacts":"$x","room_id":"!r:a.test","sender":"@a:a.test","state_key":"@a:a.test","type":"m.room.member"}"#,
];

/// A version, and an event in the next line: as it is, and signed by us.
pub(super) fn one(bytes: &[u8]) {
    let Some((version, json)) = halves(bytes) else { return };
    let Ok(version) = RoomVersion::parse(version) else { return };
    let _ = checked(json, &version);
}

/// What becomes of an event once we signed it, if it is one.
fn checked(json: &str, version: &RoomVersion) -> Option<Pdu> {
    let ours = identity()?;
    let mut object: CanonicalJsonObject = serde_json::from_str(json).ok()?;
    let keys = ours.public_keys();
    assert!(check(object.clone(), version, &keys).is_err(), "nobody signed it");
    hash_and_sign_event(us().as_str(), ours.key_pair(), &mut object, &version.rules().redaction).ok()?;
    let event_id = event::id_of(&object, version).ok()?;
    let _ = check_old(object.clone(), version, &keys);
    let Checked { pdu, redacted } = check(object, version, &keys).ok()?;
    assert!(!redacted && pdu.event_id() == event_id, "its hash is ours");
    shown(&pdu, version);
    Some(pdu)
}

/// What is made of an event that passed.
fn shown(pdu: &Pdu, version: &RoomVersion) {
    let again = Pdu::from_stored(pdu.event_id().to_owned(), pdu.json(), false);
    assert!(again.is_ok_and(|again| again.json() == pdu.json() && again.room_id() == pdu.room_id()));
    assert!(
        Pdu::from_stored(pdu.event_id().to_owned(), pdu.outline(), true).is_ok_and(|it| it.room_id() == pdu.room_id())
    );
    if let Ok(redacted) = event::redact(pdu, version, None) {
        let twice = event::redact(&redacted, version, None);
        assert!(twice.is_ok_and(|twice| twice.json() == redacted.json()), "what is left is left");
        assert!(redacted.json().len() <= pdu.json().len() && redacted.event_id() == pdu.event_id());
    }
    let _ = (pdu.redacts(version), event::reference(pdu, version), event::template(pdu, us()));
    let json = event::client_json(pdu, &Unsigned::default(), true);
    let fields = EventFields::of(["content.body", "content.m\\.relates_to.rel_type", "sender"]);
    for json in [&json, &event::stripped_json_with_time(pdu), &event::federation_json(pdu, &Unsigned::default())] {
        assert!(serde_json::from_str::<Value>(json.get()).is_ok_and(|json| json.is_object()));
        assert!(fields.select(json).get().len() <= json.get().len());
    }
    content(pdu.content());
    let Ok(json) = serde_json::from_str::<Value>(json.get()) else { return };
    let rules = Ruleset::server_default(user_id!("@b:b.test"));
    let recipient = Recipient {
        user_id: user_id!("@b:b.test"),
        room_id: room_id!("!r:a.test"),
        display_name: Some("b*"),
        member_count: 2,
        sender_level: 0,
        notification_levels: &BTreeMap::new(),
        effort: &crate::push::Effort::new(1_000_000),
    };
    let _ = push::actions(&rules, &json, &recipient);
}

/// The readers of contents that say something to us.
fn content(content: &RawValue) {
    let _ = (RoomRetention::parse(content), Relation::of(content));
    let _ = (alias::listed(content), alias::only(content, |_| true));
    let shown = PublishedRoom::new(room_id!("!r:a.test").to_owned(), 1, |_| Ok::<_, ()>(Some(content.to_owned())));
    assert!(shown.is_ok_and(|shown| !shown.words().contains('\0')));
}

pub(super) const ROOMS: &[&[u8]] = &[
    br#"10
{"auth_events":[],"content":{"room_version":"10","creator":"@a:a.test"},"depth":1,"hashes":{},"origin_server_ts":1,"prev_events":[],"room_id":"!r:a.test","sender":"@a:a.test","state_key":"","type":"m.room.create"}
{"auth_events":[],"content":{"membership":"join"},"depth":2,"hashes":{},"origin_server_ts":1,"prev_events":["$a"],"room_id":"!r:a.test","sender":"@a:a.test","state_key":"@a:a.test","type":"m.room.member"}
{"auth_events":[],"content":{"users":{"@a:a.test":100},"events":{"m.x":50},"notifications":{"room":"50"}},"depth":3,"hashes":{},"origin_server_ts":1,"prev_events":["$a"],"room_id":"!r:a.test","sender":"@a:a.test","state_key":"","type":"m.room.power_levels"}
{"auth_events":[],"content":{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"!s:a.test"}]},"depth":4,"hashes":{},"origin_server_ts":1,"prev_events":["$a"],"room_id":"!r:a.test","sender":"@a:a.test","state_key":"","type":"m.room.join_rules"}
{"auth_events":[],"content":{"allow":["*"],"deny":["*.b.test"],"allow_ip_literals":false},"depth":5,"hashes":{},"origin_server_ts":1,"prev_events":["$a"],"room_id":"!r:a.test","sender":"@a:a.test","state_key":"","type":"m.room.server_acl"}
{"auth_events":[],"content":{"membership":"ban"},"depth":6,"hashes":{},"origin_server_ts":1,"prev_events":["$a"],"room_id":"!r:a.test","sender":"@a:a.test","state_key":"@b:b.test","type":"m.room.member"}
{"auth_events":[],"content":{"via":["b.test"],"order":"a","suggested":true},"depth":7,"hashes":{},"origin_server_ts":1,"prev_events":["$a"],"room_id":"!r:a.test","sender":"@a:a.test","state_key":"!s:b.test","type":"m.space.child"}"#,
    br#"6
{"auth_events":[],"content":{"room_version":"6","creator":"@a:a.test"},"depth":1,"hashes":{},"origin_server_ts":1,"prev_events":[],"room_id":"!r:a.test","sender":"@a:a.test","state_key":"","type":"m.room.create"}
{"auth_events":[],"content":{"public_key":"AAAA","public_keys":[{"public_key":"AAAA"}]},"depth":2,"hashes":{},"origin_server_ts":1,"prev_events":["$a"],"room_id":"!r:a.test","sender":"@a:a.test","state_key":"t","type":"m.room.third_party_invite"}
{"auth_events":[],"content":{"membership":"invite","third_party_invite":{"display_name":"x","signed":{"mxid":"@b:b.test","token":"t","signatures":{"i.test":{"ed25519:0":"AAAA"}}}}},"depth":3,"hashes":{},"origin_server_ts":1,"prev_events":["$a"],"room_id":"!r:a.test","sender":"@a:a.test","state_key":"@b:b.test","type":"m.room.member"}
{"auth_events":[],"content":{"aliases":["\u0023x:a.test"],"alias":"\u0023x:a.test","alt_aliases":[]},"depth":4,"hashes":{},"origin_server_ts":1,"prev_events":["$a"],"room_id":"!r:a.test","sender":"@a:a.test","state_key":"a.test","type":"m.room.aliases"}
{"auth_events":[],"content":{"via":"p.test","public_key":"AAAA","public_keys":{"ed25519":"AAAA"}},"depth":5,"hashes":{},"origin_server_ts":1,"prev_events":["$a"],"room_id":"!r:a.test","sender":"@a:a.test","state_key":"","type":"m.room.policy"}"#,
];

/// A version, and an event in each further line: each in turn judged by the state that those before it make, be they
/// allowed or not.
pub(super) fn room(bytes: &[u8]) {
    let Some((version, events)) = halves(bytes) else { return };
    let Ok(version) = RoomVersion::parse(version) else { return };
    let mut known: BTreeMap<(StateEventType, String), Rc<Pdu>> = BTreeMap::new();
    for pdu in events.lines().take(16).filter_map(|json| checked(json, &version)) {
        let state = |event_type: &StateEventType, state_key: &str| {
            known.get(&(event_type.clone(), state_key.to_owned())).map(|pdu| (**pdu).clone())
        };
        let event =
            |id: &ruma_common::EventId| known.values().find(|pdu| pdu.event_id() == id).map(|pdu| (**pdu).clone());
        let _ = auth::needed(pdu.event_type(), pdu.sender(), pdu.state_key(), pdu.content(), &version);
        let _ = auth::check_auth_events(&pdu, &version, &event);
        let _ = auth::check_against_state(&pdu, &version, &state);
        let _ = redaction::may_redact_others(user_id!("@b:b.test"), &version, &state);
        let _ = (visibility::setting(Some(&pdu)), server_acl::allows(Some(&pdu), us()), PolicyServer::named_by(&pdu));
        let _ = (restricted_join::allowed_rooms(&pdu, &version), Child::read(&event::stripped_json_with_time(&pdu)));
        if let Some(state_key) = pdu.state_key() {
            let event_type = StateEventType::from(pdu.event_type().to_string());
            known.insert((event_type, state_key.to_owned()), Rc::new(pdu));
        }
    }
}
