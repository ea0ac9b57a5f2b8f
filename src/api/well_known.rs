//! Where clients and servers find us. Spec: "Well-known URIs"; Server-Server API, "Resolving server names".

use bytes::Bytes;
use domain::{Config, Refusal, config::SupportContact};
use http::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::{Context, Failure, Routes, failure};

pub(crate) fn routes(routes: &mut Routes, config: &Config) {
    routes.add_raw(Method::GET, "/.well-known/matrix/client", client);
    routes.add_raw(Method::GET, "/.well-known/matrix/support", support);
    routes.add_raw(Method::GET, "/.well-known/matrix/policy_server", policy_server);
    if config.federation.is_on {
        routes.add_raw(Method::GET, "/.well-known/matrix/server", server);
    }
}

async fn client(cx: &Context, (): (), _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    Ok(failure::json(StatusCode::OK, &of_client(cx, &cx.config().public_baseurl)))
}

/// What clients are told of a server at this address.
pub(crate) fn of_client(cx: &Context, base_url: &str) -> Value {
    let mut body = cx.config().well_known_client.clone();
    body.insert("m.homeserver".to_owned(), json!({ "base_url": base_url }));
    body.into()
}

async fn server(cx: &Context, (): (), _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    match &cx.config().well_known_server {
        Some(server) => Ok(failure::json(StatusCode::OK, &json!({ "m.server": server }))),
        None => Err(Refusal::NotFound("This server is not delegated".to_owned()).into()),
    }
}

async fn support(cx: &Context, (): (), _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    let Some(support) = &cx.config().support else {
        return Err(Refusal::NotFound("This server does not say whom to turn to".to_owned()).into());
    };
    let contact = |contact: &SupportContact| {
        let mut fields = Map::from_iter([("role".to_owned(), contact.role.as_str().into())]);
        let ways = [
            ("matrix_id", contact.matrix_id.as_ref().map(ToString::to_string)),
            ("email_address", contact.email_address.clone()),
        ];
        fields.extend(ways.into_iter().filter_map(|(name, way)| Some((name.to_owned(), way?.into()))));
        Value::from(fields)
    };
    let mut body = Map::new();
    // «If only `contacts` is set, it must contain at least one item.»
    if !support.contacts.is_empty() {
        body.insert("contacts".to_owned(), support.contacts.iter().map(contact).collect());
    }
    if let Some(page) = &support.page {
        body.insert("support_page".to_owned(), page.as_str().into());
    }
    Ok(failure::json(StatusCode::OK, &body))
}

async fn policy_server(cx: &Context, (): (), _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    match &cx.config().policy_server_key {
        Some(key) => Ok(failure::json(StatusCode::OK, &json!({ "public_keys": { "ed25519": key } }))),
        None => Err(Refusal::NotFound("This is no policy server".to_owned()).into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{TestServer, refused};

    #[test]
    fn servers_are_told_only_of_a_delegation() {
        let (client, server) = ("/.well-known/matrix/client", "/.well-known/matrix/server");
        let plain = TestServer::new(&[]);
        assert_eq!(plain.get(client, "").1, json!({ "m.homeserver": { "base_url": "https://localhost" } }));
        assert_eq!(refused(plain.get(server, "")), (404, "M_NOT_FOUND".to_owned()));
        let calls = TestServer::new(&[("WELL_KNOWN_CLIENT", r#"{ "org.matrix.msc4143.rtc_foci": [] }"#)]);
        let told = json!({ "m.homeserver": { "base_url": "https://localhost" }, "org.matrix.msc4143.rtc_foci": [] });
        assert_eq!(calls.get(client, "").1, told);
        let delegated = TestServer::new(&[("WELL_KNOWN_SERVER", "matrix.localhost:443")]);
        assert_eq!(delegated.get(server, "").1, json!({ "m.server": "matrix.localhost:443" }));
    }
}
