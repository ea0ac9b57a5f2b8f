//! The rules of authorisation as they are written, applied by hand to every case there is, against what [`super`] says.
//!
//! `allows` below is read off the specification, rule by rule and version by version, on plain numbers and names; it
//! shares nothing with what it is compared to. The rules that come before these are in [`super::first_rules`].
//! Spec: Room Versions, "Authorisation rules".

use std::collections::BTreeMap;

use ruma_common::CanonicalJsonObject;
use ruma_events::StateEventType;
use serde_json::{Map, Value, json, value::to_raw_value};

use super::{check_against_state, check_auth_events};
use crate::{
    Identity, Pdu, RoomVersion,
    event::Draft,
    fixture::{Room, identity, message, state, user, versions},
    power::{NewRoom, Preset},
};

/// Above every level there is.
const INFINITE: i64 = i64::MAX;
const MEMBERSHIPS: [&str; 5] = ["leave", "invite", "join", "ban", "knock"];
const JOIN_RULES: [&str; 6] = ["public", "invite", "knock", "restricted", "knock_restricted", "private"];
const INVITE: i64 = 50;
const KICK: i64 = 55;
const BAN: i64 = 60;
/// Users with each level that matters, twice over: one acts, one suffers. The creators come last.
const LEVELS: [i64; 4] = [49, 50, 55, 60];

fn number(version: &RoomVersion) -> u32 {
    version.as_str().parse().unwrap()
}

/// One membership event and what there was before it.
#[derive(Debug, Clone, Copy)]
struct Case {
    version: u32,
    join_rule: &'static str,
    own: bool,
    sender: &'static str,
    target: &'static str,
    membership: &'static str,
    sender_level: i64,
    target_level: i64,
    /// Of who vouches: whether they are in, and their level.
    voucher: Option<(&'static str, i64)>,
}

/// The rules on `m.room.member`, beyond the first join and invitations by third parties.
fn allows(case: &Case) -> bool {
    let Case { version, join_rule, own, sender, target, .. } = *case;
    let may = |level: i64| sender == "join" && case.sender_level >= level;
    match case.membership {
        "join" => {
            if !own || sender == "ban" {
                return false;
            }
            let is_in = matches!(sender, "invite" | "join");
            match join_rule {
                "public" => true,
                "invite" => is_in,
                "knock" => version >= 7 && is_in,
                "restricted" if version >= 8 => is_in || vouches(case),
                "knock_restricted" if version >= 10 => is_in || vouches(case),
                _ => false,
            }
        }
        "invite" => may(INVITE) && !matches!(target, "join" | "ban"),
        "leave" if own => matches!(sender, "invite" | "join") || version >= 7 && sender == "knock",
        "leave" => may(KICK) && case.target_level < case.sender_level && (target != "ban" || case.sender_level >= BAN),
        "ban" => may(BAN) && case.target_level < case.sender_level,
        "knock" if version >= 7 => {
            let open = join_rule == "knock" || version >= 10 && join_rule == "knock_restricted";
            open && own && !matches!(sender, "ban" | "invite" | "join")
        }
        _ => false,
    }
}

fn vouches(case: &Case) -> bool {
    case.voucher.is_some_and(|(membership, level)| membership == "join" && level >= INVITE)
}

/// Everything a state can hold for these cases, made once for a version.
struct Scene {
    room: Room,
    join_rules: BTreeMap<&'static str, Pdu>,
    members: BTreeMap<(String, &'static str), Pdu>,
}

/// Who acts (`a`), suffers (`b`) or vouches (`c`) with a level. The infinite one is a creator's; before v12 they
/// have 100.
fn name(role: char, level: i64) -> String {
    if level == INFINITE { format!("{role}_creator") } else { format!("{role}{level}") }
}

impl Scene {
    fn new(version: &RoomVersion) -> Self {
        let mut request = NewRoom::new(user("a_creator"), Preset::PrivateChat);
        let creators = json!({ "additional_creators": [user("b_creator")] });
        request.creation_content = Some(to_raw_value(&creators).unwrap());
        let mut room = Room::created(&request, version.clone()).unwrap();
        let mut users: Map<String, Value> = Map::new();
        for level in LEVELS {
            for role in ['a', 'b', 'c'] {
                users.insert(user(&name(role, level)).to_string(), level.into());
            }
        }
        if number(version) < 12 {
            for role in ['a', 'b'] {
                users.insert(user(&name(role, INFINITE)).to_string(), 100.into());
            }
        }
        let levels = json!({ "users": users, "invite": INVITE, "kick": KICK, "ban": BAN });
        room.force(&state("a_creator", "m.room.power_levels", "", levels));
        let join_rules = JOIN_RULES.map(|rule| {
            (rule, room.build(&state("a_creator", "m.room.join_rules", "", json!({ "join_rule": rule }))).unwrap())
        });
        let mut members = BTreeMap::new();
        for role in ['a', 'b', 'c'] {
            for level in LEVELS.into_iter().chain([INFINITE]) {
                for membership in MEMBERSHIPS {
                    let who = name(role, level);
                    let content = json!({ "membership": membership });
                    let draft = state(&who, "m.room.member", user(&who).as_str(), content);
                    members.insert((user(&who).to_string(), membership), room.build(&draft).unwrap());
                }
            }
        }
        Self { room, join_rules: BTreeMap::from(join_rules), members }
    }

