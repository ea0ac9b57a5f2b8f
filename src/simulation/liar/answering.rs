//! What the liar answers when it is asked.

use std::collections::BTreeSet;

use bytes::Bytes;
use domain::{Pdu, event, federation::server_keys::own_document};
use http::{Method, Request, Response, StatusCode};
use platform::Clock as _;
use ruma_common::OwnedEventId;
use serde_json::{Value as Json, json};

use super::{LIAR, Liar, Twist, json_of, room_of};
use crate::graph::Graph;

/// How it answers one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Truth,
    Nothing,
    Lie,
    Nonsense,
}

impl Liar {
    /// Answers a request; `None`: it hangs up.
    pub(crate) async fn answer(&self, request: Request<Bytes>) -> Option<Response<Bytes>> {
        self.network.scheduler.sleep(1 + self.dice.roll(20)).await;
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_start_matches("/_matrix/").split('/').collect();
        if parts.first() == Some(&"key") {
            return Some(ok(own_document(&self.identity, self.network.scheduler.now_ms())));
        }
        let mood = self.mood();
        if let (["federation", "v1", "event", event_id], true) = (parts.as_slice(), mood != Mood::Truth) {
            self.withholds_part_of(&id_of(event_id)?);
        }
        match mood {
            Mood::Nonsense if self.dice.happens(4) => return None,
            Mood::Nonsense => return Some(self.nonsense()),
            Mood::Truth | Mood::Nothing | Mood::Lie => {}
        }
        let query = |name: &str| {
            let pairs = request.uri().query().unwrap_or_default().split('&');
            let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
            id_of(value)
        };
        let answer = match parts.as_slice() {
            ["federation", "v1", "send", _] => Some(json!({ "pdus": {} })),
            ["federation", "v1", "event", event_id] => self.event(&id_of(event_id)?, mood),
            ["federation", "v1", "get_missing_events", room] => {
                let asked: Json = serde_json::from_slice(request.body()).unwrap_or_default();
                self.missing(&room_of(room)?, &asked, mood)
            }
            ["federation", "v1", "state_ids", room] => self.state(&room_of(room)?, &query("event_id")?, mood, true),
            ["federation", "v1", "state", room] => self.state(&room_of(room)?, &query("event_id")?, mood, false),
            ["federation", "v1", "event_auth", room, event_id] => {
                let (mut graph, id) = (self.graph(&room_of(room)?)?, id_of(event_id)?);
                let chain = if mood == Mood::Truth { graph.auth_chain_of(&id) } else { BTreeSet::new() };
                Some(json!({ "auth_chain": jsons(&graph, chain) }))
            }
            ["federation", "v1", "backfill", room] => self.backfill(&room_of(room)?, &query("v")?, mood),
            ["federation", "v1", "user", "keys", "query"] => Some(json!({ "device_keys": {} })),
            ["federation", "v1", "user", "devices", user] => {
                let user = percent_encoding::percent_decode_str(user).decode_utf8().ok()?;
                Some(json!({ "user_id": user, "stream_id": 1, "devices": [] }))
            }
            ["federation", "v1", "make_join", room, user] => self.make_join(&room_of(room)?, user, mood),
            ["federation", "v2", "send_join", room, _] if *request.method() == Method::PUT => {
                self.send_join(&room_of(room)?, request.body(), mood)
            }
            _ => None,
        };
        Some(answer.map_or_else(|| refusal("M_NOT_FOUND"), |answer| ok(answer.to_string())))
    }

    fn mood(&self) -> Mood {
        if self.is_tired.get() {
            return Mood::Truth;
        }
        match self.dice.roll(10) {
            0..=4 => Mood::Truth,
            5..=6 => Mood::Nothing,
            7..=8 => Mood::Lie,
            _ => Mood::Nonsense,
        }
    }

    fn nonsense(&self) -> Response<Bytes> {
        match self.dice.roll(4) {
            0 => refusal("M_UNKNOWN"),
            1 => ok("{".repeat(1_000)),
            2 => ok("[]".to_owned()),
            _ => {
                let mut response = ok("{}".to_owned());
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            }
        }
    }

    /// Whoever asks for one event lacks it for a state, and does without: that is another state than others have.
    fn withholds_part_of(&self, event_id: &OwnedEventId) {
        let rooms: BTreeSet<String> = self.machines.iter().flat_map(|machine| machine.rooms()).collect();
        let is_of = |room_id: &String| self.graph(room_id).is_some_and(|graph| graph.events.contains_key(event_id));
        self.disputed.borrow_mut().extend(rooms.into_iter().filter(is_of));
    }

