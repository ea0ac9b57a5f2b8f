//! Spec: client-server API, «User Directory», «Mutual Rooms»: people of another server.

use harness::{Host, json, query};

use crate::network::{Federated, on_each_host};

on_each_host![who_comes_from_another_server_is_found];

fn who_comes_from_another_server_is_found(host: Host) {
    let (here, there) = (Federated::starts(host), Federated::starts(Host::Native));
    for (at, from) in [(&here, &there), (&there, &here)] {
        let (alice, bob, carol) =
            (at.server.registers("alice"), from.server.registers("bob"), at.server.registers("carol"));
        let room = alice.creates_room(json!({ "preset": "private_chat", "invite": [bob.id] }));
        alice.creates_room(json!({ "preset": "private_chat" }));
        bob.sees(|sync| !sync.invite_state(&room).is_empty());
        bob.joins(&room).ok();
        let found = |user: &harness::User, term: &str| {
            let results = user.post("/user_directory/search", json!({ "search_term": term })).ok()["results"].clone();
            results.as_array().unwrap().iter().any(|found| found["user_id"] == bob.id.as_str())
        };
        let joined = |sync: &harness::Sync| {
            sync.timeline(&room)
                .iter()
                .any(|event| event["state_key"] == bob.id.as_str() && event["content"]["membership"] == "join")
        };
        alice.sees(joined);
        assert!(found(&alice, bob.localpart()) && !found(&carol, bob.localpart()));
        let path = format!("/_matrix/client/v1/mutual_rooms{}", query(&[("user_id", &bob.id)]));
        assert_eq!(alice.client().get(&path).ok(), json!({ "joined": [room], "count": 1 }));
        assert_eq!(carol.client().get(&path).ok(), json!({ "joined": [], "count": 0 }));
        let path = format!("/_matrix/client/v1/mutual_rooms{}", query(&[("user_id", &alice.id)]));
        assert_eq!(bob.client().get(&path).ok(), json!({ "joined": [room], "count": 1 }));
    }
}
