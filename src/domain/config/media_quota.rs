use super::{ConfigError, Values, parse_link};

/// The largest quota, in bytes.
const QUOTA_MAX: u64 = 1 << 50;

/// How much media one user may have, and how much of other servers' is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MediaQuota {
    /// In all, in bytes.
    pub stored_max: Option<u64>,
    /// Uploaded within 24 hours, in bytes.
    pub daily_max: Option<u64>,
    /// Copies of other servers' media and images of previews, in bytes; those that were served last are kept.
    pub remote_max: Option<u64>,
    /// Where users read about theirs.
    pub info_url: Option<String>,
}

impl Values {
    pub(super) fn media_quota(&self) -> Result<MediaQuota, ConfigError> {
        let size = |text: &str| parse_size(text, QUOTA_MAX);
        Ok(MediaQuota {
            stored_max: self.parsed("MEDIA_QUOTA", size)?,
            daily_max: self.parsed("MEDIA_QUOTA_DAILY", size)?,
            remote_max: self.parsed("REMOTE_MEDIA_QUOTA", size)?,
            info_url: self.parsed("MEDIA_QUOTA_INFO_URL", parse_link)?,
        })
    }
}

/// The largest file that a configuration may allow, in bytes.
pub(super) const UPLOAD_SIZE_MAX: u64 = 16 << 30;

/// A number of bytes.
pub(super) fn parse_size(text: &str, size_max: u64) -> Option<u64> {
    let units = [('K', 10_u32), ('M', 20), ('G', 30), ('T', 40)];
    let unit = units.into_iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, bits)));
    let (number, bits) = unit.unwrap_or((text, 0));
    let number: u64 = number.parse().ok()?;
    number.checked_mul(1 << bits).filter(|size| (1..=size_max).contains(size))
}

/// A number of days, in milliseconds.
pub(super) fn parse_days_ms(text: &str) -> Option<u64> {
    text.parse().ok().filter(|days| (1..=36_500).contains(days)).map(|days: u64| days * 86_400_000)
}
