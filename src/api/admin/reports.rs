//! What users reported, with the endpoints of Synapse's admin API: looking at it, and striking what was seen to.
//!
//! Besides events, rooms and users are reported: their reports are in the same list, without an `event_id`.

use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Context, Failure, Routes,
    authenticate::Administrator,
    failure,
    metadata::report::{self, Kept, Wanted},
    router::query,
};

/// How many a page of the list has, unless it is said.
const PAGE: u64 = 100;
const PAGE_MAX: u64 = 1_000;

pub(super) fn routes(routes: &mut Routes) {
    routes.add_raw(Method::GET, "/_synapse/admin/v1/event_reports", list);
    let one = "/_synapse/admin/v1/event_reports/{report_id}";
    routes.add_raw(Method::GET, one, show);
    routes.add_raw(Method::DELETE, one, strike);
}

type Answer = Result<Response<Bytes>, Failure>;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    from: u64,
    limit: Option<u64>,
    /// `b`, the newest first, or `f`.
    #[serde(default = "backwards")]
    dir: String,
    /// Of whom and of where: whole ids.
    user_id: Option<String>,
    room_id: Option<String>,
}

fn backwards() -> String {
    "b".to_owned()
}

async fn list(cx: &Context, _: Administrator, request: Request<Bytes>, _: Vec<String>) -> Answer {
    let Page { from, limit, dir, user_id, room_id } = query(&request)?;
    let wanted = Wanted { reporter: user_id, room_id };
    let newest_first = match dir.as_str() {
        "b" => true,
        "f" => false,
        _ => return Err(Refusal::InvalidParam("`dir` is `b` or `f`".to_owned()).into()),
    };
    let page = report::page(cx.metadata(), &wanted, newest_first, from, limit.unwrap_or(PAGE).min(PAGE_MAX)).await?;
    let total = report::count(cx.metadata(), &wanted).await?;
    let next = from.saturating_add(page.len() as u64);
    let mut answer = json!({ "event_reports": page.iter().map(told).collect::<Vec<_>>(), "total": total });
    if let Some(answer) = answer.as_object_mut().filter(|_| next < total && !page.is_empty()) {
        answer.insert("next_token".to_owned(), next.into());
    }
    Ok(failure::json(StatusCode::OK, &answer))
}

async fn show(cx: &Context, _: Administrator, _: Request<Bytes>, path_args: Vec<String>) -> Answer {
    let kept = report::one(cx.metadata(), named(&path_args)).await?.ok_or_else(unknown)?;
    Ok(failure::json(StatusCode::OK, &told(&kept)))
}

async fn strike(cx: &Context, _: Administrator, _: Request<Bytes>, path_args: Vec<String>) -> Answer {
    if !report::strike(cx.metadata(), named(&path_args)).await? {
        return Err(unknown().into());
    }
    Ok(failure::json(StatusCode::OK, &json!({})))
}

fn named(path_args: &[String]) -> &str {
    path_args.first().map_or("", String::as_str)
}

fn unknown() -> Refusal {
    Refusal::NotFound("There is no such report".to_owned())
}

fn told(kept: &Kept) -> Value {
    json!({
        "id": kept.report_id, "received_ts": kept.received_ms, "user_id": kept.reporter, "reason": kept.reason,
        "room_id": kept.room_id, "event_id": kept.event_id, "sender": kept.user_id,
    })
}
