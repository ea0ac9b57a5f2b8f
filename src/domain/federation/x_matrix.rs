//! How a server signs what it asks another. Spec: Server-Server API, "Request Authentication".

use std::collections::BTreeMap;

use ruma_common::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName, SigningKeyAlgorithm, serde::Base64,
};
use ruma_signatures::{KeyPair as _, verify_canonical_json_bytes};

use super::sorted_json::sorted;
use crate::Identity;

const SCHEME: &str = "X-Matrix";
const ED25519: &str = "ed25519:";

/// What is signed of a request.
#[derive(Debug, Clone, Copy)]
pub struct SignedRequest<'a> {
    pub method: &'a str,
    /// Path and query, as they are sent.
    pub uri: &'a str,
    /// The JSON that is sent, if any.
    pub content: &'a [u8],
}

/// The content of a request is no canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not JSON that can be signed: {0}")]
pub struct NotCanonical(String);

impl SignedRequest<'_> {
    /// What is signed, with the content in its canonical form.
    fn bytes(&self, origin: &ServerName, destination: &ServerName, content: Option<&str>) -> String {
        let object: CanonicalJsonObject = [
            ("method", self.method),
            ("uri", self.uri),
            ("origin", origin.as_str()),
            ("destination", destination.as_str()),
        ]
        .into_iter()
        .map(|(field, value)| (field.to_owned(), CanonicalJsonValue::String(value.to_owned())))
        .collect();
        let bytes = CanonicalJsonValue::Object(object).to_string();
        match content {
            // The first name of all.
            Some(content) => bytes.replacen('{', &format!(r#"{{"content":{content},"#), 1),
            None => bytes,
        }
    }

    fn canonical_content(&self) -> Result<Option<String>, NotCanonical> {
        if self.content.is_empty() {
            return Ok(None);
        }
        let content = serde_json::from_slice::<CanonicalJsonValue>(self.content);
        content.map(|content| Some(content.to_string())).map_err(|error| NotCanonical(error.to_string()))
    }

    /// The `Authorization` header for a request of ours.
    ///
    /// # Errors
    /// The content is not canonical JSON.
    pub fn authorization(&self, us: &Identity, destination: &ServerName) -> Result<String, NotCanonical> {
        let bytes = self.bytes(us.server_name(), destination, self.canonical_content()?.as_deref());
        let signature = us.key_pair().sign(bytes.as_bytes()).base64();
        let (origin, key_id) = (us.server_name(), us.key_id());
        Ok(format!(r#"{SCHEME} origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}""#))
    }
}

/// Who says to have sent a request, with its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XMatrix {
    pub origin: OwnedServerName,
    /// To whom it was sent; older servers do not say.
    pub destination: Option<OwnedServerName>,
    /// The key's id, with its algorithm.
    pub key_id: String,
    signature: Base64,
}

impl XMatrix {
    /// Reads an `Authorization` header. `None` for what is none of this scheme, or not complete.
    pub fn parse(header: &str) -> Option<Self> {
        let (scheme, parameters) = header.trim().split_once([' ', '\t'])?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return None;
        }
        let mut given = parameters_of(parameters)?;
        let mut server = |name: &str| match given.remove(name) {
            Some(text) => OwnedServerName::try_from(text).ok().map(Some),
            None => Some(None),
        };
        Some(Self {
            origin: server("origin")??,
            destination: server("destination")?,
            key_id: given.remove("key")?,
            signature: Base64::parse(given.remove("sig")?).ok()?,
        })
    }

    /// Whether `origin` signed this request to `destination` with this key: its content in canonical form, but for
    /// numbers that this does not know.
    pub fn is_of(&self, request: &SignedRequest<'_>, destination: &ServerName, public_key: &Base64) -> bool {
        let verify = || {
            let content = if request.content.is_empty() { None } else { Some(sorted(request.content)?) };
            let bytes = request.bytes(&self.origin, destination, content.as_deref());
            let (key, signature) = (public_key.as_bytes(), self.signature.as_bytes());
            verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, key, signature, bytes.as_bytes()).ok()
        };
        self.key_id.starts_with(ED25519) && verify().is_some()
    }
}

/// Reads `name=value` pairs separated by commas, names in lower case. RFC 9110, section 11.4; more than that, values
/// may have any character but white space and commas without quotes. `None` if a name is there twice.
fn parameters_of(text: &str) -> Option<BTreeMap<String, String>> {
    let mut parameters = BTreeMap::new();
    let mut rest = behind_empty(text.trim());
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_end().to_ascii_lowercase();
        let (value, after) = value_of(after.trim_start())?;
        if name.is_empty() || name.contains([' ', '\t', ',', '"']) || parameters.insert(name, value).is_some() {
            return None;
        }
        rest = after.trim_start();
        if !rest.is_empty() {
            rest = behind_empty(rest.strip_prefix(',')?);
        }
    }
    Some(parameters)
}

/// What follows the empty elements that a list begins with, or goes on with. RFC 9110, section 5.6.1.2: «A recipient
/// MUST parse and ignore a reasonable number of empty list elements».
fn behind_empty(list: &str) -> &str {
    list.trim_start_matches([' ', '\t', ','])
}

