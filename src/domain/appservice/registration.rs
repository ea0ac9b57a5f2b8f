//! Registrations as operators write them: YAML, of which JSON is a part.

use regex_lite::RegexBuilder;
use ruma_common::{OwnedUserId, ServerName};
use yaml_rust2::{Yaml, YamlLoader};

use super::{Appservice, AppserviceUrl, Namespace};
use crate::config::Secret;

/// The most registrations that a server has.
const APPSERVICES_MAX: usize = 100;
/// The largest compiled pattern of a namespace, in bytes.
const PATTERN_BYTES_MAX: usize = 256 * 1024;
/// The longest id, token or name of a network, in bytes.
const TEXT_BYTES_MAX: usize = 255;

/// What is wrong with a registration. Tokens are not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{of}: {problem}")]
pub struct BadRegistration {
    /// Which: by its id, or else by its place.
    pub of: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Reads registrations: one for each YAML document, or lists of them.
///
/// # Errors
/// [`BadRegistration`]: the first that is wrong.
pub fn parse(text: &str, server_name: &ServerName) -> Result<Vec<Appservice>, BadRegistration> {
    let bad = |of: &str, problem: String| BadRegistration { of: of.to_owned(), problem };
    let documents =
        YamlLoader::load_from_str(text).map_err(|error| bad("registrations", format!("this is no YAML: {error}")))?;
    let each = documents.into_iter().flat_map(|document| match document {
        Yaml::Array(list) => list,
        Yaml::Null | Yaml::BadValue => Vec::new(),
        one => vec![one],
    });
    let mut appservices: Vec<Appservice> = Vec::new();
    for (place, yaml) in each.enumerate() {
        let of = match yaml["id"].as_str() {
            Some(id) => format!("registration {id:?}"),
            None => format!("registration number {}", place.saturating_add(1)),
        };
        let appservice = registration(&yaml, server_name).map_err(|problem| bad(&of, problem))?;
        // Spec: «each `as_token` and `id` MUST be unique per application service».
        if appservices.iter().any(|other| other.id == appservice.id) {
            return Err(bad(&of, "another one has this id".to_owned()));
        }
        if appservices.iter().any(|other| other.as_token == appservice.as_token) {
            return Err(bad(&of, "another one has this as_token".to_owned()));
        }
        appservices.push(appservice);
    }
    if appservices.len() > APPSERVICES_MAX {
        return Err(bad("registrations", format!("there can be at most {APPSERVICES_MAX}")));
    }
    Ok(appservices)
}

fn registration(yaml: &Yaml, server_name: &ServerName) -> Result<Appservice, String> {
    if yaml.as_hash().is_none() {
        return Err("this is no registration".to_owned());
    }
    let localpart = text(yaml, "sender_localpart")?;
    let sender = OwnedUserId::try_from(format!("@{localpart}:{server_name}"));
    let sender = sender.ok().filter(|sender| sender.server_name() == server_name);
    let token = |name: &str| Secret::new(&text(yaml, name)?).ok_or_else(|| format!("{name} is empty"));
    let namespaces = &yaml["namespaces"];
    if namespaces.as_hash().is_none() {
        return Err("namespaces: an object is required, which may be empty".to_owned());
    }
    Ok(Appservice {
        id: text(yaml, "id")?,
        url: url(&yaml["url"])?,
        as_token: token("as_token")?,
        hs_token: token("hs_token")?,
        sender: sender.ok_or_else(|| "sender_localpart: no user can be called that".to_owned())?,
        // As it was called before that was specified.
        receives_ephemeral: flag(yaml, "receive_ephemeral", flag(yaml, "de.sorunome.msc2409.push_ephemeral", false)?)?,
        rate_limited: flag(yaml, "rate_limited", true)?,
        protocols: protocols(&yaml["protocols"])?,
        users: list(namespaces, "users")?,
        aliases: list(namespaces, "aliases")?,
        rooms: list(namespaces, "rooms")?,
    })
}

fn text(yaml: &Yaml, name: &str) -> Result<String, String> {
    match yaml[name].as_str() {
        Some("") => Err(format!("{name} is empty")),
        Some(text) if text.len() > TEXT_BYTES_MAX => Err(format!("{name} can have at most {TEXT_BYTES_MAX} bytes")),
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("{name}: a text is required")),
    }
}

