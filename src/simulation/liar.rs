//! A server that is in the rooms of others and lies: it signs what it says as it should, and says what it likes.
//!
//! It knows everything that anybody has of a room, which makes it the worst it can be. What it tells unasked is in
//! [`telling`], what it answers in [`answering`]. Of its lies those about a state cannot be told from the truth by
//! whoever has nothing but its word: it keeps count of the rooms for which it told such.

mod answering;
mod telling;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::{Rc, Weak},
};

use bytes::Bytes;
use domain::{
    Identity, Pdu, auth,
    event::{self, Draft, Place},
    federation::x_matrix::SignedRequest,
};
use http::{Method, Request, Response, header};
use platform::{Clock as _, Random as _};
use ruma_common::{OwnedEventId, OwnedServerName, RoomId, ServerName, UserId};
use serde_json::{Value as Json, json, value::to_raw_value};

pub(crate) use self::telling::Lie;
use crate::{
    dice::Dice,
    disk::Disk,
    graph::{self, Graph, State},
    machine::Machine,
    network::Network,
    scheduler::Group,
};

/// Its name.
pub(crate) const LIAR: &str = "liar.test";
/// Its only user.
pub(crate) const EVE: &str = "@eve:liar.test";
/// How long it waits for an answer.
const ANSWER_MS_MAX: u64 = 60_000;

pub(crate) struct Liar {
    identity: Identity,
    network: Rc<Network>,
    dice: Dice,
    count: Cell<u64>,
    /// All that it ever made, told or not, and what others told it alone.
    made: RefCell<BTreeMap<String, BTreeMap<OwnedEventId, Pdu>>>,
    machines: Vec<Rc<Machine>>,
    /// Rooms for which it told what no state is.
    disputed: RefCell<BTreeSet<String>>,
    /// What it sent last, to whom.
    last: RefCell<Option<(usize, String, Json)>>,
    is_tired: Cell<bool>,
    this: Weak<Liar>,
}

/// What an event of its own is to be, where it is not as the rules have it.
#[derive(Default)]
struct Twist {
    depth: Option<u64>,
    at_ms: Option<u64>,
    /// Events that it names besides as its authorisation.
    named: Vec<Pdu>,
}

