//! After the story: the weather is fair again, everybody is heard, and then nothing more should happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use serde_json::{Value as Json, json};

use crate::{client::encode, complaint::Promise, knobs::Knobs, play::says, world::World};

/// Longer than anybody pauses before they try again, twice.
const QUIET_MS: u64 = 150 * 60_000;
const HOUR_MS: u64 = 3_600_000;
/// A room that is none of the story's.
const NO_NUMBER: usize = usize::MAX;
/// How often everybody speaks: first all that was said comes to all, then they meet.
const ROUNDS: usize = 3;
/// Syncs after which a client must have caught up.
const SYNCS_MAX: usize = 30;

/// Which rooms each person is in, as their server says.
pub(crate) type Rooms = Vec<Vec<String>>;

/// Mends everything, waits, and has every server speak in every room it is in, so that all know what all know.
pub(crate) async fn heals(world: &Rc<World>) -> Rooms {
    world.network.knobs.set(Knobs::FAIR);
    world.network.mend_all();
    if let Some(liar) = &world.liar {
        liar.tires();
    }
    for machine in &world.machines {
        machine.start().await;
    }
    world.clients.iter().for_each(|client| client.stops_syncing());
    world.scheduler().sleep(QUIET_MS).await;
    for _ in 0..ROUNDS {
        let rooms = rooms_of_all(world).await;
        for (room_id, speakers) in speakers(world, &rooms) {
            for by in speakers {
                if !says(world, NO_NUMBER, by, &room_id).await {
                    // In a room that was upgraded not everybody may.
                    let client = &world.clients[by];
                    let (room, user) = (encode(&room_id), encode(&client.user_id));
                    let path = format!("/_matrix/client/v3/rooms/{room}/state/m.own/{user}");
                    let _answer = client.put(&path, &json!({ "n": client.transaction() })).await;
                }
                world.scheduler().sleep(3_000).await;
            }
        }
        world.scheduler().sleep(60_000).await;
    }
    for client in &world.clients {
        catches_up(world, client).await;
    }
    rooms_of_all(world).await
}

async fn catches_up(world: &World, client: &crate::client::Client) {
    for _ in 0..SYNCS_MAX {
        let before = client.view.borrow().since.clone();
        if !client.syncs_once(0).await {
            world.complains(
                Promise::Answers,
                format!("{} does not get to sync though nothing goes wrong", client.user_id),
            );
            return;
        }
        let view = client.view.borrow();
        if view.since == before && view.outdated.is_empty() {
            return;
        }
    }
    world.complains(Promise::Rest, format!("{} has something new at every sync", client.user_id));
}

/// One person of each server that is in a room: if there is one, somebody whom all others hear.
fn speakers(world: &World, rooms: &Rooms) -> BTreeMap<String, Vec<usize>> {
    let mut speakers: BTreeMap<String, BTreeMap<usize, (bool, usize)>> = BTreeMap::new();
    let all: BTreeSet<&String> = rooms.iter().flatten().collect();
    for room_id in all {
        let members = world.members(room_id);
        let by_server = speakers.entry(room_id.clone()).or_default();
        for (person, _) in rooms.iter().enumerate().filter(|(_, rooms)| rooms.contains(room_id)) {
            let is_heard = members.contains(&world.clients[person].user_id);
            let speaker = by_server.entry(world.size.home(person)).or_insert((is_heard, person));
            if is_heard && !speaker.0 {
                *speaker = (true, person);
            }
        }
    }
    let persons =
        |by_server: BTreeMap<usize, (bool, usize)>| by_server.into_values().map(|(_, person)| person).collect();
    speakers.into_iter().map(|(room_id, by_server)| (room_id, persons(by_server))).collect()
}

async fn rooms_of_all(world: &World) -> Rooms {
    let mut all = Vec::new();
    for client in &world.clients {
        let answer = client.get("/_matrix/client/v3/joined_rooms").await;
        let rooms = answer.map(|answer| answer.body["joined_rooms"].clone());
        match rooms.as_ref().and_then(Json::as_array) {
            Some(rooms) => all.push(rooms.iter().filter_map(Json::as_str).map(str::to_owned).collect()),
            None => {
                world.complains(
                    Promise::Answers,
                    format!("{} is not told their rooms though nothing goes wrong", client.user_id),
                );
                all.push(Vec::new());
            }
        }
    }
    all
}

/// Waits until everything that was to be tried again was, and sees that nothing happens any more.
pub(crate) async fn comes_to_rest(world: &World) {
    world.scheduler().sleep(QUIET_MS).await;
    let (requests, calls) = (world.network.requests.get(), calls(world));
    world.scheduler().sleep(HOUR_MS).await;
    let (requests, calls) = (world.network.requests.get() - requests, self::calls(world) - calls);
    if requests + calls > 0 {
        world.complains(
            Promise::Rest,
            format!(
                "it does not come to rest: {requests} requests between servers and {calls} calls to actors in an hour"
            ),
        );
    }
}

fn calls(world: &World) -> u64 {
    world.machines.iter().filter_map(|machine| machine.process()).map(|process| process.calls.get()).sum()
}
