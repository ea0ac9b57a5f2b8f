//! What strangers send, for the fuzzer: a function for each parser of it, which panics where what was read is not what
//! was there. `cargo test` feeds them a little; with `--cfg fuzzing`, `scripts/fuzz` does so for hours.

mod events;

use ruma_common::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName, server_name};
use serde_json::Value;

use crate::{
    Identity, alias,
    contact::Email,
    federation::{
        discovery::{Step, cached_ms, delegated_by, first_step},
        server_keys::KeyDocument,
        sorted_json::sorted,
        x_matrix::{SignedRequest, XMatrix},
    },
    glob,
    signed_key::SignedKey,
    user_search::Term,
};

/// A parser's name, things that it takes, and itself. Each panics at what is wrong.
pub type Target = (&'static str, &'static [&'static [u8]], fn(&[u8]));

/// All of this crate.
pub const TARGETS: &[Target] = &[
    ("x_matrix", X_MATRIX, x_matrix),
    ("sorted_json", JSON, sorted_json),
    ("server_keys", KEYS, server_keys),
    ("server_names", SERVER_NAMES, server_names),
    ("well_known", WELL_KNOWNS, well_known),
    ("glob", PATTERNS, patterns),
    ("signed_key", SIGNED_KEYS, signed_key),
    ("names_of_people", PEOPLE, names_of_people),
    ("event", events::ONE, events::one),
    ("room", events::ROOMS, events::room),
];

fn us() -> &'static ServerName {
    server_name!("a.test")
}

fn identity() -> Option<Identity> {
    Identity::new(us().to_owned(), "1", [7; 32]).ok()
}

/// The text up to a line break, and what comes after it.
fn halves(bytes: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(bytes).ok()?;
    Some(text.split_once('\n').unwrap_or((text, "")))
}

const X_MATRIX: &[&[u8]] = &[
    br#"X-Matrix origin="a.test",destination="b.test",key="ed25519:1",sig="AAAA""#,
    br#"x-matrix origin=a.test:8448 , key = "ed\25519:1",sig=AAAA,, more="a,b=\"c\"","#,
];

fn x_matrix(bytes: &[u8]) {
    let Some(read) = std::str::from_utf8(bytes).ok().and_then(XMatrix::parse) else { return };
    let request = SignedRequest { method: "PUT", uri: "/_matrix", content: bytes };
    // Nobody has a key of these zeros.
    let key = ruma_common::serde::Base64::new(vec![0; 32]);
    assert!(!read.is_of(&request, server_name!("c.test"), &key), "{read:?}");
}

const JSON: &[&[u8]] = &[
    br#"{"b":1,"a":[true,false,null,-7,"x"],"":{}}"#,
    br#" { "\u00e9" : "\u00e9\n\"\\" ,	"e" : [ ] , "a\u0000" : [ { } , [ 1 , 2 ] ] } "#,
    br#"{"c":1e+16,"b":[0.50,-0.0,1E5],"a":123456789012345678901234567890}"#,
];

fn sorted_json(bytes: &[u8]) {
    let (found, is_json) = (sorted(bytes), serde_json::from_slice::<Value>(bytes).is_ok());
    // It reads what nests deeper than others read.
    assert!(found.is_some() || !is_json);
    assert!(found.is_none() || is_json || bytes.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() > 100);
    let Some(found) = found else { return };
    assert_eq!(sorted(found.as_bytes()).as_ref(), Some(&found), "once is enough");
    if let Ok(canonical) = serde_json::from_slice::<CanonicalJsonValue>(bytes) {
        assert_eq!(canonical.to_string(), found);
    }
}

const KEYS: &[&[u8]] = &[
    br#"{"server_name":"a.test","verify_keys":{"ed25519:1":{"key":"6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw"}},"old_verify_keys":{"ed25519:0":{"key":"AAAA","expired_ts":1}},"valid_until_ts":2}"#,
    br#"{"server_name":"a.test","verify_keys":{},"valid_until_ts":9007199254740991,"signatures":{"a.test":{"ed25519:1":"AAAA"}}}"#,
];

fn server_keys(bytes: &[u8]) {
    let _ = KeyDocument::check(bytes, us());
    let (Some(ours), Ok(mut object)) = (identity(), serde_json::from_slice::<CanonicalJsonObject>(bytes)) else {
        return;
    };
    if ours.sign_json(&mut object).is_err() {
        return;
    }
    let signed = CanonicalJsonValue::Object(object).to_string();
    let Ok(document) = KeyDocument::check(signed.as_bytes(), us()) else { return };
    assert_eq!(KeyDocument::check(document.to_json().as_bytes(), us()).as_ref(), Ok(&document));
    assert!(KeyDocument::check(document.signed_by(&ours).as_bytes(), us()).is_ok());
}

const SERVER_NAMES: &[&[u8]] = &[b"a.test", b"a.test:8448", b"[::1]", b"[2001:db8::1]:443", b"127.0.0.1", b"1.2.3.4:1"];

fn server_names(bytes: &[u8]) {
    let name = std::str::from_utf8(bytes).ok().and_then(|text| OwnedServerName::try_from(text).ok());
    let Some(name) = name else { return };
    match first_step(&name) {
        Step::Connect(route) => {
            assert!(!route.host.is_empty() && !route.host.contains(['/', '@', '\\', '[', ']']), "{route:?}");
            assert_eq!(route.host_header, name.as_str());
        }
        Step::WellKnown { hostname } | Step::Srv { hostname } => {
            assert!(!hostname.is_empty() && !hostname.contains(['/', '@', ':', '\\', '?', '#']), "{hostname}");
        }
    }
}

const WELL_KNOWNS: &[&[u8]] = &[b"max-age=3600, public\n{\"m.server\":\"b.test:443\"}", b"no-store\n{\"m.server\":5}"];

fn well_known(bytes: &[u8]) {
    let Some((cache_control, body)) = halves(bytes) else { return };
    assert!((300_000..=48 * 3_600_000).contains(&cached_ms(Some(cache_control))));
    if let Some(name) = delegated_by(body.as_bytes()) {
        server_names(name.as_bytes());
    }
}

const PATTERNS: &[&[u8]] = &[b"*.a?c*\nx.abc.d", b"a*b\naxxb", "\u{130}*\ni\u{307}x".as_bytes()];

fn patterns(bytes: &[u8]) {
    let Some((pattern, text)) = halves(bytes) else { return };
    if pattern.matches('*').count() > 3 || text.len() > 100 {
        return;
    }
    let folded = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<Vec<_>>();
    assert_eq!(glob::matches(pattern, text), is_of(&folded(pattern), &folded(text)), "{pattern:?} {text:?}");
}

/// The same, by the way that everybody sees to be right, however long it takes.
fn is_of(pattern: &[char], text: &[char]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, _) => text.is_empty(),
        (Some(('*', rest)), _) => (0..=text.len()).any(|skipped| is_of(rest, text.get(skipped..).unwrap_or_default())),
        (Some((part, rest)), Some((found, more))) => (*part == '?' || part == found) && is_of(rest, more),
        (Some(_), None) => false,
    }
}

