//! The keys of other servers that the test plays: asked for, kept, told by notaries.

use std::{cell::RefCell, rc::Rc};

use domain::federation::server_keys::{Signed, own_document};
use http::Method;
use ruma_common::{OwnedServerName, serde::Base64};
use serde_json::{Value, json};

use super::{
    NeededKey,
    server_keys::ServerKeys,
    tests::{Asked, DAY, NOW, PROFILE, answered, identity, noted, ok, server_among, signed, unreachable},
};
use crate::{
    Context,
    testing::{TestServer, block_on, refused},
};

fn needs(server: &str, key_id: &str, signed: Signed) -> NeededKey {
    NeededKey { server: OwnedServerName::try_from(server).unwrap(), key_id: key_id.to_owned(), signed }
}

/// The key of this needed one, in base64.
fn key_of(keys: &ServerKeys, needed: &NeededKey) -> Option<String> {
    keys.key_for(&needed.server, &needed.key_id, needed.signed).map(Base64::encode)
}

#[test]
fn keys_are_fetched_once_and_kept() {
    let (server, asked) = server_among(vec![identity("b.test:1", "1", 1), identity("c.test:1", "1", 2)], &[]);
    let get = |needed: Vec<NeededKey>| block_on(server.context().server_keys(needed)).unwrap();
    let event = |at_ms| Signed::Event { at_ms };
    let wanted = vec![
        needs("b.test:1", "ed25519:1", event(NOW - DAY)),
        needs("b.test:1", "ed25519:1", event(NOW)),
        needs("c.test:1", "ed25519:1", Signed::EventOfAnyTime),
        needs("d.test:1", "ed25519:1", event(NOW)),
        needs("localhost", &server.context().identity().key_id(), event(0)),
    ];
    let keys = get(wanted.clone());
    let expected = [
        Some(identity("b.test:1", "1", 1).public_key_base64()),
        Some(identity("b.test:1", "1", 1).public_key_base64()),
        Some(identity("c.test:1", "1", 2).public_key_base64()),
        None,
        Some(server.context().identity().public_key_base64()),
    ];
    assert_eq!(wanted.iter().map(|needed| key_of(&keys, needed)).collect::<Vec<_>>(), expected);
    assert_eq!(asked.borrow().len(), 3);
    get(wanted);
    assert_eq!(asked.borrow().len(), 3, "who did not answer is not asked again at once");
    server.pass_ms(61_000);
    get(vec![needs("d.test:1", "ed25519:1", event(NOW)), needs("b.test:1", "ed25519:1", event(NOW))]);
    assert_eq!(asked.borrow().len(), 4);
    // The key is said to be good for a day: for a later event the server is asked again, and for one of a far future
    // not.
    server.pass_ms(DAY);
    get(vec![needs("b.test:1", "ed25519:1", event(NOW + 30 * DAY))]);
    assert_eq!(asked.borrow().len(), 4);
    get(vec![needs("b.test:1", "ed25519:1", event(NOW + DAY + 1))]);
    assert_eq!(asked.borrow().len(), 5);
}

/// D1 takes a thousand statements of one request.
#[test]
fn the_keys_of_many_servers_cost_a_few_statements() {
    const SERVERS: u8 = 150;
    let name = |number: u8| format!("s{number}.test:1");
    let all = || (0..SERVERS).map(|number| identity(&name(number), "1", number)).collect();
    let (server, asked) = server_among(all(), &[]);
    let wanted = || (0..SERVERS).map(|number| needs(&name(number), "ed25519:1", Signed::EventOfAnyTime));
    let get = |cx: &Context| {
        let keys = block_on(cx.server_keys(wanted())).unwrap();
        for (number, needed) in (0..SERVERS).zip(wanted()) {
            let key = identity(&name(number), "1", number).public_key_base64();
            assert_eq!(key_of(&keys, &needed), Some(key), "{number}");
        }
    };
    // Two that read, and five in one transaction that write.
    server.metadata.fails_after(3, false);
    get(&server.context());
    assert_eq!(asked.borrow().len(), usize::from(SERVERS));
    // Another isolate finds them all, whoever else there is.
    server.metadata.fails_after(2, false);
    get(&server.context_of_another_process());
    assert_eq!(asked.borrow().len(), usize::from(SERVERS));
    server.metadata.is_well();
    assert_eq!(server.numbers("SELECT count(*) FROM remote_key"), [i64::from(SERVERS)]);
}

