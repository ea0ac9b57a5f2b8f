//! Other networks that one could reach from here: there are none, as there are no bridges. Spec: "Third-party Networks".

use domain::Refusal;
use ruma_client_api::thirdparty::{
    get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols, get_user_for_protocol,
    get_user_for_user_id,
};
use ruma_common::api::{IncomingRequest, auth_scheme::AccessToken};

use crate::{Caller, Context, Failure, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(protocols);
    nothing::<get_protocol::v3::Request>(routes);
    nothing::<get_location_for_protocol::v3::Request>(routes);
    nothing::<get_location_for_room_alias::v3::Request>(routes);
    nothing::<get_user_for_protocol::v3::Request>(routes);
    nothing::<get_user_for_user_id::v3::Request>(routes);
}

async fn protocols(_: &Context, _: Caller, _: get_protocols::v3::Request) -> Result<String, Failure> {
    Ok("{}".to_owned())
}

/// Adds an endpoint that looks something up in another network.
fn nothing<R: IncomingRequest<Authentication = AccessToken> + 'static>(routes: &mut Routes) {
    routes.add_json::<R, Vec<u8>>(async move |_, _, _| {
        Err(Refusal::NotFound("This server is connected to no other network".to_owned()).into())
    });
}
