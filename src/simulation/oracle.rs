//! What must be true after every story, once all is mended.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use domain::Pdu;
use platform::ActorKind;
use ruma_common::OwnedEventId;

use crate::{
    client::{Answer, Client, encode},
    complaint::Promise,
    devices::Devices,
    disk::Disk,
    graph::{self, Graph, Held, State},
    heal::Rooms,
    machine::Machine,
    visibility::Sight,
    world::World,
};

/// Pages of history that a reader goes back at most.
const PAGES_MAX: usize = 200;

/// Events that each person tries to read of each room.
const PROBES: usize = 4;

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
        let members = world.members(&room_id);
        let mut witnesses: BTreeMap<&str, Witness<'_>> = BTreeMap::new();
        for (client, rooms) in world.clients.iter().zip(rooms) {
            let machine = &*client.machine;
            let is_heard = rooms.contains(&room_id) && members.contains(&client.user_id);
            if let (true, Some(disk)) = (is_heard, machine.room(&room_id)) {
                witnesses.entry(&machine.name).or_insert(Witness { machine, client, disk });
            }
        }
        let witnesses: Vec<Witness<'_>> = witnesses.into_values().collect();
        agree(world, &room_id, &witnesses).await;
    }
    for client in &world.clients {
        reads_nothing_forbidden(world, client).await;
    }
    devices_are_known(world).await;
    nothing_is_forged(world);
    nothing_is_lost(world);
    whispers_arrive_once(world);
}

/// Of everybody in their rooms each client has the devices, from what its syncs made it look at.
async fn devices_are_known(world: &World) {
    if !world.restored.borrow().is_empty() {
        // That devices changed is told once, and may be in no copy.
        return;
    }
    let mut true_devices: BTreeMap<String, Devices> = BTreeMap::new();
    for client in &world.clients {
        true_devices.extend(client.queries(std::slice::from_ref(&client.user_id)).await);
    }
    let rooms = world.all_rooms().into_iter().filter(|room_id| !world.is_disputed(room_id));
    let rooms: Vec<BTreeSet<String>> = rooms.map(|room_id| world.members(&room_id)).collect();
    for client in &world.clients {
        for other in &world.clients {
            let is_shared =
                rooms.iter().any(|members| members.contains(&client.user_id) && members.contains(&other.user_id));
            if client.user_id == other.user_id || !is_shared {
                continue;
            }
            let (known, is) =
                (client.view.borrow().devices.get(&other.user_id).cloned(), true_devices.get(&other.user_id));
            if known.as_ref() != is {
                let names =
                    |devices: Option<&Devices>| devices.map(|devices| devices.keys().cloned().collect::<Vec<_>>());
                world.complains(
                    Promise::Devices,
                    format!(
                        "{} knows the devices {:?} of {}, who has {:?}",
                        client.user_id,
                        names(known.as_ref()),
                        other.user_id,
                        names(is)
                    ),
                );
            }
        }
    }
}

/// What somebody read of a room, or reads when they try, is what the history visibility lets them.
async fn reads_nothing_forbidden(world: &World, client: &Client) {
    for room_id in client.machine.rooms() {
        let Some(disk) = client.machine.room(&room_id) else { continue };
        let mut read = client.view.borrow().read.get(&room_id).cloned().unwrap_or_default();
        if world.is_restored(&client.machine, ActorKind::Room, &room_id) {
            // What they read before may be gone.
            read.clear();
        }
        let held: Vec<String> = graph::held(&disk).into_keys().collect();
        for _ in 0..if held.is_empty() { 0 } else { PROBES } {
            let event_id = world.network.dice.pick(&held);
            let path = format!("/_matrix/client/v3/rooms/{}/event/{}", encode(&room_id), encode(event_id));
            if client.get(&path).await.is_some_and(|answer| answer.is_ok()) {
                read.insert(event_id.clone());
            }
        }
        let page = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=100", encode(&room_id));
        if let Some(page) = client.get(&page).await.filter(Answer::is_ok) {
            let events = page.body["chunk"].as_array().into_iter().flatten();
            read.extend(events.filter_map(|event| event["event_id"].as_str().map(str::to_owned)));
        }
        let sight = Sight::of(&disk);
        for why in sight.forbids(&client.user_id, read.iter()) {
            world.complains(Promise::Visibility, format!("{} reads in {room_id}: {why}", client.user_id));
        }
    }
}