#[test]
fn a_notary_knows_of_servers_that_are_gone() {
    let [gone, notary] = [identity("gone.test:1", "1", 1), identity("notary.test:1", "1", 2)];
    let server = TestServer::new(&[("TRUSTED_KEY_SERVERS", "notary.test:1")]);
    let asked = Asked::default();
    let notes = asked.clone();
    let forged = Rc::new(RefCell::new(true));
    let is_forged = forged.clone();
    server.others_answer(move |request| {
        noted(&notes, request);
        if request.peer.host != "notary.test" {
            return unreachable();
        }
        if request.path_and_query == "/_matrix/key/v2/server" {
            return ok(own_document(&notary, NOW));
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["server_keys"]["gone.test:1"]["ed25519:1"]["minimum_valid_until_ts"], NOW);
        let document = own_document(&gone, NOW);
        let document =
            domain::federation::server_keys::KeyDocument::check(document.as_bytes(), gone.server_name()).unwrap();
        let document = if *is_forged.borrow() { document.to_json() } else { document.signed_by(&notary) };
        ok(format!(r#"{{"server_keys":[{document},{{}}]}}"#))
    });
    let get = || {
        let needed = needs("gone.test:1", "ed25519:1", Signed::Event { at_ms: NOW });
        let keys = block_on(server.context().server_keys([needed.clone()])).unwrap();
        key_of(&keys, &needed)
    };
    assert_eq!(get(), None, "the notary did not sign");
    *forged.borrow_mut() = false;
    assert_eq!(get(), Some(identity("gone.test:1", "1", 1).public_key_base64()));
}

/// What is lacking may be had another time only where somebody who might know it did not answer.
#[test]
fn it_is_told_whether_a_notary_was_silent() {
    let notary = identity("notary.test:1", "1", 2);
    let server = TestServer::new(&[("TRUSTED_KEY_SERVERS", "notary.test:1")]);
    let answering = Rc::new(RefCell::new(false));
    let is_answering = answering.clone();
    server.others_answer(move |request| {
        if request.peer.host != "notary.test" || !*is_answering.borrow() {
            return unreachable();
        }
        if request.path_and_query == "/_matrix/key/v2/server" {
            return ok(own_document(&notary, NOW));
        }
        ok(r#"{"server_keys":[]}"#.to_owned())
    });
    let is_silent = || {
        let needed = needs("gone.test:1", "ed25519:1", Signed::Event { at_ms: NOW });
        block_on(server.context().server_keys([needed])).unwrap().is_notary_silent
    };
    assert!(is_silent());
    *answering.borrow_mut() = true;
    // It was down a moment ago.
    server.pass_ms(700_000);
    assert!(!is_silent(), "it knows nothing of that server, and says so");
}

/// What we may vouch for is what the server says now, as far as anybody asked for it.
#[test]
fn a_notary_looks_again_for_a_key_that_it_has_not() {
    let server =
        TestServer::new(&[("TRUSTED_KEY_SERVERS", ""), ("RATE_LIMITS", "on"), ("RC_REMOTE_QUERIES", "0.001,2")]);
    let asked = Asked::default();
    let notes = asked.clone();
    let current = Rc::new(RefCell::new("1"));
    let now = current.clone();
    server.others_answer(move |request| {
        noted(&notes, request);
        ok(own_document(&identity(&request.peer.host_header, *now.borrow(), 1), NOW + 365 * DAY))
    });
    let asks = |wanted: Value| {
        let body = json!({ "server_keys": wanted });
        let (status, answer) = server.post("/_matrix/key/v2/query", "", &body);
        let keys = answer["server_keys"].as_array().cloned().unwrap_or_default();
        let named = keys.iter().flat_map(|keys| keys["verify_keys"].as_object().unwrap().keys().cloned());
        (status.as_u16(), named.collect::<Vec<_>>())
    };
    let first = || json!({ "b.test:1": { "ed25519:1": {} } });
    assert_eq!(asks(first()), (200, vec!["ed25519:1".to_owned()]));
    assert_eq!((asks(first()).0, asked.borrow().len()), (200, 1), "it has that");
    *current.borrow_mut() = "2";
    server.pass_ms(61_000);
    assert_eq!(asks(json!({ "b.test:1": { "ed25519:2": {} } })), (200, vec!["ed25519:2".to_owned()]));
    // Who may not have others asked any more gets what there is.
    let many = json!({ "c.test:1": {}, "b.test:1": { "ed25519:2": {} }, "d.test:1": {} });
    assert_eq!(asks(many), (200, vec!["ed25519:2".to_owned()]));
    assert_eq!(asks(json!({ "c.test:1": {}, "d.test:1": {} })).0, 429);
    assert_eq!(asked.borrow().len(), 2);
    // Whatever it says, it is not good for a year: half a week later it is asked again.
    server.pass_ms(4 * DAY);
    *current.borrow_mut() = "3";
    assert_eq!(asks(json!({ "b.test:1": {} })), (200, vec!["ed25519:3".to_owned()]));
}

#[test]
fn we_are_a_notary_for_others() {
    let (server, asked) = server_among(vec![identity("b.test:1", "1", 1)], &[]);
    let path = "/_matrix/key/v2/query/b.test:1";
    for _ in 0..2 {
        let (_, answer) = server.get(path, "");
        let signatures = &answer["server_keys"][0]["signatures"];
        assert!(signatures["b.test:1"]["ed25519:1"].is_string() && signatures["localhost"].is_object(), "{answer}");
    }
    assert_eq!(asked.borrow().len(), 1);
    let odd = json!({ "ed25519:a b": { "minimum_valid_until_ts": null } });
    let body = json!({ "server_keys": { "b.test:1": {}, "gone.test:1": {}, "localhost": odd, "my_host.lan": {} } });
    let (_, answer) = server.post("/_matrix/key/v2/query", "", &body);
    let mut names: Vec<_> =
        answer["server_keys"].as_array().unwrap().iter().map(|keys| keys["server_name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["b.test:1", "localhost"]);
    assert_eq!(server.get("/_matrix/key/v2/query/gone.test:1", "").1, json!({ "server_keys": [] }));
    assert_eq!(server.post("/_matrix/key/v2/query", "", &json!({ "server_keys": {} })).1, json!({ "server_keys": [] }));
    // Half of the day is over: it is asked again, and when it does not answer, the old answer is as good.
    server.pass_ms(DAY / 2 + 1);
    let before = asked.borrow().len();
    server.others_answer({
        let asked = asked.clone();
        move |request| {
            noted(&asked, request);
            unreachable()
        }
    });
    assert_eq!(server.get(path, "").1["server_keys"].as_array().unwrap().len(), 1);
    assert_eq!(asked.borrow().len(), before + 1);
    let many: Value = (0..101).map(|number| (format!("s{number}.test"), json!({}))).collect();
    let refused_many = server.post("/_matrix/key/v2/query", "", &json!({ "server_keys": many }));
    assert_eq!(refused(refused_many), (400, "M_INVALID_PARAM".to_owned()));
    assert_eq!(refused(server.get("/_matrix/key/v2/query/no%20name", "")), (400, "M_INVALID_PARAM".to_owned()));
}

/// A server, whose keys are what the test says, that asks for something.
struct Comes {
    server: TestServer,
    /// Its key, while it is there.
    key: Rc<RefCell<Option<&'static str>>>,
    /// The one before.
    former: Rc<RefCell<Option<(&'static str, u64)>>>,
}

impl Comes {
    fn to_us() -> Self {
        let (server, _) = server_among(vec![], &[]);
        server.register("alice");
        let key: Rc<RefCell<Option<&str>>> = Rc::default();
        let former: Rc<RefCell<Option<(&str, u64)>>> = Rc::default();
        let (now, before) = (key.clone(), former.clone());
        server.others_answer(move |_| match *now.borrow() {
            Some(key) => {
                let of_former = |(key, at_ms)| identity("b.test:1", key, 1).as_former_key(at_ms);
                let us = identity("b.test:1", key, 1);
                ok(own_document(&us.with_former_keys(before.borrow().map(of_former).into_iter().collect()), NOW))
            }
            None => unreachable(),
        });
        Self { server, key, former }
    }

    fn asks(&self, key: &str) -> u16 {
        let request = signed(&identity("b.test:1", key, 1), "localhost", Method::GET, PROFILE, "");
        answered(&self.server, request).0.as_u16()
    }
}

#[test]
fn a_server_that_is_there_again_is_believed_soon() {
    let comes = Comes::to_us();
    // For long its keys were not to be had.
    for _ in 0..10 {
        assert_eq!(comes.asks("1"), 401);
        comes.server.pass_ms(600_000);
    }
    assert_eq!(comes.asks("1"), 401);
    *comes.key.borrow_mut() = Some("1");
    assert_eq!(comes.asks("1"), 401, "it was asked just now");
    comes.server.pass_ms(5_000);
    assert_eq!(comes.asks("1"), 200);
    // It takes another one at once.
    *comes.key.borrow_mut() = Some("2");
    comes.server.pass_ms(5_000);
    assert_eq!([comes.asks("2"), comes.asks("3")], [200, 401]);
}

#[test]
fn a_server_may_go_back_to_a_former_key() {
    let comes = Comes::to_us();
    *comes.key.borrow_mut() = Some("1");
    assert_eq!(comes.asks("1"), 200);
    comes.server.pass_ms(61_000);
    (*comes.key.borrow_mut(), *comes.former.borrow_mut()) = (Some("2"), Some(("1", NOW)));
    assert_eq!(comes.asks("2"), 200);
    assert_eq!(comes.asks("1"), 401);
    comes.server.pass_ms(61_000);
    (*comes.key.borrow_mut(), *comes.former.borrow_mut()) = (Some("1"), Some(("2", NOW + 61_000)));
    assert_eq!(comes.asks("1"), 200);
    assert_eq!(comes.asks("2"), 401);
}