/// The value at the start of the text, and what follows.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => value.push(characters.next()?),
            character => value.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma_common::{owned_server_name, server_name};

    use super::*;

    const REQUEST: SignedRequest<'_> =
        SignedRequest { method: "PUT", uri: "/_matrix/x?a=%20b", content: br#"{"b":[1, 2],"a":{}}"# };

    fn identity() -> Identity {
        Identity::new(owned_server_name!("a.org:8448"), "1", [7; 32]).unwrap()
    }

    fn key_of(identity: &Identity) -> Base64 {
        identity.public_keys()[identity.server_name().as_str()][&identity.key_id()].clone()
    }

    #[test]
    fn what_is_signed_is_verified_and_nothing_else() {
        let us = identity();
        let b = server_name!("b.org");
        let header = REQUEST.authorization(&us, b).unwrap();
        assert!(header.starts_with(r#"X-Matrix origin="a.org:8448",destination="b.org",key="ed25519:1",sig=""#));
        let given = XMatrix::parse(&header).unwrap();
        let key = key_of(&us);
        assert!(given.is_of(&REQUEST, b, &key));
        assert!(given.is_of(&SignedRequest { content: br#"{ "a": {}, "b": [1,2] }"#, ..REQUEST }, b, &key));
        for other in [
            SignedRequest { method: "POST", ..REQUEST },
            SignedRequest { uri: "/_matrix/x", ..REQUEST },
            SignedRequest { content: b"{}", ..REQUEST },
            SignedRequest { content: b"", ..REQUEST },
            SignedRequest { content: b"{", ..REQUEST },
        ] {
            assert!(!given.is_of(&other, b, &key), "{other:?}");
        }
        assert!(!given.is_of(&REQUEST, server_name!("c.org"), &key));
        let other = Identity::new(owned_server_name!("a.org:8448"), "1", [8; 32]).unwrap();
        assert!(!given.is_of(&REQUEST, b, &key_of(&other)));
        let stolen = XMatrix { origin: owned_server_name!("c.org"), ..given };
        assert!(!stolen.is_of(&REQUEST, b, &key));
        assert!(SignedRequest { content: b"[1.5]", ..REQUEST }.authorization(&us, b).is_err());
    }

    /// What is in a request that nobody can read is judged by itself: the rest was sent by who signed it.
    #[test]
    fn a_request_may_nest_deeper_than_we_read() {
        let (us, b) = (identity(), server_name!("b.org"));
        let nested = format!(r#"{{"a":{}{}}}"#, "[".repeat(500), "]".repeat(500));
        let request = SignedRequest { content: nested.as_bytes(), ..REQUEST };
        assert!(request.authorization(&us, b).is_err(), "we send nothing like that");
        let bytes = request.bytes(us.server_name(), b, Some(&nested));
        let signature = us.key_pair().sign(bytes.as_bytes()).base64();
        let header = format!(r#"X-Matrix origin="a.org:8448",key="ed25519:1",sig="{signature}""#);
        assert!(XMatrix::parse(&header).unwrap().is_of(&request, b, &key_of(&us)));
    }

    #[test]
    fn headers_come_in_many_forms() {
        let origin = owned_server_name!("a.org:8448");
        for header in [
            r#"X-Matrix origin="a.org:8448",key="ed25519:1",sig="AAAA""#,
            r#"x-matrix   origin=a.org:8448,key=ed25519:1,sig=AAAA"#,
            "X-Matrix\tKEY=\"ed25519:1\" ,\t Sig=AAAA ,ORIGIN=a.org:8448",
            "X-Matrix , ,origin=a.org:8448,key=ed25519:1,sig=AAAA",
            "X-Matrix\t,\torigin=a.org:8448,key=ed25519:1,sig=AAAA",
            r#"X-Matrix origin = "a.org:8448", key="ed\25519:1",sig=AAAA,, more="a,b=\"c\"","#,
        ] {
            let given = XMatrix::parse(header).unwrap_or_else(|| panic!("{header}"));
            let expected = (&origin, None, "ed25519:1", &[0, 0, 0][..]);
            assert_eq!((&given.origin, given.destination, &*given.key_id, given.signature.as_bytes()), expected);
        }
        let given = XMatrix::parse("X-Matrix origin=a,destination=b,key=c,sig=AA==").unwrap();
        assert_eq!(given.destination, Some(owned_server_name!("b")));
        for bad in [
            "",
            "X-Matrix",
            "X-Matrix ",
            "X-Matrix , ,",
            "Bearer origin=a,key=b,sig=AAAA",
            "X-Matrix origin=a,key=b",
            "X-Matrix key=b,sig=AAAA",
            "X-Matrix origin=a,sig=AAAA",
            "X-Matrix origin=a,key=b,sig=?",
            "X-Matrix origin=a/b,key=b,sig=AAAA",
            "X-Matrix origin=a,destination=,key=b,sig=AAAA",
            "X-Matrix origin=a,origin=a,key=b,sig=AAAA",
            r#"X-Matrix origin=a,key=b,sig="AAAA"#,
            r#"X-Matrix origin=a,key=b,sig="AAAA\"#,
            r#"X-Matrix origin="a"key=b,sig=AAAA"#,
            "X-Matrix origin=a key=b,sig=AAAA",
        ] {
            assert_eq!(XMatrix::parse(bad), None, "{bad}");
        }
    }
}