fn flag(yaml: &Yaml, name: &str, otherwise: bool) -> Result<bool, String> {
    match &yaml[name] {
        Yaml::BadValue | Yaml::Null => Ok(otherwise),
        Yaml::Boolean(flag) => Ok(*flag),
        _ => Err(format!("{name} is true or false")),
    }
}

fn protocols(yaml: &Yaml) -> Result<Vec<String>, String> {
    let all = match yaml {
        Yaml::BadValue | Yaml::Null => return Ok(Vec::new()),
        yaml => yaml.as_vec().ok_or("protocols is a list")?,
    };
    let protocol = |one: &Yaml| match one.as_str() {
        Some(name) if !name.is_empty() && name.len() <= TEXT_BYTES_MAX => Ok(name.to_owned()),
        _ => Err("protocols: each is a short text".to_owned()),
    };
    all.iter().map(protocol).collect()
}

fn list(namespaces: &Yaml, name: &str) -> Result<Vec<Namespace>, String> {
    let all = match &namespaces[name] {
        Yaml::BadValue | Yaml::Null => return Ok(Vec::new()),
        yaml => yaml.as_vec().ok_or_else(|| format!("namespaces: {name} is a list"))?,
    };
    all.iter().map(|one| namespace(one).map_err(|problem| format!("namespaces: {name}: {problem}"))).collect()
}

fn namespace(yaml: &Yaml) -> Result<Namespace, String> {
    let regex = yaml["regex"].as_str().ok_or("each has a regex, which is a text")?;
    let pattern = RegexBuilder::new(&format!("^(?:{regex})")).size_limit(PATTERN_BYTES_MAX).build();
    let pattern = pattern.map_err(|error| format!("regex {regex:?}: {error}"))?;
    Ok(Namespace { pattern, exclusive: flag(yaml, "exclusive", false)? })
}

/// Spec: «May include a path after the domain name. Optionally set to null if no traffic is required.»
fn url(yaml: &Yaml) -> Result<Option<AppserviceUrl>, String> {
    let text = match yaml {
        Yaml::BadValue => return Err("url is required, and null where there is none".to_owned()),
        Yaml::Null => return Ok(None),
        yaml => yaml.as_str().ok_or("url is a text or null")?,
    };
    if text.is_empty() {
        return Ok(None);
    }
    parse_url(text).map(Some).ok_or_else(|| "url: an https:// or http:// URL without query and fragment".to_owned())
}

fn parse_url(text: &str) -> Option<AppserviceUrl> {
    let (encrypted, rest) = match text.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("http://")?),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    // What a server name is, with or without a port, an authority is, too.
    let authority = <&ServerName>::try_from(authority).ok()?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%/!$&'()*+,;=:@".contains(&byte);
    let path = path.trim_end_matches('/');
    let port = match authority.port() {
        None if authority.as_str() != authority.host() => return None,
        port => port.filter(|port| *port != 0),
    };
    path.bytes().all(allowed).then(|| AppserviceUrl {
        encrypted,
        host: authority.host().to_ascii_lowercase(),
        port,
        path: if path.is_empty() { String::new() } else { format!("/{path}") },
    })
}

#[cfg(test)]
mod tests {
    use ruma_common::{room_alias_id, server_name, user_id};

    use super::{AppserviceUrl, parse, parse_url};

    /// As the specification has it, with a second one.
    const IRC: &str = r##"
id: "IRC Bridge"
url: "http://127.0.0.1:1234"
as_token: "30c05ae90a248a4188e620216fa72e349803310ec83e2a77b34fe90be6081f46"
hs_token: "312df522183efd404ec1cd22d2ffa4bbc76a8c1ccf541dd692eef281356bb74e"
sender_localpart: "_irc_bot" # Will result in @_irc_bot:example.org
namespaces:
  users:
    - exclusive: true
      regex: "@_irc_bridge_.*"
  aliases:
    - exclusive: false
      regex: "#_irc_bridge_.*"
  rooms: []
---
{ "id": "logger", "url": null, "as_token": "secret", "hs_token": "x", "sender_localpart": "log", "rate_limited": false,
  "protocols": ["irc"], "receive_ephemeral": true, "namespaces": {} }
"##;

