use std::{cell::RefCell, rc::Rc};

use domain::{Pdu, Refusal, event::Draft, power::Preset};
use platform::{ActorKind, Address, Sql};
use ruma_common::{OwnedRoomId, UserId, user_id};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    CompleteState, IsWhole, OmittedMembers, PAUSE_MS_MIN, TakeOmitted, ToFetch, UNCHECKED_TRIES_MAX, UncheckedEvent,
};
use crate::{
    CallError,
    room::{
        AdmitMembership, BeginJoin, CheckedEvent, CompleteJoin, Delta, DeltaReply, GetIntake, GetMembers, GetStateIds,
        GiveUpJoin, JudgeStaged, MembershipAction, PrepareInvite, ReceiveEvent, Received, Section, StageEvents,
        StopFetching, Takes, inbox::LEASE_MS,
    },
    world::World,
};

const THERE: [&str; 3] = ["one.test", "two.test", "three.test"];

/// A room of others with members of three servers, which bob of `near` joins.
struct Story {
    near: Rc<World>,
    far: Rc<World>,
    room_id: OwnedRoomId,
    join: CheckedEvent,
}

fn alice() -> &'static UserId {
    user_id!("@alice:one.test")
}

fn bob() -> &'static UserId {
    user_id!("@bob:myelin.test")
}

fn events(world: &World, room_id: &OwnedRoomId) -> Vec<CheckedEvent> {
    let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
    let rows = sql.query("SELECT event_id, json FROM event ORDER BY position", &[]).unwrap();
    let event = |mut row: platform::Row| CheckedEvent {
        event_id: row.text(0).unwrap().try_into().unwrap(),
        json: row.text(1).unwrap(),
    };
    rows.into_iter().map(event).collect()
}

impl Story {
    /// `name`: that of the room; `changes`: what happens before bob joins.
    fn begins(name: Option<&str>, changes: impl Fn(&World, &OwnedRoomId)) -> Self {
        let far = World::configured(1, &[("SERVER_NAME", "one.test")]);
        let room_id = far.creates_room(alice(), "11", Preset::PublicChat);
        for user in ["@zoe:two.test", "@yan:two.test", "@xia:three.test"] {
            far.joins_from_elsewhere(&room_id, &UserId::parse(user).unwrap());
        }
        if let Some(name) = name {
            far.sends(alice(), &room_id, "m.room.name", Some(""), &json!({ "name": name })).unwrap();
        }
        changes(&far, &room_id);
        far.joins_from_elsewhere(&room_id, bob());
        let join = events(&far, &room_id).pop().unwrap();
        Self { near: World::new(2), far, room_id, join }
    }

    /// What the other server answers to the join, or tells of the state before it.
    fn told(&self, omit_members: bool) -> (Vec<CheckedEvent>, Vec<CheckedEvent>, bool) {
        let event_id = self.join.event_id.clone();
        let call = GetStateIds { server: None, event_id, auth_chain_only: false, omit_members, after: None };
        let ids = self.far.call(self.room_id.as_str(), &call).unwrap();
        let all = events(&self.far, &self.room_id);
        let of = |ids: &[ruma_common::OwnedEventId]| {
            all.iter().filter(|event| ids.contains(&event.event_id)).cloned().collect::<Vec<_>>()
        };
        (of(&ids.state), of(&ids.auth_chain), ids.members_omitted)
    }

    fn stages(&self, name: &str, (state, chain, _): (Vec<CheckedEvent>, Vec<CheckedEvent>, bool)) {
        let room_id = self.room_id.as_str();
        let begin = BeginJoin { room_version: "11".into(), join: name.into() };
        self.near.call(room_id, &begin).unwrap();
        let first = state.len() as u64;
        for (first, are_state, events) in [(0, true, state), (first, false, chain)] {
            self.near.call(room_id, &StageEvents { join: name.into(), first, are_state, events }).unwrap();
        }
        self.near.call(room_id, &JudgeStaged { join: name.into(), after: 0 }).unwrap();
    }

