use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use domain::Refusal;
use platform::{ActorKind, Sql, Tx};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{User, authenticate, store};
use crate::{Call, Cx, Error};

/// The largest filter, in bytes of JSON.
const FILTER_BYTES_MAX: usize = 65_536;
/// The most filters a user may keep here; one more takes the place of the oldest, since no client can say which it is
/// done with.
const FILTERS_MAX: u64 = 1_000;
/// How often it is written down that a filter is kept once more, in milliseconds: once a day.
const KEPT_ANEW_MS: u64 = 86_400_000;

/// Keeps a filter and answers its id; the same filter has the same id.
///
/// Refused: `UnknownToken`, `TooLarge`. Spec: "Filtering".
#[derive(Debug, Serialize, Deserialize)]
pub struct AddFilter {
    pub token_hash: String,
    /// A filter the caller has found valid.
    pub filter: Box<RawValue>,
}

impl Call for AddFilter {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "add_filter";
    /// Never begins with a `{`, by which clients and servers tell an id from a filter.
    type Reply = String;
}

/// A filter kept here.
///
/// Refused: `UnknownToken`, `NotFound`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetFilter {
    pub token_hash: String,
    pub filter_id: String,
}

impl Call for GetFilter {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_filter";
    type Reply = Box<RawValue>;
}

impl User {
    pub(super) fn add_filter(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: AddFilter) -> Result<String, Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        let filter = call.filter.get();
        if filter.len() > FILTER_BYTES_MAX {
            return Err(Refusal::TooLarge(format!("A filter can have at most {FILTER_BYTES_MAX} bytes")).into());
        }
        let digest = Sha256::digest(filter);
        let id = BASE64_URL_SAFE_NO_PAD.encode(digest.iter().copied().take(12).collect::<Vec<_>>());
        if store::filter::get(&**tx, &id)?.is_none() && store::filter::count(&**tx)? >= FILTERS_MAX {
            store::filter::forget_oldest(tx)?;
        }
        store::filter::put(tx, &id, filter, cx.now_ms, KEPT_ANEW_MS)?;
        Ok(id)
    }

    pub(super) fn filter(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetFilter) -> Result<Box<RawValue>, Error> {
        authenticate(sql, cx, &call.token_hash)?;
        stored(sql, &call.filter_id)
    }
}

/// The filter kept under this id.
pub(super) fn stored(sql: &dyn Sql, id: &str) -> Result<Box<RawValue>, Error> {
    let filter = store::filter::get(sql, id)?.ok_or_else(|| Refusal::NotFound("There is no such filter".to_owned()))?;
    Ok(RawValue::from_string(filter)?)
}

#[cfg(test)]
mod tests {
    use domain::Refusal;
    use serde_json::value::RawValue;

    use super::{AddFilter, FILTERS_MAX, GetFilter, KEPT_ANEW_MS};
    use crate::{
        CallError,
        user::{Create, NewDevice},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn add(filter: String) -> AddFilter {
        AddFilter { token_hash: "t".to_owned(), filter: RawValue::from_string(filter).unwrap() }
    }

    fn alice() -> std::rc::Rc<World> {
        let world = World::new(1);
        let device = NewDevice::new("PHONE", "t");
        let create = Create { device: Some(device), call_id: "a".to_owned(), ..Create::default() };
        world.call(ALICE, &create).unwrap();
        world
    }

    #[test]
    fn filters_are_bounded_and_known_by_what_they_say() {
        let world = alice();
        let first = world.call(ALICE, &add("{}".to_owned())).unwrap();
        insta::assert_snapshot!(first, @"RBNvo1WzZ4oRRq0W");
        let numbered = |number: u64| {
            world.passes(1);
            world.call(ALICE, &add(format!(r#"{{"n":{number}}}"#))).unwrap()
        };
        let oldest = numbered(1);
        (2..FILTERS_MAX).for_each(|number| drop(numbered(number)));
        world.passes(KEPT_ANEW_MS);
        assert_eq!(world.call(ALICE, &add("{}".to_owned())).unwrap(), first, "that one is there already");
        numbered(0);
        let get = |filter_id| world.call(ALICE, &GetFilter { token_hash: "t".to_owned(), filter_id });
        assert_eq!(get(first).unwrap().get(), "{}");
        assert!(matches!(get(oldest), Err(CallError::Refused(Refusal::NotFound(_)))));
        let long = world.call(ALICE, &add(format!(r#""{}""#, "x".repeat(70_000))));
        assert!(matches!(long, Err(CallError::Refused(Refusal::TooLarge(_)))), "{long:?}");
    }

    #[test]
    fn the_encoding_stays() {
        insta::assert_snapshot!(serde_json::to_string(&add("{}".to_owned())).unwrap(), @r#"{"token_hash":"t","filter":{}}"#);
        let get = GetFilter { token_hash: "t".to_owned(), filter_id: "f".to_owned() };
        insta::assert_snapshot!(serde_json::to_string(&get).unwrap(), @r#"{"token_hash":"t","filter_id":"f"}"#);
    }
}
