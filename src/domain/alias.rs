//! Room aliases: what one looks like, and which ones an `m.room.canonical_alias` lists.
//!
//! Where an alias points is not known here. Spec: Appendices, "Room Aliases"; Client-Server API, "Room aliases".

use ruma_common::{OwnedRoomAliasId, RoomAliasId, ServerName};
use serde_json::{Map, Value, value::RawValue};

use crate::Refusal;

/// Parses an alias: `#localpart:server`, 255 bytes at most.
///
/// # Errors
/// [`Refusal::InvalidParam`].
pub fn parse(alias: &str) -> Result<OwnedRoomAliasId, Refusal> {
    let invalid = |why: &dyn std::fmt::Display| Refusal::InvalidParam(format!("This is not a room alias: {why}"));
    let parsed = RoomAliasId::parse(alias).map_err(|error| invalid(&error))?;
    if parsed.alias().is_empty() {
        return Err(invalid(&"nothing stands before the colon"));
    }
    Ok(parsed)
}

/// The alias of this localpart on our server.
///
/// # Errors
/// As [`parse`].
pub fn local(localpart: &str, server_name: &ServerName) -> Result<OwnedRoomAliasId, Refusal> {
    // Whatever follows a colon would be taken for the server.
    if localpart.contains(':') {
        return Err(Refusal::InvalidParam("The local part of a room alias has no colon".to_owned()));
    }
    parse(&format!("#{localpart}:{server_name}"))
}

/// The aliases that the content of an `m.room.canonical_alias` lists, as they stand there.
///
/// # Errors
/// [`Refusal::InvalidParam`] where something else stands than an alias or a list of them.
pub fn listed(content: &RawValue) -> Result<Vec<String>, Refusal> {
    let content: Map<String, Value> = serde_json::from_str(content.get())
        .map_err(|error| Refusal::BadJson(format!("The content of m.room.canonical_alias: {error}")))?;
    let mut listed = Vec::new();
    match content.get("alias") {
        // «If not present, null, or empty the room should be considered to have no canonical alias.»
        None | Some(Value::Null) => {}
        Some(Value::String(alias)) if alias.is_empty() => {}
        Some(Value::String(alias)) => listed.push(alias.clone()),
        Some(_) => return Err(Refusal::InvalidParam("`alias` is a room alias".to_owned())),
    }
    let no_list = || Refusal::InvalidParam("`alt_aliases` is a list of room aliases".to_owned());
    match content.get("alt_aliases") {
        None | Some(Value::Null) => {}
        Some(Value::Array(aliases)) => {
            for alias in aliases {
                listed.push(alias.as_str().ok_or_else(no_list)?.to_owned());
            }
        }
        Some(_) => return Err(no_list()),
    }
    Ok(listed)
}

/// Whether someone may make these the canonical alias and its alternatives: «servers do not validate aliases which are
/// being removed or are already present in the state event».
///
/// `unproven` are those that the new content lists and that were not found to point to the room.
///
/// # Errors
/// [`Refusal::InvalidParam`] for what is no alias, [`Refusal::BadAlias`] for one that does not point to the room.
pub fn check_canonical(unproven: &[String], current: Option<&RawValue>) -> Result<(), Refusal> {
    // What another server put there may be anything; it only excuses.
    let present = current.and_then(|content| listed(content).ok()).unwrap_or_default();
    let Some(alias) = unproven.iter().find(|alias| !present.contains(alias)) else { return Ok(()) };
    let alias = parse(alias)?;
    Err(Refusal::BadAlias(format!("The alias {alias} does not point to this room")))
}

/// The content without an alias; `None` if it does not list it.
pub fn without(content: &RawValue, alias: &RoomAliasId) -> Option<Map<String, Value>> {
    let mut content: Map<String, Value> = serde_json::from_str(content.get()).ok()?;
    let is_it = |value: &Value| value.as_str() == Some(alias.as_str());
    let mut found = content.get("alias").is_some_and(is_it);
    if found {
        content.remove("alias");
    }
    if let Some(Value::Array(alternatives)) = content.get_mut("alt_aliases") {
        let before = alternatives.len();
        alternatives.retain(|alternative| !is_it(alternative));
        found |= alternatives.len() < before;
    }
    found.then_some(content)
}