    fn joins(&self) {
        let told = self.told(true);
        assert!(told.2, "members are omitted");
        self.stages("j", told);
        let omitted = OmittedMembers {
            resident: "one.test".try_into().unwrap(),
            servers: THERE.iter().map(|name| (*name).try_into().unwrap()).collect(),
            unchecked: Vec::new(),
        };
        let event = self.join.clone();
        let call = CompleteJoin { call_id: "j".into(), event, join: "j".into(), omitted: Some(omitted) };
        assert_eq!(self.near.call(self.room_id.as_str(), &call).unwrap(), Received::Accepted);
    }

    fn takes(&self, carrier: &str) -> Option<ToFetch> {
        self.near.call(self.room_id.as_str(), &TakeOmitted { carrier: carrier.to_owned() }).unwrap()
    }

    fn completes(&self, carrier: &str) {
        self.near
            .call(self.room_id.as_str(), &CompleteState { carrier: carrier.to_owned(), unchecked: Vec::new() })
            .unwrap();
    }

    fn is_whole(&self) -> bool {
        self.near.call(self.room_id.as_str(), &IsWhole {}).unwrap()
    }

    fn members(&self) -> Result<usize, CallError> {
        let call: GetMembers = serde_json::from_value(json!({ "user": bob(), "device": "PHONE" })).unwrap();
        self.near.call(self.room_id.as_str(), &call).map(|page| page.events.len())
    }

    fn looks(&self, from: Option<u64>) -> (DeltaReply, Value) {
        let call = json!({ "user": bob(), "device": "PHONE", "from": from, "device_lists": from.is_some() });
        let call: Delta = serde_json::from_value(call).unwrap();
        let reply = self.near.call(self.room_id.as_str(), &call).unwrap();
        let room = serde_json::from_str(reply.room.get()).unwrap();
        (reply, room)
    }

    fn says_there(&self) -> CheckedEvent {
        let draft = Draft {
            event_type: "m.room.message".into(),
            content: to_raw_value(&json!({ "body": "hello" })).unwrap(),
            state_key: None,
            sender: alice().to_owned(),
            redacts: None,
        };
        let join = Pdu::from_stored(self.join.event_id.clone(), self.join.json.clone(), false).unwrap();
        self.far.says_elsewhere(&self.room_id, &draft, &join)
    }
}

fn is_for_later<T>(outcome: Result<T, CallError>) -> bool {
    matches!(outcome, Err(CallError::Refused(Refusal::Unavailable { .. })))
}

