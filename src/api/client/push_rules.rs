//! The push rules everyone starts with. They cannot be changed here yet. Spec: "Push Rules".

use ruma_client_api::push::{get_pushrules_all::v3 as all, get_pushrules_global_scope::v3 as global};
use ruma_common::push::Ruleset;

use crate::{Caller, Context, Failure, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(get_all);
    routes.add(get_global);
}

async fn get_all(_: &Context, caller: Caller, _: all::Request) -> Result<all::Response, Failure> {
    Ok(all::Response::new(Ruleset::server_default(&caller.user_id)))
}

async fn get_global(_: &Context, caller: Caller, _: global::Request) -> Result<global::Response, Failure> {
    Ok(global::Response::new(Ruleset::server_default(&caller.user_id)))
}
