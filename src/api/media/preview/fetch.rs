//! One URL is fetched, wherever its redirects lead.

use bytes::{Bytes, BytesMut};
use domain::Refusal;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, header};
use platform::{Arriving, OutgoingRequest, OutgoingResponse, Peer, Scheme, SendError};
use url::Url;

use super::image::IMAGE_BYTES_MAX;
use crate::{Context, Failure};

/// The longest URL, in bytes.
const URL_BYTES_MAX: usize = 2_048;
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// The most that a server may send of what we stop reading when we have enough, in bytes.
const SENT_BYTES_MAX: usize = 1 << 30;

/// Servers of web pages tell machines that say so what they tell nobody else.
const USER_AGENT: &str = concat!("Myelin/", env!("CARGO_PKG_VERSION"), " (bot; previews of links)");

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) enum Wants {
    Page,
    Image,
    Json,
}

impl Wants {
    fn accept(self) -> &'static str {
        match self {
            Wants::Page => "text/html, application/xhtml+xml, image/*;q=0.9, */*;q=0.1",
            Wants::Image => "image/*",
            Wants::Json => "application/json",
        }
    }

    /// The largest answer. Of a page only the beginning is read, and it may well be an image.
    fn bytes_max(self) -> usize {
        match self {
            Wants::Page => SENT_BYTES_MAX,
            Wants::Image => IMAGE_BYTES_MAX,
            Wants::Json => super::oembed::ANSWER_BYTES_MAX,
        }
    }
}

/// What arrives from a URL.
pub(super) struct Fetched {
    /// Where it came from, after all redirects.
    pub url: Url,
    /// In lower case, without parameters; empty if nobody says.
    pub content_type: String,
    pub charset: Option<String>,
    pub body: Arriving,
}

impl Fetched {
    pub(super) fn is_image(&self) -> bool {
        self.content_type.starts_with("image/")
    }

    pub(super) fn is_page(&self) -> bool {
        matches!(&*self.content_type, "text/html" | "application/xhtml+xml")
    }

    /// Its first bytes; the rest is not taken.
    pub(super) async fn beginning(mut self, bytes_max: usize) -> Result<Bytes, Refusal> {
        let mut beginning = BytesMut::new();
        while let Some(piece) = self.body.next().await {
            let piece = piece.map_err(|error| failed(&error))?;
            beginning.extend_from_slice(&piece);
            if beginning.len() >= bytes_max {
                beginning.truncate(bytes_max);
                break;
            }
        }
        Ok(beginning.freeze())
    }
}

/// A URL as a user gives it.
///
/// # Errors
/// It is none, or of another scheme than HTTP.
pub(super) fn parsed(url: &str) -> Result<Url, Refusal> {
    let invalid = || Refusal::InvalidParam("The URL must begin with http:// or https:// and name a host".to_owned());
    if url.len() > URL_BYTES_MAX {
        return Err(Refusal::InvalidParam(format!("A URL can have at most {URL_BYTES_MAX} bytes")));
    }
    plain(Url::parse(url).map_err(|_| invalid())?).ok_or_else(invalid)
}

/// A URL of HTTP, without what only its owner may see; `None` for others.
pub(super) fn plain(mut url: Url) -> Option<Url> {
    let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
    if !is_http || url.as_str().len() > URL_BYTES_MAX {
        return None;
    }
    url.set_fragment(None);
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some(url)
}

/// Fetches a URL; the body is still to come.
///
/// # Errors
/// `M_FORBIDDEN` for hosts that are denied, 502 `M_UNKNOWN` where nothing comes of it.
pub(super) async fn fetch(cx: &Context, mut url: Url, wants: Wants, until_ms: u64) -> Result<Fetched, Failure> {
    for _ in 0..=REDIRECTS_MAX {
        let request = OutgoingRequest {
            peer: peer(cx, &url)?,
            method: Method::GET,
            path_and_query: path_and_query(&url),
            headers: headers(wants),
            body: Bytes::new(),
            response_bytes_max: wants.bytes_max(),
            timeout_ms: until_ms.saturating_sub(cx.now_ms()),
        };
        let response = cx.send(request).await.map_err(|error| failed(&error))?;
        if response.status.is_success() {
            return Ok(fetched(url, response));
        }
        if !response.status.is_redirection() {
            return Err(Refusal::OtherServer(format!("There the answer is {}", response.status.as_u16())).into());
        }
        url = redirected(&url, &response.headers)
            .ok_or_else(|| Refusal::OtherServer("The URL leads nowhere".to_owned()))?;
    }
    Err(Refusal::OtherServer("The URL leads from one to the next without end".to_owned()).into())
}