#[test]
fn a_room_without_its_members_is_spoken_in_and_made_whole() {
    let story = Story::begins(Some("Tea"), |_, _| {});
    story.joins();
    let room_id = story.room_id.as_str();
    assert!(story.near.carriers.take().contains(&room_id.to_owned()), "somebody is to fetch them");
    assert!(!story.is_whole());
    // What decides nothing about others goes on.
    story.near.sends(bob(), &story.room_id, "m.room.message", None, &json!({ "body": "hi" })).unwrap();
    let (first, room) = story.looks(None);
    assert_eq!(first.section, Section::Join);
    assert!(room.to_string().contains("\"hi\""), "{room}");
    // What does waits.
    assert!(is_for_later(story.members()));
    assert!(is_for_later(story.near.changes(bob(), &story.room_id, user_id!("@zoe:two.test"), MembershipAction::Kick)));
    assert!(is_for_later(story.near.changes(
        user_id!("@dan:myelin.test"),
        &story.room_id,
        user_id!("@dan:myelin.test"),
        MembershipAction::Join
    )));
    let said = story.says_there();
    let receive = ReceiveEvent::of(said.clone());
    assert!(is_for_later(story.near.call(room_id, &receive)));
    let intake = story.near.call(room_id, &GetIntake { server: "two.test".try_into().unwrap() }).unwrap();
    assert_eq!(intake.takes, Takes::Later);

    let to_fetch = story.takes("one").unwrap();
    assert_eq!((to_fetch.event_id, to_fetch.servers.len()), (story.join.event_id.clone(), THERE.len()));
    assert_eq!(story.takes("two"), None, "one fetches");
    story.stages("one", story.told(false));
    story.completes("one");
    assert!(story.is_whole());
    assert_eq!(story.takes("two"), None);
    assert_eq!(story.members().unwrap(), 5);
    assert_eq!(story.near.call(room_id, &receive).unwrap(), Received::Accepted);
    // Also from before what was said meanwhile.
    let own = story.near.newest(&story.room_id, "m.room.member", bob().as_str());
    assert_eq!(own.event_id(), story.join.event_id);
    let call = GetStateIds {
        server: Some("two.test".try_into().unwrap()),
        event_id: story.join.event_id.clone(),
        auth_chain_only: false,
        omit_members: false,
        after: None,
    };
    let mut there = story.told(false).0.into_iter().map(|event| event.event_id).collect::<Vec<_>>();
    let mut here = story.near.call(room_id, &call).unwrap().state;
    there.sort();
    here.sort();
    assert_eq!(here, there);
    // A device that looked in between learns the room anew, and whose devices there are.
    let (next, room) = story.looks(Some(first.to));
    assert!(next.anew);
    assert!(["@zoe:two.test", "@yan:two.test", "@xia:three.test"].iter().all(|user| room.to_string().contains(user)));
    assert_eq!(room["summary"]["m.joined_member_count"], 5);
    assert_eq!(room["summary"]["m.heroes"].as_array().unwrap().len(), 4);
    assert_eq!(next.device_lists.changed.len(), 4, "{:?}", next.device_lists);
    // No position is used twice, whatever is forgotten.
    story.near.crash();
    story.near.sends(bob(), &story.room_id, "m.room.message", None, &json!({ "body": "tea" })).unwrap();
    let (news, room) = story.looks(Some(next.to));
    assert!(!news.anew && room.to_string().contains("tea"), "{room}");
    let (last, _) = story.looks(Some(news.to));
    assert!(!last.anew && last.section == Section::Quiet);
}

#[test]
fn who_was_invited_is_let_in_by_what_the_join_names() {
    let story = Story::begins(Some("Tea"), |far, room_id| {
        far.sends(alice(), room_id, "m.room.join_rules", Some(""), &json!({ "join_rule": "invite" })).unwrap();
        let content = to_raw_value(&json!({ "membership": "invite" })).unwrap();
        let call = PrepareInvite { sender: alice().to_owned(), target: bob().to_owned(), content, at_ms: None };
        let event = far.call(room_id.as_str(), &call).unwrap().event;
        let server = "one.test".try_into().unwrap();
        far.call(room_id.as_str(), &AdmitMembership { server, event }).unwrap();
    });
    story.joins();
    assert!(story.takes("one").is_some());
    story.stages("one", story.told(false));
    story.completes("one");
    assert_eq!(story.members().unwrap(), 5);
}

#[test]
fn where_all_are_known_already_nothing_is_missing_for_long() {
    let story = Story::begins(None, |_, _| {});
    story.joins();
    assert!(story.takes("one").is_some());
    story.stages("one", story.told(false));
    story.completes("one");
    assert!(story.is_whole());
    assert_eq!(story.members().unwrap(), 5);
}

