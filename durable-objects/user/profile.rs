use domain::Refusal;
use platform::{ActorKind, Sql, Tx};
use ruma_common::RoomId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{User, announce, authenticate, own_id, store};
use crate::{Call, Cx, Error, outbox, room::MemberProfile};

/// A profile has fewer bytes of JSON. Spec: "Profiles", «MUST be under 64 KiB».
const PROFILE_BYTES_MAX: usize = 65_536;
/// The longest name of a profile's field, in bytes. Spec: "Profiles".
pub const FIELD_NAME_BYTES_MAX: usize = 255;
/// The longest display name, in characters.
const DISPLAYNAME_CHARS_MAX: usize = 256;
/// The longest address of a picture, in bytes.
const AVATAR_URL_BYTES_MAX: usize = 1_000;

/// The fields of a profile that membership events carry.
const SHOWN_IN_ROOMS: [&str; 2] = ["displayname", "avatar_url"];

/// The whole profile, a JSON object. Anyone may read it.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetProfile {}

impl Call for GetProfile {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_profile";
    type Reply = serde_json::Map<String, Value>;
}

/// Sets one field of the profile, or removes it.
///
/// Refused: `UnknownToken`, `KeyTooLarge`, `ProfileTooLarge`, `InvalidParam` as [`check_profile_field`]. Spec:
/// "Profiles".
#[derive(Debug, Serialize, Deserialize)]
pub struct SetProfileField {
    pub token_hash: String,
    pub field: String,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Value>,
}

/// A field of the profile as it was before a change and is after it.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProfileChanged {
    /// Whether anything is different now.
    pub changed: bool,
}

impl Call for SetProfileField {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "set_profile_field";
    type Reply = ProfileChanged;
}

/// Refuses a text that is too long for its field, with `InvalidParam`: membership events of every room carry it.
pub fn check_profile_field(field: &str, text: &str) -> Result<(), Refusal> {
    match field {
        "displayname" if text.chars().count() > DISPLAYNAME_CHARS_MAX => {
            Err(Refusal::InvalidParam(format!("A displayname can have at most {DISPLAYNAME_CHARS_MAX} characters")))
        }
        "avatar_url" if text.len() > AVATAR_URL_BYTES_MAX => {
            Err(Refusal::InvalidParam(format!("An avatar_url can have at most {AVATAR_URL_BYTES_MAX} bytes")))
        }
        _ => Ok(()),
    }
}

/// Keeps `null`, a value like any other, apart from no value.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl User {
    pub(super) fn profile(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        _call: GetProfile,
    ) -> Result<store::profile::Profile, Error> {
        Ok(store::profile::get(sql)?)
    }

    pub(super) fn set_profile_field(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        call: SetProfileField,
    ) -> Result<ProfileChanged, Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        if call.field.len() > FIELD_NAME_BYTES_MAX {
            return Err(Refusal::KeyTooLarge.into());
        }
        if let Some(text) = call.value.as_ref().and_then(Value::as_str) {
            check_profile_field(&call.field, text)?;
        }
        let mut profile = store::profile::get(&**tx)?;
        if profile.get(&call.field) == call.value.as_ref() {
            return Ok(ProfileChanged { changed: false });
        }
        let in_rooms = SHOWN_IN_ROOMS.contains(&call.field.as_str());
        match call.value {
            Some(value) => profile.insert(call.field, value),
            None => profile.remove(&call.field),
        };
        if serde_json::to_string(&profile)?.len() >= PROFILE_BYTES_MAX {
            return Err(Refusal::ProfileTooLarge.into());
        }
        if in_rooms {
            self.announce_profile(tx, cx, &profile)?;
            self.presence_renamed(tx, cx)?;
        } else {
            store::profile::set(tx, &profile)?;
        }
        Ok(ProfileChanged { changed: true })
    }
}

/// Owes one room the profile as it is, if the room shows another.
pub(super) fn correct(tx: &Tx<'_>, cx: &Cx<'_>, room_id: &RoomId, shown: &MemberProfile) -> Result<(), Error> {
    let profile = shown_in_rooms(&store::profile::get(&**tx)?);
    if profile != *shown {
        outbox::owe(tx, cx, room_id.as_str(), &announce::refresh(&**tx, own_id(cx)?, cx.now_ms)?, false)?;
    }
    Ok(())
}

pub(super) fn shown_in_rooms(profile: &store::profile::Profile) -> MemberProfile {
    let text = |field: &str| profile.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
    MemberProfile { displayname: text("displayname"), avatar_url: text("avatar_url") }
}

#[cfg(test)]
mod tests {
    use domain::Refusal;
    use serde_json::{Value, json};

    use super::{GetProfile, SetProfileField};
    use crate::{
        CallError,
        user::{Create, NewDevice},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn set(field: &str, value: Option<Value>) -> SetProfileField {
        SetProfileField { token_hash: "t".to_owned(), field: field.to_owned(), value }
    }

    fn alice() -> std::rc::Rc<World> {
        let world = World::new(1);
        let device = NewDevice::new("PHONE", "t");
        let create = Create { device: Some(device), call_id: "a".to_owned(), ..Create::default() };
        world.call(ALICE, &create).unwrap();
        world
    }

    #[test]
    fn null_is_a_value_and_no_value_removes() {
        let world = alice();
        for (value, changed) in [(Some(json!("A")), true), (Some(json!("A")), false), (Some(Value::Null), true)] {
            assert_eq!(world.call(ALICE, &set("a.b", value)).unwrap().changed, changed);
        }
        assert_eq!(Value::Object(world.call(ALICE, &GetProfile {}).unwrap()), json!({ "a.b": null }));
        assert!(world.call(ALICE, &set("a.b", None)).unwrap().changed);
        assert!(!world.call(ALICE, &set("a.b", None)).unwrap().changed);
        assert!(world.call(ALICE, &GetProfile {}).unwrap().is_empty());
    }

    #[test]
    fn a_profile_has_64_kib() {
        let world = alice();
        // {"a":"…"}
        let fits = super::PROFILE_BYTES_MAX - 9;
        world.call(ALICE, &set("a", Some("x".repeat(fits).into()))).unwrap();
        let outcome = world.call(ALICE, &set("a", Some("x".repeat(fits + 1).into())));
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::ProfileTooLarge))), "{outcome:?}");
        let outcome = world.call(ALICE, &set(&"x".repeat(256), Some(json!(1))));
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::KeyTooLarge))), "{outcome:?}");
    }

    #[test]
    fn what_rooms_show_is_short() {
        let world = alice();
        for (field, fits, long) in
            [("displayname", "é".repeat(256), "x".repeat(257)), ("avatar_url", "x".repeat(1_000), "é".repeat(501))]
        {
            world.call(ALICE, &set(field, Some(fits.into()))).unwrap();
            let outcome = world.call(ALICE, &set(field, Some(long.into())));
            assert!(matches!(outcome, Err(CallError::Refused(Refusal::InvalidParam(_)))), "{outcome:?}");
        }
    }

    #[test]
    fn the_encoding_stays() {
        insta::assert_snapshot!(serde_json::to_string(&set("a.b", Some(Value::Null))).unwrap(), @r#"{"token_hash":"t","field":"a.b","value":null}"#);
        insta::assert_snapshot!(serde_json::to_string(&set("a.b", None)).unwrap(), @r#"{"token_hash":"t","field":"a.b"}"#);
        assert_eq!(serde_json::from_str::<SetProfileField>(r#"{"token_hash":"t","field":"a"}"#).unwrap().value, None);
    }
}
