//! What must be true after every story, once all is mended.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use ruma_common::OwnedEventId;

use crate::{
    client::{Client, encode},
    complaint::Promise,
    disk::Disk,
    graph::{self, Graph, Held, State},
    heal::Rooms,
    machine::Machine,
    world::World,
};

/// Pages of history that a reader goes back at most.
const PAGES_MAX: usize = 200;

type ById = BTreeMap<(String, String), String>;

/// One server that is in a room, with somebody who can tell.
struct Witness<'a> {
    machine: &'a Machine,
    client: &'a Rc<Client>,
    disk: Rc<Disk>,
}

/// Looks at everything.
pub(crate) async fn judges(world: &World, rooms: &Rooms) {
    for client in &world.clients {
        for complaint in &client.view.borrow().complaints {
            world.complains(Promise::Timeline, format!("{} sees: {complaint}", client.user_id));
        }
    }
    for (client, rooms) in world.clients.iter().zip(rooms) {
        knows_its_rooms(world, client, rooms).await;
    }
    for room_id in world.all_rooms() {
        let mut witnesses: BTreeMap<&str, Witness<'_>> = BTreeMap::new();
        for (client, rooms) in world.clients.iter().zip(rooms) {
            let machine = &*client.machine;
            if let (true, Some(disk)) = (rooms.contains(&room_id), world.disk_of(machine, &room_id)) {
                witnesses.entry(&machine.name).or_insert(Witness { machine, client, disk });
            }
        }
        let witnesses: Vec<Witness<'_>> = witnesses.into_values().collect();
        agree(world, &room_id, &witnesses).await;
    }
    nothing_is_lost(world);
    whispers_arrive_once(world);
}

async fn state_of(client: &Client, room_id: &str) -> Option<ById> {
    let answer = client.get(&format!("/_matrix/client/v3/rooms/{}/state", encode(room_id))).await?;
    let events = answer.body.as_array()?;
    let text = |event: &serde_json::Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    Some(
        events.iter().map(|event| ((text(event, "type"), text(event, "state_key")), text(event, "event_id"))).collect(),
    )
}

/// What a client knows from its syncs is what its server says.
async fn knows_its_rooms(world: &World, client: &Client, rooms: &[String]) {
    let known: Vec<String> = client.view.borrow().joined.keys().cloned().collect();
    let mut rooms = rooms.to_vec();
    rooms.sort();
    if known != rooms {
        return world
            .complains(Promise::Rooms, format!("{} believes to be in {known:?} and is in {rooms:?}", client.user_id));
    }
    for room_id in &rooms {
        let Some(state) = state_of(client, room_id).await else {
            world.complains(Promise::Answers, format!("{} is in {room_id} and does not see its state", client.user_id));
            continue;
        };
        let visible = reads_back(world, client, room_id).await;
        let Some(disk) = world.disk_of(&client.machine, room_id) else { continue };
        let view = client.view.borrow();
        let view = &view.joined[room_id];
        let mut known = view.state.clone();
        // No sync can say that a key of the state has no event any more.
        known.retain(|key, _| state.contains_key(key) || !graph::was_reset(&disk, key));
        if let Some(difference) = difference(&known, &state) {
            world.complains(
                Promise::State,
                format!("{} has another state of {room_id} than its server: {difference}", client.user_id),
            );
        }
        let log = graph::log(&disk);
        let Some(first) = view.timeline.first() else { continue };
        let tail = log.iter().position(|id| id == first).map_or(&[][..], |place| &log[place..]);
        let tail: Vec<String> = tail.iter().filter(|id| visible.contains(*id)).cloned().collect();
        if tail != view.timeline {
            let missed: Vec<&String> = tail.iter().filter(|id| !view.timeline.contains(id)).collect();
            world.complains(
                Promise::Timeline,
                format!(
                    "{} has another timeline of {room_id} than its server: missed {missed:?}, has {:?} for {tail:?}",
                    client.user_id, view.timeline
                ),
            );
        }
    }
}