/// The part of the content that lists aliases for which `is_kept` holds; `None` if it lists none of them.
pub fn only(content: &RawValue, is_kept: impl Fn(&str) -> bool) -> Option<Map<String, Value>> {
    let mut content: Map<String, Value> = serde_json::from_str(content.get()).ok()?;
    let is_kept = |value: &Value| value.as_str().is_some_and(&is_kept);
    let mut kept = Map::new();
    if let Some(alias) = content.remove("alias").filter(is_kept) {
        kept.insert("alias".to_owned(), alias);
    }
    if let Some(Value::Array(mut alternatives)) = content.remove("alt_aliases") {
        alternatives.retain(is_kept);
        if !alternatives.is_empty() {
            kept.insert("alt_aliases".to_owned(), Value::Array(alternatives));
        }
    }
    (!kept.is_empty()).then_some(kept)
}

#[cfg(test)]
mod tests {
    use ruma_common::{room_alias_id, server_name};
    use serde_json::{Value, json, value::to_raw_value};

    use super::{check_canonical, listed, local, only, parse, without};
    use crate::Refusal;

    #[test]
    fn what_is_an_alias() {
        for alias in ["#a:b", "#with space:b", "#ü🌍/?%:b.example:8448", "##:[::1]"] {
            assert_eq!(parse(alias).unwrap(), alias);
        }
        let long = format!("#{}:b", "x".repeat(252));
        assert_eq!(parse(&long).unwrap().as_str().len(), 255);
        for alias in ["", "#", "a:b", "#a", "#:b", "#a:", "#a:b:c", "#a\0:b", "!a:b", &long.replace(":b", "x:b")] {
            assert!(matches!(parse(alias), Err(Refusal::InvalidParam(_))), "{alias}");
        }
    }

    #[test]
    fn a_local_part_makes_a_local_alias() {
        assert_eq!(local("tea", server_name!("a:8448")).unwrap(), "#tea:a:8448");
        for localpart in ["", "tea:elsewhere", &"x".repeat(253), "a\0"] {
            assert!(matches!(local(localpart, server_name!("a")), Err(Refusal::InvalidParam(_))), "{localpart}");
        }
    }

    #[test]
    fn aliases_are_listed_as_they_stand() {
        let table = [
            (json!({}), json!([])),
            (json!({ "alias": null, "alt_aliases": null }), json!([])),
            (json!({ "alias": "" }), json!([])),
            (json!({ "alias": "#a:b", "alt_aliases": ["#c:d", "nonsense"] }), json!(["#a:b", "#c:d", "nonsense"])),
        ];
        for (content, expected) in table {
            assert_eq!(json!(listed(&to_raw_value(&content).unwrap()).unwrap()), expected);
        }
        for content in [json!({ "alias": 1 }), json!({ "alt_aliases": "#a:b" }), json!({ "alt_aliases": [1] })] {
            let refused = listed(&to_raw_value(&content).unwrap());
            assert!(matches!(refused, Err(Refusal::InvalidParam(_))), "{content}");
        }
    }

    #[test]
    fn only_new_aliases_need_proof() {
        let current = to_raw_value(&json!({ "alias": "#old:b", "alt_aliases": ["nonsense"] })).unwrap();
        let check = |unproven: &str| check_canonical(&[unproven.to_owned()], Some(&current));
        assert_eq!(check("#old:b"), Ok(()));
        assert_eq!(check("nonsense"), Ok(()));
        assert!(matches!(check("#new:b"), Err(Refusal::BadAlias(_))));
        assert!(matches!(check("more nonsense"), Err(Refusal::InvalidParam(_))));
        assert_eq!(check_canonical(&[], None), Ok(()));
    }

    #[test]
    fn some_aliases_are_kept() {
        let content = to_raw_value(&json!({ "alias": "#a:b", "alt_aliases": ["#c:d", "#a:b"], "other": 1 })).unwrap();
        let only = |kept: &str| only(&content, |alias| alias == kept).map(Value::Object);
        assert_eq!(only("#a:b"), Some(json!({ "alias": "#a:b", "alt_aliases": ["#a:b"] })));
        assert_eq!(only("#c:d"), Some(json!({ "alt_aliases": ["#c:d"] })));
        assert_eq!(only("#x:y"), None);
    }

    #[test]
    fn an_alias_is_taken_from_the_content() {
        let content = json!({ "alias": "#a:b", "alt_aliases": ["#c:d", "#a:b"], "other": 1 });
        let content = to_raw_value(&content).unwrap();
        let without = |alias| without(&content, alias).map(Value::Object);
        assert_eq!(without(room_alias_id!("#a:b")), Some(json!({ "alt_aliases": ["#c:d"], "other": 1 })));
        assert_eq!(
            without(room_alias_id!("#c:d")),
            Some(json!({ "alias": "#a:b", "alt_aliases": ["#a:b"], "other": 1 }))
        );
        assert_eq!(without(room_alias_id!("#x:y")), None);
    }
}
