//! Spec: "Server implementation".

use ruma_federation_api::discovery::get_server_version::v1::{Request, Response, Server};

use super::ask::{NAME, VERSION};
use crate::{Context, Failure, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(version);
}

async fn version(_: &Context, (): (), _: Request) -> Result<Response, Failure> {
    let mut server = Server::new();
    server.name = Some(NAME.to_owned());
    server.version = Some(VERSION.to_owned());
    let mut response = Response::new();
    response.server = Some(server);
    Ok(response)
}
