//! Spec: "API Versions".

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::json;

use crate::{Context, Failure, Routes, failure};

/// Each is here because everything that it had, or added, is served: `tests/client/versions.tsv` goes through that.
/// Today's clients ask for v1.1 at least, old ones for the one before.
const VERSIONS: [&str; 20] = [
    "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12",
    "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
];

pub(super) fn routes(routes: &mut Routes) {
    // A token may come along; nothing here depends on it, so it is not checked.
    routes.add_raw(Method::GET, "/_matrix/client/versions", versions);
}

async fn versions(_: &Context, (): (), _: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    let unstable_features = json!({
        "org.matrix.msc3814": true,
        // Without these, or v1.4 whole, Element Web knows no threads, nor their list, nor relations in the order of
        // time.
        "org.matrix.msc3440.stable": true,
        "org.matrix.msc3856.stable": true,
        "org.matrix.msc3715.stable": true,
        // Relations of relations, which it asks for by that name.
        "org.matrix.msc3981": true,
        // What Element Web asks for by these names alone: the directory by types of rooms, fields of any kind in
        // profiles, the rooms one shares with somebody.
        "org.matrix.msc3827.stable": true,
        "uk.tcpip.msc4133.stable": true,
        "uk.half-shot.msc2666.query_mutual_rooms.stable": true,
        // The last by its former path: this is what Element Web, Cinny and NeoChat ask for.
        "uk.half-shot.msc2666.query_mutual_rooms": true,
        // Pushers are switched off and on, those of other devices, too: Element Web knows it by this name alone.
        "org.matrix.msc3881": true,
        // Administrators lock and suspend accounts.
        "uk.timedout.msc4323": true,
        // Sliding sync (MSC4186): Element X and other clients made with matrix-rust-sdk look for it by this name.
        "org.matrix.simplified_msc3575": true,
        // Without this, or v1.11 whole, it asks the deprecated endpoints for media, which do not have what needs a
        // token.
        "org.matrix.msc3916.stable": true,
    });
    Ok(failure::json(StatusCode::OK, &json!({ "versions": VERSIONS, "unstable_features": unstable_features })))
}