/// Whatever a server has of a room is signed by whoever it says is its sender's server. Of what was rejected it has
/// outlines, which nobody signed.
fn nothing_is_forged(world: &World) {
    let Some(liar) = &world.liar else { return };
    let mut keys = liar.identity().public_keys();
    keys.extend(world.machines.iter().filter_map(|machine| machine.public_keys()).flatten());
    let mut good: BTreeSet<OwnedEventId> = BTreeSet::new();
    for (machine, room_id) in
        world.machines.iter().flat_map(|machine| machine.rooms().into_iter().map(move |room_id| (machine, room_id)))
    {
        let Some(disk) = machine.room(&room_id) else { continue };
        let held = graph::held(&disk);
        let Some(graph) = Graph::of(&[disk], &[]) else { continue };
        for (id, pdu) in &graph.events {
            if good.contains(id) || held.get(id.as_str()) == Some(&Held::Rejected) {
                continue;
            }
            let object = serde_json::from_str(pdu.json()).expect("an event is JSON");
            match domain::event::check_old(object, &graph.version, &keys) {
                Ok(_) => drop(good.insert(id.clone())),
                Err(why) => {
                    let name = &machine.name;
                    world.complains(Promise::Forgery, format!("{name} has {id} of {}: {why}", pdu.sender()));
                }
            }
        }
    }
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
        let Some(disk) = client.machine.room(room_id) else { continue };
        let view = client.view.borrow();
        let view = &view.joined[room_id];
        let mut known = view.state.clone();
        // No sync can say that a key of the state has no event any more.
        known.retain(|key, _| state.contains_key(key) || !graph::was_reset(&disk, key));
        // Of a room that went back to before what a client read, and has news since, that client is not told what went.
        let is_restored = world.is_restored(&client.machine, ActorKind::Room, room_id);
        if let Some(difference) = difference(&known, &state)
            && !is_restored
        {
            world.complains(
                Promise::State,
                format!("{} has another state of {room_id} than its server: {difference}", client.user_id),
            );
        }
        let log = graph::log(&disk);
        let Some(first) = view.timeline.first() else { continue };
        let tail = log.iter().position(|id| id == first).map_or(&[][..], |place| &log[place..]);
        // A redaction of what was not here yet is shown once that is. Who has that only since then got it redacted.
        let (redactions, place) = (graph::redactions(&disk), |id: &String| log.iter().position(|other| other == id));
        let is_late = |id: &String| {
            redactions.get(id).is_some_and(|target| !view.timeline.contains(target) || place(target) > place(id))
        };
        let is_shown = |id: &String| visible.contains(id) && (view.timeline.contains(id) || !is_late(id));
        let tail: Vec<String> = tail.iter().filter(|id| is_shown(id)).cloned().collect();
        // What a room's older copy lacks comes again from others, in another order; what a user's lacks they are told
        // again.
        let is_restored = is_restored || world.is_restored(&client.machine, ActorKind::User, &client.user_id);
        let read = client.view.borrow().read.get(room_id).cloned().unwrap_or_default();
        let is_known = |id: &String| view.timeline.contains(id) || (is_restored && read.contains(id));
        let missed: Vec<&String> = tail.iter().filter(|id| !is_known(id)).collect();
        // Beyond an edge positions are ahead of the time, and an older copy may give them again.
        let is_sure = !is_restored || graph::edges(&disk) == 0;
        if (!missed.is_empty() && is_sure) || (tail != view.timeline && !is_restored) {
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

/// Reads a room's history to its beginning, so that what is missing of it is fetched; answers the ids of what there
/// was.
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
    let disks: Vec<Rc<Disk>> = world.machines.iter().filter_map(|machine| machine.room(room_id)).collect();
    let Some(mut graph) = Graph::of(&disks, &world.lies(room_id)) else { return };
    if world.is_disputed(room_id) {
        return;
    }
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
        if let Some(what) = came_too_late(&mut graph, &graph::lived_through(&witness.disk)) {
            world.complains(Promise::SoftFail, format!("{name} took {what} into {room_id}"));
        }
    }
}

/// The first event of a log that was not allowed any more when it came, but for the first one; with what forbids it.
fn came_too_late(graph: &mut Graph, log: &[OwnedEventId]) -> Option<String> {
    let mut extremities: Vec<OwnedEventId> = log.first().cloned().into_iter().collect();
    for id in log.iter().skip(1) {
        let pdu = graph.events.get(id).cloned()?;
        // A graph that is not whole is complained of elsewhere.
        let state = graph.meet(&extremities).ok()?;
        if let Some(why) = graph.forbids_in(&pdu, &state) {
            return Some(format!("{id} after {extremities:?}, where this holds: {why},"));
        }
        // What comes late, after what builds on it, ends nothing.
        if !graph.is_behind(id, &extremities) {
            let before = graph.logged_before(&pdu, log);
            extremities.retain(|known| !before.contains(known));
            extremities.push(id.clone());
        }
    }
    None
}