/// What went wrong is for the log: it could tell of machines that only we reach.
pub(super) fn failed(error: &SendError) -> Refusal {
    tracing::debug!(%error, "a URL is not fetched");
    Refusal::OtherServer("The URL could not be fetched".to_owned())
}

fn fetched(url: Url, response: OutgoingResponse) -> Fetched {
    let content_type = response.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mut parts = content_type.unwrap_or_default().split(';').map(str::trim);
    let content_type = parts.next().unwrap_or_default().to_ascii_lowercase();
    let charset = parts.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.eq_ignore_ascii_case("charset").then(|| value.trim_matches(['"', '\'']).to_owned())
    });
    Fetched { url, content_type, charset, body: response.body }
}

fn redirected(url: &Url, headers: &HeaderMap) -> Option<Url> {
    // What is no ASCII is most likely UTF-8.
    let location = std::str::from_utf8(headers.get(header::LOCATION)?.as_bytes()).ok()?;
    plain(url.join(location).ok()?)
}

fn headers(wants: Wants) -> HeaderMap {
    HeaderMap::from_iter([
        (header::USER_AGENT, HeaderValue::from_static(USER_AGENT)),
        (header::ACCEPT, HeaderValue::from_static(wants.accept())),
        (header::ACCEPT_LANGUAGE, HeaderValue::from_static("en;q=0.9, *;q=0.8")),
        (header::ACCEPT_ENCODING, HeaderValue::from_static("identity")),
    ])
}

/// Some hosts would write this character differently.
fn path_and_query(url: &Url) -> String {
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}{query}", url.path()).replace('^', "%5E")
}

/// Whom to ask for a URL, if the configuration lets us.
fn peer(cx: &Context, url: &Url) -> Result<Peer, Refusal> {
    let nowhere = || Refusal::OtherServer("The URL leads nowhere".to_owned());
    let scheme = if url.scheme() == "https" { Scheme::Https } else { Scheme::Http };
    let peer = Peer::at(scheme, url.host_str().ok_or_else(nowhere)?, url.port());
    if !cx.config().url_previews.allow(&peer.host) {
        return Err(Refusal::Forbidden("This server does not fetch from there".to_owned()));
    }
    Ok(peer)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};
    use url::Url;

    use super::{parsed, path_and_query, redirected};

    #[test]
    fn only_plain_urls_of_http_are_fetched() {
        for (given, expected) in [
            ("https://a.org", Some("https://a.org/")),
            ("HTTP://A.org:80/x y?z#part", Some("http://a.org/x%20y?z")),
            ("https://me:secret@a.org/", Some("https://a.org/")),
            ("http://0x7f.1/", Some("http://127.0.0.1/")),
            ("http://2130706433/", Some("http://127.0.0.1/")),
            ("http://[::FFFF:7f00:1]/", Some("http://[::ffff:7f00:1]/")),
            ("http://１２７.0.0.1/", Some("http://127.0.0.1/")),
            ("https://bücher.example/", Some("https://xn--bcher-kva.example/")),
            ("ftp://a.org/", None),
            ("file:///etc/passwd", None),
            ("data:text/html,x", None),
            ("javascript:alert(1)", None),
            ("a.org", None),
            ("//a.org", None),
            ("https://", None),
            ("", None),
        ] {
            assert_eq!(parsed(given).ok().as_ref().map(Url::as_str), expected, "{given}");
        }
        assert!(parsed(&format!("https://a.org/{}", "x".repeat(2_048))).is_err());
    }

    #[test]
    fn redirects_lead_to_http_or_nowhere() {
        let from = Url::parse("https://a.org:444/b/c?d").unwrap();
        for (location, expected) in [
            ("https://b.org/x?y#z", Some("https://b.org/x?y")),
            ("http://me@b.org/", Some("http://b.org/")),
            ("e", Some("https://a.org:444/b/e")),
            ("/e", Some("https://a.org:444/e")),
            ("//b.org/e", Some("https://b.org/e")),
            ("/ä", Some("https://a.org:444/%C3%A4")),
            ("gopher://b.org/", None),
            ("http://[", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, HeaderValue::from_bytes(location.as_bytes()).unwrap());
            assert_eq!(redirected(&from, &headers).as_ref().map(Url::as_str), expected, "{location}");
        }
        assert_eq!(redirected(&from, &HeaderMap::new()), None);
    }

    #[test]
    fn what_every_host_writes_alike_is_sent() {
        let url = Url::parse("https://a.org/x^|{}?\"^'").unwrap();
        let sent = path_and_query(&url);
        assert!(!sent.contains('^') && sent.parse::<http::uri::PathAndQuery>().is_ok(), "{sent}");
    }
}