const SIGNED_KEYS: &[&[u8]] = &[
    br#"{"user_id":"@a:b","device_id":"D","algorithms":["m.olm"],"keys":{"ed25519:D":"AAAA","curve25519:D":"AAAA"},"signatures":{"@a:b":{"ed25519:D":"AAAA"}}}"#,
    br#"{"user_id":"@a:b","usage":["master"],"keys":{"ed25519:AAAA":"AAAA"},"signatures":{}}"#,
];

fn signed_key(bytes: &[u8]) {
    let Some(key) = std::str::from_utf8(bytes).ok().and_then(|json| SignedKey::parse(json).ok()) else { return };
    let again = SignedKey::parse(&key.to_json());
    assert!(again.is_ok_and(|again| again.is_same_key(&key) && again.to_json() == key.to_json()));
    for signer in key.signers("@a:b") {
        assert!(key.signature("@a:b", signer).is_some());
    }
    let _ = key.check_device("@a:b", "D");
    let none = key.with_display_name(Some("x")).with_signatures(|_, _| false);
    assert!(none.signers("@a:b").is_empty());
}

const PEOPLE: &[&[u8]] = &[b"alice@a.test\nAlice", "#room:a.test\n\u{c4}lice \u{1e9e}".as_bytes()];

/// Email addresses, aliases, and who is looked for.
fn names_of_people(bytes: &[u8]) {
    let Some((name, other)) = halves(bytes) else { return };
    if let Ok(email) = Email::parse(name) {
        assert_eq!(Email::parse(email.as_str()).as_ref(), Ok(&email));
        assert!(!email.as_str().contains(['\r', '\n', '<', '>', ' ', ',']), "{email:?}");
    }
    let _ = alias::parse(name);
    let term = Term::new(name);
    assert!(term.beginnings_of_ids().all(|beginning| beginning.starts_with('@')));
    if let Ok(user) = ruma_common::UserId::parse(format!("@{other}:a.test")) {
        let _ = term.rank(&user, Some(other));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_parser_takes_whatever_comes() {
        fuzzer::tries(super::TARGETS, 300);
    }
}
