//! Directories of published rooms, ours for other servers and theirs for our users. Spec: "Published Room Directory".

use domain::{RateLimited, Refusal, directory::PublishedRoom};
use http::Method;
use ruma_common::{
    ServerName,
    directory::{Filter, RoomNetwork},
};
use ruma_federation_api::directory::{get_public_rooms::v1 as plain, get_public_rooms_filtered::v1 as filtered};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{AskError, Bounds, Origin, queries};
use crate::{
    Context, Failure, Routes,
    client::directory::{Page, answer, wanted},
};

const PATH: &str = "/_matrix/federation/v1/publicRooms";
/// The largest page that is taken, in bytes.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(public_rooms);
    routes.add_json(filtered_public_rooms);
}

async fn public_rooms(cx: &Context, _: Origin, request: plain::Request) -> Result<Vec<u8>, Failure> {
    let wanted = wanted(Filter::new(), request.room_network)?;
    answer(cx, request.since.as_deref(), request.limit.map(u64::from), &wanted, is_for_others).await
}

async fn filtered_public_rooms(cx: &Context, _: Origin, request: filtered::Request) -> Result<Vec<u8>, Failure> {
    let wanted = wanted(request.filter, request.room_network)?;
    answer(cx, request.since.as_deref(), request.limit.map(u64::from), &wanted, is_for_others).await
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
