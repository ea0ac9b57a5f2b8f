//! Spec: client-server API, «Room History Visibility».

use harness::{Answer, Server, User, Value, bodies, encode, json, on_each_host};

on_each_host![
    shared_history_reaches_back_before_the_invitation,
    invited_history_begins_with_the_invitation,
    joined_history_begins_with_the_join,
    world_readable_history_is_open,
    a_change_does_not_open_the_past,
    sync_shows_no_more_than_messages,
    a_leaver_keeps_the_state_of_the_leave,
    each_event_says_what_one_was,
    a_world_readable_state_is_open,
    every_read_of_a_shared_room,
    every_read_of_an_invited_room,
    every_read_of_a_joined_room,
    every_read_of_a_world_readable_room,
];

const PHASES: [&str; 4] = ["before", "while invited", "while joined", "after leaving"];

/// A room of this visibility in which Alice speaks before Bob is invited, while he is, while he is in, and after
/// he left.
fn four_phases(alice: &User, bob: &User, visibility: &str) -> String {
    let content = json!({ "history_visibility": visibility });
    let room = alice.creates_room(json!({
        "initial_state": [{ "type": "m.room.history_visibility", "state_key": "", "content": content }],
    }));
    alice.sends(&room, PHASES[0]);
    alice.invites(&room, bob).ok();
    alice.sends(&room, PHASES[1]);
    bob.joins(&room).ok();
    alice.sends(&room, PHASES[2]);
    bob.leaves(&room).ok();
    alice.sends(&room, PHASES[3]);
    room
}

fn reads(user: &User, room: &str) -> Vec<String> {
    let mut messages = bodies(&user.pages_back(room, None, 3));
    messages.reverse();
    messages
}

fn in_every_phase(server: &Server, visibility: &str, expected: &[&str]) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = four_phases(&alice, &bob, visibility);
    assert_eq!(reads(&bob, &room), expected);
    assert_eq!(reads(&alice, &room), PHASES);
    match visibility {
        "world_readable" => assert_eq!(reads(&carol, &room), PHASES),
        _ => drop(carol.messages(&room, &[("dir", "b")]).refused(403, "M_FORBIDDEN")),
    }
}

fn shared_history_reaches_back_before_the_invitation(server: &Server) {
    in_every_phase(server, "shared", &PHASES[..3]);
}

fn invited_history_begins_with_the_invitation(server: &Server) {
    in_every_phase(server, "invited", &PHASES[1..3]);
}

fn joined_history_begins_with_the_join(server: &Server) {
    in_every_phase(server, "joined", &PHASES[2..3]);
}

fn world_readable_history_is_open(server: &Server) {
    in_every_phase(server, "world_readable", &PHASES);
}

fn a_change_does_not_open_the_past(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({}));
    let visibility = |value: &str| {
        alice.sets_state(&room, "m.room.history_visibility", "", json!({ "history_visibility": value })).ok();
    };
    visibility("joined");
    alice.sends(&room, "for members");
    visibility("shared");
    alice.sends(&room, "for all who come");
    alice.invites(&room, &bob).ok();
    bob.joins(&room).ok();
    assert_eq!(reads(&bob, &room), ["for all who come"]);
}

fn sync_shows_no_more_than_messages(server: &Server) {
    for (visibility, expected) in [("shared", &PHASES[..2]), ("invited", &PHASES[1..2]), ("joined", &[])] {
        let (alice, bob) = (server.registers("alice"), server.registers("bob"));
        let content = json!({ "history_visibility": visibility });
        let room = alice.creates_room(json!({
            "initial_state": [{ "type": "m.room.history_visibility", "state_key": "", "content": content }],
        }));
        alice.sends(&room, PHASES[0]);
        alice.invites(&room, &bob).ok();
        alice.sends(&room, PHASES[1]);
        bob.joins(&room).ok();
        assert_eq!(bob.syncs().messages(&room), expected, "{visibility}");
    }
}

fn a_leaver_keeps_the_state_of_the_leave(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "name": "Then", "invite": [bob.id] }));
    bob.full_state(&room).refused(403, "M_FORBIDDEN");
    bob.joins(&room).ok();
    bob.leaves(&room).ok();
    alice.sets_state(&room, "m.room.name", "", json!({ "name": "Now" })).ok();
    assert_eq!(bob.state(&room, "m.room.name", "").ok()["name"], "Then");
    let state = bob.full_state(&room).ok();
    let name = state.as_array().expect("a list").iter().find(|event| event["type"] == "m.room.name");
    assert_eq!(name.expect("the name")["content"]["name"], "Then");
}

