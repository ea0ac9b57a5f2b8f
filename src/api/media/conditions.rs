//! Which part of a file a request asks for, and whether it has it already. RFC 9110, sections 13 and 14.

use std::ops::Range;

use http::{HeaderMap, header};

/// What of a file is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    /// 206.
    Part(Range<u64>),
    /// 304: the client has it.
    Nothing,
    /// 416: there is no such part.
    Unsatisfiable,
}

/// What a request wants of a file with this tag and size.
pub(super) fn wanted(headers: &HeaderMap, etag: &str, size: u64) -> Wanted {
    let mut known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    if known.any(|tags| tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)) {
        return Wanted::Nothing;
    }
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|tag| tag != etag) {
        return Wanted::Whole;
    }
    // Several parts at once may be answered with the whole, and so may what is no range at all.
    match text(header::RANGE).and_then(|range| range.strip_prefix("bytes=")).filter(|range| !range.contains(',')) {
        Some(range) => part(range.trim(), size),
        None => Wanted::Whole,
    }
}

fn part(range: &str, size: u64) -> Wanted {
    let Some((first, last)) = range.split_once('-') else { return Wanted::Whole };
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().unwrap_or(u64::MAX));
    let (Some(first_number), Some(last_number)) = (number(first), number(last)) else { return Wanted::Whole };
    let part = match (first.is_empty(), last.is_empty()) {
        (true, true) => return Wanted::Whole,
        // The last so many bytes.
        (true, false) => size.saturating_sub(last_number)..size,
        (false, true) => first_number..size,
        (false, false) if last_number < first_number => return Wanted::Whole,
        (false, false) => first_number..last_number.saturating_add(1).min(size),
    };
    if part.start < part.end { Wanted::Part(part) } else { Wanted::Unsatisfiable }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::{Wanted, wanted};

    fn asks(headers: &[(&'static str, &'static str)]) -> Wanted {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        wanted(&headers.collect::<HeaderMap>(), "\"tag\"", 10)
    }

    #[test]
    fn a_part_is_asked_for_by_its_ends() {
        for (range, expected) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=2-4", Wanted::Part(2..5)),
            ("bytes=5-", Wanted::Part(5..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-30", Wanted::Part(0..10)),
            ("bytes=9-30", Wanted::Part(9..10)),
            ("bytes=0-99999999999999999999", Wanted::Part(0..10)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=4-2", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=1", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
        ] {
            assert_eq!(asks(&[("range", range)]), expected, "{range}");
        }
        assert_eq!(wanted(&HeaderMap::new(), "\"tag\"", 0), Wanted::Whole);
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        for (tags, is_known) in
            [("\"tag\"", true), ("\"a\", W/\"tag\"", true), ("*", true), ("\"other\"", false), ("tag", false)]
        {
            assert_eq!(asks(&[("if-none-match", tags)]) == Wanted::Nothing, is_known, "{tags}");
        }
        assert_eq!(asks(&[("if-none-match", "\"tag\""), ("range", "bytes=0-1")]), Wanted::Nothing);
        assert_eq!(asks(&[("if-range", "\"tag\""), ("range", "bytes=0-1")]), Wanted::Part(0..2));
        assert_eq!(asks(&[("if-range", "\"old\""), ("range", "bytes=0-1")]), Wanted::Whole);
    }
}
