//! Who a user is, for third parties that were shown a token. Spec: "OpenID".
//!
//! They are services of clients (calls, widgets, integrations), not servers: this is here whether or not the server
//! talks to others.

use actors::user::GetModeration;
use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::{Context, Failure, OrAbsent, Routes, client::openid, failure, router::query};

pub(super) fn routes(routes: &mut Routes) {
    // Not through ruma's type: it refuses a request without a token with 400, which the specification does not know
    // here.
    routes.add_raw(Method::GET, "/_matrix/federation/v1/openid/userinfo", userinfo);
}

async fn userinfo(cx: &Context, (): (), request: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    #[derive(Deserialize)]
    struct Query {
        access_token: Option<String>,
    }
    let Query { access_token } = query(&request)?;
    let access_token = access_token.ok_or(Refusal::MissingToken)?;
    let unknown = || Refusal::UnknownToken { soft_logout: false };
    let user_id = openid::holder(cx, &access_token)?.ok_or_else(unknown)?;
    let locked = match cx.user(&user_id).call(&GetModeration {}).await.or_absent(unknown()) {
        // Deactivated: nobody is who is not here any more.
        Err(Failure::Refused(Refusal::NotFound(_))) => true,
        moderation => moderation?.locked,
    };
    if locked {
        return Err(unknown().into());
    }
    Ok(failure::json(StatusCode::OK, &json!({ "sub": user_id })))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use crate::testing::{TestServer, refused};

    const USERINFO: &str = "/_matrix/federation/v1/openid/userinfo";

    #[test]
    fn who_holds_a_token_is_told_on_every_server() {
        for federation in ["on", "off"] {
            let server = TestServer::new(&[("REGISTRATION", "open"), ("FEDERATION", federation)]);
            let alice = server.register("alice");
            let path = "/_matrix/client/v3/user/@alice:localhost/openid/request_token";
            let (_, given) = server.post(path, &alice, &json!({}));
            let token = given["access_token"].as_str().unwrap();
            let told = server.get(&format!("{USERINFO}?access_token={token}"), "");
            assert_eq!(told, (StatusCode::OK, json!({ "sub": "@alice:localhost" })), "federation {federation}");
            assert_eq!(refused(server.get(USERINFO, "")), (401, "M_MISSING_TOKEN".to_owned()));
            let unknown = server.get(&format!("{USERINFO}?access_token=x"), "");
            assert_eq!(refused(unknown), (401, "M_UNKNOWN_TOKEN".to_owned()));
        }
    }
}
