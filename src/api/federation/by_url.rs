//! Requests to a URL that a stranger named: by HTTPS, and with nothing of ours in them.

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, header};
use platform::{OutgoingRequest, Peer, Scheme};

use super::ask::Bounds;

/// `https://` and what follows it. Whatever credentials a URL has are not taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpsUrl {
    /// A name, or an IP literal: one of IPv6 in brackets.
    pub host: String,
    pub port: Option<u16>,
    pub path_and_query: String,
}

impl HttpsUrl {
    /// Reads a whole URL; `None` if it is none, or not of HTTPS.
    pub(super) fn parse(url: &str) -> Option<Self> {
        let url: Uri = url.parse().ok()?;
        match (url.scheme_str(), url.host()) {
            (Some("https"), Some(host)) => {
                Some(Self { host: host.to_owned(), port: url.port_u16(), path_and_query: path_and_query(&url) })
            }
            _ => None,
        }
    }

    /// Asks for what is there.
    pub(super) fn request(&self, bounds: Bounds) -> OutgoingRequest {
        OutgoingRequest {
            peer: Peer::at(Scheme::Https, &self.host, self.port),
            method: Method::GET,
            path_and_query: self.path_and_query.clone(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            response_bytes_max: bounds.response_bytes_max,
            timeout_ms: bounds.timeout_ms,
        }
    }
}

/// What goes into the request line. A URL may have a query and no path.
fn path_and_query(url: &Uri) -> String {
    let all = url.path_and_query().map_or("/", |path| path.as_str());
    if all.starts_with('?') { format!("/{all}") } else { all.to_owned() }
}

/// Where a redirect from `from` leads. `None` if that is not HTTPS, or nowhere.
pub(super) fn redirected(headers: &HeaderMap, from: &HttpsUrl) -> Option<HttpsUrl> {
    let location = headers.get(header::LOCATION)?.to_str().ok()?;
    // RFC 3986, section 4.2: with two slashes it names a host, and takes the scheme from here.
    if location.starts_with("//") {
        return HttpsUrl::parse(&format!("https:{location}"));
    }
    HttpsUrl::parse(location).or_else(|| {
        let url: Uri = location.parse().ok()?;
        let path_and_query = path_and_query(&url);
        let is_here = url.scheme().is_none() && url.host().is_none() && path_and_query.starts_with('/');
        is_here.then(|| HttpsUrl { path_and_query, ..from.clone() })
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::{HttpsUrl, redirected};

    #[test]
    fn redirects_lead_to_https_or_nowhere() {
        let url =
            |host: &str, port, path: &str| HttpsUrl { host: host.to_owned(), port, path_and_query: path.to_owned() };
        let there = |host: &str, port, path: &str| Some(url(host, port, path));
        let from = url("a.org", Some(444), "/");
        for (location, expected) in [
            ("https://b.org/x?y", there("b.org", None, "/x?y")),
            ("https://b.org:8443", there("b.org", Some(8443), "/")),
            ("//b.org/x", there("b.org", None, "/x")),
            ("//b.org:8443", there("b.org", Some(8443), "/")),
            ("//", None),
            ("https://b.org?x", there("b.org", None, "/?x")),
            ("https://[::1]:1/x", there("[::1]", Some(1), "/x")),
            ("https://me:secret@b.org/x", there("b.org", None, "/x")),
            ("/x", there("a.org", Some(444), "/x")),
            ("http://b.org/x", None),
            ("ftp://b.org/x", None),
            ("b.org", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, HeaderValue::from_static(location));
            assert_eq!(redirected(&headers, &from), expected, "{location}");
        }
        assert_eq!(redirected(&HeaderMap::new(), &from), None);
    }
}
