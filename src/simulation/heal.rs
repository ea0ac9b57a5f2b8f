//! After the story: the weather is fair again, everybody is heard, and then nothing more should happen.

use std::{collections::BTreeMap, rc::Rc};

use serde_json::Value as Json;

use crate::{complaint::Promise, knobs::Knobs, play::says, world::World};

/// Longer than anybody pauses before they try again, twice.
const QUIET_MS: u64 = 150 * 60_000;
const HOUR_MS: u64 = 3_600_000;
/// A room that is none of the story's.
const NO_NUMBER: usize = usize::MAX;
/// Syncs after which a client must have caught up.
const SYNCS_MAX: usize = 30;

/// Which rooms each person is in, as their server says.
pub(crate) type Rooms = Vec<Vec<String>>;

/// Mends everything, waits, and has every server speak in every room it is in, so that all know what all know.
pub(crate) async fn heals(world: &Rc<World>) -> Rooms {
    world.network.knobs.set(Knobs::FAIR);
    world.network.mend_all();
    for machine in &world.machines {
        machine.start().await;
    }
    world.clients.iter().for_each(|client| client.stops_syncing());
    world.scheduler().sleep(QUIET_MS).await;
    for _ in 0..2 {
        let rooms = rooms_of_all(world).await;
        for (room_id, speakers) in speakers(world, &rooms) {
            for by in speakers {
                says(world, NO_NUMBER, by, &room_id).await;
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
        if client.view.borrow().since == before {
            return;
        }
    }
    world.complains(Promise::Rest, format!("{} has something new at every sync", client.user_id));
}

/// One person of each server that is in a room.
fn speakers(world: &World, rooms: &Rooms) -> BTreeMap<String, Vec<usize>> {
    let mut speakers: BTreeMap<String, BTreeMap<usize, usize>> = BTreeMap::new();
    for (person, rooms) in rooms.iter().enumerate() {
        for room_id in rooms {
            speakers.entry(room_id.clone()).or_default().entry(world.size.home(person)).or_insert(person);
        }
    }
    speakers.into_iter().map(|(room_id, by_server)| (room_id, by_server.into_values().collect())).collect()
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
