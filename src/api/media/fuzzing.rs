//! Files and pages that strangers made, for the fuzzer: see [`crate::fuzzing`].

use http::{HeaderMap, HeaderValue, header};

use super::{
    conditions::{Wanted, wanted},
    preview, thumbnail,
};
use crate::fuzzing::{Target, halves};

pub(crate) fn targets() -> impl Iterator<Item = &'static Target> {
    TARGETS.iter().chain(preview::fuzzing::TARGETS).chain(thumbnail::fuzzing::TARGETS)
}

const TARGETS: &[Target] = &[("conditions", CONDITIONS, conditions)];

const CONDITIONS: &[&[u8]] = &[b"bytes=0-4\n\"tag\"", b"bytes=-5\nW/\"x\", *", b"bytes=99-\n", b"bytes=1-2,4-5\n\"a\""];

/// A `Range` and an `If-None-Match`.
fn conditions(bytes: &[u8]) {
    const SIZE: u64 = 100;
    let Some((range, tags)) = halves(bytes) else { return };
    let (Ok(range), Ok(tags)) = (HeaderValue::from_str(range), HeaderValue::from_str(tags)) else { return };
    let headers = HeaderMap::from_iter([(header::RANGE, range), (header::IF_NONE_MATCH, tags)]);
    if let Wanted::Part(part) = wanted(&headers, "\"tag\"", SIZE) {
        assert!(part.start < part.end && part.end <= SIZE, "{part:?}");
    }
}
