//! Reading what another server gives for an event.

use std::fmt;

use ruma_common::{CanonicalJsonObject, CanonicalJsonValue};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

/// Reads an event, without its `unsigned`: that is signed by nobody, and anybody who passes the event on may put there
/// what they like. It need not be canonical JSON, and does not count.
/// Spec: Appendices, "Signing JSON"; Server-Server API, "PDUs".
///
/// # Errors
/// The rest is no canonical JSON.
pub fn read(json: &str) -> serde_json::Result<CanonicalJsonObject> {
    Ok(serde_json::from_str::<Signed>(json)?.0)
}

/// What of an event is signed.
struct Signed(CanonicalJsonObject);

impl<'de> Deserialize<'de> for Signed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Signed;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an event")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Signed, A::Error> {
                let mut object = CanonicalJsonObject::new();
                while let Some(field) = map.next_key::<String>()? {
                    if field == "unsigned" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        object.insert(field, map.next_value::<CanonicalJsonValue>()?);
                    }
                }
                Ok(Signed(object))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::read;

    #[test]
    fn what_is_unsigned_may_be_anything() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for unsigned in [r#"{"age":1.5}"#, r#"{"n":18446744073709551615}"#, "null", "5", &deep] {
            let event = format!(r#"{{"type":"m.x","unsigned":{unsigned},"content":{{"n":1}}}}"#);
            let expected = json!({ "type": "m.x", "content": { "n": 1 } });
            assert_eq!(serde_json::to_value(read(&event).unwrap()).unwrap(), expected, "{unsigned}");
        }
        for other in [r#"{"content":{"n":1.5}}"#, r#"{"unsigned":}"#, r#"{"unsigned":{},"n":"#, "[]", "5", "null", ""] {
            assert!(read(other).is_err(), "{other}");
        }
    }
}
