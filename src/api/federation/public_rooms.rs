//! Directories of published rooms, ours for other servers and theirs for our users. Spec: "Published Room Directory".

use bytes::Bytes;
use domain::{RateLimited, Refusal, directory::PublishedRoom};
use http::{Method, Request, Response, StatusCode};
use ruma_common::{
    ServerName,
    directory::{Filter, RoomNetwork, RoomTypeFilter},
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{AskError, Bounds, Origin, queries};
use crate::{
    Context, Failure, Routes,
    client::directory::{Page, answer, wanted},
    failure::json_bytes,
    router::{bad_json, query},
};

const PATH: &str = "/_matrix/federation/v1/publicRooms";
/// The largest page that is taken, in bytes.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

pub(super) fn routes(routes: &mut Routes) {
    // Not through ruma's types: in a query `include_all_networks` is none to them, and in a body no `null` is.
    routes.add_raw(Method::GET, PATH, public_rooms);
    routes.add_raw(Method::POST, PATH, filtered_public_rooms);
}

/// What is asked of our directory, but for the filter.
#[derive(Deserialize)]
struct Asked {
    limit: Option<u64>,
    since: Option<String>,
    include_all_networks: Option<bool>,
    third_party_instance_id: Option<String>,
}

impl Asked {
    async fn answer(self, cx: &Context, filter: Filter) -> Result<Response<Bytes>, Failure> {
        let network = match (self.include_all_networks.unwrap_or_default(), self.third_party_instance_id) {
            (true, Some(_)) => {
                let sentence = "`third_party_instance_id` names one network, `include_all_networks` means all";
                return Err(Refusal::InvalidParam(sentence.to_owned()).into());
            }
            (true, None) => RoomNetwork::All,
            (false, Some(instance)) => RoomNetwork::ThirdParty(instance),
            (false, None) => RoomNetwork::Matrix,
        };
        let wanted = wanted(filter, network)?;
        let page = answer(cx, self.since.as_deref(), self.limit, &wanted, is_for_others).await?;
        Ok(json_bytes(StatusCode::OK, page.into()))
    }
}

async fn public_rooms(
    cx: &Context,
    _: Origin,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    query::<Asked>(&request)?.answer(cx, Filter::new()).await
}

async fn filtered_public_rooms(
    cx: &Context,
    _: Origin,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    #[derive(Default, Deserialize)]
    struct AskedFilter {
        generic_search_term: Option<String>,
        room_types: Option<Vec<RoomTypeFilter>>,
    }
    #[derive(Deserialize)]
    struct Filtered {
        filter: Option<AskedFilter>,
        #[serde(flatten)]
        asked: Asked,
    }
    let Filtered { filter, asked } = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    let AskedFilter { generic_search_term, room_types } = filter.unwrap_or_default();
    let mut filter = Filter::new();
    filter.generic_search_term = generic_search_term;
    filter.room_types = room_types.unwrap_or_default();
    asked.answer(cx, filter).await
}

/// Whether users of other servers may be in a room of our directory: they are not shown what they may not enter. A page
/// may be the shorter for it.
fn is_for_others(entry: &str) -> bool {
    serde_json::from_str::<PublishedRoom>(entry).is_ok_and(|room| room.federates)
}

/// What is asked of another server's directory.
#[derive(Serialize)]
pub(crate) struct Elsewhere<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<&'a str>,
    #[serde(skip_serializing_if = "Filter::is_empty")]
    pub filter: Filter,
    #[serde(flatten)]
    pub room_network: RoomNetwork,
}

impl Context {
    /// A page of another server's directory, as that server wrote it.
    ///
    /// # Errors
    /// 502 where that server does not answer.
    pub(crate) async fn public_rooms_elsewhere(
        &self,
        server: &ServerName,
        wanted: &Elsewhere<'_>,
    ) -> Result<Vec<u8>, Failure> {
        #[derive(Deserialize)]
        struct Told<'a> {
            #[serde(borrow)]
            chunk: Vec<&'a RawValue>,
            next_batch: Option<String>,
            prev_batch: Option<String>,
            #[serde(default)]
            total_room_count_estimate: Option<u64>,
        }
        // Anybody may ask.
        self.limit_by_address(RateLimited::RemoteQueries)?.keep();
        let bounds = Bounds { response_bytes_max: PAGE_BYTES_MAX, timeout_ms: queries::TIMEOUT_MS };
        let asked = self.ask_raw(server, Method::POST, PATH, Some(to_raw_value(wanted)?), bounds).await;
        let told = |error: &AskError| queries::not_told(error, || Refusal::NotFound("It has no directory".to_owned()));
        let (_, body) = asked.map_err(|error| told(&error))?;
        let page: Told<'_> =
            serde_json::from_slice(&body).map_err(|error| told(&AskError::Nonsense(error.to_string())))?;
        let Told { chunk, next_batch, prev_batch, total_room_count_estimate } = page;
        let total = total_room_count_estimate.unwrap_or(chunk.len() as u64);
        Ok(serde_json::to_vec(&Page { chunk, next_batch, prev_batch, total_room_count_estimate: total })?)
    }
}
