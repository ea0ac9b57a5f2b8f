//! Spec: "Profiles".

use actors::user::{FIELD_NAME_BYTES_MAX, GetProfile, SetProfileField, check_profile_field};
use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::profile::{
    delete_profile_field::v3 as delete_field, get_profile::v3 as whole, get_profile_field::v3 as one,
};
use ruma_common::{OwnedMxcUri, OwnedUserId, UserId, profile::ProfileFieldName};
use serde_json::{Map, Value, json};

use crate::{Bearer, Context, Failure, OrAbsent, Routes, failure, router::kept_json};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(get_profile);
    routes.add_json(get_field);
    // Not through ruma's type: it does not tell a missing field from a malformed one.
    for path in [
        "/_matrix/client/v3/profile/{user_id}/{field}",
        "/_matrix/client/r0/profile/{user_id}/{field}",
        "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{field}",
    ] {
        routes.add_raw(Method::PUT, path, put_field);
    }
    routes.add_carried(remove_field);
}

async fn get_profile(cx: &Context, (): (), request: whole::Request) -> Result<Vec<u8>, Failure> {
    Ok(serde_json::to_vec(&profile(cx, &request.user_id, None).await?)?)
}

async fn get_field(cx: &Context, (): (), request: one::Request) -> Result<Vec<u8>, Failure> {
    let field = request.field.as_str();
    let value = profile(cx, &request.user_id, Some(&request.field))
        .await?
        .remove(field)
        .ok_or_else(|| Refusal::NotFound("The profile has no such field".to_owned()))?;
    Ok(serde_json::to_vec(&json!({ field: value }))?)
}

