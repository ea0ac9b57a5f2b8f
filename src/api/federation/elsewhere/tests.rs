//! Users of ours and rooms of a server that the test plays: it signs what it says, and helps with nothing.

use actors::{
    room::{BeginJoin, SendEvent},
    user::MembershipChanged,
};
use domain::{Identity, Pdu, RoomVersion, event};
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ruma_common::{RoomId, UserId};
use ruma_events::room::member::MembershipState;
use serde_json::{Value, json, value::to_raw_value};

use super::{
    super::{
        pdus::raw,
        tests::{Asked, answered, identity, server_among, signed},
    },
    Elsewhere,
};
use crate::{
    Failure,
    testing::{TestServer, block_on, refused},
};

const THEIRS: &str = "!theirs:b.test";
pub(super) const ALICE: &str = "@alice:localhost";

/// How an invitation comes to its end.
type Ends = fn(&Story);

pub(super) fn encoded(part: &str) -> String {
    utf8_percent_encode(part, NON_ALPHANUMERIC).to_string()
}

pub(super) struct Story {
    pub server: TestServer,
    asked: Asked,
    b: Identity,
    pub alice: String,
}

impl Story {
    pub(super) fn begins(pairs: &[(&str, &str)]) -> Self {
        let (server, asked) = server_among(vec![identity("b.test", "1", 1)], pairs);
        let alice = server.register("alice");
        Self { server, asked, b: identity("b.test", "1", 1), alice }
    }

    /// An invitation of alice by bob of the other server.
    fn invitation(&self) -> Pdu {
        self.membership("invite", &[])
    }

    /// The end of an invitation.
    fn end_of(&self, invitation: &Pdu) -> Pdu {
        self.membership("leave", &[invitation])
    }

    /// A membership of alice's, by bob, which these events allow.
    fn membership(&self, membership: &str, allowed_by: &[&Pdu]) -> Pdu {
        self.membership_in(THEIRS, membership, allowed_by)
    }

    fn membership_in(&self, room_id: &str, membership: &str, allowed_by: &[&Pdu]) -> Pdu {
        let auth_events: Vec<_> = allowed_by.iter().map(|pdu| pdu.event_id()).collect();
        let version = RoomVersion::parse("11").unwrap();
        let template = json!({
            "type": "m.room.member", "room_id": room_id, "sender": "@bob:b.test", "state_key": ALICE, "depth": 5,
            "content": { "membership": membership }, "prev_events": [], "auth_events": auth_events,
            "origin_server_ts": 1,
        });
        let (template, content) = (to_raw_value(&template).unwrap(), to_raw_value(&template["content"]).unwrap());
        event::complete(&template, &content, &version, &self.b, 1_700_000_000_000, [3; 18]).unwrap()
    }

