//! Pages of strangers, for the fuzzer: see [`crate::fuzzing`].

use serde_json::{Map, Value};

use super::{charset, fetch, oembed::OEmbed, page::Page};
use crate::fuzzing::{Target, halves};

/// The longest text that is told of a page, in bytes.
const TOLD_BYTES_MAX: usize = 64 * 1024;

pub(crate) const TARGETS: &[Target] = &[("page", PAGES, page), ("oembed", OEMBEDS, oembed)];

const PAGES: &[&[u8]] = &[
    br#"text/html; charset=utf-8
<!doctype html><html><head><meta charset="latin1"><base href="/x/"><meta property="og:title" content="T &amp; t"><meta name=description content=d>
<link rel="alternate" type="application/json+oembed" href="o.json"><link rel=icon href=i.png><title>t</title></head>
<body><h1>h</h1><script>no</script><p>One <b>two</b>.<img src="a.png" alt=x></body></html>"#,
    b"\xfe\xff\n\x00<\x00p\x00>",
];

/// What is said of the encoding, and a page.
fn page(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (told, body) = bytes.split_at(at);
    let page = Page::read(&charset::decoded(body, std::str::from_utf8(told).ok()));
    if let (Ok(url), Some(image)) = (fetch::parsed("https://b.test/y"), page.image()) {
        assert!(page.resolves(&url, image).is_none_or(|url| matches!(url.scheme(), "http" | "https")));
    }
    let told = serde_json::to_string(&page.properties()).map(|told| told.len());
    assert!(told.is_ok_and(|bytes| bytes <= TOLD_BYTES_MAX));
}

const OEMBEDS: &[&[u8]] = &[
    br#"{"type":"rich","html":"<p>x<br>y</p>","author_name":"a","provider_name":"p","thumbnail_url":"https://b.test/x.png"}"#,
    br#"{"type":"photo","url":"https://b.test/x.png","title":"t"}"#,
];

fn oembed(bytes: &[u8]) {
    if let Ok(answer) = serde_json::from_slice::<Map<String, Value>>(bytes) {
        let _ = OEmbed::read(&answer);
    }
    let Some((url, link)) = halves(bytes) else { return };
    if let Ok(url) = fetch::parsed(url) {
        assert!(matches!(url.scheme(), "http" | "https") && url.has_host(), "{url}");
        let _ = Page::default().resolves(&url, link);
    }
}