    /// Any event of a room that it pleases to tell.
    fn any(&self, graph: &Graph, count: usize) -> Vec<Json> {
        let events: Vec<&Pdu> = graph.events.values().collect();
        (0..count).map(|_| json_of(events[self.dice.place(events.len())])).collect()
    }

    fn event(&self, event_id: &OwnedEventId, mood: Mood) -> Option<Json> {
        let made = self.made.borrow();
        let own = made.values().find_map(|made| made.get(event_id));
        let pdu = match (own, mood) {
            (_, Mood::Nothing | Mood::Nonsense) => return None,
            (Some(pdu), Mood::Truth) => json_of(pdu),
            (_, Mood::Lie) => json_of(made.values().next()?.values().next()?),
            (None, Mood::Truth) => {
                let rooms: BTreeSet<String> = self.machines.iter().flat_map(|machine| machine.rooms()).collect();
                drop(made);
                let graphs = rooms.iter().filter_map(|room_id| self.graph(room_id));
                graphs.filter_map(|graph| graph.events.get(event_id).map(json_of)).next()?
            }
        };
        Some(json!({ "origin": LIAR, "origin_server_ts": 1, "pdus": [pdu] }))
    }

    fn missing(&self, room_id: &str, asked: &Json, mood: Mood) -> Option<Json> {
        let mut graph = self.graph(room_id)?;
        let ids = |field: &str| -> BTreeSet<OwnedEventId> {
            let listed = asked[field].as_array().into_iter().flatten();
            listed.filter_map(|id| OwnedEventId::try_from(id.as_str()?).ok()).collect()
        };
        let (earliest, latest) = (ids("earliest_events"), ids("latest_events"));
        let events = match mood {
            Mood::Nothing | Mood::Nonsense => Vec::new(),
            Mood::Truth => {
                let mut between: Vec<Json> = behind(&graph, &latest, &earliest, 50).iter().map(json_of).collect();
                between.reverse();
                between
            }
            Mood::Lie => match self.dice.roll(4) {
                0 => self.any(&graph, 60),
                // What it was asked about.
                1 => jsons(&graph, latest.clone()),
                // Another chain that does not end where it should, nor begin.
                2 => {
                    let prev: Vec<OwnedEventId> = latest.iter().take(1).cloned().collect();
                    let words = self.words();
                    let fork = self.makes(&mut graph, ("m.room.message", None, &words), &prev, &Twist::default());
                    fork.iter().map(json_of).collect()
                }
                _ => {
                    let between = behind(&graph, &latest, &earliest, 50);
                    between.iter().rev().step_by(2).map(json_of).collect()
                }
            },
        };
        Some(json!({ "events": events }))
    }

    fn state(&self, room_id: &str, event_id: &OwnedEventId, mood: Mood, ids_only: bool) -> Option<Json> {
        let mut graph = self.graph(room_id)?;
        let prev = graph.events.get(event_id)?.prev_events().to_vec();
        let state = graph.meet(&prev).ok()?;
        let mut ids: BTreeSet<OwnedEventId> = state.values().cloned().collect();
        match mood {
            Mood::Truth => {}
            Mood::Nothing | Mood::Nonsense => return None,
            Mood::Lie => {
                self.disputed.borrow_mut().insert(room_id.to_owned());
                self.bends(&graph, &mut ids);
            }
        }
        let mut chain = BTreeSet::new();
        for id in &ids {
            chain.extend(graph.auth_chain_of(id));
        }
        Some(if ids_only {
            json!({ "pdu_ids": ids, "auth_chain_ids": chain })
        } else {
            json!({ "pdus": jsons(&graph, ids), "auth_chain": jsons(&graph, chain) })
        })
    }

    /// Leaves some of a state out, and puts what is none of it, and nothing at all, in.
    fn bends(&self, graph: &Graph, ids: &mut BTreeSet<OwnedEventId>) {
        match self.dice.roll(4) {
            0 => ids.retain(|_| !self.dice.happens(3)),
            1 => ids.extend(graph.events.keys().filter(|_| self.dice.happens(2)).cloned()),
            2 => ids.clear(),
            _ => {
                let nobodys = (0..40).map(|number| format!("$none{number}:{LIAR}"));
                ids.extend(nobodys.filter_map(|id| OwnedEventId::try_from(id).ok()));
            }
        }
    }

