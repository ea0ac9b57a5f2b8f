//! Whom the server's users turn to, and what else stands at well-known places. Spec: "Server Discovery".

use base64::{
    Engine,
    prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use ruma_common::OwnedUserId;
use serde_json::{Map, Value};

use super::{ConfigError, Values, list, parse_link};

/// How to get help with the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// Who is there to be asked; may be empty if there is a page.
    pub contacts: Vec<SupportContact>,
    /// The URL of a page with help.
    pub page: Option<String>,
}

/// Somebody to be asked, by one or both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupportContact {
    /// What for, such as `m.role.admin`.
    pub role: String,
    /// Their Matrix account.
    pub matrix_id: Option<OwnedUserId>,
    /// Their email address.
    pub email_address: Option<String>,
}

impl Values {
    pub(super) fn support(&self) -> Result<Option<Support>, ConfigError> {
        let contacts = self.required("SUPPORT_CONTACTS", |text| list(text, parse_contact))?;
        let page = self.parsed("SUPPORT_PAGE", parse_link)?;
        Ok((!contacts.is_empty() || page.is_some()).then_some(Support { contacts, page }))
    }

    pub(super) fn well_known_client(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.parsed("WELL_KNOWN_CLIENT", parse_client_keys)?.unwrap_or_default())
    }

    pub(super) fn policy_server_key(&self) -> Result<Option<String>, ConfigError> {
        self.parsed("POLICY_SERVER_KEY", parse_public_key)
    }
}

/// A role, then a user id, an email address, or both.
fn parse_contact(text: &str) -> Option<SupportContact> {
    let mut words = text.split_whitespace();
    let mut contact = SupportContact { role: parse_role(words.next()?)?, matrix_id: None, email_address: None };
    for word in words {
        if word.starts_with('@') && contact.matrix_id.is_none() {
            contact.matrix_id = Some(OwnedUserId::try_from(word).ok()?);
        } else if contact.email_address.is_none() && is_email(word) {
            contact.email_address = Some(word.to_owned());
        } else {
            return None;
        }
    }
    (contact.matrix_id.is_some() || contact.email_address.is_some()).then_some(contact)
}

fn parse_public_key(text: &str) -> Option<String> {
    let key = BASE64_STANDARD_NO_PAD.decode(text).or_else(|_| BASE64_URL_SAFE_NO_PAD.decode(text)).ok()?;
    (key.len() == 32).then(|| text.to_owned())
}

/// Spec: `/.well-known/matrix/client`: «additional keys, which MUST follow the Java package naming convention». The
/// homeserver is known otherwise.
fn parse_client_keys(text: &str) -> Option<Map<String, Value>> {
    let keys: Map<String, Value> = serde_json::from_str(text).ok()?;
    keys.keys().all(|key| key.contains('.') && key != "m.homeserver").then_some(keys)
}

/// Spec: "Common Namespaced Identifier Grammar"; of those in `m.` there are two.
fn parse_role(text: &str) -> Option<String> {
    let known = ["m.role.admin", "m.role.security"].contains(&text);
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    let own = !text.starts_with("m.") && text.contains('.') && text.len() <= 255;
    let well_formed = text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(letters);
    (known || own && well_formed).then(|| text.to_owned())
}

fn is_email(text: &str) -> bool {
    text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty() && !host.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::{SupportContact, parse_contact};

    #[test]
    fn a_contact_has_a_role_and_a_way() {
        let contact = |role: &str, matrix_id: Option<&str>, email_address: Option<&str>| SupportContact {
            role: role.to_owned(),
            matrix_id: matrix_id.map(|id| id.try_into().unwrap()),
            email_address: email_address.map(str::to_owned),
        };
        let both = parse_contact("m.role.admin @admin:a.example admin@a.example");
        assert_eq!(both, Some(contact("m.role.admin", Some("@admin:a.example"), Some("admin@a.example"))));
        let email = parse_contact("m.role.security s@a.example");
        assert_eq!(email, Some(contact("m.role.security", None, Some("s@a.example"))));
        let own = parse_contact("org.example.role @a:b");
        assert_eq!(own, Some(contact("org.example.role", Some("@a:b"), None)));
        for bad in [
            "",
            "m.role.admin",
            "m.role.other @a:b",
            "admin @a:b",
            "m.role.admin nobody",
            "m.role.admin @a",
            "m.role.admin @a:b @c:d",
            "m.role.admin a@b c@d",
            "Org.example @a:b",
        ] {
            assert_eq!(parse_contact(bad), None, "{bad}");
        }
    }
}
