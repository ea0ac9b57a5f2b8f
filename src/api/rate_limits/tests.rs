use std::collections::BTreeMap;

use bytes::Bytes;
use domain::{RateLimit, RateLimited, Refusal};
use http::Request;
use ruma_common::{UserId, room_id, user_id};
use serde_json::{Value, json};

use super::{Asked, RateLimits, SUBJECTS_MAX};
use crate::{ClientAddress, Failure};

const LIMIT: RateLimit = RateLimit { per_second: 0.5, burst: 2 };
const REFUSED: Refusal = Refusal::LimitExceeded { retry_after_ms: 2_000 };

fn limits(limited: &[RateLimited]) -> RateLimits {
    RateLimits::new(&limited.iter().map(|limited| (*limited, LIMIT)).collect())
}

/// What is left to alice at an address, after a request with this body, of one limit.
fn asks(limits: &RateLimits, limited: RateLimited, address: &str, body: &str) -> Result<(), Refusal> {
    let request = Request::new(Bytes::copy_from_slice(body.as_bytes()));
    let asked = Asked {
        user_id: Some(user_id!("@alice:localhost")),
        address: Some(ClientAddress(address.parse().unwrap())),
        request: &request,
        path_args: &["!room".to_owned()],
        is_transaction: false,
    };
    limits.take_for(&asked, &[limited], 0).map(|_| ())
}

/// A token that nobody checks makes nobody new.
#[test]
fn made_up_tokens_are_no_way_around() {
    let limits = limits(&[RateLimited::Requests]);
    let asks = |token: &str, user_id: Option<&UserId>| {
        let request = Request::builder().header("authorization", format!("Bearer {token}")).body(Bytes::new()).unwrap();
        let address = Some(ClientAddress("192.0.2.1".parse().unwrap()));
        let asked = Asked { user_id, address, request: &request, path_args: &[], is_transaction: false };
        limits.take_for(&asked, &[RateLimited::Requests], 0).map(|taken| taken.settle(None))
    };
    for (token, outcome) in [("a", Ok(())), ("b", Ok(())), ("c", Err(REFUSED))] {
        assert_eq!(asks(token, None), outcome, "{token}");
    }
    assert_eq!(asks("a", Some(user_id!("@alice:localhost"))), Ok(()), "hers is another");
}

#[test]
fn an_ipv6_client_is_its_network() {
    let limits = limits(&[RateLimited::Registration]);
    for (address, outcome) in [
        ("2001:db8::1", Ok(())),
        ("2001:db8::ffff:0:0:1", Ok(())),
        ("2001:db8::2", Err(REFUSED)),
        ("2001:db8:0:1::1", Ok(())),
        ("192.0.2.1", Ok(())),
        ("::ffff:192.0.2.1", Ok(())),
        ("192.0.2.1", Err(REFUSED)),
        ("192.0.2.2", Ok(())),
    ] {
        assert_eq!(asks(&limits, RateLimited::Registration, address, ""), outcome, "{address}");
    }
}