#[test]
fn fetchers_come_again_and_later_until_nobody_wants_to_know() {
    let story = Story::begins(Some("Tea"), |_, _| {});
    story.joins();
    let room_id = story.room_id.to_string();
    let first = story.takes("one").unwrap();
    story.stages("one", (Vec::new(), Vec::new(), false));
    let incomplete = story.near.call(&room_id, &CompleteState { carrier: "one".into(), unchecked: Vec::new() });
    assert!(matches!(incomplete, Err(CallError::Refused(Refusal::Unknown(_)))), "{incomplete:?}");
    story.near.call(&room_id, &GiveUpJoin { join: "one".into() }).unwrap();
    story.near.call(&room_id, &StopFetching { carrier: "one".into() }).unwrap();
    story.near.passes(0);
    story.near.carriers.take();
    story.near.passes(PAUSE_MS_MIN + 1);
    assert!(story.near.carriers.take().contains(&room_id), "no later than it is time");
    let second = story.takes("two").unwrap();
    assert_eq!(
        (&second.servers[0], &second.servers[2]),
        (&first.servers[1], &first.servers[0]),
        "others are asked, too"
    );
    story.near.crash();
    story.near.passes(2 * PAUSE_MS_MIN + LEASE_MS);
    assert!(story.near.carriers.take().contains(&room_id), "whatever is lost with the process");
    story.near.changes(bob(), &story.room_id, bob(), MembershipAction::Leave).unwrap();
    assert_eq!(story.takes("three"), None);
    story.near.carriers.take();
    story.near.passes(10 * PAUSE_MS_MIN);
    assert!(!story.near.carriers.take().contains(&room_id));
}

#[test]
fn a_room_without_a_name_is_told_with_those_it_is_called_after() {
    let story = Story::begins(None, |_, _| {});
    let members = |events: &[CheckedEvent]| {
        let is_member = |event: &&CheckedEvent| event.json.contains("m.room.member");
        events.iter().filter(is_member).count()
    };
    let (state, chain, omitted) = story.told(true);
    assert!(omitted);
    assert_eq!(members(&state), 4, "alice, zoe, yan and xia");
    assert!(chain.iter().all(|event| state.iter().all(|other| other.event_id != event.event_id)), "nothing twice");
    story.far.sends(alice(), &story.room_id, "m.room.name", Some(""), &json!({ "name": "Tea" })).unwrap();
    let dan = user_id!("@dan:myelin.test");
    story.far.joins_from_elsewhere(&story.room_id, dan);
    let join = events(&story.far, &story.room_id).pop().unwrap();
    let story = Story { join, ..story };
    let (state, _, omitted) = story.told(true);
    assert_eq!((members(&state), omitted), (0, true));
    assert_eq!(members(&story.told(false).0), 5);
}

/// Who was here before and left is still who left, when somebody else of ours comes back without knowing the members.
#[test]
fn what_was_known_of_users_of_ours_holds_until_it_is_told() {
    let dan = user_id!("@dan:myelin.test");
    let story = Story::begins(Some("Tea"), |_, _| {});
    story.joins();
    assert!(story.takes("one").is_some());
    story.stages("one", story.told(false));
    story.completes("one");
    // There dan comes and is banned after he left, and bob comes back; here nobody saw the ban.
    story.near.changes(dan, &story.room_id, dan, MembershipAction::Join).unwrap();
    story.near.changes(dan, &story.room_id, dan, MembershipAction::Leave).unwrap();
    story.near.changes(bob(), &story.room_id, bob(), MembershipAction::Leave).unwrap();
    let come = |user: &UserId| story.far.joins_from_elsewhere(&story.room_id, user);
    come(dan);
    story.far.changes(alice(), &story.room_id, dan, MembershipAction::Ban).unwrap();
    story.far.changes(alice(), &story.room_id, bob(), MembershipAction::Kick).unwrap();
    come(bob());
    let join = events(&story.far, &story.room_id).pop().unwrap();
    let story = Story { join, ..story };
    let told = story.told(true);
    story.stages("k", told);
    let omitted =
        OmittedMembers { resident: "one.test".try_into().unwrap(), servers: Vec::new(), unchecked: Vec::new() };
    let event = story.join.clone();
    let call = CompleteJoin { call_id: "k".into(), event, join: "k".into(), omitted: Some(omitted) };
    assert_eq!(story.near.call(story.room_id.as_str(), &call).unwrap(), Received::Accepted);
    assert!(is_for_later(story.near.changes(dan, &story.room_id, dan, MembershipAction::Join)), "he may be banned");
    story.near.sends(bob(), &story.room_id, "m.room.message", None, &json!({ "body": "hi" })).unwrap();
    assert!(story.takes("two").is_some());
    story.stages("two", story.told(false));
    story.completes("two");
    let state = |world: &World| {
        let sql = world.sql(&Address::new(ActorKind::Room, story.room_id.as_str()));
        let mut state = crate::room::current_state(&*sql);
        state.sort();
        state
    };
    assert_eq!(state(&story.near), state(&story.far));
    // Also for what comes after the join, and not after what was said here meanwhile.
    let receive = ReceiveEvent::of(story.says_there());
    assert_eq!(story.near.call(story.room_id.as_str(), &receive).unwrap(), Received::Accepted);
    assert_eq!(state(&story.near), state(&story.far));
}