    /// What [`super`] says, where these users have these memberships.
    fn allows(&self, pdu: &Pdu, join_rule: &str, memberships: &[(&str, &'static str)]) -> bool {
        let state = |event_type: &StateEventType, state_key: &str| match event_type {
            StateEventType::RoomJoinRules => self.join_rules.get(join_rule).cloned(),
            StateEventType::RoomMember => {
                let (who, membership) = memberships.iter().find(|(who, _)| *who == state_key)?;
                self.members.get(&((*who).to_owned(), *membership)).cloned()
            }
            event_type => self.room.get(event_type, state_key),
        };
        check_against_state(pdu, &self.room.version, &state).is_ok()
    }
}

fn levels() -> impl Iterator<Item = i64> {
    LEVELS.into_iter().chain([INFINITE])
}

fn level_in(version: &RoomVersion, level: i64) -> i64 {
    if level == INFINITE && number(version) < 12 { 100 } else { level }
}

fn member_draft(sender: &str, target: &str, membership: &str, voucher: Option<&str>) -> Draft {
    let mut content = json!({ "membership": membership });
    if let Some(voucher) = voucher {
        content["join_authorised_via_users_server"] = json!(user(voucher));
    }
    state(sender, "m.room.member", user(target).as_str(), content)
}

#[test]
fn what_one_may_make_of_ones_own_membership() {
    let vouchers = [None, Some(("join", 50)), Some(("join", 49)), Some(("leave", 60)), Some(("invite", 60))];
    let mut cases = 0;
    for version in versions() {
        let scene = Scene::new(&version);
        for membership in ["join", "invite", "leave", "ban", "knock", "unheard"] {
            for level in levels() {
                for voucher in vouchers {
                    let who = name('a', level);
                    let vouching = voucher.map(|(_, level)| name('c', level));
                    let pdu = scene.room.build(&member_draft(&who, &who, membership, vouching.as_deref())).unwrap();
                    let (who, vouching) = (user(&who), vouching.map(|vouching| user(&vouching)));
                    for (sender, join_rule) in
                        MEMBERSHIPS.into_iter().flat_map(|sender| JOIN_RULES.map(|rule| (sender, rule)))
                    {
                        let level = level_in(&version, level);
                        let case = Case {
                            version: number(&version),
                            join_rule,
                            own: true,
                            sender,
                            target: sender,
                            membership,
                            sender_level: level,
                            target_level: level,
                            voucher,
                        };
                        let mut memberships = vec![(who.as_str(), sender)];
                        memberships.extend(vouching.as_ref().zip(voucher).map(|(who, (is, _))| (who.as_str(), is)));
                        assert_eq!(scene.allows(&pdu, join_rule, &memberships), allows(&case), "{case:?}");
                        cases += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cases, 12 * 6 * 5 * 5 * 5 * 6);
}

#[test]
fn what_one_may_make_of_the_membership_of_another() {
    let mut cases = 0;
    for version in versions() {
        let scene = Scene::new(&version);
        for membership in ["join", "invite", "leave", "ban", "knock", "unheard"] {
            for (sender_level, target_level) in levels().flat_map(|one| levels().map(move |other| (one, other))) {
                let (who, whom) = (name('a', sender_level), name('b', target_level));
                let pdu = scene.room.build(&member_draft(&who, &whom, membership, None)).unwrap();
                let (who, whom) = (user(&who), user(&whom));
                for (sender, target) in
                    MEMBERSHIPS.into_iter().flat_map(|sender| MEMBERSHIPS.map(|target| (sender, target)))
                {
                    for join_rule in JOIN_RULES {
                        let case = Case {
                            version: number(&version),
                            join_rule,
                            own: false,
                            sender,
                            target,
                            membership,
                            sender_level: level_in(&version, sender_level),
                            target_level: level_in(&version, target_level),
                            voucher: None,
                        };
                        let memberships = [(who.as_str(), sender), (whom.as_str(), target)];
                        assert_eq!(scene.allows(&pdu, join_rule, &memberships), allows(&case), "{case:?}");
                        cases += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cases, 12 * 6 * 25 * 25 * 6);
}

/// A room of a creator's, where bob has a level and carol another, and nobody else any.
fn with_levels(version: &RoomVersion, mut levels: Value, bob: i64) -> Room {
    let mut room = Room::created(&NewRoom::new(user("alice"), Preset::PrivateChat), version.clone()).unwrap();
    for who in ["alice", "bob", "carol"] {
        room.force(&state(who, "m.room.member", user(who).as_str(), json!({ "membership": "join" })));
    }
    levels["users"][user("bob").as_str()] = json!(bob);
    room.force(&state("alice", "m.room.power_levels", "", levels));
    room
}

fn attempts(room: &Room, draft: &Draft) -> bool {
    let pdu = room.build(draft).unwrap();
    let known = check_auth_events(&pdu, &room.version, &|event_id| room.events.get(event_id).cloned());
    assert_eq!(known, Ok(()));
    check_against_state(&pdu, &room.version, &|event_type, state_key| room.get(event_type, state_key)).is_ok()
}

#[test]
fn the_level_that_an_event_takes() {
    let table = [
        // The content of the power levels, the type, whether it is state, and what it takes.
        (json!({}), "org.example.event", false, 0),
        (json!({}), "org.example.event", true, 50),
        (json!({ "events_default": 20 }), "org.example.event", false, 20),
        (json!({ "events_default": 20 }), "org.example.event", true, 50),
        (json!({ "state_default": 30 }), "org.example.event", true, 30),
        (json!({ "state_default": 30 }), "org.example.event", false, 0),
        (json!({ "events": { "org.example.event": 7 }, "events_default": 20 }), "org.example.event", false, 7),
        (json!({ "events": { "org.example.event": 7 }, "state_default": 30 }), "org.example.event", true, 7),
        (json!({ "events": { "m.room.message": 90 } }), "m.room.message", false, 90),
        // Since v3, to redact is to send an event: the redact level is the server's to apply.
        (json!({ "redact": 90, "events": { "m.room.redaction": 7 } }), "m.room.redaction", false, 7),
        // Memberships and invitations by third parties have levels of their own.
        (json!({ "invite": 40, "state_default": 90 }), "m.room.third_party_invite", true, 40),
        (json!({ "invite": 40, "events": { "m.room.third_party_invite": 90 } }), "m.room.third_party_invite", true, 40),
    ];
    for version in versions() {
        for (levels, event_type, is_state, needed) in &table {
            for bob in [needed - 1, *needed, needed + 1] {
                let room = with_levels(&version, levels.clone(), bob);
                let draft = if *is_state {
                    state("bob", event_type, "key", json!({}))
                } else {
                    Draft { event_type: (*event_type).into(), ..message("bob", json!({})) }
                };
                // Before v3, a redaction of what is not its server's takes the redact level besides.
                let redact = levels.get("redact").and_then(Value::as_i64).filter(|_| number(&version) < 3);
                let expected = bob >= *needed && redact.is_none_or(|redact| bob >= redact);
                assert_eq!(
                    attempts(&room, &draft),
                    expected,
                    "version {}: {levels} {event_type} {bob}",
                    version.as_str()
                );
            }
            // Creators take every hurdle since v12; before, they have what they are given, here nothing.
            let high = json!({ "events_default": 1000, "state_default": 1000, "invite": 1000 });
            let room = with_levels(&version, high, 0);
            let sent = attempts(&room, &state("alice", event_type, "key", json!({})));
            assert_eq!(sent, number(&version) >= 12, "version {}", version.as_str());
        }
    }
}

#[test]
fn a_room_without_power_levels_is_its_creators() {
    for version in versions() {
        let mut room = Room::created(&NewRoom::new(user("alice"), Preset::PrivateChat), version.clone()).unwrap();
        for who in ["alice", "bob"] {
            room.force(&state(who, "m.room.member", user(who).as_str(), json!({ "membership": "join" })));
        }
        let table = [("alice", false, true), ("alice", true, true), ("bob", false, true), ("bob", true, false)];
        for (who, is_state, expected) in table {
            let mut draft = state(who, "org.example.event", "", json!({}));
            draft.state_key = draft.state_key.filter(|_| is_state);
            assert_eq!(attempts(&room, &draft), expected, "version {}: {who} {is_state}", version.as_str());
        }
        let first = state("alice", "m.room.power_levels", "", json!({ "ban": 1_000_000 }));
        assert!(attempts(&room, &first), "the first power levels may say anything");
    }
}

#[test]
fn state_keys_that_are_user_ids_belong_to_them() {
    for version in versions() {
        let room = with_levels(&version, json!({ "state_default": 0 }), 100);
        let own = user("bob");
        for (key, expected) in [(own.as_str(), true), ("@alice:example.org", false), ("@", false), ("bob", true)] {
            assert_eq!(attempts(&room, &state("bob", "org.example.event", key, json!({}))), expected, "{key}");
        }
    }
}

/// Changes of one number in the power levels by bob, who has 50 and may change them.
fn changes_to(
    version: &RoomVersion,
    place: &dyn Fn(&mut Value, Option<i64>),
    before: Option<i64>,
    after: Option<i64>,
) -> bool {
    let base =
        || json!({ "users": { "@bob:example.org": 50 }, "events": { "m.room.power_levels": 0 }, "notifications": {} });
    let (mut old, mut new) = (base(), base());
    place(&mut old, before);
    place(&mut new, after);
    let mut room = Room::created(&NewRoom::new(user("alice"), Preset::PrivateChat), version.clone()).unwrap();
    room.force(&state("bob", "m.room.member", user("bob").as_str(), json!({ "membership": "join" })));
    room.force(&state("alice", "m.room.power_levels", "", old));
    attempts(&room, &state("bob", "m.room.power_levels", "", new))
}

const NUMBERS: [Option<i64>; 5] = [None, Some(0), Some(49), Some(50), Some(51)];

#[test]
fn levels_are_changed_within_ones_own() {
    // What counts where nothing is said. «Power levels are inferred from defaults when not explicitly supplied.»
    let fields = [
        ("users_default", 0),
        ("events_default", 0),
        ("state_default", 50),
        ("ban", 50),
        ("redact", 50),
        ("kick", 50),
        ("invite", 0),
    ];
    for version in versions() {
        for (field, default) in fields {
            for (before, after) in NUMBERS.into_iter().flat_map(|before| NUMBERS.map(|after| (before, after))) {
                let place = |levels: &mut Value, level: Option<i64>| {
                    if let Some(level) = level {
                        levels[field] = json!(level);
                    }
                };
                let within = |level: Option<i64>| level.unwrap_or(default) <= 50;
                let expected = before == after || within(before) && within(after);
                let allowed = changes_to(&version, &place, before, after);
                assert_eq!(allowed, expected, "version {}: {field} {before:?} {after:?}", version.as_str());
            }
        }
    }
}

#[test]
fn levels_of_events_and_notifications_are_changed_within_ones_own() {
    for version in versions() {
        for (field, counts_since) in [("events", 1), ("notifications", 6)] {
            for (before, after) in NUMBERS.into_iter().flat_map(|before| NUMBERS.map(|after| (before, after))) {
                let place = |levels: &mut Value, level: Option<i64>| {
                    if let Some(level) = level {
                        levels[field]["room"] = json!(level);
                    }
                };
                let within = |level: Option<i64>| level.is_none_or(|level| level <= 50);
                let expected = number(&version) < counts_since || before == after || within(before) && within(after);
                let allowed = changes_to(&version, &place, before, after);
                assert_eq!(allowed, expected, "version {}: {field} {before:?} {after:?}", version.as_str());
            }
        }
    }
}

#[test]
fn users_are_raised_to_ones_own_level_and_lowered_from_below_it() {
    for version in versions() {
        for (before, after) in NUMBERS.into_iter().flat_map(|before| NUMBERS.map(|after| (before, after))) {
            let place = |levels: &mut Value, level: Option<i64>| {
                if let Some(level) = level {
                    levels["users"]["@carol:example.org"] = json!(level);
                }
            };
            let expected =
                before == after || before.is_none_or(|before| before < 50) && after.is_none_or(|after| after <= 50);
            let allowed = changes_to(&version, &place, before, after);
            assert_eq!(allowed, expected, "version {}: {before:?} {after:?}", version.as_str());
        }
        // One's own level goes down only.
        for (after, expected) in [(None, true), (Some(49), true), (Some(50), true), (Some(51), false)] {
            let place = |levels: &mut Value, level: Option<i64>| match level {
                Some(level) => levels["users"]["@bob:example.org"] = json!(level),
                None => levels["users"] = json!({}),
            };
            assert_eq!(changes_to(&version, &place, Some(50), after), expected, "version {}", version.as_str());
        }
    }
}

#[test]
fn what_levels_are_made_of() {
    let (always, until_9, never) = (12, 9, 0);
    let table = [
        (json!({ "ban": 50 }), always),
        (json!({ "ban": -50 }), always),
        (json!({ "ban": "50" }), until_9),
        (json!({ "ban": " +0050 " }), until_9),
        (json!({ "ban": "5.0" }), never),
        (json!({ "ban": "high" }), never),
        (json!({ "ban": [50] }), never),
        (json!({ "ban": null }), never),
        (json!({ "ban": true }), never),
        (json!({ "users": { "@bob:example.org": "50" } }), until_9),
        (json!({ "users": { "@bob:example.org": {} } }), never),
        (json!({ "users": { "bob": 50 } }), never),
        (json!({ "users": [] }), never),
        (json!({ "users": "everyone" }), never),
        (json!({ "events": { "m.room.name": "50" } }), until_9),
        (json!({ "events": { "m.room.name": {} } }), never),
        (json!({ "events": [] }), never),
        (json!({ "notifications": { "room": "50" } }), until_9),
        (json!({ "org.example": { "any": ["thing"] } }), always),
    ];
    for version in versions() {
        for (levels, last) in &table {
            let mut room = Room::created(&NewRoom::new(user("alice"), Preset::PrivateChat), version.clone()).unwrap();
            room.force(&state("alice", "m.room.member", user("alice").as_str(), json!({ "membership": "join" })));
            let allowed = attempts(&room, &state("alice", "m.room.power_levels", "", levels.clone()));
            assert_eq!(allowed, number(&version) <= *last, "version {}: {levels}", version.as_str());
        }
    }
}

#[test]
fn since_version_12_no_level_is_a_creators() {
    for version in versions() {
        let mut request = NewRoom::new(user("alice"), Preset::PrivateChat);
        let creators = json!({ "additional_creators": [user("bob")] });
        request.creation_content = Some(to_raw_value(&creators).unwrap());
        let mut room = Room::created(&request, version.clone()).unwrap();
        room.force(&state("alice", "m.room.member", user("alice").as_str(), json!({ "membership": "join" })));
        for (who, expected) in [("alice", number(&version) < 12), ("bob", number(&version) < 12), ("carol", true)] {
            let levels = json!({ "users": { user(who).as_str(): 100 } });
            let allowed = attempts(&room, &state("alice", "m.room.power_levels", "", levels));
            assert_eq!(allowed, expected, "version {}: {who}", version.as_str());
        }
    }
}

#[test]
fn versions_1_and_2_judge_redactions_by_their_level() {
    // In these, ids name the server that made them: one's own server may always redact.
    for version in versions() {
        for (bob, expected) in [(49, false), (50, true)] {
            let mut room = with_levels(&version, json!({}), bob);
            let said = room.force(&message("alice", json!({ "body": "hi" })));
            let elsewhere = if number(&version) < 3 { "$elsewhere:other.org" } else { said.event_id().as_str() };
            let draft = Draft {
                event_type: "m.room.redaction".into(),
                redacts: Some(elsewhere.try_into().unwrap()),
                ..message("bob", json!({}))
            };
            assert_eq!(attempts(&room, &draft), number(&version) >= 3 || expected, "version {}", version.as_str());
            let own = Draft { redacts: Some(said.event_id().to_owned()), ..draft };
            assert!(attempts(&room, &own), "version {}: of one's own server", version.as_str());
        }
    }
}

#[test]
fn until_version_5_aliases_are_their_servers() {
    for version in versions() {
        let room = with_levels(&version, json!({}), 0);
        for (key, until_5) in [("example.org", true), ("other.org", false), ("", false)] {
            let allowed = attempts(&room, &state("bob", "m.room.aliases", key, json!({ "aliases": [] })));
            assert_eq!(allowed, number(&version) <= 5 && until_5, "version {}: {key}", version.as_str());
        }
    }
}

#[test]
fn whoever_is_not_in_the_room_sends_nothing() {
    for version in versions() {
        for membership in MEMBERSHIPS {
            let mut room = with_levels(&version, json!({ "state_default": 0 }), 100);
            room.force(&state("bob", "m.room.member", user("bob").as_str(), json!({ "membership": membership })));
            for draft in [message("bob", json!({})), state("bob", "org.example.event", "", json!({}))] {
                assert_eq!(attempts(&room, &draft), membership == "join", "version {}: {membership}", version.as_str());
            }
        }
    }
}

#[test]
fn the_creator_comes_first_and_alone() {
    for version in versions() {
        let room = Room::created(&NewRoom::new(user("alice"), Preset::PrivateChat), version.clone()).unwrap();
        for (who, expected) in [("alice", true), ("bob", false)] {
            let join = state(who, "m.room.member", user(who).as_str(), json!({ "membership": "join" }));
            assert_eq!(attempts(&room, &join), expected, "version {}: {who}", version.as_str());
        }
    }
}

/// An invitation by way of the token that the third party signed, in the parts that can be wrong.
struct ByThirdParty {
    sender: &'static str,
    target_is: &'static str,
    signed: Value,
    sign: bool,
    keys: Value,
}

impl ByThirdParty {
    fn right() -> Self {
        let signed = json!({ "mxid": user("carol"), "token": "t" });
        let keys = json!({ "public_key": identity().public_key_base64() });
        Self { sender: "bob", target_is: "leave", signed, sign: true, keys }
    }

    fn passes(self, version: &RoomVersion) -> bool {
        let mut room = with_levels(version, json!({ "invite": 50 }), 50);
        room.force(&state("carol", "m.room.member", user("carol").as_str(), json!({ "membership": self.target_is })));
        let invited = state("bob", "m.room.third_party_invite", "t", self.keys);
        assert!(attempts(&room, &invited));
        room.force(&invited);
        // By the time it is accepted, who invited may have left.
        room.force(&state("bob", "m.room.member", user("bob").as_str(), json!({ "membership": "leave" })));
        let mut signed: CanonicalJsonObject = serde_json::from_value(self.signed).unwrap();
        if self.sign {
            identity().sign_json(&mut signed).unwrap();
        }
        let content =
            json!({ "membership": "invite", "third_party_invite": { "display_name": "C", "signed": signed } });
        let draft = state(self.sender, "m.room.member", user("carol").as_str(), content);
        room.build(&draft).is_ok_and(|pdu| {
            check_against_state(&pdu, &room.version, &|event_type, key| room.get(event_type, key)).is_ok()
        })
    }
}

#[test]
fn an_invitation_by_a_third_party_is_signed_by_it() {
    let ours = identity().public_key_base64();
    let other = Identity::new(ruma_common::server_name!("x.org").to_owned(), "x", [2; 32]).unwrap().public_key_base64();
    let in_list = json!({ "public_key": other, "public_keys": [{ "public_key": other }, { "public_key": ours }] });
    let signed = |mxid: Value, token: Value| json!({ "mxid": mxid, "token": token });
    let carol = json!(user("carol"));
    for version in versions() {
        let right = ByThirdParty::right;
        for (case, expected) in [
            (right(), true),
            (ByThirdParty { keys: in_list.clone(), ..right() }, true),
            (ByThirdParty { target_is: "invite", ..right() }, true),
            (ByThirdParty { target_is: "join", ..right() }, true),
            (ByThirdParty { target_is: "ban", ..right() }, false),
            (ByThirdParty { sender: "alice", ..right() }, false),
            (ByThirdParty { sign: false, ..right() }, false),
            (ByThirdParty { keys: json!({ "public_key": other }), ..right() }, false),
            (ByThirdParty { keys: json!({}), ..right() }, false),
            (ByThirdParty { signed: signed(json!(user("bob")), json!("t")), ..right() }, false),
            (ByThirdParty { signed: signed(carol.clone(), json!("other")), ..right() }, false),
            (ByThirdParty { signed: json!({ "mxid": carol }), ..right() }, false),
            (ByThirdParty { signed: json!({ "token": "t" }), ..right() }, false),
        ] {
            let told = (case.sender, case.target_is, case.signed.clone(), case.sign, case.keys.clone());
            assert_eq!(case.passes(&version), expected, "version {}: {told:?}", version.as_str());
        }
    }
}