fn a_world_readable_state_is_open(server: &Server) {
    let (alice, carol) = (server.registers("alice"), server.registers("carol"));
    let content = json!({ "history_visibility": "world_readable" });
    let room = alice.creates_room(json!({
        "name": "Open",
        "initial_state": [{ "type": "m.room.history_visibility", "state_key": "", "content": content }],
    }));
    assert_eq!(carol.state(&room, "m.room.name", "").ok()["name"], "Open");
    assert!(carol.full_state(&room).ok().is_array());
    carol.says(&room, "but not writable").refused(403, "M_FORBIDDEN");
}

/// What becomes of Bob, step by step, and of Alice's messages, one after each step, those he may read under each
/// setting.
/// Spec: «The rules governing whether a user is allowed to see an event depend on the state of the room at that event».
struct History {
    steps: &'static [&'static str],
    shared: &'static str,
    invited: &'static str,
    joined: &'static str,
    world_readable: &'static str,
}

const HISTORIES: [History; 8] = [
    History { steps: &[], shared: "", invited: "", joined: "", world_readable: "0" },
    History { steps: &["invite"], shared: "", invited: "1", joined: "", world_readable: "01" },
    History { steps: &["invite", "leave"], shared: "", invited: "1", joined: "", world_readable: "012" },
    History { steps: &["join"], shared: "01", invited: "1", joined: "1", world_readable: "01" },
    History { steps: &["invite", "join"], shared: "012", invited: "12", joined: "2", world_readable: "012" },
    History { steps: &["join", "leave"], shared: "01", invited: "1", joined: "1", world_readable: "012" },
    History { steps: &["join", "ban"], shared: "01", invited: "1", joined: "1", world_readable: "012" },
    History { steps: &["join", "leave", "join"], shared: "0123", invited: "13", joined: "13", world_readable: "0123" },
];

/// One history, played in a room of one setting.
struct Played<'a> {
    bob: &'a User,
    room: String,
    steps: &'static [&'static str],
    /// Ids, times and texts of what Alice said.
    said: Vec<(String, u64, String)>,
    /// The texts that Bob may read.
    readable: Vec<String>,
    /// The phase whose state Bob may read; `None`: none.
    state: Option<String>,
}

fn plays<'a>(alice: &User, bob: &'a User, setting: &str, history: &History) -> Played<'a> {
    let room = alice.creates_room(json!({
        "preset": "public_chat",
        "initial_state": [{
            "type": "m.room.history_visibility", "state_key": "", "content": { "history_visibility": setting },
        }],
    }));
    let mut said = Vec::new();
    for (phase, step) in ["begin"].iter().chain(history.steps).enumerate() {
        drop(match *step {
            "invite" => alice.invites(&room, bob).ok(),
            "join" => bob.joins(&room).ok(),
            "leave" => bob.leaves(&room).ok(),
            "ban" => alice.bans(&room, bob).ok(),
            _ => Value::Null,
        });
        let phase = phase.to_string();
        alice.sets_state(&room, "m.room.name", "", json!({ "name": phase })).ok();
        let id = alice.sends(&room, &phase);
        let time = alice.event(&room, &id).ok()["origin_server_ts"].as_u64().expect("a time");
        said.push((id, time, phase));
    }
    let readable = match setting {
        "shared" => history.shared,
        "invited" => history.invited,
        "joined" => history.joined,
        _ => history.world_readable,
    };
    let last_join = history.steps.iter().rposition(|step| *step == "join");
    let state = match last_join {
        _ if setting == "world_readable" => Some(history.steps.len()),
        // The state they left, or that of now.
        Some(join) => Some(if join + 1 < history.steps.len() { join + 1 } else { history.steps.len() }),
        None => None,
    };
    let readable = readable.chars().map(String::from).collect();
    Played { bob, room, steps: history.steps, said, readable, state: state.map(|phase| phase.to_string()) }
}