/// Keys of `two.test` are not to be had while bob joins: what is signed with them is known by name only.
struct Unchecked {
    story: Story,
    events: Vec<CheckedEvent>,
}

impl Unchecked {
    /// `lacks`: whether an event is one that could not be checked.
    fn begins(changes: impl Fn(&World, &OwnedRoomId), lacks: impl Fn(&CheckedEvent) -> bool) -> Self {
        let story = Story::begins(Some("Tea"), changes);
        let (state, chain, _) = story.told(false);
        let (events, state): (Vec<_>, Vec<_>) = state.into_iter().partition(|event| lacks(event));
        let (hidden, chain): (Vec<_>, Vec<_>) = chain.into_iter().partition(|event| lacks(event));
        story.stages("j", (state, chain, false));
        let of = |is_state| move |event: &CheckedEvent| UncheckedEvent { json: event.json.clone(), is_state };
        let unchecked = events.iter().map(of(true)).chain(hidden.iter().map(of(false))).collect();
        let omitted = OmittedMembers { resident: "one.test".try_into().unwrap(), servers: Vec::new(), unchecked };
        let event = story.join.clone();
        let call = CompleteJoin { call_id: "j".into(), event, join: "j".into(), omitted: Some(omitted) };
        assert_eq!(story.near.call(story.room_id.as_str(), &call).unwrap(), Received::Accepted);
        Self { story, events }
    }

    /// What is looked at again, and whether for the last time.
    fn takes(&self, carrier: &str) -> (Vec<UncheckedEvent>, bool) {
        let to_fetch = self.story.takes(carrier).unwrap();
        assert!(to_fetch.servers.is_empty(), "nobody is asked");
        (to_fetch.unchecked, to_fetch.is_last_try)
    }

    fn is_like_there(&self) {
        let state = |world: &World| {
            let sql = world.sql(&Address::new(ActorKind::Room, self.story.room_id.as_str()));
            let mut state = crate::room::current_state(&*sql);
            state.sort();
            state
        };
        assert_eq!(state(&self.story.near), state(&self.story.far));
    }
}

#[test]
fn what_could_not_be_checked_comes_afterwards() {
    let unchecked = Unchecked::begins(
        |far, room_id| drop(far.sends(alice(), room_id, "m.room.topic", Some(""), &json!({ "topic": "Green" }))),
        |event| event.json.contains("m.room.topic") || event.json.contains("\"state_key\":\"@zoe:two.test\""),
    );
    let Unchecked { story, events } = &unchecked;
    assert_eq!(events.len(), 2);
    let receive = ReceiveEvent::of(story.says_there());
    let receives = || story.near.call(story.room_id.as_str(), &receive);
    assert!(is_for_later(receives()), "those say of whom nothing is known would be refused for good");
    let (again, is_last) = unchecked.takes("one");
    assert_eq!((again.len(), is_last), (2, false));
    story.stages("one", (events.clone(), Vec::new(), false));
    story.completes("one");
    assert!(story.is_whole());
    unchecked.is_like_there();
    assert_eq!(receives().unwrap(), Received::Accepted);
}

