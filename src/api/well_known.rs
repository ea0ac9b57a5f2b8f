//! Where clients and servers find us. Spec: "Well-known URIs"; Server-Server API, "Resolving server names".

use bytes::Bytes;
use domain::{Config, Refusal};
use http::{Method, Request, Response, StatusCode};
use serde_json::json;

use crate::{Context, Failure, Routes, failure};

pub(crate) fn routes(routes: &mut Routes, config: &Config) {
    routes.add_raw(Method::GET, "/.well-known/matrix/client", client);
    if config.federation.is_on {
        routes.add_raw(Method::GET, "/.well-known/matrix/server", server);
    }
}

async fn client(cx: &Context, (): (), _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    let body = json!({ "m.homeserver": { "base_url": cx.config().public_baseurl } });
    Ok(failure::json(StatusCode::OK, &body))
}

async fn server(cx: &Context, (): (), _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    match &cx.config().well_known_server {
        Some(server) => Ok(failure::json(StatusCode::OK, &json!({ "m.server": server }))),
        None => Err(Refusal::NotFound("This server is not delegated".to_owned()).into()),
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
        let delegated = TestServer::new(&[("WELL_KNOWN_SERVER", "matrix.localhost:443")]);
        assert_eq!(delegated.get(server, "").1, json!({ "m.server": "matrix.localhost:443" }));
    }
}
