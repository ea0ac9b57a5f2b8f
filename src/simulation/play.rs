//! Plays a story: everything happens at its time, whatever else is still under way.

use std::{cell::Cell, rc::Rc};

use http::Method;
use platform::Address;
use serde_json::{Value as Json, json};

use crate::{
    client::{Answer, Client, ONE_TIME, encode},
    complaint::Promise,
    knobs::Knobs,
    liar::LIAR,
    scheduler::Group,
    story::{Act, Deed, JoinRule, Preset, ROOM_VERSIONS, Story, VISIBILITIES},
    world::{Said, Whisper, World},
};

/// How long what was begun may take once the story is over.
const ENDING_MS_MAX: u64 = 20 * 60_000;

/// How long a crash waits for something that it can tear.
const WORST_MOMENT_MS_MAX: u64 = 3_000;

/// Registers everybody, then plays the steps.
pub(crate) async fn play(world: Rc<World>, story: &Story) {
    for machine in &world.machines {
        machine.start().await;
    }
    for client in &world.clients {
        client.registers().await;
        let _syncing = world.scheduler().spawn(&Group::default(), client.clone().syncs());
    }
    if story.is_foul {
        world.network.knobs.set(Knobs::FOUL);
    }
    let under_way = Rc::new(Cell::new(0_u64));
    for step in &story.steps {
        world.scheduler().sleep(step.after_ms).await;
        if let Deed::Pause { ms } = step.deed {
            world.scheduler().sleep(ms).await;
            continue;
        }
        under_way.set(under_way.get() + 1);
        let (world, deed, under_way) = (world.clone(), step.deed.clone(), under_way.clone());
        let _running = world.clone().scheduler().spawn(&Group::default(), async move {
            happens(&world, deed).await;
            under_way.set(under_way.get() - 1);
        });
    }
    let ending_ms = 1_000;
    for _ in 0..ENDING_MS_MAX / ending_ms {
        if under_way.get() == 0 {
            return;
        }
        world.scheduler().sleep(ending_ms).await;
    }
    world.complains(Promise::Rest, format!("{} things that people began never ended", under_way.get()));
}

async fn happens(world: &Rc<World>, deed: Deed) {
    match deed {
        Deed::In { room, by, act } => acts(world, room, by, act).await,
        Deed::Lie { room, lie } => {
            let known = world.rooms.borrow().get(&room).cloned();
            if let (Some(liar), Some((room_id, home))) = (&world.liar, known) {
                let people: Vec<String> = world.clients.iter().map(|client| client.user_id.clone()).collect();
                liar.lies(&room_id, home, lie, &people).await;
            }
        }
        Deed::Crash { server, down_ms } => {
            let machine = &world.machines[server % world.machines.len()];
            // At the worst moment: when something is not on disk yet.
            for _ in 0..WORST_MOMENT_MS_MAX {
                if machine.disks().iter().any(|(_, disk)| !disk.is_synced()) {
                    break;
                }
                world.scheduler().sleep(1).await;
            }
            world.scheduler().sleep(world.network.dice.roll(8)).await;
            machine.crashes();
            world.scheduler().sleep(down_ms).await;
            machine.start().await;
        }
        Deed::Restart { server, down_ms } => {
            let machine = &world.machines[server % world.machines.len()];
            machine.stops();
            world.scheduler().sleep(down_ms).await;
            machine.start().await;
        }
        Deed::Evict { server, nth } => {
            if let Some(process) = world.machines[server % world.machines.len()].process() {
                let actors = process.actors();
                if !actors.is_empty() {
                    process.evict(&actors[(nth % actors.len() as u64) as usize]);
                }
            }
        }
        Deed::Restore { server, nth, back } => {
            let machine = &world.machines[server % world.machines.len()];
            let disks: Vec<Address> = machine.disks().into_iter().map(|(address, _)| address).collect();
            if let (Some(process), false) = (machine.process(), disks.is_empty()) {
                let address = &disks[(nth % disks.len() as u64) as usize];
                if process.restores(address, back) {
                    world.was_restored(machine, address);
                }
            }
        }
        Deed::Cut { one, other, ms } => {
            let [one, other] = [one, other].map(|server| &world.machines[server % world.machines.len()].name);
            world.network.cut(one, other, true);
            world.scheduler().sleep(ms).await;
            world.network.cut(one, other, false);
        }
        Deed::Pause { .. } => {}
    }
}

