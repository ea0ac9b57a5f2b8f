//! What the liar tells unasked.

use std::fmt;

use http::Method;
use ruma_common::OwnedEventId;
use serde_json::{Value as Json, json};

use super::{EVE, LIAR, Liar, Twist, identity, json_of};
use crate::{client::encode, graph::Graph};

/// Events of one flood.
const FLOOD_EVENTS: usize = 50;
/// Its transactions.
const FLOOD_TRANSACTIONS: usize = 6;
/// The largest integer of canonical JSON.
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// It comes into the room, as anybody may. What else it says it says in rooms in which it is.
    Joins,
    /// It says something true.
    Says,
    /// It says something of long ago, as if nothing had happened since.
    Forks { back: usize },
    /// It says something in another's name.
    Forges(usize),
    /// It tells only the last of several events.
    Withholds { length: usize },
    /// It tells everybody something else.
    Equivocates,
    /// It does what it may not.
    Usurps(usize),
    /// It says something of another time, and of another place.
    Distorts,
    /// It names events that are none, often.
    Floods,
    /// It sends again what it sent last, with the same name, and with another.
    Replays,
    /// It sends what nobody can read.
    Babbles,
    /// It tells of typing, receipts and devices of others.
    Gossips(usize),
}

impl Lie {
    /// One of them, by chance.
    pub(crate) fn of(dice: &crate::dice::Dice, people: usize) -> Self {
        match dice.roll(20) {
            0..=3 => Self::Joins,
            4..=5 => Self::Says,
            6..=7 => Self::Forks { back: dice.place(30) },
            8..=9 => Self::Forges(dice.place(people)),
            10..=12 => Self::Withholds { length: 2 + dice.place(6) },
            13 => Self::Equivocates,
            14 => Self::Usurps(dice.place(people)),
            15 => Self::Distorts,
            16 => Self::Floods,
            17 => Self::Replays,
            18 => Self::Babbles,
            _ => Self::Gossips(dice.place(people)),
        }
    }
}

impl fmt::Display for Lie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let person = |who: &usize| crate::story::person_name(*who);
        match self {
            Self::Joins => f.write_str("joins"),
            Self::Says => f.write_str("says something"),
            Self::Forks { back } => write!(f, "says something after what was {back} events ago"),
            Self::Forges(who) => write!(f, "says something in the name of {}", person(who)),
            Self::Withholds { length } => write!(f, "tells the last of {length} events"),
            Self::Equivocates => f.write_str("tells everybody something else"),
            Self::Usurps(who) => write!(f, "does to {} what it may not", person(who)),
            Self::Distorts => f.write_str("says something of no time"),
            Self::Floods => f.write_str("names what is not there, often"),
            Self::Replays => f.write_str("repeats itself"),
            Self::Babbles => f.write_str("babbles"),
            Self::Gossips(who) => write!(f, "gossips about {}", person(who)),
        }
    }
}

impl Liar {
    /// Tells a lie in a room that was made on a server.
    pub(crate) async fn lies(&self, room_id: &str, home: usize, lie: Lie, people: &[String]) {
        let Some(mut graph) = self.graph(room_id) else { return };
        let ends = self.extremities(room_id);
        let Ok(state) = graph.meet(&ends) else { return };
        let is_member = self.is_member(&state, &graph);
        let person = |who: usize| people[who % people.len()].as_str();
        let anybody = self.dice.place(self.machines.len());
        match lie {
            Lie::Joins => self.joins(&mut graph, room_id, home, &ends).await,
            Lie::Replays => self.replays().await,
            Lie::Babbles => self.babbles(room_id).await,
            _ if !is_member => {}
            Lie::Says => self.says_after(&mut graph, &ends, &Twist::default()).await,
            Lie::Forks { back } => {
                let mut ids: Vec<(u64, OwnedEventId)> =
                    graph.events.iter().map(|(id, pdu)| (pdu.depth(), id.clone())).collect();
                ids.sort();
                let Some((_, old)) = ids.into_iter().rev().nth(back) else { return };
                self.sets_something(&mut graph, &[old]).await;
            }
            Lie::Forges(who) => self.forges(&mut graph, person(who), &ends).await,
            Lie::Withholds { length } => self.withholds(&mut graph, ends, length, anybody).await,
            Lie::Equivocates => {
                for to in 0..self.machines.len() {
                    let what = ("m.room.topic", Some(""), &json!({ "topic": self.words()["body"] }));
                    if let Some(pdu) = self.makes(&mut graph, what, &ends, &Twist::default()) {
                        self.tells(to, &[json_of(&pdu)], &[]).await;
                    }
                }
            }
            Lie::Usurps(who) => self.usurps(&mut graph, person(who), &ends).await,
            Lie::Distorts => {
                let depth = *self.dice.pick(&[0, 1, INTEGER_MAX, 1 << 40]);
                let at_ms = *self.dice.pick(&[0, INTEGER_MAX, 1 << 41]);
                let twist = Twist { depth: Some(depth), at_ms: Some(at_ms), ..Twist::default() };
                self.says_after(&mut graph, &ends, &twist).await;
            }
            Lie::Floods => self.floods(&mut graph, &ends, anybody).await,
            Lie::Gossips(who) => self.gossips(room_id, person(who), anybody, &ends).await,
        }
    }