impl Played<'_> {
    fn may(&self, text: &str) -> bool {
        self.readable.iter().any(|readable| readable == text)
    }

    /// The answer to one who is in the room, was, or need not be.
    #[track_caller]
    fn of_members(&self, answer: Answer) -> Option<Value> {
        match self.state {
            Some(_) => Some(answer.ok()),
            None => {
                answer.refused(403, "M_FORBIDDEN");
                None
            }
        }
    }

    fn one_by_one(&self) {
        for (id, time, text) in &self.said {
            let event = self.bob.event(&self.room, id);
            if self.may(text) {
                assert_eq!(event.ok()["content"]["body"], *text);
            } else {
                event.refused(404, "M_NOT_FOUND");
            }
            let context = self.bob.context(&self.room, id, &[("limit", "100")]);
            if self.state.is_none() {
                context.refused(403, "M_FORBIDDEN");
            } else if !self.may(text) {
                context.refused(404, "M_NOT_FOUND");
            } else {
                let context = context.ok();
                let around = |part: &str| bodies(context[part].as_array().expect("a list"));
                let mut before = around("events_before");
                before.reverse();
                assert_eq!([before, vec![text.clone()], around("events_after")].concat(), self.readable);
            }
            for dir in ["f", "b"] {
                let found = self.bob.event_at(&self.room, *time, dir);
                if self.state.is_none() {
                    found.refused(403, "M_FORBIDDEN");
                } else if found.status == 200 {
                    let id = found.ok()["event_id"].as_str().expect("an id").to_owned();
                    self.bob.event(&self.room, &id).ok();
                } else {
                    found.refused(404, "M_NOT_FOUND");
                    assert!(!self.may(text), "{text} is there");
                }
            }
        }
    }

    fn as_pages(&self) {
        for dir in ["b", "f"] {
            let page = self.bob.messages(&self.room, &[("dir", dir), ("limit", "100")]);
            let Some(page) = self.of_members(page) else { continue };
            let mut texts = bodies(page["chunk"].as_array().expect("a chunk"));
            if dir == "b" {
                texts.reverse();
            }
            assert_eq!(texts, self.readable, "dir={dir}");
        }
    }

    fn as_state(&self) {
        let path = format!("/rooms/{}", encode(&self.room));
        if let Some(name) = self.of_members(self.bob.state(&self.room, "m.room.name", "")) {
            assert_eq!(name["name"], *self.state.as_deref().expect("a state"));
        }
        if let Some(state) = self.of_members(self.bob.full_state(&self.room)) {
            let state = state.as_array().expect("a list");
            let name = state.iter().find(|event| event["type"] == "m.room.name").expect("a name");
            assert_eq!(name["content"]["name"], *self.state.as_deref().expect("a state"));
        }
        if let Some(members) = self.of_members(self.bob.get(&format!("{path}/members"))) {
            let members = members["chunk"].as_array().expect("a list");
            let own = members.iter().find(|event| event["state_key"] == self.bob.id);
            let expected = self.steps.last().map(|step| json!(step)).unwrap_or_default();
            assert_eq!(own.map(|own| own["content"]["membership"].clone()).unwrap_or_default(), expected);
        }
        let joined = self.bob.get(&format!("{path}/joined_members"));
        if self.steps.last() == Some(&"join") {
            assert!(joined.ok()["joined"][&self.bob.id].is_object());
        } else {
            joined.refused(403, "M_FORBIDDEN");
        }
    }

    fn as_sync(&self) {
        let filter = json!({ "room": { "include_leave": true, "timeline": { "limit": 50 } } }).to_string();
        let sync = self.bob.asks_sync(&[("filter", &filter), ("timeout", "0")]).ok();
        let joined = &sync["rooms"]["join"][&self.room];
        let left = &sync["rooms"]["leave"][&self.room];
        let is_in = self.steps.last() == Some(&"join");
        assert_eq!(joined.is_object(), is_in, "{sync}");
        let room = if is_in { joined } else { left };
        let events = room["timeline"]["events"].as_array().cloned().unwrap_or_default();
        let shown = bodies(&events);
        assert!(self.readable.ends_with(&shown) || !is_in && shown.iter().all(|text| self.may(text)), "{shown:?}");
        if is_in {
            assert_eq!(shown.last(), self.readable.last());
        }
        // What the timeline does not show is found from where it begins.
        if let Some(prev_batch) = room["timeline"]["prev_batch"].as_str().filter(|_| is_in) {
            let mut earlier = bodies(&self.bob.pages_back(&self.room, Some(prev_batch), 50));
            earlier.reverse();
            assert_eq!([earlier, shown].concat(), self.readable);
        }
    }
}

fn every_read(server: &Server, setting: &str) {
    for history in &HISTORIES {
        let (alice, bob) = (server.registers("alice"), server.registers("bob"));
        println!("{setting}, {:?}", history.steps);
        let played = plays(&alice, &bob, setting, history);
        played.one_by_one();
        played.as_pages();
        played.as_state();
        played.as_sync();
    }
}

fn every_read_of_a_shared_room(server: &Server) {
    every_read(server, "shared");
}

fn every_read_of_an_invited_room(server: &Server) {
    every_read(server, "invited");
}

fn every_read_of_a_joined_room(server: &Server) {
    every_read(server, "joined");
}

fn every_read_of_a_world_readable_room(server: &Server) {
    every_read(server, "world_readable");
}

fn each_event_says_what_one_was(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    let ids = [alice.sends(&room, "before"), {
        bob.joins(&room).ok();
        alice.sends(&room, "while joined")
    }];
    let memberships = ids.map(|id| bob.event(&room, &id).ok()["unsigned"]["membership"].clone());
    assert_eq!(memberships, [json!("leave"), json!("join")]);
}