async fn acts(world: &World, room: usize, by: usize, act: Act) {
    let client = &world.clients[by];
    let known = world.rooms.borrow().get(&room).cloned();
    if let Act::Create { version, preset, invited } = &act {
        // Rooms are numbered in the order of the story, also when one before it was dropped from it.
        return creates(world, room, client, (*version, *preset, invited)).await;
    }
    let Some((room_id, home)) = known else { return };
    let path = |what: &str| format!("/_matrix/client/v3/rooms/{}/{what}", encode(&room_id));
    let state = |event_type: &str, key: &str| path(&format!("state/{event_type}/{}", encode(key)));
    let user = |who: usize| world.clients[who].user_id.clone();
    let via = {
        let (home, inviter) = (&world.machines[home].name, &world.machines[(home + 1) % world.machines.len()].name);
        // Some ask who cannot be trusted.
        let via = if world.liar.is_some() && world.network.dice.happens(5) { LIAR } else { home };
        format!("server_name={via}&via={via}&via={inviter}")
    };
    let (kind, answer) = match act {
        Act::Create { .. } => return,
        Act::Whisper(to) => return whispers(world, client, to).await,
        Act::Claim(of) => return claims(world, client, of).await,
        Act::AddDevice => ("add device", client.adds_device().await),
        Act::DropDevice => ("drop device", client.drops_device().await),
        Act::Say => {
            says(world, room, by, &room_id).await;
            return;
        }
        Act::Invite(who) => ("invite", client.post(&path("invite"), &json!({ "user_id": user(who) })).await),
        Act::Join => {
            ("join", client.post(&format!("/_matrix/client/v3/join/{}?{via}", encode(&room_id)), &json!({})).await)
        }
        Act::Knock => {
            ("knock", client.post(&format!("/_matrix/client/v3/knock/{}?{via}", encode(&room_id)), &json!({})).await)
        }
        Act::Leave => ("leave", client.post(&path("leave"), &json!({})).await),
        Act::Kick(who) => ("kick", client.post(&path("kick"), &json!({ "user_id": user(who) })).await),
        Act::Ban(who) => ("ban", client.post(&path("ban"), &json!({ "user_id": user(who) })).await),
        Act::Unban(who) => ("unban", client.post(&path("unban"), &json!({ "user_id": user(who) })).await),
        Act::Topic => {
            ("topic", client.put(&state("m.room.topic", ""), &json!({ "topic": client.transaction() })).await)
        }
        Act::OwnState => {
            ("own state", client.put(&state("m.own", &client.user_id), &json!({ "n": client.transaction() })).await)
        }
        Act::JoinRule(rule) => {
            let content = join_rule(world, rule);
            ("join rule", client.put(&state("m.room.join_rules", ""), &content).await)
        }
        Act::Visibility(which) => {
            let content = json!({ "history_visibility": VISIBILITIES[which] });
            ("visibility", client.put(&state("m.room.history_visibility", ""), &content).await)
        }
        Act::Power { of, level } => {
            let levels = client.get(&state("m.room.power_levels", "")).await;
            let Some(mut levels) = levels.filter(Answer::is_ok) else { return world.counts("power", 2) };
            levels.body["users"][user(of)] = level.into();
            ("power", client.put(&state("m.room.power_levels", ""), &levels.body).await)
        }
        Act::Redact { back } => {
            let Some(event_id) = acknowledged(world, room, back) else { return };
            let path = path(&format!("redact/{}/{}", encode(&event_id), client.transaction()));
            ("redact", client.put(&path, &json!({})).await)
        }
        Act::Read => {
            let Some(event_id) = acknowledged(world, room, 0) else { return };
            ("read", client.post(&path(&format!("receipt/m.read/{}", encode(&event_id))), &json!({})).await)
        }
        Act::Upgrade { version } => {
            let body = json!({ "new_version": ROOM_VERSIONS[version] });
            ("upgrade", client.post(&path("upgrade"), &body).await)
        }
    };
    world.counts(kind, ending(answer.as_ref()));
}