/// What dan said and what became of him is judged by his first join, which is of the auth chain only.
#[test]
fn what_is_judged_by_what_could_not_be_checked_waits_with_it() {
    let (dan, first) = (user_id!("@dan:one.test"), RefCell::new(None));
    let unchecked = Unchecked::begins(
        |far, room_id| {
            let levels = json!({ "users": { "@alice:one.test": 100 }, "events": { "m.x": 0 } });
            far.sends(alice(), room_id, "m.room.power_levels", Some(""), &levels).unwrap();
            far.changes(dan, room_id, dan, MembershipAction::Join).unwrap();
            *first.borrow_mut() = Some(far.newest(room_id, "m.room.member", dan.as_str()).event_id().to_owned());
            far.sends(dan, room_id, "m.x", Some(""), &json!({})).unwrap();
            for action in [MembershipAction::Leave, MembershipAction::Join] {
                far.changes(dan, room_id, dan, action).unwrap();
            }
        },
        |event| Some(&event.event_id) == first.borrow().as_ref(),
    );
    let Unchecked { story, events } = &unchecked;
    assert!(events.is_empty(), "it is no part of the state");
    assert!(!story.is_whole());
    let (again, _) = unchecked.takes("one");
    assert_eq!(again.iter().map(|event| event.is_state).filter(|is_state| *is_state).count(), 2, "{again:?}");
    let all = self::events(&story.far, &story.room_id);
    let of = |is_state: bool| {
        let of = again.iter().filter(|event| event.is_state == is_state);
        of.map(|event| all.iter().find(|held| held.json == event.json).unwrap().clone()).collect::<Vec<_>>()
    };
    story.stages("one", (of(true), of(false), false));
    story.completes("one");
    unchecked.is_like_there();
}

#[test]
fn what_can_never_be_checked_is_done_without_after_some_tries() {
    let unchecked = Unchecked::begins(|_, _| {}, |event| event.json.contains("\"state_key\":\"@zoe:two.test\""));
    let Unchecked { story, .. } = &unchecked;
    let room_id = story.room_id.as_str();
    for count in 1..=UNCHECKED_TRIES_MAX {
        assert!(!story.is_whole());
        let (again, is_last) = unchecked.takes("one");
        assert_eq!((again.len(), is_last), (1, count == UNCHECKED_TRIES_MAX));
        story.near.call(room_id, &BeginJoin { room_version: "11".into(), join: "one".into() }).unwrap();
        if is_last {
            story.completes("one");
        } else {
            story.near.call(room_id, &GiveUpJoin { join: "one".into() }).unwrap();
            story.near.call(room_id, &StopFetching { carrier: "one".into() }).unwrap();
            story.near.passes(PAUSE_MS_MIN << count);
        }
    }
    assert!(story.is_whole());
    assert_eq!(story.members().unwrap(), 4, "without zoe");
    assert_eq!(story.near.call(room_id, &ReceiveEvent::of(story.says_there())).unwrap(), Received::Accepted);
}

/// Nor does it wait for whoever was to try last, and died.
#[test]
fn a_room_does_not_wait_for_a_last_try_that_never_ends() {
    let unchecked = Unchecked::begins(|_, _| {}, |event| event.json.contains("\"state_key\":\"@zoe:two.test\""));
    let Unchecked { story, .. } = &unchecked;
    for count in 0..=UNCHECKED_TRIES_MAX {
        assert!(story.takes("one").is_some());
        story.near.crash();
        story.near.passes((PAUSE_MS_MIN << count) + LEASE_MS);
    }
    assert_eq!(story.takes("one"), None);
    assert!(story.is_whole());
}

#[test]
fn nothing_is_said_for_all_where_it_may_have_to_be_encrypted() {
    let algorithm = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let unchecked = Unchecked::begins(
        |far, room_id| drop(far.sends(alice(), room_id, "m.room.encryption", Some(""), &algorithm)),
        |event| event.json.contains("\"type\":\"m.room.encryption\""),
    );
    let Unchecked { story, events } = &unchecked;
    let says = |kind: &str| story.near.sends(bob(), &story.room_id, kind, None, &json!({ "body": "hi" }));
    assert!(is_for_later(says("m.room.message")));
    says("m.room.encrypted").unwrap();
    unchecked.takes("one");
    story.stages("one", (events.clone(), Vec::new(), false));
    story.completes("one");
    says("m.room.message").unwrap();
    unchecked.is_like_there();
}
