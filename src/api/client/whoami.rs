//! Spec: "Current account information".

use ruma_client_api::account::whoami::v3::{Request, Response};

use crate::{Caller, Context, Failure, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(whoami);
}

async fn whoami(_: &Context, caller: Caller, _: Request) -> Result<Response, Failure> {
    let mut response = Response::new(caller.user_id, caller.is_guest);
    // An application service may act without a device.
    response.device_id = Some(caller.device_id).filter(|device_id| !device_id.as_str().is_empty());
    Ok(response)
}
