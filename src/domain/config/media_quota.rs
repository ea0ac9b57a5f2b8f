use super::{ConfigError, Values, parse_link, parse_size};

/// The largest quota, in bytes.
const QUOTA_MAX: u64 = 1 << 50;

/// How much media one user may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MediaQuota {
    /// In all, in bytes.
    pub stored_max: Option<u64>,
    /// Uploaded within 24 hours, in bytes.
    pub daily_max: Option<u64>,
    /// Where users read about it.
    pub info_url: Option<String>,
}

impl Values {
    pub(super) fn media_quota(&self) -> Result<MediaQuota, ConfigError> {
        let size = |text: &str| parse_size(text, QUOTA_MAX);
        Ok(MediaQuota {
            stored_max: self.parsed("MEDIA_QUOTA", size)?,
            daily_max: self.parsed("MEDIA_QUOTA_DAILY", size)?,
            info_url: self.parsed("MEDIA_QUOTA_INFO_URL", parse_link)?,
        })
    }
}
