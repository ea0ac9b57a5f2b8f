//! Who a user is, for third parties that were shown a token. Spec: "OpenID".

use actors::user::GetModeration;
use domain::Refusal;
use ruma_federation_api::openid::get_openid_userinfo::v1::{Request, Response};

use crate::{Context, Failure, OrAbsent, Routes, client::openid};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(userinfo);
}

async fn userinfo(cx: &Context, (): (), request: Request) -> Result<Response, Failure> {
    let unknown = || Refusal::UnknownToken { soft_logout: false };
    let user_id = openid::holder(cx, &request.access_token)?.ok_or_else(unknown)?;
    let locked = match cx.user(&user_id).call(&GetModeration {}).await.or_absent(unknown()) {
        // Deactivated: nobody is who is not here any more.
        Err(Failure::Refused(Refusal::NotFound(_))) => true,
        moderation => moderation?.locked,
    };
    if locked {
        return Err(unknown().into());
    }
    Ok(Response::new(user_id))
}
