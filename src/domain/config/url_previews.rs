use super::{ConfigError, Values, parse_switch};
use crate::federation::ServerPatterns;

/// Which web pages are looked at for users who want to know what is there.
#[derive(Debug, Clone, PartialEq)]
pub struct UrlPreviews {
    /// Whether any are.
    pub are_on: bool,
    /// Hosts that are not asked.
    pub deny: ServerPatterns,
}

impl UrlPreviews {
    /// Whether this host may be asked: a name, or an address without brackets.
    pub fn allow(&self, host: &str) -> bool {
        self.are_on && !self.deny.contain_host(host.trim_end_matches('.'))
    }
}

impl Values {
    pub(super) fn url_previews(&self) -> Result<UrlPreviews, ConfigError> {
        Ok(UrlPreviews {
            are_on: self.required("URL_PREVIEWS", parse_switch)?,
            deny: self.required("URL_PREVIEWS_DENY", ServerPatterns::parse)?,
        })
    }
}
