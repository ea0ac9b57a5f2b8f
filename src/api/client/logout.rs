//! Spec: "Login", logging out.

use actors::user::LogOut;
use ruma_client_api::session::{logout::v3 as one, logout_all::v3 as all};

use crate::{Bearer, Context, Failure, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_carried(logout);
    routes.add_carried(logout_all);
}

async fn logout(cx: &Context, bearer: Bearer, _: one::Request) -> Result<one::Response, Failure> {
    log_out(cx, bearer, false).await?;
    Ok(one::Response::new())
}

async fn logout_all(cx: &Context, bearer: Bearer, _: all::Request) -> Result<all::Response, Failure> {
    log_out(cx, bearer, true).await?;
    Ok(all::Response::new())
}

async fn log_out(cx: &Context, bearer: Bearer, all: bool) -> Result<(), Failure> {
    let call = LogOut { token_hash: bearer.token_hash.clone(), all };
    bearer.call(cx, &call).await?;
    Ok(())
}