    async fn joins(&self, graph: &mut Graph, room_id: &str, home: usize, ends: &[OwnedEventId]) {
        let what = ("m.room.member", Some(EVE), &json!({ "membership": "join" }));
        let Some(pdu) = self.makes(graph, what, ends, &Twist::default()) else { return };
        let (room, event) = (encode(room_id), encode(pdu.event_id().as_str()));
        let path = format!("/_matrix/federation/v2/send_join/{room}/{event}");
        let _answer = self.asks(home, Method::PUT, &path, Some(&json_of(&pdu))).await;
    }

    async fn says_after(&self, graph: &mut Graph, prev: &[OwnedEventId], twist: &Twist) {
        let words = self.words();
        if let Some(pdu) = self.makes(graph, ("m.room.message", None, &words), prev, twist) {
            self.tells_all(&pdu).await;
        }
    }

    /// A state of its own, or the topic, or its membership, after these events.
    async fn sets_something(&self, graph: &mut Graph, prev: &[OwnedEventId]) {
        let words = json!({ "topic": self.words()["body"] });
        let join = json!({ "membership": "join", "displayname": self.words()["body"] });
        let leave = json!({ "membership": "leave" });
        let what = match self.dice.roll(5) {
            0 => ("m.own", Some(EVE), &words),
            1 => ("m.room.member", Some(EVE), &join),
            2 => ("m.room.member", Some(EVE), &leave),
            _ => ("m.room.topic", Some(""), &words),
        };
        if let Some(pdu) = self.makes(graph, what, prev, &Twist::default()) {
            self.tells_all(&pdu).await;
        }
    }

    /// In another's name: signed with a key of its own that has the name of theirs.
    async fn forges(&self, graph: &mut Graph, whose: &str, ends: &[OwnedEventId]) {
        let Some((_, server)) = whose.split_once(':') else { return };
        let machine = self.machines.iter().find(|machine| machine.name == server);
        let Some(key_id) = machine.and_then(|machine| machine.key_id()) else { return };
        let forged = identity(server, key_id.trim_start_matches("ed25519:"), [66; 32]);
        let words = json!({ "topic": self.words()["body"] });
        let leave = json!({ "membership": "leave" });
        let what = match self.dice.roll(3) {
            0 => ("m.room.member", Some(whose), &leave),
            1 => ("m.room.message", None, &words),
            _ => ("m.room.topic", Some(""), &words),
        };
        if let Some(pdu) = self.makes_as(graph, &forged, whose, what, ends, &Twist::default()) {
            self.tells_all(&pdu).await;
        }
    }

    /// A chain of which it tells only the end, and perhaps the middle, to somebody.
    async fn withholds(&self, graph: &mut Graph, mut ends: Vec<OwnedEventId>, length: usize, to: usize) {
        let mut chain = Vec::new();
        for number in 0..length {
            let (words, topic) = (self.words(), json!({ "topic": self.words()["body"] }));
            let what = if number == 1 { ("m.room.topic", Some(""), &topic) } else { ("m.room.message", None, &words) };
            let Some(pdu) = self.makes(graph, what, &ends, &Twist::default()) else { return };
            ends = vec![pdu.event_id().to_owned()];
            chain.push(pdu);
        }
        let Some(last) = chain.last() else { return };
        match self.dice.roll(3) {
            0 => self.tells_all(last).await,
            1 => self.tells(to, &[json_of(last)], &[]).await,
            // Out of order, and not all of it.
            _ => {
                let some: Vec<Json> = chain.iter().rev().step_by(2).map(json_of).collect();
                self.tells(to, &some, &[]).await;
            }
        }
    }

    async fn usurps(&self, graph: &mut Graph, whom: &str, ends: &[OwnedEventId]) {
        let (levels, ban) = (json!({ "users": { EVE: 100 } }), json!({ "membership": "ban" }));
        let create = json!({ "room_version": graph.version.as_str() });
        let what = match self.dice.roll(3) {
            0 => ("m.room.power_levels", Some(""), &levels),
            1 => ("m.room.member", Some(whom), &ban),
            _ => ("m.room.create", Some(""), &create),
        };
        // In the end it names events that do not belong there.
        let named = graph.events.values().take(self.dice.place(3)).cloned().collect();
        let Some(pdu) = self.makes(graph, what, ends, &Twist { named, ..Twist::default() }) else { return };
        self.tells_all(&pdu).await;
        // What is allowed by what is not.
        self.says_after(graph, &[pdu.event_id().to_owned()], &Twist { named: vec![pdu], ..Twist::default() }).await;
    }

