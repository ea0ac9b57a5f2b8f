//! What a page's provider says of it. oEmbed, section 2.3.4: "Response parameters".

use domain::Refusal;
use serde_json::{Map, Value};
use url::Url;

use super::{
    fetch::{Wants, fetch as fetch_url},
    page::{Page, cut},
};
use crate::{Context, Failure};

/// The largest answer, in bytes.
pub(super) const ANSWER_BYTES_MAX: usize = 128 << 10;

/// What is taken of it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct OEmbed {
    pub title: Option<String>,
    pub description: Option<String>,
    pub site_name: Option<String>,
    pub image: Option<String>,
}

/// Asks a provider.
pub(super) async fn fetch(cx: &Context, url: Url, until_ms: u64) -> Result<OEmbed, Failure> {
    let answer = fetch_url(cx, url, Wants::Json, until_ms).await?.beginning(ANSWER_BYTES_MAX).await?;
    let answer: Map<String, Value> =
        serde_json::from_slice(&answer).map_err(|error| Refusal::OtherServer(error.to_string()))?;
    Ok(OEmbed::read(&answer))
}

impl OEmbed {
    pub(super) fn read(answer: &Map<String, Value>) -> Self {
        let text = |name: &str| answer.get(name).and_then(Value::as_str).map(cut).filter(|text| !text.is_empty());
        let is = |kind: &str| answer.get("type").and_then(Value::as_str) == Some(kind);
        Self {
            title: text("title").or_else(|| text("author_name")),
            description: if is("rich") {
                answer.get("html").and_then(Value::as_str).and_then(Page::text_of)
            } else {
                None
            },
            site_name: text("provider_name"),
            image: if is("photo") { text("url") } else { None }.or_else(|| text("thumbnail_url")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::OEmbed;

    #[test]
    fn each_type_says_what_it_has() {
        let some = |text: &str| Some(text.to_owned());
        for (answer, expected) in [
            (
                json!({ "version": "1.0", "type": "photo", "title": "A", "url": "p.png", "thumbnail_url": "t.png" }),
                OEmbed { title: some("A"), image: some("p.png"), ..OEmbed::default() },
            ),
            (
                json!({ "type": "video", "url": "v.mp4", "thumbnail_url": "t.png", "provider_name": "V" }),
                OEmbed { image: some("t.png"), site_name: some("V"), ..OEmbed::default() },
            ),
            (
                json!({ "type": "rich", "author_name": "Ann", "html": "<p>One <b>two</b><script>three</script>" }),
                OEmbed { title: some("Ann"), description: some("One two"), ..OEmbed::default() },
            ),
            (json!({ "title": 3, "type": ["rich"], "html": {} }), OEmbed::default()),
        ] {
            assert_eq!(OEmbed::read(answer.as_object().unwrap()), expected);
        }
    }
}
