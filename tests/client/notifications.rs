//! Spec: client-server API, «Listing Notifications».

use harness::{Server, User, Value, json, on_each_host, query};

on_each_host![
    what_notified_is_listed_the_newest_first,
    pages_hold_everything_once,
    an_invitation_is_listed_while_it_stands,
    what_was_read_is_listed_as_read,
    highlights_may_be_asked_for_alone,
    what_notifies_nobody_is_not_listed,
    what_cannot_be_asked_is_refused,
];

fn lists(user: &User, pairs: &[(&str, &str)]) -> Value {
    user.get(&format!("/notifications{}", query(pairs))).ok()
}

fn notifications(listed: &Value) -> Vec<Value> {
    listed["notifications"].as_array().expect("a list").clone()
}

fn ids(listed: &Value) -> Vec<String> {
    let notifications = notifications(listed);
    notifications.iter().map(|it| it["event"]["event_id"].as_str().expect("an id").to_owned()).collect()
}

fn three(server: &Server) -> [User; 3] {
    ["alice", "bob", "carol"].map(|name| server.registers(name))
}

fn what_notified_is_listed_the_newest_first(server: &Server) {
    let [alice, bob, carol] = three(server);
    assert_eq!(lists(&bob, &[]), json!({ "notifications": [] }));
    let [here, there] = [(); 2].map(|()| alice.creates_room_with(&[&bob, &carol]));
    let (first, second) = (alice.sends(&here, "1"), alice.sends(&there, "2"));
    let third = carol.sends(&here, "3");
    let listed = lists(&bob, &[]);
    assert_eq!(ids(&listed), [third, second.clone(), first]);
    assert_eq!(listed.get("next_token"), None);
    let of_second = &listed["notifications"][1];
    assert_eq!((&of_second["room_id"], &of_second["actions"]), (&json!(there), &json!(["notify"])));
    assert_eq!((&of_second["read"], &of_second["event"]["content"]["body"]), (&json!(false), &json!("2")));
    assert_eq!(of_second["event"].get("room_id"), None);
    assert!(of_second["ts"].as_u64().is_some_and(|ts| ts > 1_700_000_000_000), "{of_second}");
    // To whom it is their own it is none.
    assert_eq!(ids(&lists(&carol, &[])).len(), 2);
}

fn pages_hold_everything_once(server: &Server) {
    let [alice, bob, carol] = three(server);
    let rooms = [(); 3].map(|()| alice.creates_room_with(&[&bob, &carol]));
    let mut said: Vec<_> = (0..12).map(|n| alice.sends_apart(&rooms[n % 3], &n.to_string())).collect();
    said.reverse();
    for limit in ["1", "5", "12", "100"] {
        let (mut found, mut from): (Vec<String>, Option<String>) = (Vec::new(), None);
        loop {
            let mut pairs = vec![("limit", limit)];
            pairs.extend(from.as_deref().map(|from| ("from", from)));
            let listed = lists(&bob, &pairs);
            assert!(ids(&listed).len() <= limit.parse().expect("a number"));
            found.extend(ids(&listed));
            match listed["next_token"].as_str() {
                Some(next) => from = Some(next.to_owned()),
                None => break,
            }
            assert!(found.len() <= said.len(), "{found:?}");
        }
        assert_eq!(found, said, "by {limit}");
    }
}

