use super::{ConfigError, Values, parse_switch};
use crate::retention::{LIFETIME_MS_MAX, RetentionRules};

/// The units of a duration, in milliseconds.
const UNITS: [(char, u64); 6] =
    [('s', 1_000), ('m', 60_000), ('h', 3_600_000), ('d', 86_400_000), ('w', 604_800_000), ('y', 31_536_000_000)];

impl Values {
    pub(super) fn retention(&self) -> Result<RetentionRules, ConfigError> {
        Ok(RetentionRules {
            is_on: self.required("RETENTION", parse_switch)?,
            default_ms: self.parsed("RETENTION_DEFAULT", parse_duration_ms)?,
            min_ms: self.parsed("RETENTION_MIN", parse_duration_ms)?,
            max_ms: self.parsed("RETENTION_MAX", parse_duration_ms)?,
        })
    }
}

/// A whole number with a unit, in milliseconds.
pub(super) fn parse_duration_ms(text: &str) -> Option<u64> {
    let (number, ms) = UNITS.into_iter().find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, ms)))?;
    let number: u64 = number.parse().ok()?;
    number.checked_mul(ms).filter(|duration| (1_000..=LIFETIME_MS_MAX).contains(duration))
}

#[cfg(test)]
mod tests {
    use super::parse_duration_ms;

    #[test]
    fn a_duration_has_a_unit() {
        for (text, expected) in [
            ("1s", Some(1_000)),
            ("90d", Some(7_776_000_000)),
            ("1y", Some(31_536_000_000)),
            ("2w", Some(1_209_600_000)),
            ("0d", None),
            ("7", None),
            ("d", None),
            ("-1d", None),
            ("1.5h", None),
            ("101y", None),
            ("99999999999999999999y", None),
        ] {
            assert_eq!(parse_duration_ms(text), expected, "{text}");
        }
    }
}