fn difference(one: &ById, other: &ById) -> Option<String> {
    let keys: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differing: Vec<String> = keys
        .into_iter()
        .filter(|key| one.get(*key) != other.get(*key))
        .map(|key| format!("{} {:?}: {:?} and {:?}", key.0, key.1, one.get(key), other.get(key)))
        .collect();
    (!differing.is_empty()).then(|| differing.join("; "))
}

/// Reads a room's history to its beginning, so that what is missing of it is fetched; answers the ids of what there was.
async fn reads_back(world: &World, client: &Client, room_id: &str) -> BTreeSet<String> {
    let mut read = BTreeSet::new();
    let mut from = String::new();
    for _ in 0..PAGES_MAX {
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=50{from}", encode(room_id));
        let answer = match client.get(&path).await {
            Some(answer) if answer.is_ok() => answer,
            answer => {
                let how = format!("{} does not read {room_id}: {answer:?}", client.user_id);
                world.complains(Promise::Answers, how);
                return read;
            }
        };
        let events = answer.body["chunk"].as_array().into_iter().flatten();
        read.extend(events.filter_map(|event| event["event_id"].as_str().map(str::to_owned)));
        match answer.body["end"].as_str() {
            Some(end) => from = format!("&from={}", encode(end)),
            None => return read,
        }
    }
    world.complains(Promise::Rest, format!("{} reads {room_id} without an end", client.user_id));
    read
}