#[test]
fn invitations_count_for_everyone_invited() {
    let limits = limits(&[RateLimited::InvitesPerUser, RateLimited::InvitesPerIssuer]);
    let invites = |limited, body| asks(&limits, limited, "::1", body);
    let (bob, both) = (r#"{"user_id":"@bob:b"}"#, r#"{"invite":["@bob:b","@carol:b"]}"#);
    for (body, outcome) in [(bob, Ok(())), (both, Ok(())), (both, Err(REFUSED)), (r#"{"invite":["@carol:b"]}"#, Ok(()))]
    {
        assert_eq!(invites(RateLimited::InvitesPerUser, body), outcome, "{body}");
    }
    // Every way to say it counts, whatever else there is in the body that nobody reads.
    let in_state = |membership: &str, key: &str, more: &str| {
        format!(
            r#"{{{more}"initial_state":[{{"type":"m.x","content":5}},{{"type":"m.room.member","state_key":"{key}",
            "content":{{"membership":"{membership}"}}}}]}}"#
        )
    };
    for (body, outcome) in [
        (in_state("invite", "@dan:b", ""), Ok(())),
        (in_state("join", "@dan:b", ""), Ok(())),
        (in_state("invite", "@dan:b", r#""user_id":5,"#), Ok(())),
        (in_state("invite", "@dan:b", r#""user_id":"a","user_id":"b","#), Err(REFUSED)),
        (r#"{"user_id":[],"invite":["@dan:b"]}"#.to_owned(), Err(REFUSED)),
    ] {
        assert_eq!(asks(&limits, RateLimited::InvitesPerUser, "::1", &body), outcome, "{body}");
    }
    // What is refused takes nothing; what is more than the burst takes all of it.
    let many = r#"{"invite":["@b:b","@c:b","@d:b","@e:b"]}"#;
    for (body, outcome) in [("{}", Ok(())), (many, Ok(())), (bob, Err(REFUSED)), ("{}", Ok(()))] {
        assert_eq!(invites(RateLimited::InvitesPerIssuer, body), outcome, "{body}");
    }
}

/// As many as a new room may invite, in every way at once, and however often one of them is named before.
#[test]
fn nobody_invited_to_a_new_room_is_forgotten() {
    let invite: Vec<String> = (0..500).map(|_| 0).chain(0..100).map(|number| format!("@u{number}:b")).collect();
    let by_address: Vec<Value> = (0..100).map(|number| json!({ "address": format!("{number}@b.test") })).collect();
    let content = json!({ "membership": "invite" });
    let in_state =
        |number| json!({ "type": "m.room.member", "state_key": format!("@s{number}:b"), "content": content });
    let state: Vec<Value> = (0..200).map(in_state).collect();
    let body = json!({ "invite": invite, "invite_3pid": by_address, "initial_state": state }).to_string();
    let limits = limits(&[RateLimited::InvitesPerUser]);
    assert_eq!(asks(&limits, RateLimited::InvitesPerUser, "::1", &body), Ok(()));
    for (last, number) in [("u", 99), ("s", 199)] {
        let again = format!(r#"{{"user_id":"@{last}{number}:b"}}"#);
        assert_eq!(asks(&limits, RateLimited::InvitesPerUser, "::1", &again), Ok(()), "one is left of the burst");
        assert_eq!(asks(&limits, RateLimited::InvitesPerUser, "::1", &again), Err(REFUSED), "{again}");
    }
}

#[test]
fn an_invitation_counts_the_same_by_whatever_request() {
    let (room, alice, bob) = (room_id!("!room"), user_id!("@alice:localhost"), user_id!("@bob:b"));
    for limited in [RateLimited::InvitesPerRoom, RateLimited::InvitesPerUser, RateLimited::InvitesPerIssuer] {
        let limits = limits(&[limited]);
        let by_state = || limits.take_for_invitation(room, alice, bob, 0).map(|_| ());
        let by_itself = || asks(&limits, limited, "::1", r#"{"user_id":"@bob:b"}"#);
        assert_eq!((by_state(), by_itself(), by_state(), by_itself()), (Ok(()), Ok(()), Err(REFUSED), Err(REFUSED)));
    }
}

#[test]
fn a_transaction_counts_once() {
    let limits = limits(&[RateLimited::Message]);
    let request = Request::new(Bytes::new());
    let sends = |txn_id: &str| {
        let asked = Asked {
            user_id: Some(user_id!("@alice:localhost")),
            address: None,
            request: &request,
            path_args: &["!room".to_owned(), txn_id.to_owned()],
            is_transaction: true,
        };
        limits.take_for(&asked, &[RateLimited::Message], 0).map(|_| ())
    };
    for (txn_id, outcome) in
        [("a", Ok(())), ("a", Ok(())), ("b", Ok(())), ("b", Ok(())), ("c", Err(REFUSED)), ("c", Err(REFUSED))]
    {
        assert_eq!(sends(txn_id), outcome, "{txn_id}");
    }
}

/// What came of a request that fails, by the token it has and the transaction it names.
#[test]
fn a_transaction_is_free_only_where_it_was_done() {
    let limits = limits(&[RateLimited::Message]);
    let sends = |token: &str, failure: Option<&Failure>| {
        let request = Request::builder().header("Authorization", format!("Bearer {token}"));
        let asked = Asked {
            user_id: Some(user_id!("@alice:localhost")),
            address: None,
            request: &request.body(Bytes::new()).unwrap(),
            path_args: &["!room".to_owned(), "txn".to_owned()],
            is_transaction: true,
        };
        limits.take_for(&asked, &[RateLimited::Message], 0).map(|taken| taken.settle(failure))
    };
    let refused = Failure::from(Refusal::Forbidden("No".to_owned()));
    assert_eq!(sends("phone", Some(&refused)), Ok(()));
    assert_eq!(sends("phone", None), Ok(()), "it was not done before");
    assert_eq!(sends("phone", None), Ok(()), "now it was");
    // Spec: "The scope of a transaction identifier is for a single device".
    assert_eq!(sends("laptop", None), Err(REFUSED));
}

#[test]
fn what_is_given_back_does_not_count() {
    let limits = limits(&[RateLimited::LoginFailedAttempts]);
    let take = || limits.take(RateLimited::LoginFailedAttempts, "@alice:localhost", 0);
    for _ in 0..10 {
        take().unwrap().give_back();
    }
    let _ = (take().unwrap(), take().unwrap());
    assert_eq!(take().err(), Some(REFUSED));
    assert!(limits.take(RateLimited::LoginFailedAttempts, "@bob:localhost", 0).is_ok());
}

#[test]
fn a_limit_that_is_off_refuses_nobody() {
    let limits = RateLimits::new(&BTreeMap::new());
    for _ in 0..1_000 {
        assert_eq!(asks(&limits, RateLimited::Message, "::1", ""), Ok(()));
    }
}

#[test]
fn memory_is_bounded_and_the_recent_are_kept() {
    let limits = limits(&[RateLimited::LoginFailedAttempts, RateLimited::Message]);
    let tries = |name: &str| limits.take(RateLimited::LoginFailedAttempts, name, 0).map(|_| ());
    for _ in 0..2 {
        tries("guessed").unwrap();
    }
    for number in 0..5 * SUBJECTS_MAX {
        tries(&format!("user{number}")).unwrap();
        if number % SUBJECTS_MAX == 0 {
            assert_eq!(tries("guessed"), Err(REFUSED), "who is tried again and again is not forgotten");
        }
    }
    let used = limits.used();
    let recent = &used[&RateLimited::LoginFailedAttempts];
    assert!(recent.len() <= 2 * SUBJECTS_MAX);
}