fn an_invitation_is_listed_while_it_stands(server: &Server) {
    let [alice, bob, carol] = three(server);
    let room = alice.creates_room_with(&[&bob, &carol]);
    let before = alice.sends(&room, "before");
    let other = alice.creates_room(json!({}));
    alice.invites(&other, &bob).ok();
    let state = alice.full_state(&other).ok();
    let of_bob = state.as_array().expect("state").iter().find(|event| event["state_key"] == *bob.id);
    let invitation = of_bob.expect("the invitation")["event_id"].as_str().expect("an id").to_owned();
    let after = alice.sends(&room, "after");
    let listed = lists(&bob, &[]);
    let all = ids(&listed);
    assert_eq!(all.len(), 3, "{listed}");
    assert!([&before, &invitation, &after].into_iter().all(|id| all.contains(id)), "{listed}");
    let times: Vec<_> = notifications(&listed).iter().map(|it| it["ts"].as_u64()).collect();
    assert!(times.is_sorted_by(|one, other| one >= other), "{times:?}");
    let told = notifications(&listed).into_iter().find(|it| it["room_id"] == *other).expect("the invitation");
    assert_eq!((&told["read"], &told["event"]["content"]["membership"]), (&json!(false), &json!("invite")));
    // Page by page each is there once.
    let (mut paged, mut from) =
        (ids(&lists(&bob, &[("limit", "1")])), lists(&bob, &[("limit", "1")])["next_token"].clone());
    while let Some(next) = from.as_str() {
        let page = lists(&bob, &[("limit", "1"), ("from", next)]);
        paged.extend(ids(&page));
        from = page["next_token"].clone();
    }
    assert_eq!(paged, all);
    assert_eq!(ids(&lists(&bob, &[("only", "highlight")])), [""; 0]);
    bob.ignores(&alice);
    assert_eq!(ids(&lists(&bob, &[])), [""; 0]);
    bob.put(&format!("/user/{}/account_data/m.ignored_user_list", bob.id), json!({ "ignored_users": {} })).ok();
    bob.leaves(&other).ok();
    assert_eq!(ids(&lists(&bob, &[])).len(), 2, "it was turned down");
}

fn what_was_read_is_listed_as_read(server: &Server) {
    let [alice, bob, carol] = three(server);
    let room = alice.creates_room_with(&[&bob, &carol]);
    let [_, second, _] = ["1", "2", "3"].map(|text| alice.sends(&room, text));
    let read = || -> Vec<bool> {
        notifications(&lists(&bob, &[])).iter().map(|it| it["read"].as_bool().expect("read or not")).collect()
    };
    assert_eq!(read(), [false; 3]);
    bob.reads(&room, "m.read.private", &second, json!({})).ok();
    assert_eq!(read(), [false, true, true]);
    bob.sends(&room, "an answer");
    assert_eq!(read(), [true; 3]);
    alice.sends(&room, "4");
    assert_eq!(read(), [false, true, true, true]);
}

fn highlights_may_be_asked_for_alone(server: &Server) {
    let [alice, bob, carol] = three(server);
    let room = alice.creates_room_with(&[&bob, &carol]);
    alice.sends(&room, "1");
    let mention = json!({ "msgtype": "m.text", "body": "you", "m.mentions": { "user_ids": [bob.id] } });
    let mentioned = alice.sends_content(&room, mention);
    alice.sends(&room, "2");
    let listed = lists(&bob, &[("only", "highlight")]);
    assert_eq!(ids(&listed), [mentioned]);
    let actions = json!(["notify", { "set_tweak": "sound", "value": "default" }, { "set_tweak": "highlight" }]);
    assert_eq!(listed["notifications"][0]["actions"], actions);
}

fn what_notifies_nobody_is_not_listed(server: &Server) {
    let [alice, bob, carol] = three(server);
    let room = alice.creates_room_with(&[&carol]);
    alice.sends(&room, "before they came");
    alice.invites(&room, &bob).ok();
    bob.joins(&room).ok();
    alice.sends_content(&room, json!({ "msgtype": "m.notice", "body": "a bot" }));
    let gone = alice.sends(&room, "regretted");
    alice.redacts(&room, &gone, "r").ok();
    let heard = alice.sends(&room, "heard");
    assert_eq!(ids(&lists(&bob, &[])), std::slice::from_ref(&heard));
    let from_carol = carol.sends(&room, "not wanted");
    assert_eq!(ids(&lists(&bob, &[]))[0], from_carol);
    bob.ignores(&carol);
    assert_eq!(ids(&lists(&bob, &[])), [heard]);
    // Nobody is told of a room that they left.
    bob.leaves(&room).ok();
    assert_eq!(lists(&bob, &[]), json!({ "notifications": [] }));
}

fn what_cannot_be_asked_is_refused(server: &Server) {
    let alice = server.registers("alice");
    alice.get("/notifications?from=nonsense").refused(400, "M_INVALID_PARAM");
    alice.get("/notifications?limit=-1").refused(400, "M_INVALID_PARAM");
    server.anonymous().get("/_matrix/client/v3/notifications").refused(401, "M_MISSING_TOKEN");
}
