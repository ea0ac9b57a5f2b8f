//! Spec: server-server API, with Synapse at the other end: what we send another implementation takes, and what it sends
//! we take.

use harness::{
    Host, Synapse, User, bodies, encode, json,
    pictures::{encoded, two_colours},
};
use image::{GenericImageView, ImageFormat};

use crate::network::{Federated, Proxy, on_each_host};

on_each_host![
    synapse_joins_us_and_we_join_synapse,
    invitations_cross_and_are_turned_down,
    who_is_banned_here_is_banned_there,
    topics_set_at_once_end_the_same_on_both_sides,
    files_are_seen_on_both_sides,
    thumbnails_are_seen_on_both_sides,
];

/// Synapse, by the name of the proxy that does its TLS.
pub struct Neighbour {
    pub synapse: Synapse,
    pub proxy: Proxy,
}

impl Neighbour {
    pub fn starts() -> Option<Self> {
        let python = Synapse::python()?;
        let proxy = Proxy::starts();
        let synapse = Synapse::starts(&python, &proxy.name);
        proxy.leads_to(&synapse.url());
        Some(Self { synapse, proxy })
    }
}

fn two(host: Host) -> Option<(Federated, Neighbour)> {
    let there = Neighbour::starts()?;
    Some((Federated::starts(host), there))
}

pub fn joins_by(user: &User, room: &str, via: &str) -> harness::Answer {
    user.post(&format!("/join/{}?server_name={}&via={}", encode(room), encode(via), encode(via)), json!({}))
}

fn synapse_joins_us_and_we_join_synapse(host: Host) {
    let Some((here, there)) = two(host) else { return };
    for version in ["6", "9", "10", "11", "12"] {
        let (alice, bob) = (here.server.registers("alice"), there.synapse.registers("bob"));
        for (host_of, guest, via) in [(&alice, &bob, &here.name), (&bob, &alice, &there.proxy.name)] {
            let room =
                host_of.creates_room(json!({ "preset": "public_chat", "room_version": version, "name": "Bridge" }));
            host_of.sends(&room, "before you");
            let since = host_of.syncs().next_batch;
            joins_by(guest, &room, via).ok();
            host_of.syncs_until(&since, |sync| {
                sync.timeline(&room).iter().any(|event| event["state_key"] == guest.id.as_str())
            });
            assert_eq!(guest.state(&room, "m.room.name", "").ok()["name"], "Bridge", "version {version}");
            let said = host_of.sends(&room, "hello");
            guest.sees(|sync| sync.has_message(&room, "hello"));
            guest.sends(&room, "hello yourself");
            host_of.sees(|sync| sync.has_message(&room, "hello yourself"));
            host_of.sets_state(&room, "m.room.topic", "", json!({ "topic": "across" })).ok();
            guest.sees(|sync| {
                let all = sync.timeline(&room).into_iter().chain(sync.state(&room)).collect::<Vec<_>>();
                all.iter().any(|event| event["content"]["topic"] == "across")
            });
            host_of.redacts(&room, &said, "r").ok();
            guest.sees(|_| guest.event(&room, &said).ok()["content"] == json!({}));
            let since = host_of.syncs().next_batch;
            guest.leaves(&room).ok();
            host_of.syncs_until(&since, |sync| {
                sync.timeline(&room).iter().any(|event| event["content"]["membership"] == "leave")
            });
        }
    }
}

fn invitations_cross_and_are_turned_down(host: Host) {
    let Some((here, there)) = two(host) else { return };
    let (alice, bob) = (here.server.registers("alice"), there.synapse.registers("bob"));
    for (inviter, invited) in [(&alice, &bob), (&bob, &alice)] {
        let room = inviter.creates_room(json!({ "preset": "private_chat", "name": "Den" }));
        let since = inviter.syncs().next_batch;
        inviter.invites(&room, invited).ok();
        let shown = invited.sees(|sync| !sync.invite_state(&room).is_empty()).invite_state(&room);
        assert!(shown.iter().any(|event| event["content"]["name"] == "Den"), "{shown:?}");
        invited.joins(&room).ok();
        invited.sends(&room, "thank you");
        inviter.syncs_until(&since, |sync| sync.has_message(&room, "thank you"));

        let other = inviter.creates_room(json!({ "preset": "private_chat" }));
        let since = inviter.syncs().next_batch;
        inviter.invites(&other, invited).ok();
        invited.sees(|sync| !sync.invite_state(&other).is_empty());
        invited.leaves(&other).ok();
        inviter.syncs_until(&since, |sync| {
            let timeline = sync.timeline(&other);
            timeline.iter().any(|event| event["content"]["membership"] == "leave")
        });
    }
}

