//! Application services, as the operator registers them: who they are, and which users, aliases and rooms are theirs.
//!
//! Spec: Application Service API, "Registration".

mod registration;

use std::fmt;

use regex_lite::Regex;
use ruma_common::{OwnedUserId, RoomAliasId, RoomId, UserId};

use crate::config::Secret;

pub use registration::{BadRegistration, parse};

/// What the name of every application service's actor begins with: no user, room or server is called so.
pub const SIGIL: char = '%';

/// An application service.
#[derive(Debug, Clone, PartialEq)]
pub struct Appservice {
    /// Its name among all that are registered here.
    pub id: String,
    /// Where it is asked and told; without, it is neither.
    pub url: Option<AppserviceUrl>,
    /// What it shows to us.
    pub as_token: Secret,
    /// What we show to it.
    pub hs_token: Secret,
    /// Who it is when it does not say which of its users it acts as.
    pub sender: OwnedUserId,
    /// Whether it is told who types, what was read, and who is there.
    pub receives_ephemeral: bool,
    /// Whether rate limits hold for its users; for its [sender](Self::sender) they never do.
    pub rate_limited: bool,
    /// The networks it leads to.
    pub protocols: Vec<String>,
    users: Vec<Namespace>,
    aliases: Vec<Namespace>,
    rooms: Vec<Namespace>,
}

/// Where an application service is. It may be any address: the operator says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppserviceUrl {
    /// Whether by HTTPS.
    pub encrypted: bool,
    /// A name, or an IP literal: one of IPv6 in brackets.
    pub host: String,
    /// The port, if one is named.
    pub port: Option<u16>,
    /// What comes before every path of the API, without a slash at its end; mostly nothing.
    pub path: String,
}

/// Names of users, aliases or rooms, as a regular expression.
///
/// As at Synapse, for which registrations are written, it is held against the beginning of a name.
#[derive(Clone)]
pub struct Namespace {
    pattern: Regex,
    /// Whether nobody else may make such names.
    exclusive: bool,
}

impl Namespace {
    fn contains(&self, name: &str) -> bool {
        self.pattern.is_match(name)
    }
}

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        (self.pattern.as_str(), self.exclusive) == (other.pattern.as_str(), other.exclusive)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Namespace({:?}, exclusive: {})", self.pattern.as_str(), self.exclusive)
    }
}

impl Appservice {
    /// The name of its actor.
    pub fn actor(&self) -> String {
        format!("{SIGIL}{}", self.id)
    }

    /// Whether it is told of anything at all.
    pub fn is_told(&self) -> bool {
        self.url.is_some()
    }

    /// What decides which users are its own, as a text that is another one when that changes.
    pub fn own_users(&self) -> String {
        let patterns = self.users.iter().map(|users| users.pattern.as_str());
        [self.sender.as_str()].into_iter().chain(patterns).collect::<Vec<_>>().join("\n")
    }

    /// Whether all that happens in the room is of interest to it, whatever the room is called.
    pub fn has_room(&self, room_id: &RoomId) -> bool {
        self.rooms.iter().any(|rooms| rooms.contains(room_id.as_str()))
    }

    /// Whether it may act as this user. Spec: «application services can only register interest in *local* users».
    pub fn has_user(&self, user_id: &UserId) -> bool {
        let local = user_id.server_name() == self.sender.server_name();
        local && (self.sender == user_id || self.users.iter().any(|users| users.contains(user_id.as_str())))
    }

    /// Whether the alias is one of its own, of whichever server.
    pub fn has_alias(&self, alias: &RoomAliasId) -> bool {
        self.aliases.iter().any(|aliases| aliases.contains(alias.as_str()))
    }

    /// Whether it leads to this network.
    pub fn has_protocol(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|own| own == protocol)
    }

    /// Whether nobody else may make this user.
    pub fn keeps_user(&self, user_id: &UserId) -> bool {
        self.sender == user_id || self.users.iter().any(|users| users.exclusive && users.contains(user_id.as_str()))
    }

    /// Whether nobody else may make this alias.
    pub fn keeps_alias(&self, alias: &RoomAliasId) -> bool {
        self.aliases.iter().any(|aliases| aliases.exclusive && aliases.contains(alias.as_str()))
    }
}
