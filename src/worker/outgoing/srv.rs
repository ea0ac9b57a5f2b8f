//! SRV records by DNS over HTTPS: the runtime has no other way to ask for them.

use bytes::Bytes;
use domain::federation::discovery::Srv;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use platform::{Outgoing, OutgoingRequest, Peer, Scheme, SendError, SrvRecord};
use serde::Deserialize;

use super::Runtime;

/// Who is asked.
const RESOLVER: &str = "cloudflare-dns.com";
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const TIMEOUT_MS: u64 = 5_000;
/// The type of an SRV record.
const SRV: u16 = 33;
/// RFC 1035: there is an answer; there is no such name.
const NO_ERROR: u16 = 0;
const NX_DOMAIN: u16 = 3;

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Status")]
    status: u16,
    #[serde(rename = "Answer", default)]
    records: Vec<Record>,
}

#[derive(Deserialize)]
struct Record {
    r#type: u16,
    data: String,
}

/// Asks for the SRV records of a name.
pub(super) async fn ask(runtime: &Runtime, name: &str) -> Result<Vec<SrvRecord>, SendError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/dns-json"));
    let request = OutgoingRequest {
        peer: Peer::at(Scheme::Https, RESOLVER, None),
        method: Method::GET,
        // Names of servers have nothing that would have to be encoded.
        path_and_query: format!("/dns-query?type=SRV&name={name}"),
        headers,
        body: Bytes::new(),
        response_bytes_max: ANSWER_BYTES_MAX,
        timeout_ms: TIMEOUT_MS,
    };
    let (status, _, body) = runtime.send(request).await?.whole().await?;
    let nonsense = |what: String| SendError::Nonsense(format!("DNS over HTTPS: {what}"));
    if status != StatusCode::OK {
        return Err(nonsense(status.to_string()));
    }
    let answer: Answer = serde_json::from_slice(&body).map_err(|error| nonsense(error.to_string()))?;
    match answer.status {
        NO_ERROR | NX_DOMAIN => {
            Ok(answer.records.iter().filter(|record| record.r#type == SRV).filter_map(read).collect())
        }
        status => Err(SendError::Unreachable(format!("the DNS answers {status} for {name}"))),
    }
}

/// Reads `priority weight port target`.
fn read(record: &Record) -> Option<SrvRecord> {
    let mut words = record.data.split_ascii_whitespace();
    let mut number = || words.next()?.parse().ok();
    let (priority, weight, port) = (number()?, number()?, number()?);
    Some(SrvRecord { priority, weight, port, target: words.next()?.trim_end_matches('.').to_owned() })
}

pub(super) fn record(srv: Srv) -> SrvRecord {
    SrvRecord { priority: srv.priority, weight: srv.weight, port: srv.port, target: srv.target }
}
