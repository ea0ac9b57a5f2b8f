//! Directories of rooms that application services keep for their networks. Spec: Application Service API, "Published
//! room directories".

use actors::room::SetNetwork;
use domain::Refusal;
use ruma_client_api::{appservice::set_room_visibility::v3 as set, room::Visibility};

use super::OfAppservice;
use crate::{Context, Failure, OrAbsent, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(set_visibility);
}

/// A network as clients name it: two application services may have networks of the same name.
pub(super) fn instance_id(appservice: &str, network: &str) -> String {
    format!("{appservice}|{network}")
}

async fn set_visibility(cx: &Context, caller: OfAppservice, request: set::Request) -> Result<set::Response, Failure> {
    let listed = match request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        other => return Err(Refusal::InvalidParam(format!("There is no visibility {other}")).into()),
    };
    let call = SetNetwork { network: instance_id(&caller.id, &request.network_id), listed };
    let no_room = Refusal::NotFound("There is no such room here".to_owned());
    cx.room(&request.room_id).call(&call).await.or_absent(no_room)?;
    Ok(set::Response::new())
}
