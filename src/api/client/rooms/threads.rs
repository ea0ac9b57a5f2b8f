//! The threads of a room. Spec: "Querying threads in a room".

use actors::room::{GetThreads, RoomToken};
use domain::Refusal;
use ruma_client_api::threads::get_threads::v1::{IncludeThreads, Request};

use super::not_in_room;
use crate::{Caller, Context, Failure, OrAbsent, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(threads);
}

/// `GET …/threads`.
async fn threads(cx: &Context, caller: Caller, request: Request) -> Result<Vec<u8>, Failure> {
    let participated = match request.include {
        IncludeThreads::All => false,
        IncludeThreads::Participated => true,
        _ => return Err(Refusal::InvalidParam("`include` is `all` or `participated`".to_owned()).into()),
    };
    let from: Option<RoomToken> = request.from.map(|token| token.parse()).transpose()?;
    let call = GetThreads {
        user: caller.user_id,
        device: caller.device_id,
        ignored: caller.ignored,
        participated,
        from: from.map(|token| token.0),
        limit: request.limit.map(Into::into),
    };
    let page = cx.room(&request.room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
    Ok(serde_json::to_vec(&page)?)
}
