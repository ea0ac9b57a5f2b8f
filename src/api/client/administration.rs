//! Spec: "Server Administration".

use actors::user::{Device, GetModeration, GetSessions, Moderate, Moderation};
use domain::Refusal;
use ruma_client_api::admin::{
    get_user_info::v3 as whois, is_user_locked::v1 as is_locked, is_user_suspended::v1 as is_suspended,
    lock_user::v1 as lock, suspend_user::v1 as suspend,
};
use ruma_common::UserId;
use serde_json::{Map, Value, json};

use crate::{Caller, Context, Failure, OrAbsent, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(whois);
    routes.add(is_locked);
    routes.add(lock);
    routes.add(is_suspended);
    routes.add(suspend);
}

/// `GET /admin/whois/{userId}`: for administrators, and for the user.
async fn whois(cx: &Context, caller: Caller, request: whois::Request) -> Result<Vec<u8>, Failure> {
    if caller.user_id != request.user_id {
        must_administer(&caller)?;
    }
    let devices = local(cx, &request.user_id)?.call(&GetSessions {}).await.or_absent(unknown())?;
    let session = |device: Device| {
        let mut connection = Map::new();
        if let Some(ip) = device.last_seen_ip {
            connection.insert("ip".to_owned(), ip.into());
        }
        if let Some(last_seen_ms) = device.last_seen_ms {
            connection.insert("last_seen".to_owned(), last_seen_ms.into());
        }
        let connections = if connection.is_empty() { json!([]) } else { json!([connection]) };
        (device.device_id.to_string(), json!({ "sessions": [{ "connections": connections }] }))
    };
    let devices: Map<String, Value> = devices.into_iter().map(session).collect();
    Ok(serde_json::to_vec(&json!({ "user_id": request.user_id, "devices": devices }))?)
}

async fn is_locked(cx: &Context, caller: Caller, request: is_locked::Request) -> Result<is_locked::Response, Failure> {
    Ok(is_locked::Response::new(moderation(cx, &caller, &request.user_id).await?.locked))
}

async fn is_suspended(
    cx: &Context,
    caller: Caller,
    request: is_suspended::Request,
) -> Result<is_suspended::Response, Failure> {
    Ok(is_suspended::Response::new(moderation(cx, &caller, &request.user_id).await?.suspended))
}

async fn lock(cx: &Context, caller: Caller, request: lock::Request) -> Result<lock::Response, Failure> {
    moderate(cx, &caller, &request.user_id, Moderate { locked: Some(request.locked), suspended: None }).await?;
    Ok(lock::Response::new(request.locked))
}

async fn suspend(cx: &Context, caller: Caller, request: suspend::Request) -> Result<suspend::Response, Failure> {
    moderate(cx, &caller, &request.user_id, Moderate { locked: None, suspended: Some(request.suspended) }).await?;
    Ok(suspend::Response::new(request.suspended))
}

/// What an account is kept from. «The requesting user is not a server administrator, or the target user is another
/// administrator.»
async fn moderation(cx: &Context, caller: &Caller, user_id: &UserId) -> Result<Moderation, Failure> {
    must_administer(caller)?;
    let moderation = local(cx, user_id)?.call(&GetModeration {}).await.or_absent(unknown())?;
    if moderation.admin && caller.user_id != user_id {
        return Err(Refusal::Forbidden("This is an administrator's account".to_owned()).into());
    }
    Ok(moderation)
}

async fn moderate(cx: &Context, caller: &Caller, user_id: &UserId, call: Moderate) -> Result<(), Failure> {
    must_administer(caller)?;
    if caller.user_id == user_id {
        return Err(Refusal::Forbidden("This is your own account".to_owned()).into());
    }
    local(cx, user_id)?.call(&call).await.or_absent(unknown())
}

/// «Servers MUST ensure that authorisation is checked prior to trying to do account lookups.»
fn must_administer(caller: &Caller) -> Result<(), Refusal> {
    if caller.administrator { Ok(()) } else { Err(Refusal::Forbidden("You are not an administrator".to_owned())) }
}

/// The user's actor, if it is one of ours.
fn local<'a>(cx: &'a Context, user_id: &'a UserId) -> Result<crate::UserHandle<'a>, Refusal> {
    if cx.is_local(user_id) {
        Ok(cx.user(user_id))
    } else {
        Err(Refusal::InvalidParam("This user does not belong to this server".to_owned()))
    }
}

fn unknown() -> Refusal {
    Refusal::NotFound("There is no such user".to_owned())
}