    #[test]
    fn a_registration_is_what_bridges_write() {
        let all = parse(IRC, server_name!("example.org")).unwrap();
        let [irc, logger] = &*all else { panic!("{all:?}") };
        assert_eq!((&*irc.id, irc.sender.as_str(), irc.rate_limited), ("IRC Bridge", "@_irc_bot:example.org", true));
        assert_eq!(irc.url, parse_url("http://127.0.0.1:1234/"));
        let (own, foreign) = (user_id!("@_irc_bridge_a:example.org"), user_id!("@_irc_bridge_a:elsewhere.org"));
        assert_eq!([own, foreign].map(|user| irc.has_user(user)), [true, false]);
        assert!(irc.has_user(&irc.sender) && irc.keeps_user(&irc.sender) && irc.keeps_user(own));
        assert!(!irc.has_user(user_id!("@not_irc_bridge_a:example.org")), "from the beginning");
        let alias = room_alias_id!("#_irc_bridge_a:example.org");
        assert!(irc.has_alias(alias) && !irc.keeps_alias(alias));
        assert_eq!((logger.url.as_ref(), logger.rate_limited, logger.receives_ephemeral), (None, false, true));
        assert!(logger.has_protocol("irc") && !logger.has_protocol("xmpp") && !irc.has_protocol("irc"));
        assert!(!format!("{all:?}").contains("30c05ae"), "secrets are not shown");
        assert_eq!(parse("", server_name!("a")), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |text: &str| parse(text, server_name!("a")).unwrap_err().to_string();
        let json = |change: (&str, &str)| {
            let text = r#"{"id":"a","url":null,"as_token":"t","hs_token":"h","sender_localpart":"s","namespaces":{}}"#;
            assert!(text.contains(change.0), "{change:?}");
            text.replace(change.0, change.1)
        };
        for (change, problem) in [
            ((r#""id":"a""#, r#""id":5"#), "registration number 1: id: a text is required"),
            ((r#""as_token":"t""#, r#""as_token":"""#), "registration \"a\": as_token is empty"),
            ((r#""url":null,"#, ""), "registration \"a\": url is required, and null where there is none"),
            ((r#""url":null"#, r#""url":"ftp://b""#), "url: an https:// or http:// URL"),
            ((r#""sender_localpart":"s""#, r#""sender_localpart":"s:b""#), "sender_localpart: no user"),
            ((r#""namespaces":{}"#, r#""namespaces":[]"#), "namespaces: an object is required"),
            ((r#"{}"#, r#"{"users":[{"regex":"("}]}"#), "namespaces: users: regex \"(\": "),
            ((r#"{}"#, r#"{"users":[{"exclusive":1,"regex":"a"}]}"#), "exclusive is true or false"),
            ((r#"{}"#, r#"{"rooms":{}}"#), "namespaces: rooms is a list"),
        ] {
            let said = refused(&json(change));
            assert!(said.contains(problem), "{said}");
        }
        assert!(refused("a: [").contains("no YAML"));
        assert!(refused("just words").contains("this is no registration"));
        let one = json(("null", "null"));
        assert!(refused(&format!("[{one},{one}]")).contains("another one has this id"));
        let other = one.replace(r#""id":"a""#, r#""id":"b""#);
        assert!(refused(&format!("{one}\n---\n{other}")).contains("another one has this as_token"));
    }

    #[test]
    fn a_url_may_have_a_path() {
        let at = |encrypted, host: &str, port, path: &str| {
            Some(AppserviceUrl { encrypted, host: host.to_owned(), port, path: path.to_owned() })
        };
        for (url, expected) in [
            ("http://localhost:29318", at(false, "localhost", Some(29318), "")),
            ("https://Bridge.example/irc/", at(true, "bridge.example", None, "/irc")),
            ("http://[::1]:1/a/b", at(false, "[::1]", Some(1), "/a/b")),
            ("http://mautrix-telegram:29317", at(false, "mautrix-telegram", Some(29317), "")),
            ("http://", None),
            ("unix:///run/bridge", None),
            ("http://a:b", None),
            ("http://a/?x", None),
            ("http://me@a", None),
        ] {
            assert_eq!(parse_url(url), expected, "{url}");
        }
    }
}