    fn backfill(&self, room_id: &str, from: &OwnedEventId, mood: Mood) -> Option<Json> {
        let graph = self.graph(room_id)?;
        let pdus = match mood {
            Mood::Truth => {
                let here = graph.events.get(from).into_iter().cloned();
                let before = behind(&graph, &BTreeSet::from([from.clone()]), &BTreeSet::new(), 50);
                here.chain(before).map(|pdu| json_of(&pdu)).collect()
            }
            Mood::Lie => self.any(&graph, 100),
            Mood::Nothing | Mood::Nonsense => Vec::new(),
        };
        Some(json!({ "origin": LIAR, "origin_server_ts": 1, "pdus": pdus }))
    }

    fn make_join(&self, room_id: &str, user: &str, mood: Mood) -> Option<Json> {
        let mut graph = self.graph(room_id)?;
        let user = percent_encoding::percent_decode_str(user).decode_utf8().ok()?.into_owned();
        let ends = self.extremities(room_id);
        let state = graph.meet(&ends).ok()?;
        if mood == Mood::Nothing || (mood == Mood::Truth && !self.is_member(&state, &graph)) {
            return None;
        }
        let what = ("m.room.member", Some(user.as_str()), &json!({ "membership": "join" }));
        let pdu = self.makes_as(&mut graph, &self.identity, &user, what, &ends, &Twist::default())?;
        let template: Json =
            serde_json::from_str(event::template(&pdu, self.identity.server_name()).ok()?.get()).ok()?;
        Some(json!({ "room_version": graph.version.as_str(), "event": template }))
    }

    /// Somebody joins a room through it: of that it tells the others, or nobody. From who is not in the room they take
    /// nothing.
    fn send_join(&self, room_id: &str, body: &Bytes, mood: Mood) -> Option<Json> {
        let mut graph = self.graph(room_id)?;
        let text = std::str::from_utf8(body).ok()?;
        let object = serde_json::from_str(text).ok()?;
        let event_id = event::id_of(&object, &graph.version).ok()?;
        let join = Pdu::from_stored(event_id, text, false).ok()?;
        let state = graph.meet(join.prev_events()).ok()?;
        self.keeps(&join);
        let mut ids: BTreeSet<OwnedEventId> = state.values().cloned().collect();
        if mood == Mood::Truth && self.is_member(&state, &graph) {
            self.relays(join.clone());
        } else {
            self.disputed.borrow_mut().insert(room_id.to_owned());
            self.bends(&graph, &mut ids);
        }
        let mut chain = BTreeSet::new();
        for id in &ids {
            chain.extend(graph.auth_chain_of(id));
        }
        Some(json!({
            "origin": LIAR, "members_omitted": false, "servers_in_room": [LIAR], "event": json_of(&join),
            "state": jsons(&graph, ids), "auth_chain": jsons(&graph, chain),
        }))
    }
}

/// Up to `limit` events before `from` that are not before `until`, or among it, nearest first.
fn behind(graph: &Graph, from: &BTreeSet<OwnedEventId>, until: &BTreeSet<OwnedEventId>, limit: usize) -> Vec<Pdu> {
    let prev = |id: &OwnedEventId| graph.events.get(id).map(|pdu| pdu.prev_events().to_vec()).unwrap_or_default();
    let mut ahead: Vec<OwnedEventId> = from.iter().flat_map(prev).collect();
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    while !ahead.is_empty() && found.len() < limit {
        for id in std::mem::take(&mut ahead) {
            if until.contains(&id) || !seen.insert(id.clone()) {
                continue;
            }
            ahead.extend(prev(&id));
            found.extend(graph.events.get(&id).cloned());
        }
    }
    found.truncate(limit);
    found
}

fn jsons(graph: &Graph, ids: BTreeSet<OwnedEventId>) -> Vec<Json> {
    ids.iter().filter_map(|id| graph.events.get(id)).map(json_of).collect()
}

fn id_of(segment: &str) -> Option<OwnedEventId> {
    let id = percent_encoding::percent_decode_str(segment).decode_utf8().ok()?;
    OwnedEventId::try_from(id.as_ref()).ok()
}

fn ok(body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

fn refusal(errcode: &str) -> Response<Bytes> {
    let mut response = ok(json!({ "errcode": errcode, "error": "no" }).to_string());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