fn ending(answer: Option<&Answer>) -> usize {
    match answer {
        Some(answer) if answer.is_ok() => 0,
        Some(_) => 1,
        None => 2,
    }
}

/// What was said in a room so many messages before the last.
fn acknowledged(world: &World, room: usize, back: usize) -> Option<String> {
    let said = world.said.borrow();
    said.iter().rev().filter(|said| said.room == room).filter_map(|said| said.event_id.clone()).nth(back)
}

fn join_rule(world: &World, rule: JoinRule) -> Json {
    match rule {
        JoinRule::Public => json!({ "join_rule": "public" }),
        JoinRule::Invite => json!({ "join_rule": "invite" }),
        JoinRule::Knock => json!({ "join_rule": "knock" }),
        JoinRule::Restricted(room) => {
            let allowed = world.rooms.borrow().get(&room).map(|(room_id, _)| room_id.clone());
            let allow: Vec<Json> =
                allowed.into_iter().map(|room_id| json!({ "type": "m.room_membership", "room_id": room_id })).collect();
            json!({ "join_rule": "restricted", "allow": allow })
        }
    }
}

async fn creates(world: &World, room: usize, client: &Rc<Client>, what: (usize, Preset, &Vec<usize>)) {
    let (version, preset, invited) = what;
    let invited: Vec<&str> = invited.iter().map(|who| world.clients[*who].user_id.as_str()).collect();
    let body = json!({
        "room_version": ROOM_VERSIONS[version],
        "preset": if preset == Preset::Public { "public_chat" } else { "private_chat" },
        "invite": invited,
        "power_level_content_override": { "events": { "m.own": 0, "m.room.topic": 0 }, "invite": 0 },
    });
    let answer = client.post("/_matrix/client/v3/createRoom", &body).await;
    world.counts("create", ending(answer.as_ref()));
    if let Some(room_id) = answer.and_then(|answer| Some(answer.body["room_id"].as_str()?.to_owned())) {
        let home = world.machines.iter().position(|machine| machine.name == client.machine.name).unwrap_or(0);
        world.rooms.borrow_mut().insert(room, (room_id, home));
    }
}

async fn whispers(world: &World, client: &Client, to: usize) {
    let body = client.transaction();
    let number = {
        let mut whispers = world.whispers.borrow_mut();
        whispers.push(Whisper { to, body: body.clone(), is_acknowledged: false });
        whispers.len() - 1
    };
    let messages = json!({ (world.clients[to].user_id.clone()): { "*": { "body": body } } });
    let path = format!("/_matrix/client/v3/sendToDevice/m.whisper/{body}");
    let answer = client.put(&path, &json!({ "messages": messages })).await;
    world.counts("whisper", ending(answer.as_ref()));
    world.whispers.borrow_mut()[number].is_acknowledged = answer.is_some_and(|answer| answer.is_ok());
}

async fn claims(world: &World, client: &Client, of: usize) {
    let user_id = &world.clients[of].user_id;
    let wanted = json!({ "one_time_keys": { user_id: { "PHONE": ONE_TIME } } });
    let answer = client.post("/_matrix/client/v3/keys/claim", &wanted).await;
    world.counts("claim", ending(answer.as_ref()));
    let Some(answer) = answer else { return };
    if let Some(keys) = answer.body["one_time_keys"][user_id]["PHONE"].as_object() {
        world.claimed.borrow_mut().extend(keys.keys().map(|key| format!("{key} of {user_id}")));
    }
}

/// Says something new in a room; answers whether it is in there.
pub(crate) async fn says(world: &World, room: usize, by: usize, room_id: &str) -> bool {
    let client = &world.clients[by];
    let transaction = client.transaction();
    let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{transaction}", encode(room_id));
    let number = {
        let mut said = world.said.borrow_mut();
        said.push(Said { room, by, body: transaction.clone(), event_id: None, is_refused: false });
        said.len() - 1
    };
    let answer = client.ask(Method::PUT, &path, &json!({ "msgtype": "m.text", "body": transaction })).await;
    world.counts("say", ending(answer.as_ref()));
    let Some(answer) = answer else { return false };
    let said = &mut world.said.borrow_mut()[number];
    said.event_id = answer.body["event_id"].as_str().map(str::to_owned);
    said.is_refused = said.event_id.is_none();
    !said.is_refused
}