impl Liar {
    pub(crate) fn new(network: Rc<Network>, machines: Vec<Rc<Machine>>, seed: u64) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            this: this.clone(),
            identity: identity(LIAR, "a_liar", [13; 32]),
            dice: Dice::of(seed, LIAR),
            network,
            count: Cell::new(0),
            made: RefCell::default(),
            machines,
            disputed: RefCell::default(),
            last: RefCell::default(),
            is_tired: Cell::new(false),
        })
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// From now on it takes what it is told, and says nothing more.
    pub(crate) fn tires(&self) {
        self.is_tired.set(true);
    }

    /// Whether it told a lie about the state of this room.
    pub(crate) fn disputes(&self, room_id: &str) -> bool {
        self.disputed.borrow().contains(room_id)
    }

    /// What it made of a room.
    pub(crate) fn made(&self, room_id: &str) -> Vec<Pdu> {
        self.made.borrow().get(room_id).map(|made| made.values().cloned().collect()).unwrap_or_default()
    }

    fn keeps(&self, pdu: &Pdu) {
        let mut made = self.made.borrow_mut();
        made.entry(pdu.room_id().to_string()).or_default().insert(pdu.event_id().to_owned(), pdu.clone());
    }

    /// Everything that anybody has of a room.
    fn graph(&self, room_id: &str) -> Option<Graph> {
        let disks: Vec<Rc<Disk>> = self.machines.iter().filter_map(|machine| machine.room(room_id)).collect();
        Graph::of(&disks, &self.made(room_id))
    }

    /// The extremities that one of the others has.
    fn extremities(&self, room_id: &str) -> Vec<OwnedEventId> {
        let disks: Vec<Rc<Disk>> = self.machines.iter().filter_map(|machine| machine.room(room_id)).collect();
        let mut ids =
            if disks.is_empty() { Vec::new() } else { graph::extremities(&disks[self.dice.place(disks.len())]) };
        ids.truncate(10);
        ids
    }

    /// Makes an event after these; `None` if nobody knows the state there.
    fn makes(
        &self,
        graph: &mut Graph,
        what: (&str, Option<&str>, &Json),
        prev: &[OwnedEventId],
        twist: &Twist,
    ) -> Option<Pdu> {
        let pdu = self.makes_as(graph, &self.identity, EVE, what, prev, twist)?;
        self.keeps(&pdu);
        Some(pdu)
    }

    /// The same, signed by somebody else, or by whoever is to look like them.
    fn makes_as(
        &self,
        graph: &mut Graph,
        identity: &Identity,
        sender: &str,
        (event_type, state_key, content): (&str, Option<&str>, &Json),
        prev: &[OwnedEventId],
        twist: &Twist,
    ) -> Option<Pdu> {
        let state = graph.meet(prev).ok()?;
        let draft = Draft {
            event_type: event_type.into(),
            content: to_raw_value(content).ok()?,
            state_key: state_key.map(str::to_owned),
            sender: UserId::parse(sender).ok()?,
            redacts: None,
        };
        let needed = auth::needed_for(&draft, &graph.version).ok()?;
        let named = needed.iter().filter_map(|key| graph.events.get(state.get(key)?));
        let reference = |pdu: &Pdu| event::reference(pdu, &graph.version).ok();
        let auth_events: Vec<_> = named.chain(&twist.named).filter_map(reference).collect();
        let before: Vec<&Pdu> = prev.iter().filter_map(|id| graph.events.get(id)).collect();
        let depth = before.iter().map(|pdu| pdu.depth()).max()? + 1;
        let place = Place {
            room_id: Some(before.first()?.room_id()),
            prev_events: &before.iter().filter_map(|pdu| reference(pdu)).collect::<Vec<_>>(),
            auth_events: &auth_events,
            depth: twist.depth.unwrap_or(depth),
            origin_server_ts: twist.at_ms.unwrap_or_else(|| self.network.scheduler.now_ms()),
        };
        let mut random = [0; 18];
        self.dice.fill(&mut random).ok()?;
        let pdu = event::build(&draft, &place, &graph.version, identity, random).ok()?;
        graph.events.insert(pdu.event_id().to_owned(), pdu.clone());
        Some(pdu)
    }

    /// A content that stands in no other event.
    fn words(&self) -> Json {
        self.count.set(self.count.get() + 1);
        json!({ "msgtype": "m.text", "body": format!("lie-{}", self.count.get()) })
    }

    fn is_member(&self, state: &State, graph: &Graph) -> bool {
        let id = state.get(&("m.room.member".into(), EVE.to_owned()));
        let member = id.and_then(|id| graph.events.get(id));
        member.is_some_and(|pdu| pdu.content().get().contains(r#""join""#))
    }

    /// Asks another server, with its good signature.
    async fn asks(&self, to: usize, method: Method, path: &str, body: Option<&Json>) -> Option<Response<Bytes>> {
        let machine = &self.machines[to % self.machines.len()];
        let content = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let signed = SignedRequest { method: method.as_str(), uri: path, content: &content };
        let destination = <&ServerName>::try_from(machine.name.as_str()).ok()?;
        // What no canonical JSON is cannot be signed: it comes with a signature of something else.
        let authorization = signed.authorization(&self.identity, destination).unwrap_or_else(|_| {
            let empty = SignedRequest { content: b"{}", ..signed };
            empty.authorization(&self.identity, destination).unwrap_or_default()
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, authorization)
            .header(header::HOST, &machine.name)
            .header(header::CONTENT_TYPE, "application/json")
            .body(content)
            .ok()?;
        let answer = self.network.asks(LIAR, &machine.name, request);
        self.network.scheduler.within(ANSWER_MS_MAX, answer).await?.ok()
    }

    /// Tells another server events and more, in a transaction of a new name.
    async fn tells(&self, to: usize, pdus: &[Json], edus: &[Json]) {
        self.count.set(self.count.get() + 1);
        let path = format!("/_matrix/federation/v1/send/lies-{}", self.count.get());
        let body = json!({
            "origin": LIAR, "origin_server_ts": self.network.scheduler.now_ms(), "pdus": pdus, "edus": edus,
        });
        self.sends(to, path, body).await;
    }

    async fn sends(&self, to: usize, path: String, body: Json) {
        let _answer = self.asks(to, Method::PUT, &path, Some(&body)).await;
        *self.last.borrow_mut() = Some((to, path, body));
    }

    /// Tells all others of an event, soon.
    fn relays(&self, pdu: Pdu) {
        let this = self.this.clone();
        let _running = self.network.scheduler.spawn(&Group::default(), async move {
            if let Some(this) = this.upgrade() {
                this.tells_all(&pdu).await;
            }
        });
    }

    async fn tells_all(&self, pdu: &Pdu) {
        for to in 0..self.machines.len() {
            self.tells(to, &[json_of(pdu)], &[]).await;
        }
    }
}

/// An identity from its parts.
fn identity(server: &str, version: &str, seed: [u8; 32]) -> Identity {
    let server = OwnedServerName::try_from(server).expect("a server's name");
    Identity::new(server, version, seed).expect("a key's version")
}

fn json_of(pdu: &Pdu) -> Json {
    serde_json::from_str(pdu.json()).expect("an event is JSON")
}

/// The room of which a path's segment names, decoded.
fn room_of(segment: &str) -> Option<String> {
    let room_id = percent_encoding::percent_decode_str(segment).decode_utf8().ok()?.into_owned();
    RoomId::parse(&room_id).ok().map(|room_id| room_id.to_string())
}