/// All servers in a room have the same state, and it is what the whole graph resolves to.
async fn agree(world: &World, room_id: &str, witnesses: &[Witness<'_>]) {
    let disks: Vec<Rc<Disk>> = world.machines.iter().filter_map(|machine| world.disk_of(machine, room_id)).collect();
    let Some(mut graph) = Graph::of(&disks) else { return };
    let mut first: Option<(&str, ById)> = None;
    for witness in witnesses {
        let Some(state) = state_of(witness.client, room_id).await else {
            world.complains(Promise::Answers, format!("{} has no state of {room_id}", witness.machine.name));
            continue;
        };
        match &first {
            None => first = Some((&witness.machine.name, state.clone())),
            Some((name, other)) => {
                if let Some(difference) = difference(other, &state) {
                    let other = &witness.machine.name;
                    world
                        .complains(Promise::Agreement, format!("{name} and {other} differ on {room_id}: {difference}"));
                }
            }
        }
        if graph.version.as_str() == "1" {
            continue;
        }
        match graph.meet(&graph::extremities(&witness.disk)) {
            Ok(expected) => {
                if let Some(difference) = difference(&state, &by_id(&expected)) {
                    let name = &witness.machine.name;
                    world.complains(Promise::Resolution, format!("{name} and ruma differ on {room_id}: {difference}"));
                }
            }
            Err(why) => world.complains(Promise::Resolution, format!("{room_id} of {}: {why}", witness.machine.name)),
        }
    }
    everybody_has_it(world, room_id, &mut graph, witnesses);
    for witness in witnesses {
        let name = &witness.machine.name;
        if let Some(id) = came_too_late(&mut graph, &graph::lived_through(&witness.disk)) {
            world.complains(Promise::SoftFail, format!("{name} took {id} into {room_id} against the state it had"));
        }
    }
}

/// The first event of a log that was not allowed any more when it came, but for the first one.
fn came_too_late(graph: &mut Graph, log: &[OwnedEventId]) -> Option<OwnedEventId> {
    let mut extremities: Vec<OwnedEventId> = log.first().cloned().into_iter().collect();
    for id in log.iter().skip(1) {
        let pdu = graph.events.get(id).cloned()?;
        // A graph that is not whole is complained of elsewhere.
        let state = graph.meet(&extremities).ok()?;
        if !graph.may_happen_in(&pdu, &state) {
            return Some(id.clone());
        }
        extremities.retain(|known| !pdu.prev_events().contains(known));
        extremities.push(id.clone());
    }
    None
}

fn by_id(state: &State) -> ById {
    let entries = state.iter();
    entries.map(|((event_type, key), id)| ((event_type.to_string(), key.clone()), id.to_string())).collect()
}

/// A server that was in a room when something was said there, and still is, has it.
fn everybody_has_it(world: &World, room_id: &str, graph: &mut Graph, witnesses: &[Witness<'_>]) {
    if graph.version.as_str() == "1" {
        return;
    }
    let held: Vec<_> = witnesses.iter().map(|witness| (&witness.machine.name, graph::held(&witness.disk))).collect();
    for said in &*world.said.borrow() {
        let Some(id) = said.event_id.as_ref().and_then(|id| OwnedEventId::try_from(id.as_str()).ok()) else { continue };
        if !graph.events.contains_key(&id) {
            continue;
        }
        let Ok(state) = graph.after(&id) else { continue };
        for (name, held) in &held {
            let was_there = state.iter().any(|((event_type, key), member)| {
                event_type.to_string() == "m.room.member"
                    && key.split_once(':').is_some_and(|(_, server)| server == name.as_str())
                    && graph.events.get(member).is_some_and(|pdu| {
                        serde_json::from_str::<serde_json::Value>(pdu.content().get())
                            .is_ok_and(|content| content["membership"] == "join")
                    })
            });
            let has = held.get(id.as_str());
            if was_there && !matches!(has, Some(Held::InLog | Held::SoftFailed)) {
                world.complains(
                    Promise::Delivery,
                    format!("{name} was in {room_id} when {} was said, and has it as {has:?} ({id})", said.body),
                );
            }
        }
    }
}

/// What was acknowledged is where it was said, once; what was refused is nowhere.
fn nothing_is_lost(world: &World) {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut logs: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for machine in &world.machines {
        let log = logs.entry(&machine.name).or_default();
        for room_id in world.all_rooms() {
            let Some(disk) = world.disk_of(machine, &room_id) else { continue };
            log.extend(graph::log(&disk));
            let Some(graph) = Graph::of(&[disk]) else { continue };
            for (id, pdu) in &graph.events {
                let content: serde_json::Value = serde_json::from_str(pdu.content().get()).unwrap_or_default();
                if let Some(body) = content["body"].as_str() {
                    found.entry(body.to_owned()).or_default().insert(id.to_string());
                }
            }
        }
    }
    for said in &*world.said.borrow() {
        let client = &world.clients[said.by];
        if let Some(id) = &said.event_id
            && !logs[client.machine.name.as_str()].contains(id)
        {
            world.complains(
                Promise::Durability,
                format!("{} was acknowledged to {} and is lost", said.body, client.user_id),
            );
        }
        let events = found.get(&said.body).map_or(0, BTreeSet::len);
        if events > 1 || (said.is_refused && events > 0) {
            world.complains(Promise::Once, format!("{} of {} became {events} events", said.body, client.user_id));
        }
    }
}

/// A message to a device arrives once; a one-time key is given once.
fn whispers_arrive_once(world: &World) {
    for whisper in &*world.whispers.borrow() {
        let client = &world.clients[whisper.to];
        let times = client.view.borrow().whispers.iter().filter(|body| **body == whisper.body).count();
        if times > 1 || (whisper.is_acknowledged && times == 0) {
            world.complains(
                Promise::Whispers,
                format!("{} got the message {} {times} times", client.user_id, whisper.body),
            );
        }
    }
    let claimed = world.claimed.borrow();
    let once: BTreeSet<&String> = claimed.iter().collect();
    if once.len() < claimed.len() {
        world.complains(
            Promise::OneTimeKeys,
            format!("of {} one-time keys given out only {} differ: {claimed:?}", claimed.len(), once.len()),
        );
    }
}
