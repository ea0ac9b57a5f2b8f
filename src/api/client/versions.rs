//! Spec: "API Versions".

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::json;

use crate::{Context, Failure, Routes, failure};

/// The versions of the specification whose accounts, rooms and sync are served here. Endpoints of other modules
/// answer `M_UNRECOGNIZED`, which every version allows. From v1.11 on clients expect authenticated media: that version
/// is claimed with the media that backs it.
const VERSIONS: [&str; 10] = ["v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10"];

pub(super) fn routes(routes: &mut Routes) {
    // A token may come along; nothing here depends on it, so it is not checked.
    routes.add_raw(Method::GET, "/_matrix/client/versions", versions);
}

async fn versions(_: &Context, (): (), _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    Ok(failure::json(StatusCode::OK, &json!({ "versions": VERSIONS, "unstable_features": {} })))
}
