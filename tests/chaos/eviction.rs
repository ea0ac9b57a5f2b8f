//! Invariants 4 and 18: evicting any one actor between any two steps breaks no other.
//!
//! `MYELIN_TEST_STEPS` says how long the conversation is (120).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use harness::{Server, Sync, User, Value, bodies, event_ids, json, on_each_host};

use crate::seed::Seed;

on_each_host![evictions_go_unnoticed];

const STEPS: usize = 120;
/// How long the last message may take to reach everybody.
const ARRIVES_WITHIN: Duration = Duration::from_secs(20);

/// One participant as the story knows it.
struct Person {
    user: User,
    since: String,
    is_in: bool,
    heard: Vec<String>,
}

/// A conversation of which the test keeps its own account.
struct Conversation<'a> {
    server: &'a Server,
    seed: Seed,
    room: String,
    people: Vec<Person>,
    /// Bodies of all messages, in order.
    said: Vec<String>,
    /// What was sent last under each transaction id: (speaker, txn id, body) to event id.
    transactions: BTreeMap<(usize, String, String), Value>,
}

impl Conversation<'_> {
    fn evicts_somebody(&self) {
        match self.seed.below(self.people.len() + 2) {
            0 => {}
            1 => self.server.evicts("room", &self.room),
            place => self.server.evicts("user", &self.people[place - 2].user.id),
        }
    }

    fn speaks(&mut self, place: usize) {
        let body = format!("message {}", self.said.len());
        let txn_id = format!("t{}", self.said.len());
        let content = json!({ "msgtype": "m.text", "body": body });
        let user = &self.people[place].user;
        let answer = user.sends_event(&self.room, "m.room.message", &txn_id, content);
        if self.people[place].is_in {
            self.said.push(body.clone());
            self.transactions.insert((place, txn_id, body), answer.ok()["event_id"].clone());
        } else {
            answer.refused(403, "M_FORBIDDEN");
        }
    }

    fn repeats(&self) {
        let all: Vec<_> = self.transactions.iter().collect();
        if all.is_empty() {
            return;
        }
        let ((place, txn_id, body), event_id) = self.seed.one_of(&all);
        let content = json!({ "msgtype": "m.text", "body": body });
        if self.people[*place].is_in {
            let again = self.people[*place].user.sends_event(&self.room, "m.room.message", txn_id, content).ok();
            assert_eq!(&again["event_id"], *event_id, "a retry is no repetition");
        }
    }

    /// Bob and the others come and go; Alice stays.
    fn comes_or_goes(&mut self, place: usize) {
        let person = &mut self.people[place];
        if place == 0 {
            return;
        }
        let answer = if person.is_in { person.user.leaves(&self.room) } else { person.user.joins(&self.room) };
        let _ = answer.ok();
        person.is_in = !person.is_in;
        let rooms = person.user.get("/joined_rooms").ok();
        let expected = if person.is_in { json!([self.room]) } else { json!([]) };
        assert_eq!(rooms["joined_rooms"], expected, "one's own change is seen at once");
    }

    fn syncs(&mut self, place: usize, timeout_ms: &str) {
        let person = &mut self.people[place];
        let filter = json!({ "room": { "timeline": { "limit": 500 } } }).to_string();
        let pairs = [("since", person.since.as_str()), ("timeout", timeout_ms), ("filter", filter.as_str())];
        let sync = Sync::from(person.user.asks_sync(&pairs));
        let left = sync.left(&self.room)["timeline"]["events"].as_array().cloned().unwrap_or_default();
        person.heard.extend(sync.messages(&self.room));
        person.heard.extend(bodies(&left));
        person.since = sync.next_batch;
    }

    fn hears_the_last(&mut self, place: usize) {
        let deadline = Instant::now() + ARRIVES_WITHIN;
        while self.people[place].heard.last() != self.said.last() {
            assert!(Instant::now() < deadline, "the last message never comes to {}", self.people[place].user.id);
            self.syncs(place, "1000");
        }
    }

    fn takes_a_step(&mut self) {
        let place = self.seed.below(self.people.len());
        match self.seed.below(10) {
            0..=4 => self.speaks(place),
            5 => self.repeats(),
            6 => self.comes_or_goes(place),
            _ => self.syncs(place, "0"),
        }
        self.evicts_somebody();
    }
}

fn evictions_go_unnoticed(server: &Server) {
    let steps = std::env::var("MYELIN_TEST_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(STEPS);
    let users = ["alice", "bob", "carol"].map(|name| server.registers(name));
    let room = users[0].creates_room(json!({ "preset": "public_chat" }));
    let people = users.into_iter().enumerate().map(|(place, user)| {
        let since = user.syncs().next_batch;
        Person { user, since, is_in: place == 0, heard: Vec::new() }
    });
    let mut talk = Conversation {
        server,
        seed: Seed::from_environment(),
        room,
        people: people.collect(),
        said: Vec::new(),
        transactions: BTreeMap::new(),
    };
    for _step in 0..steps {
        talk.takes_a_step();
    }
    for place in 0..talk.people.len() {
        if !talk.people[place].is_in {
            talk.comes_or_goes(place);
        }
    }
    talk.speaks(0);
    for place in 0..talk.people.len() {
        talk.hears_the_last(place);
    }

    for person in &talk.people {
        let mut history = person.user.pages_back(&talk.room, None, 20);
        history.reverse();
        assert_eq!(bodies(&history), talk.said, "/messages of {}", person.user.id);
        let unique: BTreeSet<_> = event_ids(&history).into_iter().collect();
        assert_eq!(unique.len(), history.len());
    }
    assert_eq!(talk.people[0].heard, talk.said, "/sync of who was always in");
    let members = talk.people[0].user.get(&format!("/rooms/{}/joined_members", talk.room)).ok();
    assert_eq!(members["joined"].as_object().expect("a map").len(), talk.people.len());
}
