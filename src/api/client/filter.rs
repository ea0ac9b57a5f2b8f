//! Spec: "Filtering".

use actors::user::{AddFilter, GetFilter};
use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::filter::{FilterDefinition, get_filter::v3 as get_filter};
use ruma_common::OwnedUserId;
use serde_json::{json, value::RawValue};

use crate::{Bearer, Context, Failure, Routes, failure, router::bad_json};

pub(super) fn routes(routes: &mut Routes) {
    // Not through ruma's type: what it does not know would be lost.
    routes.add_raw(Method::POST, "/_matrix/client/v3/user/{user_id}/filter", define);
    routes.add_raw(Method::POST, "/_matrix/client/r0/user/{user_id}/filter", define);
    routes.add_carried_json(get);
}

async fn define(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let [user_id] = <[String; 1]>::try_from(path_args).unwrap_or_default();
    let user_id = OwnedUserId::try_from(user_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    bearer.must_be(&user_id)?;
    let filter: Box<RawValue> = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    serde_json::from_str::<FilterDefinition>(filter.get()).map_err(|error| bad_json(&error))?;
    let filter_id = bearer.call(cx, &AddFilter { token_hash: bearer.token_hash.clone(), filter }).await?;
    Ok(failure::json(StatusCode::OK, &json!({ "filter_id": filter_id })))
}

async fn get(cx: &Context, bearer: Bearer, request: get_filter::Request) -> Result<Box<RawValue>, Failure> {
    bearer.must_be(&request.user_id)?;
    let call = GetFilter { token_hash: bearer.token_hash.clone(), filter_id: request.filter_id };
    bearer.call(cx, &call).await
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use crate::testing::{TestServer, refused};

    #[test]
    fn a_filter_is_kept_as_it_came() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        let path = "/_matrix/client/v3/user/@alice:localhost/filter";
        let filter = json!({ "room": { "timeline": { "limit": 10 } }, "org.example": [1] });
        let (status, answer) = server.post(path, &alice, &filter);
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(server.post(path, &alice, &filter).1, answer, "the same filter, the same id");
        let one = format!("{path}/{}", answer["filter_id"].as_str().unwrap());
        assert_eq!(server.get(&one, &alice), (StatusCode::OK, filter.clone()));
        assert_eq!(refused(server.get(&format!("{path}/x"), &alice)), (404, "M_NOT_FOUND".to_owned()));
        assert_eq!(refused(server.get(&one, &bob)), (403, "M_FORBIDDEN".to_owned()));
        assert_eq!(refused(server.post(path, &bob, &filter)), (403, "M_FORBIDDEN".to_owned()));
        let wrong = json!({ "room": { "timeline": { "limit": "ten" } } });
        assert_eq!(refused(server.post(path, &alice, &wrong)), (400, "M_BAD_JSON".to_owned()));
        assert_eq!(refused(server.post(path, &alice, &json!([]))), (400, "M_BAD_JSON".to_owned()));
        // Whoever is refused learns first that their token is dead.
        server.post("/_matrix/client/v3/logout", &bob, &json!({}));
        for body in [&filter, &wrong, &json!([])] {
            assert_eq!(refused(server.post(path, &bob, body)), (401, "M_UNKNOWN_TOKEN".to_owned()), "{body}");
        }
        assert_eq!(refused(server.get(&one, &bob)), (401, "M_UNKNOWN_TOKEN".to_owned()));
        let nobodys = "/_matrix/client/v3/user/nobody/filter/1";
        assert_eq!(refused(server.get(nobodys, &bob)), (401, "M_UNKNOWN_TOKEN".to_owned()));
        assert_eq!(refused(server.get(nobodys, &alice)), (400, "M_INVALID_PARAM".to_owned()));
        let sync = "/_matrix/client/v3/sync?timeout=soon";
        assert_eq!(refused(server.get(sync, &bob)), (401, "M_UNKNOWN_TOKEN".to_owned()));
    }
}