fn by_id(state: &State) -> ById {
    let entries = state.iter();
    entries.map(|((event_type, key), id)| ((event_type.to_string(), key.clone()), id.to_string())).collect()
}

/// A server that was in a room when something was said there, and still is, has it. One whose room was put back to an
/// older copy has what somebody else in the room has: nobody else can give it back. Whose users had left when it was
/// said, and who said it had not heard of that, did not take it.
fn everybody_has_it(world: &World, room_id: &str, graph: &mut Graph, witnesses: &[Witness<'_>]) {
    if graph.version.as_str() == "1" {
        return;
    }
    let held: Vec<_> = witnesses.iter().map(|witness| (witness.machine, graph::held(&witness.disk))).collect();
    for said in &*world.said.borrow() {
        let Some(id) = said.event_id.as_ref().and_then(|id| OwnedEventId::try_from(id.as_str()).ok()) else { continue };
        if !graph.events.contains_key(&id) {
            continue;
        }
        let Ok(state) = graph.after(&id) else { continue };
        for (machine, held_here) in &held {
            let name = &machine.name;
            let is_to_be_had = |(other, held): &(&Machine, BTreeMap<String, Held>)| {
                other.name != *name && held.get(id.as_str()) == Some(&Held::InLog)
            };
            if world.is_restored(machine, ActorKind::Room, room_id) && !held.iter().any(is_to_be_had) {
                continue;
            }
            let was_there = state.iter().any(|((event_type, key), member)| {
                event_type.to_string() == "m.room.member"
                    && key.split_once(':').is_some_and(|(_, server)| server == name.as_str())
                    // Who crashed while it joined does not know that it did.
                    && held_here.get(member.as_str()) == Some(&Held::InLog)
                    && graph.events.get(member).is_some_and(is_join)
                    && !graph.events.iter().any(|(end, pdu)| {
                        held_here.get(end.as_str()) == Some(&Held::InLog)
                            && event_type.to_string() == pdu.event_type().to_string()
                            && pdu.state_key() == Some(key)
                            && !is_join(pdu)
                            && graph.is_behind(member, std::slice::from_ref(end))
                            && !graph.is_behind(&id, std::slice::from_ref(end))
                    })
            });
            let has = held_here.get(id.as_str());
            if was_there && !matches!(has, Some(Held::InLog | Held::SoftFailed)) {
                world.complains(
                    Promise::Delivery,
                    format!("{name} was in {room_id} when {} was said, and has it as {has:?} ({id})", said.body),
                );
            }
        }
    }
}

fn is_join(pdu: &Pdu) -> bool {
    let content = serde_json::from_str::<serde_json::Value>(pdu.content().get());
    content.is_ok_and(|content| content["membership"] == "join")
}

/// What was acknowledged is where it was said, once; what was refused is nowhere.
fn nothing_is_lost(world: &World) {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut logs: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for machine in &world.machines {
        let log = logs.entry(&machine.name).or_default();
        for room_id in world.all_rooms() {
            let Some(disk) = machine.room(&room_id) else { continue };
            log.extend(graph::log(&disk));
            for (id, body) in graph::said(&disk) {
                found.entry(body).or_default().insert(id);
            }
        }
    }
    for said in &*world.said.borrow() {
        let client = &world.clients[said.by];
        // What a copy had not yet is lost with what it was put in the place of, and what was said may be said again.
        let room_id = world.rooms.borrow().get(&said.room).map(|(room_id, _)| room_id.clone());
        if room_id.is_some_and(|room_id| world.is_restored(&client.machine, ActorKind::Room, &room_id)) {
            continue;
        }
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
        if world.is_restored(&client.machine, ActorKind::User, &client.user_id) {
            continue;
        }
        let may_be_lost = !whisper.is_acknowledged || world.has_restored_destinations();
        if times > 1 || (times == 0 && !may_be_lost) {
            world.complains(
                Promise::Whispers,
                format!("{} got the message {} {times} times", client.user_id, whisper.body),
            );
        }
    }
    let claimed = world.claimed.borrow();
    let once: BTreeSet<&String> = claimed.iter().collect();
    let is_restored = |client: &Rc<Client>| world.is_restored(&client.machine, ActorKind::User, &client.user_id);
    if once.len() < claimed.len() && !world.clients.iter().any(is_restored) {
        world.complains(
            Promise::OneTimeKeys,
            format!("of {} one-time keys given out only {} differ: {claimed:?}", claimed.len(), once.len()),
        );
    }
}