fn who_is_banned_here_is_banned_there(host: Host) {
    let Some((here, there)) = two(host) else { return };
    let (alice, bob) = (here.server.registers("alice"), there.synapse.registers("bob"));
    for (judge, banned, via) in [(&alice, &bob, &here.name), (&bob, &alice, &there.proxy.name)] {
        let room = judge.creates_room(json!({ "preset": "public_chat" }));
        joins_by(banned, &room, via).ok();
        let since = banned.syncs().next_batch;
        judge.bans(&room, banned).ok();
        banned.syncs_until(&since, |sync| {
            let left = sync.left(&room)["timeline"]["events"].as_array().cloned().unwrap_or_default();
            left.iter().any(|event| event["content"]["membership"] == "ban")
        });
        banned.says(&room, "hey").refused(403, "M_FORBIDDEN");
        joins_by(banned, &room, via).refused(403, "M_FORBIDDEN");
    }
}

fn topics_set_at_once_end_the_same_on_both_sides(host: Host) {
    let Some((here, there)) = two(host) else { return };
    let (alice, bob) = (here.server.registers("alice"), there.synapse.registers("bob"));
    let levels = json!({ "events": { "m.room.topic": 0 } });
    let request = json!({ "preset": "public_chat", "power_level_content_override": levels });
    let room = alice.creates_room(request);
    joins_by(&bob, &room, &here.name).ok();
    bob.sends(&room, "ready");
    alice.sees(|sync| sync.has_message(&room, "ready"));
    // The network splits; each side goes its own way.
    here.is_cut_off();
    there.proxy.is_cut_off();
    for (user, topic) in [(&alice, "alice's"), (&bob, "bob's")] {
        user.sets_state(&room, "m.room.topic", "", json!({ "topic": topic })).ok();
        user.sends(&room, topic);
    }
    here.is_back();
    there.proxy.is_back();
    alice.sends(&room, "here again");
    bob.sees(|sync| sync.has_message(&room, "here again"));
    bob.sends(&room, "here too");
    alice.sees(|sync| sync.has_message(&room, "here too"));
    let topic = |user: &User| user.state(&room, "m.room.topic", "").ok()["topic"].clone();
    alice.sees(|_| topic(&alice) == topic(&bob));
    for user in [&alice, &bob] {
        let messages = bodies(&user.pages_back(&room, None, 30));
        for body in ["alice's", "bob's", "here again", "here too"] {
            assert_eq!(messages.iter().filter(|message| *message == body).count(), 1, "{messages:?}");
        }
    }
}

fn files_are_seen_on_both_sides(host: Host) {
    let Some((here, there)) = two(host) else { return };
    let (alice, bob) = (here.server.registers("alice"), there.synapse.registers("bob"));
    for (from, to) in [(&alice, &bob), (&bob, &alice)] {
        let content: Vec<u8> = (0..300_000).map(|place| (place % 251) as u8).collect();
        let mxc = from.uploads("image/png", Some("Größe.png"), content.clone());
        let seen = to.downloads(&mxc);
        assert_eq!((seen.status, seen.bytes == content), (200, true), "{seen:?}");
        assert_eq!(seen.header("content-type"), Some("image/png"));
        let disposition = seen.header("content-disposition").unwrap_or_default();
        assert!(disposition.contains("filename*=utf-8''Gr%C3%B6%C3%9Fe.png"), "{disposition}");
        let name = mxc.split_once('/').expect("a server and an id").0;
        to.downloads(&format!("{name}/nothing")).refused(404, "M_NOT_FOUND");
    }
    // The other way around there is no file in the envelope.
    let empty = bob.downloads(&alice.uploads("text/plain", None, ""));
    assert_eq!((empty.status, empty.bytes.len()), (200, 0));
}

fn thumbnails_are_seen_on_both_sides(host: Host) {
    let Some((here, there)) = two(host) else { return };
    let (alice, bob) = (here.server.registers("alice"), there.synapse.registers("bob"));
    for (from, to) in [(&alice, &bob), (&bob, &alice)] {
        let mxc = from.uploads("image/png", None, encoded(&two_colours(500, 500), ImageFormat::Png));
        let path = format!("/_matrix/client/v1/media/thumbnail/{mxc}?width=96&height=96&method=crop");
        let seen = image::load_from_memory(&to.client().get(&path).bytes).expect("a picture");
        assert_eq!(seen.dimensions(), (96, 96));
    }
}