    fn as_bobs_server(&self, path: &str, body: &Value) -> Value {
        let request = signed(&self.b, "localhost", Method::PUT, path, &body.to_string());
        let (status, answer) = answered(&self.server, request);
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// Bob invites alice, and she hears of it.
    fn invites(&self) -> String {
        self.hears_of(&self.invitation())
    }

    fn hears_of(&self, pdu: &Pdu) -> String {
        let event: Value = serde_json::from_str(pdu.json()).unwrap();
        let room_id = pdu.room_id().as_str();
        let path = format!("/_matrix/federation/v2/invite/{}/{}", encoded(room_id), encoded(pdu.event_id().as_str()));
        let create = json!({
            "type": "m.room.create", "state_key": "", "sender": "@bob:b.test", "content": { "room_version": "11" },
        });
        self.as_bobs_server(&path, &json!({ "room_version": "11", "event": event, "invite_room_state": [create] }));
        let sync = self.syncs("");
        assert!(sync["rooms"]["invite"][room_id].is_object(), "{sync}");
        sync["next_batch"].as_str().unwrap().to_owned()
    }

    fn syncs(&self, query: &str) -> Value {
        self.server.get(&format!("/_matrix/client/v3/sync?{query}"), &self.alice).1
    }

    fn does(&self, what: &str, room_id: &str) -> (StatusCode, Value) {
        let path = format!("/_matrix/client/v3/rooms/{}/{what}", encoded(room_id));
        self.server.post(&path, &self.alice, &json!({}))
    }

    /// Alice says herself what her membership is.
    fn puts(&self, room_id: &str, content: &Value) -> (StatusCode, Value) {
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{ALICE}", encoded(room_id));
        self.server.put(&path, &self.alice, content)
    }

    fn was_asked(&self, what: &str) -> bool {
        self.asked.borrow().iter().any(|asked| asked.contains(what))
    }

    /// A room of alice's, with bob in it.
    fn shared_room(&self) -> String {
        let create = json!({ "preset": "public_chat", "room_version": "11" });
        let (_, created) = self.server.post("/_matrix/client/v3/createRoom", &self.alice, &create);
        let room_id = created["room_id"].as_str().unwrap().to_owned();
        self.bob_does("join", &room_id);
        room_id
    }

    /// Bob joins or leaves a room of alice's.
    fn bob_does(&self, what: &str, room_id: &str) {
        let make = format!("/_matrix/federation/v1/make_{what}/{}/{}?ver=11", encoded(room_id), encoded("@bob:b.test"));
        let (_, prepared) = answered(&self.server, signed(&self.b, "localhost", Method::GET, &make, ""));
        let template = to_raw_value(&prepared["event"]).unwrap();
        let content = to_raw_value(&prepared["event"]["content"]).unwrap();
        let version = RoomVersion::parse("11").unwrap();
        let made = event::complete(&template, &content, &version, &self.b, 1_700_000_000_000, [0; 18]).unwrap();
        let path =
            format!("/_matrix/federation/v2/send_{what}/{}/{}", encoded(room_id), encoded(made.event_id().as_str()));
        self.as_bobs_server(&path, &serde_json::from_str(made.json()).unwrap());
    }
}

/// Nothing of the room was shown, or it was an earlier release that heard of it.
#[test]
fn an_invitation_is_taken_back_whatever_was_shown_with_it() {
    for heard_by_earlier_release in [false, true] {
        let story = Story::begins(&[]);
        let pdu = story.invitation();
        if heard_by_earlier_release {
            let invited = MembershipChanged {
                room_id: THEIRS.try_into().unwrap(),
                position: 1_700_000_000_000,
                membership: MembershipState::Invite,
                event_id: Some(pdu.event_id().to_owned()),
                profile: None,
                stripped_state: vec![event::stripped_json(&pdu)],
                predecessor: None,
                elsewhere: Some(actors::user::Elsewhere::default()),
            };
            let cx = story.server.context();
            block_on(cx.user(<&UserId>::try_from(ALICE).unwrap()).call(&invited)).unwrap();
        } else {
            let event: Value = serde_json::from_str(pdu.json()).unwrap();
            let id = encoded(pdu.event_id().as_str());
            let path = format!("/_matrix/federation/v2/invite/{}/{id}", encoded(THEIRS));
            story.as_bobs_server(&path, &json!({ "room_version": "11", "event": event }));
        }
        assert!(story.syncs("")["rooms"]["invite"][THEIRS].is_object());
        story.server.pass_ms(1);
        let leave = story.end_of(&pdu);
        let event: Value = serde_json::from_str(leave.json()).unwrap();
        let transaction = json!({ "origin": "b.test", "origin_server_ts": 1, "pdus": [event] });
        let answer = story.as_bobs_server("/_matrix/federation/v1/send/1", &transaction);
        if !heard_by_earlier_release {
            assert_eq!(answer["pdus"], json!({ (leave.event_id().as_str()): {} }));
        }
        assert!(story.syncs("")["rooms"]["invite"][THEIRS].is_null(), "{answer}");
    }
}

/// An invitation comes at once, and what ended the one before it waited its turn.
#[test]
fn a_late_end_of_an_earlier_invitation_ends_no_other() {
    let story = Story::begins(&[]);
    let first = story.invitation();
    let second = story.membership("invite", &[&first]);
    story.hears_of(&first);
    story.server.pass_ms(1);
    story.hears_of(&second);
    story.server.pass_ms(1);
    for (number, (invitation, is_over)) in [(&first, false), (&second, true)].into_iter().enumerate() {
        let event: Value = serde_json::from_str(story.end_of(invitation).json()).unwrap();
        let transaction = json!({ "origin": "b.test", "origin_server_ts": 1, "pdus": [event] });
        story.as_bobs_server(&format!("/_matrix/federation/v1/send/{number}"), &transaction);
        assert_eq!(story.syncs("")["rooms"]["invite"][THEIRS].is_null(), is_over, "{number}");
    }
}

/// As far as is known here nobody is in the room; bob, who knew as much, came back.
#[test]
fn an_invitation_to_a_room_that_everybody_left_is_taken_up_where_it_came_from() {
    for what in ["join", "leave"] {
        let story = Story::begins(&[]);
        let room_id = story.shared_room();
        story.bob_does("leave", &room_id);
        assert_eq!(story.does("leave", &room_id).0, StatusCode::OK);
        story.server.pass_ms(1);
        story.hears_of(&story.membership_in(&room_id, "invite", &[]));
        story.server.pass_ms(1);
        let (status, answer) = story.does(what, &room_id);
        assert!(story.was_asked(&format!("make_{what}/{}", encoded(&room_id))), "{:?}", story.asked.borrow());
        // Bob's server helps with nothing: an invitation is over all the same.
        assert_eq!(status == StatusCode::OK, what == "leave", "{answer}");
        assert_eq!(story.syncs("")["rooms"]["invite"][&room_id].is_null(), what == "leave");
    }
}

/// Who comes back to a room of their own that everybody has left needs nobody's help.
#[test]
fn a_room_that_everybody_left_is_joined_again() {
    let story = Story::begins(&[]);
    let room_id = story.shared_room();
    story.bob_does("leave", &room_id);
    for what in ["leave", "join"] {
        assert_eq!(story.does(what, &room_id).0, StatusCode::OK);
    }
    assert!(!story.was_asked("make_join"), "{:?}", story.asked.borrow());
}

/// Spec: `/invite`: «All other fields of the events should remain untouched.»
#[test]
fn an_invitation_is_signed_as_it_came() {
    let story = Story::begins(&[]);
    let pdu = story.invitation();
    let mut event: Value = serde_json::from_str(pdu.json()).unwrap();
    event["unsigned"] = json!({ "org.example": [1], "age": 5 });
    let path = format!("/_matrix/federation/v2/invite/{}/{}", encoded(THEIRS), encoded(pdu.event_id().as_str()));
    let mut answer = story.as_bobs_server(&path, &json!({ "room_version": "11", "event": event }));
    let ours = answer["event"]["signatures"].as_object_mut().unwrap().remove("localhost");
    assert!(ours.is_some_and(|signatures| signatures.is_object()));
    assert_eq!(answer["event"], event);
}

/// The room was made, and its topic chosen, by one whose server is gone.
#[test]
fn what_a_server_signed_that_is_gone_is_not_shown() {
    let story = Story::begins(&[]);
    let (version, gone) = (RoomVersion::parse("12").unwrap(), identity("gone.test", "1", 9));
    let complete = |by: &Identity, sender: &str, kind: &str, (key, room_id): (&str, Option<&str>), content: Value| {
        let mut template = json!({
            "type": kind, "sender": sender, "state_key": key, "depth": 5, "content": content, "prev_events": [],
            "auth_events": [], "origin_server_ts": 1,
        });
        if let Some(room_id) = room_id {
            template["room_id"] = json!(room_id);
        }
        let (template, content) = (to_raw_value(&template).unwrap(), to_raw_value(&template["content"]).unwrap());
        let pdu = event::complete(&template, &content, &version, by, 1_700_000_000_000, [3; 18]).unwrap();
        (pdu.event_id().to_string(), serde_json::from_str::<Value>(pdu.json()).unwrap())
    };
    let of_room = json!({ "room_version": "12" });
    let (create_id, create) = complete(&gone, "@ann:gone.test", "m.room.create", ("", None), of_room);
    let room_id = create_id.replacen('$', "!", 1);
    let of = |key| (key, Some(room_id.as_str()));
    let (_, topic) = complete(&gone, "@ann:gone.test", "m.room.topic", of(""), json!({ "topic": "Tea" }));
    let (_, name) = complete(&story.b, "@bob:b.test", "m.room.name", of(""), json!({ "name": "Theirs" }));
    let membership = json!({ "membership": "invite" });
    let (event_id, event) = complete(&story.b, "@bob:b.test", "m.room.member", of(ALICE), membership);
    let path = format!("/_matrix/federation/v2/invite/{}/{}", encoded(&room_id), encoded(&event_id));
    let body = json!({ "room_version": "12", "event": event, "invite_room_state": [create, topic, name] });
    let answer = story.as_bobs_server(&path, &body);
    assert!(answer["event"]["signatures"]["localhost"].is_object(), "{answer}");
    let events = story.syncs("")["rooms"]["invite"][&room_id]["invite_state"]["events"].clone();
    let shown: Vec<_> = events.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(shown, ["m.room.create", "m.room.name", "m.room.member"]);
}

/// What the room looks like is told where somebody can tell it: an invitation is one without.
#[test]
fn an_invitation_may_show_nothing_of_the_room() {
    let name =
        json!({ "type": "m.room.name", "state_key": "", "sender": "@bob:b.test", "content": { "name": "Theirs" } });
    for (shown, named) in [
        (None, false),
        (Some(json!(null)), false),
        (Some(json!({})), false),
        (Some(json!("x")), false),
        (Some(json!([])), false),
        (Some(json!([5, name, null, "x", {}])), true),
    ] {
        let story = Story::begins(&[]);
        let pdu = story.invitation();
        let event: Value = serde_json::from_str(pdu.json()).unwrap();
        let path = format!("/_matrix/federation/v2/invite/{}/{}", encoded(THEIRS), encoded(pdu.event_id().as_str()));
        let mut body = json!({ "room_version": "11", "event": event });
        if let Some(shown) = &shown {
            body["invite_room_state"] = shown.clone();
        }
        let answer = story.as_bobs_server(&path, &body);
        assert!(answer["event"]["signatures"]["localhost"].is_object(), "{answer}");
        let events = story.syncs("")["rooms"]["invite"][THEIRS]["invite_state"]["events"].clone();
        let is_named = events.as_array().unwrap().iter().any(|event| event["content"]["name"] == "Theirs");
        assert_eq!(is_named, named, "{shown:?}: {events}");
    }
    // The rest is as it was.
    let story = Story::begins(&[]);
    let pdu = story.invitation();
    let event: Value = serde_json::from_str(pdu.json()).unwrap();
    let puts = |room_id: &str, event_id: &str, body: &Value| {
        let path = format!("/_matrix/federation/v2/invite/{}/{}", encoded(room_id), encoded(event_id));
        refused(answered(&story.server, signed(&story.b, "localhost", Method::PUT, &path, &body.to_string())))
    };
    let id = pdu.event_id().as_str();
    let whole = json!({ "room_version": "11", "event": event });
    assert_eq!(puts(THEIRS, id, &json!({ "event": event })), (400, "M_BAD_JSON".to_owned()));
    assert_eq!(puts(THEIRS, id, &json!({ "room_version": "11" })), (400, "M_BAD_JSON".to_owned()));
    assert_eq!(puts("theirs", id, &whole), (400, "M_INVALID_PARAM".to_owned()));
    let other = json!({ "room_version": "x", "event": event });
    assert_eq!(puts(THEIRS, id, &other), (400, "M_INCOMPATIBLE_ROOM_VERSION".to_owned()));
    let newest = json!({ "room_version": "12", "event": event });
    assert_eq!(puts(THEIRS, id, &newest).0, 400);
}

#[test]
fn what_ended_an_invitation_is_told() {
    let ends: [(&str, Ends); 3] = [
        (ALICE, |story| assert_eq!(story.does("leave", THEIRS).0, StatusCode::OK)),
        (ALICE, |story| {
            let (status, left) = story.puts(THEIRS, &json!({ "membership": "leave", "reason": "no" }));
            assert!(status == StatusCode::OK && left["event_id"].is_string(), "{left}");
        }),
        ("@bob:b.test", |story| {
            let event: Value = serde_json::from_str(story.end_of(&story.invitation()).json()).unwrap();
            let transaction = json!({ "origin": "b.test", "origin_server_ts": 1, "pdus": [event] });
            story.as_bobs_server("/_matrix/federation/v1/send/1", &transaction);
        }),
    ];
    for (sender, ends) in ends {
        let story = Story::begins(&[]);
        let since = story.invites();
        assert_eq!(refused(story.does("forget", THEIRS)), (400, "M_UNKNOWN".to_owned()), "it is not over");
        story.server.pass_ms(1);
        ends(&story);
        for state_after in [false, true] {
            let sync = story.syncs(&format!("since={since}&use_state_after={state_after}"));
            let left = &sync["rooms"]["leave"][THEIRS];
            let told = left["timeline"]["events"].as_array().unwrap();
            assert_eq!((told.len(), &told[0]["content"]["membership"]), (1, &json!("leave")), "{left}");
            assert_eq!((&told[0]["sender"], &told[0]["state_key"]), (&json!(sender), &json!(ALICE)), "{left}");
            assert!(told[0]["event_id"].is_string() && told[0]["origin_server_ts"].is_u64(), "{left}");
            let after = if state_after { json!({ "events": told }) } else { Value::Null };
            assert_eq!(left["state_after"], after);
        }
        assert_eq!(story.does("forget", THEIRS).0, StatusCode::OK);
    }
}

#[test]
fn an_invitation_from_elsewhere_is_among_the_notifications() {
    let story = Story::begins(&[]);
    let lists = |query: &str| {
        let (status, listed) = story.server.get(&format!("/_matrix/client/v3/notifications?{query}"), &story.alice);
        assert_eq!(status, StatusCode::OK, "{listed}");
        listed
    };
    assert_eq!(lists(""), json!({ "notifications": [] }));
    story.invites();
    let listed = lists("limit=1");
    let told = &listed["notifications"][0];
    assert_eq!((&told["room_id"], &told["read"], &listed["next_token"]), (&json!(THEIRS), &json!(false), &Value::Null));
    let event = &told["event"];
    let id = story.invitation().event_id().to_string();
    assert_eq!(
        (&event["event_id"], &event["sender"], &event["state_key"]),
        (&json!(id), &json!("@bob:b.test"), &json!(ALICE),)
    );
    assert_eq!((&event["type"], &event["content"]["membership"]), (&json!("m.room.member"), &json!("invite")));
    assert!(event["origin_server_ts"].is_u64() && told["ts"].is_u64(), "{told}");
    let position = told["ts"].as_u64().unwrap();
    for (from, count) in
        [(format!("{position}_{THEIRS}"), 0), (format!("{position}_!z:z"), 1), ((position + 1).to_string(), 1)]
    {
        let listed = lists(&format!("from={}", encoded(&from)));
        assert_eq!(listed["notifications"].as_array().unwrap().len(), count, "{from}");
    }
    assert_eq!(lists("only=highlight"), json!({ "notifications": [] }));
    story.server.pass_ms(1);
    assert_eq!(story.does("leave", THEIRS).0, StatusCode::OK);
    assert_eq!(lists(""), json!({ "notifications": [] }));
}

#[test]
fn a_room_that_was_left_is_entered_with_the_help_of_those_in_it() {
    for (membership, make) in [("join", "/make_join/"), ("knock", "/make_knock/")] {
        let story = Story::begins(&[]);
        let room_id = story.shared_room();
        assert_eq!(story.does("leave", &room_id).0, StatusCode::OK);
        let outcome = story.puts(&room_id, &json!({ "membership": membership }));
        assert_eq!(refused(outcome), (502, "M_UNKNOWN".to_owned()), "that server answers nonsense");
        assert!(story.was_asked(make), "{:?}", story.asked.borrow());
        // Nor does the room let anybody in by itself.
        let call = SendEvent {
            sender: ALICE.try_into().unwrap(),
            device: "PHONE".into(),
            transaction_id: None,
            call_id: Some("call".to_owned()),
            event_type: "m.room.member".into(),
            content: to_raw_value(&json!({ "membership": membership })).unwrap(),
            state_key: Some(ALICE.to_owned()),
            member_of: Vec::new(),
            at_ms: None,
            administrator: false,
        };
        let cx = story.server.context();
        let outcome = block_on(cx.room(<&RoomId>::try_from(&*room_id).unwrap()).call(&call));
        assert!(matches!(outcome, Err(Failure::Refused(domain::Refusal::Forbidden(_)))), "{outcome:?}");
    }
}

#[test]
fn whoever_is_in_the_room_says_anew_who_they_are_as_often_as_they_like() {
    let limits = [("RATE_LIMITS", "on"), ("RC_JOINS_LOCAL", "0.001,2"), ("RC_JOINS_PER_ROOM", "0")];
    let story = Story::begins(&limits);
    let room_id = story.shared_room();
    for number in 0..4 {
        let content = json!({ "membership": "join", "displayname": number.to_string() });
        assert_eq!(story.puts(&room_id, &content).0, StatusCode::OK);
    }
    let outcomes = [0; 3].map(|_| refused(story.puts("!other:b.test", &json!({ "membership": "join" }))).0);
    assert_eq!(outcomes, [502, 502, 429], "that is joining a room");
}

#[test]
fn an_invitation_that_the_room_does_not_know_is_turned_down_all_the_same() {
    let story = Story::begins(&[]);
    let carol = story.server.register("carol");
    let create = json!({ "preset": "private_chat" });
    let (_, created) = story.server.post("/_matrix/client/v3/createRoom", &carol, &create);
    let room_id = created["room_id"].as_str().unwrap().to_owned();
    // As it came while nobody of this server was in the room.
    let invited = MembershipChanged {
        room_id: (*room_id).try_into().unwrap(),
        position: 1_700_000_000_000,
        membership: MembershipState::Invite,
        event_id: None,
        profile: None,
        stripped_state: vec![event::stripped_json(&story.invitation())],
        predecessor: None,
        elsewhere: None,
    };
    let cx = story.server.context();
    block_on(cx.user(<&UserId>::try_from(ALICE).unwrap()).call(&invited)).unwrap();
    let sync = story.syncs("");
    assert!(sync["rooms"]["invite"][&room_id].is_object(), "{sync}");
    story.server.pass_ms(1);
    assert_eq!(story.does("leave", &room_id).0, StatusCode::OK);
    let since = sync["next_batch"].as_str().unwrap();
    let sync = story.syncs(&format!("since={since}"));
    assert_eq!(sync["rooms"]["leave"][&room_id]["timeline"]["events"][0]["content"]["membership"], "leave", "{sync}");
    assert_eq!(refused(story.does("leave", &room_id)), (403, "M_FORBIDDEN".to_owned()));
}

#[test]
fn a_room_of_which_there_is_only_a_join_that_failed_is_no_room() {
    let story = Story::begins(&[]);
    let room_id = "!no0server0in0this0id";
    let cx = story.server.context();
    let begin = BeginJoin { room_version: "12".to_owned(), join: "failed".to_owned() };
    block_on(cx.room(<&RoomId>::try_from(room_id).unwrap()).call(&begin)).unwrap();
    for outcome in [
        story.does("join", room_id),
        story.does("leave", room_id),
        story.puts(room_id, &json!({ "membership": "join" })),
        story.puts(room_id, &json!({ "membership": "leave" })),
    ] {
        assert_eq!(refused(outcome), (403, "M_FORBIDDEN".to_owned()));
    }
}

/// Every other server wants that signature: without it, the join would be one for this server alone.
#[test]
fn a_join_in_somebodys_name_counts_with_the_signature_of_their_server() {
    let story = Story::begins(&[]);
    let cx = story.server.context();
    let joins = |version: &str, voucher: Option<&str>| {
        let version = RoomVersion::parse(version).unwrap();
        let mut content = json!({ "membership": "join" });
        if let Some(voucher) = voucher {
            content["join_authorised_via_users_server"] = voucher.into();
        }
        let template = json!({
            "type": "m.room.member", "room_id": THEIRS, "sender": ALICE, "state_key": ALICE, "depth": 5,
            "content": content, "prev_events": [], "auth_events": [], "origin_server_ts": 1,
        });
        let (template, content) = (to_raw_value(&template).unwrap(), to_raw_value(&template["content"]).unwrap());
        let join = event::complete(&template, &content, &version, cx.identity(), 1_700_000_000_000, [3; 18]).unwrap();
        (version, join)
    };
    let room_id = <&RoomId>::try_from(THEIRS).unwrap();
    let elsewhere = Elsewhere {
        cx: &cx,
        room_id,
        user_id: ALICE.try_into().unwrap(),
        servers: Vec::new(),
        words: serde_json::Map::new(),
    };
    let b = story.b.server_name();
    for (version, voucher, wants) in [
        ("11", Some("@bob:b.test"), true),
        ("8", Some("@bob:b.test"), true),
        ("7", Some("@bob:b.test"), false),
        ("11", Some("@carol:localhost"), false),
        ("11", None, false),
    ] {
        let (version, join) = joins(version, voucher);
        let ours = raw(&join).unwrap();
        let theirs = event::countersign(&ours, &version, &story.b).unwrap();
        for told in [None, Some(&*ours)] {
            let outcome = block_on(elsewhere.signed_join(b, told, &join, &version));
            let is_refused = matches!(&outcome, Err(Failure::Refused(domain::Refusal::OtherServer(_))));
            assert_eq!((outcome.is_ok(), is_refused), (!wants, wants), "{version:?} {voucher:?}: {outcome:?}");
        }
        let good = block_on(elsewhere.signed_join(b, Some(&theirs), &join, &version)).unwrap();
        assert!(good.event_id == *join.event_id() && good.json.contains(r#""b.test":{"ed25519:1""#), "{}", good.json);
    }
}
