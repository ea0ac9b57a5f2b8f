//! Addresses by which people are known elsewhere, and the words with which a client proves that one is theirs.
//!
//! Spec: "Adding Account Administrative Contact Information"; Identity Service API, "Email associations".

use crate::Refusal;

/// The longest email address, in bytes. RFC 5321, section 4.5.3.1.3, a path without its brackets.
const EMAIL_BYTES_MAX: usize = 254;
/// The longest part before the `@`, in bytes. RFC 5321, section 4.5.3.1.1.
const LOCAL_BYTES_MAX: usize = 64;
/// The longest client secret and session id, in bytes.
const SECRET_BYTES_MAX: usize = 255;

/// An email address in one spelling: in lower case, as every mail server of these days takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// Reads an address of the plain kind: without comments, quotes and letters beyond ASCII.
    ///
    /// # Errors
    /// `InvalidParam`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let wrong = || Refusal::InvalidParam("This is no email address".to_owned());
        let (local, domain) = text.split_once('@').ok_or_else(wrong)?;
        let is_atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
        let dotted = |text: &str, is_of: &dyn Fn(u8) -> bool| {
            text.split('.').all(|part| !part.is_empty() && part.bytes().all(is_of))
        };
        let is_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_good = text.len() <= EMAIL_BYTES_MAX
            && local.len() <= LOCAL_BYTES_MAX
            && dotted(local, &is_atom)
            && dotted(domain, &is_label);
        if is_good { Ok(Self(text.to_ascii_lowercase())) } else { Err(wrong()) }
    }

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Refuses what is no client secret, or no session id.
///
/// # Errors
/// `InvalidParam`.
pub fn check_secret(name: &str, text: &str) -> Result<(), Refusal> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".=_-".contains(&byte);
    if (1..=SECRET_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(());
    }
    Err(Refusal::InvalidParam(format!("`{name}` has 1 to {SECRET_BYTES_MAX} letters, digits and .=_-")))
}

#[cfg(test)]
mod tests {
    use super::{Email, check_secret};

    #[test]
    fn an_address_has_one_spelling() {
        let parsed = |text: &str| Email::parse(text).ok().map(|email| email.as_str().to_owned());
        for (text, expected) in [
            ("Alice@Example.ORG", Some("alice@example.org")),
            ("a.b+c@x-y.example", Some("a.b+c@x-y.example")),
            ("root@localhost", Some("root@localhost")),
            ("alice", None),
            ("@example.org", None),
            ("alice@", None),
            ("a@b@c", None),
            ("a b@c", None),
            (".a@c", None),
            ("a..b@c", None),
            ("a@c.", None),
            ("a@[127.0.0.1]", None),
            ("\"a\"@c", None),
            ("a@c\r\nRCPT TO:<b@c>", None),
            ("ä@c", None),
            ("a>@c", None),
        ] {
            assert_eq!(parsed(text).as_deref(), expected, "{text}");
        }
        assert_eq!(parsed(&format!("{}@c", "a".repeat(65))), None);
        assert_eq!(parsed(&format!("a@{}", "c".repeat(253))), None);
    }

    #[test]
    fn secrets_have_their_letters() {
        assert!(check_secret("sid", "aZ0.=_-").is_ok());
        for bad in ["", "a b", "ä", "a/b", &"a".repeat(256)] {
            assert!(check_secret("sid", bad).is_err(), "{bad}");
        }
    }
}