async fn put_field(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let [user_id, field] = <[String; 2]>::try_from(path_args).unwrap_or_default();
    let user_id = OwnedUserId::try_from(user_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    // «M_BAD_JSON: The provided value is not valid JSON»: this endpoint has no other word for it.
    let mut body: Map<String, Value> = kept_json(request.body()).map_err(|refusal| match refusal {
        Refusal::NotJson(sentence) => Refusal::BadJson(sentence),
        refusal => refusal,
    })?;
    let value = body.remove(&field).ok_or_else(|| Refusal::MissingParam(format!("The body has no {field}")))?;
    set(cx, bearer, &user_id, &field, Some(value)).await?;
    Ok(failure::json(StatusCode::OK, &json!({})))
}

async fn remove_field(
    cx: &Context,
    bearer: Bearer,
    request: delete_field::Request,
) -> Result<delete_field::Response, Failure> {
    set(cx, bearer, &request.user_id, request.field.as_str(), None).await?;
    Ok(delete_field::Response::new())
}

/// A whole profile; of another server's user it may be the one field that is looked for.
async fn profile(
    cx: &Context,
    user_id: &UserId,
    field: Option<&ProfileFieldName>,
) -> Result<Map<String, Value>, Failure> {
    if !cx.is_local(user_id) {
        return cx.profile_elsewhere(user_id, field.cloned()).await;
    }
    cx.user(user_id).call(&GetProfile {}).await.or_absent(Refusal::NotFound("There is no such user".to_owned()))
}

async fn set(cx: &Context, bearer: Bearer, user_id: &UserId, field: &str, value: Option<Value>) -> Result<(), Failure> {
    bearer.must_be(user_id)?;
    let value = checked(field, value)?;
    let call = SetProfileField { token_hash: bearer.token_hash.clone(), field: field.to_owned(), value };
    bearer.call(cx, &call).await?;
    Ok(())
}

/// The value as it may be stored. An empty name or picture is none: that is how clients removed them before they could
/// be deleted. `null` deletes nothing: «Servers that accept `null` values SHOULD store them rather than treating `null`
/// as a deletion request», and it is no name.
fn checked(field: &str, value: Option<Value>) -> Result<Option<Value>, Refusal> {
    if field.len() > FIELD_NAME_BYTES_MAX {
        return Err(Refusal::KeyTooLarge);
    }
    let value = match field {
        "displayname" => match value {
            Some(Value::String(_)) | None => value,
            Some(_) => return Err(Refusal::BadJson("`displayname` is a string".to_owned())),
        },
        "avatar_url" => match value {
            Some(Value::String(url)) if !url.is_empty() && !OwnedMxcUri::from(&*url).is_valid() => {
                return Err(Refusal::InvalidParam("`avatar_url` is an mxc:// URI".to_owned()));
            }
            Some(Value::String(_)) | None => value,
            Some(_) => return Err(Refusal::BadJson("`avatar_url` is a string".to_owned())),
        },
        "m.tz" => match value {
            Some(Value::String(_)) | None => return Ok(value),
            Some(_) => return Err(Refusal::BadJson("`m.tz` is a string".to_owned())),
        },
        custom if is_namespaced(custom) => return Ok(value),
        _ => return Err(Refusal::InvalidParam("This is not the name of a profile field".to_owned())),
    };
    let value = value.filter(|value| value.as_str() != Some(""));
    if let Some(text) = value.as_ref().and_then(Value::as_str) {
        check_profile_field(field, text)?;
    }
    Ok(value)
}

/// Two parts or more with dots between them. Spec: «a custom field following the Common Namespaced Identifier Grammar».
/// The pattern of `keyName` in `PUT /profile/{userId}/{keyName}` is narrower and knows no hyphen, which names of hosts
/// have.
fn is_namespaced(field: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    field.starts_with(|c: char| c.is_ascii_lowercase())
        && field.contains('.')
        && field.split('.').all(|part| !part.is_empty() && part.bytes().all(allowed))
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use serde_json::{Value, json};

    use crate::testing::{TestServer, refused};

    const ALICE: &str = "/_matrix/client/v3/profile/@alice:localhost";

    #[test]
    fn fields_come_and_go() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        assert_eq!(server.get(ALICE, ""), (StatusCode::OK, json!({})));
        for (field, value) in [
            ("displayname", json!("Alice")),
            ("avatar_url", json!("mxc://localhost/a")),
            ("m.tz", json!("Europe/Zurich")),
            ("org.example.likes", json!({ "tea": true })),
            ("org.example.nothing", Value::Null),
            ("uk.half-shot.status", json!("here")),
        ] {
            let path = format!("{ALICE}/{field}");
            assert_eq!(refused(server.get(&path, "")), (404, "M_NOT_FOUND".to_owned()));
            assert_eq!(server.put(&path, &alice, &json!({ field: value })), (StatusCode::OK, json!({})));
            assert_eq!(server.get(&path, ""), (StatusCode::OK, json!({ field: value })));
        }
        assert_eq!(server.get(ALICE, "").1.as_object().unwrap().len(), 6);
        for field in ["m.tz", "org.example.likes", "org.example.nothing", "uk.half-shot.status"] {
            assert_eq!(
                server.request(Method::DELETE, &format!("{ALICE}/{field}"), &alice, &Value::Null).0,
                StatusCode::OK
            );
        }
        server.put(&format!("{ALICE}/avatar_url"), &alice, &json!({ "avatar_url": "" }));
        assert_eq!(server.get(ALICE, "").1, json!({ "displayname": "Alice" }));
    }

    #[test]
    fn names_of_fields_follow_the_pattern() {
        for (field, is_one) in [
            ("a.b", true),
            ("org.example.likes_2", true),
            ("a", false),
            ("a.", false),
            (".a", false),
            ("a..", false),
            ("a..b", false),
            ("a.1", true),
            ("a._b", true),
            ("a-b.c", true),
            ("uk.half-shot.status", true),
            ("1.b", false),
            ("-a.b", false),
            ("_a.b", false),
            ("A.b", false),
            ("a.B", false),
            ("a.b!", false),
            ("", false),
        ] {
            assert_eq!(super::is_namespaced(field), is_one, "{field}");
        }
    }

    #[test]
    fn a_change_counts_as_a_message() {
        let limits = [("RATE_LIMITS", "on"), ("RC_MESSAGE", "0.001,2")];
        let server = TestServer::new(&[&limits[..], &[("REGISTRATION", "open")]].concat());
        let alice = server.register("alice");
        let path = format!("{ALICE}/displayname");
        assert_eq!(server.put(&path, &alice, &json!({ "displayname": "A" })).0, StatusCode::OK);
        let removed = || server.request(Method::DELETE, &path, &alice, &Value::Null);
        assert_eq!(removed().0, StatusCode::OK);
        assert_eq!(refused(removed()), (429, "M_LIMIT_EXCEEDED".to_owned()));
        assert_eq!(server.get(ALICE, "").0, StatusCode::OK);
    }

    #[test]
    fn what_a_profile_does_not_take() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let bob = server.register("bob");
        let long = "x".repeat(65_536);
        let (long_field, long_word) = (format!("org.{}", "x".repeat(255)), "X".repeat(256));
        let table = [
            (&alice, "displayname", json!({}), 400, "M_MISSING_PARAM"),
            (&alice, "displayname", json!({ "displayname": 1 }), 400, "M_BAD_JSON"),
            (&alice, "displayname", json!({ "displayname": null }), 400, "M_BAD_JSON"),
            (&alice, "avatar_url", json!({ "avatar_url": null }), 400, "M_BAD_JSON"),
            (&alice, "m.tz", json!({ "m.tz": null }), 400, "M_BAD_JSON"),
            (&alice, "org.example.key", json!({ "org.example.other": 1 }), 400, "M_MISSING_PARAM"),
            (&alice, "displayname", json!([]), 400, "M_BAD_JSON"),
            (&alice, "avatar_url", json!({ "avatar_url": "https://a" }), 400, "M_INVALID_PARAM"),
            (&alice, "nickname", json!({ "nickname": "A" }), 400, "M_INVALID_PARAM"),
            (&alice, "displayname", json!({ "displayname": "x".repeat(257) }), 400, "M_INVALID_PARAM"),
            (
                &alice,
                "avatar_url",
                json!({ "avatar_url": format!("mxc://{}", "x".repeat(995)) }),
                400,
                "M_INVALID_PARAM",
            ),
            (&alice, "org.example.long", json!({ "org.example.long": long }), 400, "M_PROFILE_TOO_LARGE"),
            (&alice, &long_field, json!({ &long_field: 1 }), 400, "M_KEY_TOO_LARGE"),
            (&alice, &long_word, json!({ &long_word: 1 }), 400, "M_KEY_TOO_LARGE"),
            (&bob, "displayname", json!({ "displayname": "Bob" }), 403, "M_FORBIDDEN"),
        ];
        for (token, field, body, status, errcode) in table {
            let refusal = refused(server.put(&format!("{ALICE}/{field}"), token, &body));
            assert_eq!(refusal, (status, errcode.to_owned()), "{field}");
        }
        for (unknown, refusal) in
            [("@nobody:localhost", (404, "M_NOT_FOUND")), ("@alice:elsewhere", (502, "M_UNKNOWN"))]
        {
            let path = format!("/_matrix/client/v3/profile/{unknown}");
            assert_eq!(refused(server.get(&path, "")), (refusal.0, refusal.1.to_owned()));
        }
    }
}