    async fn floods(&self, graph: &mut Graph, ends: &[OwnedEventId], to: usize) {
        for _ in 0..FLOOD_TRANSACTIONS {
            let mut pdus = Vec::new();
            for _ in 0..FLOOD_EVENTS {
                let words = self.words();
                let Some(pdu) = self.makes(graph, ("m.room.message", None, &words), ends, &Twist::default()) else {
                    return;
                };
                // Told is only what comes after it, which nobody can have.
                let words = self.words();
                let after = [pdu.event_id().to_owned()];
                let Some(told) = self.makes(graph, ("m.room.message", None, &words), &after, &Twist::default()) else {
                    return;
                };
                pdus.push(json_of(&told));
            }
            self.tells(to, &pdus, &[]).await;
        }
    }

    async fn replays(&self) {
        let last = self.last.borrow().clone();
        let Some((to, path, body)) = last else { return };
        self.sends(to, path.clone(), body.clone()).await;
        self.sends(to + 1, format!("{path}-again"), body).await;
        // The same name with something else in it.
        self.sends(to, path, json!({ "origin": LIAR, "origin_server_ts": 1, "pdus": [{}], "edus": [{}] })).await;
    }

    async fn babbles(&self, room_id: &str) {
        let deep = (0..60).fold(json!({}), |inner, _| json!({ "a": [inner] }));
        let long = "x".repeat(70_000);
        let bodies = [
            json!([]),
            json!({ "origin": LIAR, "origin_server_ts": 1, "pdus": 7 }),
            json!({ "origin": LIAR, "origin_server_ts": 1, "pdus": [7, null, "x", [], { "room_id": room_id }] }),
            json!({ "origin": LIAR, "origin_server_ts": 1, "pdus": vec![json!({}); 51] }),
            json!({ "origin": LIAR, "origin_server_ts": 1, "pdus": [{
                "room_id": room_id, "type": "m.room.message", "sender": EVE, "depth": -1, "origin_server_ts": 1.5,
                "prev_events": [[]], "auth_events": { "a": 1 }, "content": deep, "hashes": [], "signatures": 3,
            }] }),
            json!({ "origin": LIAR, "origin_server_ts": 1, "pdus": [{
                "room_id": room_id, "type": "m.room.message", "sender": EVE, "depth": 3, "origin_server_ts": 1,
                "prev_events": [], "auth_events": [], "content": { "body": long }, "hashes": { "sha256": "" },
                "signatures": { LIAR: { "ed25519:a_liar": "" } },
            }] }),
            json!({ "origin": "one.test", "origin_server_ts": 1, "pdus": [] }),
            json!({ "origin": LIAR, "origin_server_ts": 1, "pdus": [], "edus": [
                { "edu_type": "m.typing", "content": [] }, { "edu_type": "m.receipt" }, 5,
                { "edu_type": "m.presence", "content": { "push": [{ "user_id": EVE, "presence": "mad" }] } },
            ] }),
        ];
        for (number, body) in bodies.into_iter().enumerate() {
            self.sends(number, format!("/_matrix/federation/v1/send/babble-{number}"), body).await;
        }
        let room = encode(room_id);
        for path in [
            format!("/_matrix/federation/v1/state_ids/{room}?event_id=%24none"),
            format!("/_matrix/federation/v1/backfill/{room}?v=%24none&limit=1000000"),
            format!("/_matrix/federation/v1/event/{}", encode("$none:of.these")),
            format!("/_matrix/federation/v1/make_join/{room}/{}?ver=99", encode(EVE)),
            format!("/_matrix/federation/v1/event_auth/{room}/x"),
            "/_matrix/federation/v1/user/devices/%40nobody%3Aone.test".to_owned(),
        ] {
            let _answer = self.asks(self.dice.place(self.machines.len()), Method::GET, &path, None).await;
        }
    }

    async fn gossips(&self, room_id: &str, whose: &str, to: usize, ends: &[OwnedEventId]) {
        let now_ms = platform::Clock::now_ms(&*self.network.scheduler);
        let typing = |user: &str| json!({ "edu_type": "m.typing", "content": { "room_id": room_id, "user_id": user, "typing": true } });
        let receipt = |user: &str| {
            let read = json!({ "event_ids": ends, "data": { "ts": now_ms } });
            json!({ "edu_type": "m.receipt", "content": { room_id: { "m.read": { user: read } } } })
        };
        let devices = |user: &str, stream_id: u64| {
            json!({ "edu_type": "m.device_list_update", "content": {
                "user_id": user, "device_id": "LIES", "stream_id": stream_id, "prev_id": [stream_id + 1],
            } })
        };
        let whisper = json!({ "edu_type": "m.direct_to_device", "content": {
            "sender": whose, "type": "m.whisper", "message_id": "lie",
            "messages": { whose: { "*": { "body": "forged" } } },
        } });
        let users = [EVE, whose];
        let mut edus: Vec<Json> = users.iter().flat_map(|user| [typing(user), receipt(user)]).collect();
        edus.extend([devices(EVE, 1), devices(EVE, INTEGER_MAX - 1), devices(whose, 5), whisper]);
        self.tells(to, &[], &edus).await;
    }
}
