//! Who a user is, for third parties that were shown a token. Spec: "OpenID".

use domain::Refusal;
use ruma_federation_api::openid::get_openid_userinfo::v1::{Request, Response};

use crate::{Context, Failure, OrAbsent, Routes, client::openid};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(userinfo);
}

async fn userinfo(cx: &Context, (): (), request: Request) -> Result<Response, Failure> {
    let unknown = || Refusal::UnknownToken { soft_logout: false };
    let user_id = openid::holder(cx, &request.access_token)?.ok_or_else(unknown)?;
    cx.user(&user_id).call(&actors::user::GetProfile {}).await.or_absent(unknown())?;
    Ok(Response::new(user_id))
}
