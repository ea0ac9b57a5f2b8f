use ruma_common::{RoomAliasId, ServerName, UserId};

use super::{Config, ConfigError, Values};
use crate::appservice::{self, Appservice};

impl Config {
    /// The application service of this id.
    pub fn appservice(&self, id: &str) -> Option<&Appservice> {
        self.appservices.iter().find(|appservice| appservice.id == id)
    }

    /// Those that are told of what happens.
    pub fn told_appservices(&self) -> impl Iterator<Item = &Appservice> {
        self.appservices.iter().filter(|appservice| appservice.is_told())
    }

    /// The application service whose actor has this name, if it is told of anything.
    pub fn told_appservice(&self, actor: &str) -> Option<&Appservice> {
        let id = actor.strip_prefix(appservice::SIGIL)?;
        self.appservice(id).filter(|appservice| appservice.is_told())
    }

    /// Whether an application service keeps this user for itself, and is not the one named `of`.
    pub fn keeps_user(&self, user_id: &UserId, of: Option<&str>) -> bool {
        self.others(of).any(|appservice| appservice.keeps_user(user_id))
    }

    /// Whether an application service keeps this alias for itself, and is not the one named `of`.
    pub fn keeps_alias(&self, alias: &RoomAliasId, of: Option<&str>) -> bool {
        self.others(of).any(|appservice| appservice.keeps_alias(alias))
    }

    fn others<'a>(&'a self, of: Option<&'a str>) -> impl Iterator<Item = &'a Appservice> {
        self.appservices.iter().filter(move |appservice| Some(&*appservice.id) != of)
    }
}

impl Values {
    /// The registrations. Files are the host's to read: what is left of their names here, nobody reads.
    pub(super) fn appservices(&self, server_name: &ServerName) -> Result<Vec<Appservice>, ConfigError> {
        self.required("APPSERVICE_FILES", |text| text.is_empty().then_some(()))?;
        let text = self.required("APPSERVICES", |text| Some(text.to_owned()))?;
        Ok(appservice::parse(&text, server_name)?)
    }
}
