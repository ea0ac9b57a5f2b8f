//! Spec: "API Versions".

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::json;

use crate::{Context, Failure, Routes, failure};

/// The one version that today's clients ask for at least. A newer one is claimed when everything it added is served.
const VERSIONS: [&str; 1] = ["v1.1"];

pub(super) fn routes(routes: &mut Routes) {
    // A token may come along; nothing here depends on it, so it is not checked.
    routes.add_raw(Method::GET, "/_matrix/client/versions", versions);
}

async fn versions(_: &Context, (): (), _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    let unstable_features = json!({
        "org.matrix.msc3814": true,
        // Without these, or v1.4 whole, Element Web knows no threads, nor their list, nor relations in the order of time.
        "org.matrix.msc3440.stable": true,
        "org.matrix.msc3856.stable": true,
        "org.matrix.msc3715.stable": true,
        // Relations of relations, which it asks for by that name.
        "org.matrix.msc3981": true,
        // Without this, or v1.11 whole, it asks the deprecated endpoints for media, which do not have what needs a token.
        "org.matrix.msc3916.stable": true,
    });
    Ok(failure::json(StatusCode::OK, &json!({ "versions": VERSIONS, "unstable_features": unstable_features })))
}
