//! Telling other servers of our users' devices. Spec: "Device Management", "End-to-End Encryption".

use actors::{
    destination::{OwedDeviceList, QueueDeviceList},
    user::{DeviceListUpdates, GetDeviceListUpdates},
};
use ruma_common::{ServerName, UserId};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{Context, Failure};

/// Has what is new of a user's devices queued for a server.
pub(super) async fn queue(cx: &Context, server: &ServerName, owed: OwedDeviceList) -> Result<(), Failure> {
    let OwedDeviceList { user, changed_ms, devices_after, identity_after } = owed;
    let call = GetDeviceListUpdates { devices_after, identity_after };
    let updates = match cx.user(&user).call(&call).await {
        Err(Failure::Absent) => DeviceListUpdates::default(),
        updates => updates?,
    };
    // Where nothing is said of what was before, one is enough: the server asks for the whole list, if it wants it.
    let is_known = devices_after.is_some_and(|after| after <= updates.stream_id);
    let more = is_known && updates.more;
    let mut edus = Vec::new();
    let told = if is_known { 0 } else { updates.devices.len().saturating_sub(1) };
    for device in updates.devices.iter().skip(told) {
        let mut content = of_user(&user, device)?;
        let mut stream_id = device.stream_id;
        if !is_known {
            stream_id = updates.stream_id;
            content.insert("prev_id".to_owned(), json!([]));
            content.insert("stream_id".to_owned(), stream_id.into());
        }
        edus.push((format!("devices {user} {stream_id}"), edu("m.device_list_update", &content)?));
    }
    if let Some(identity) = &updates.identity {
        let mut content = of_user(&user, identity)?;
        content.remove("stream_id");
        edus.push((format!("keys {user}"), edu("m.signing_key_update", &content)?));
    }
    let last = updates.devices.last().map(|device| device.stream_id);
    let call = QueueDeviceList {
        changed_ms: (!more).then_some(changed_ms),
        devices: if more { last } else { Some(updates.stream_id) },
        identity: updates.identity.map(|identity| identity.stream_id).or(identity_after),
        edus,
        user,
    };
    cx.call(server.as_str(), &call).await
}

fn of_user(user: &UserId, update: &impl serde::Serialize) -> Result<Map<String, Value>, Failure> {
    let mut content: Map<String, Value> = serde_json::from_value(serde_json::to_value(update)?)?;
    content.insert("user_id".to_owned(), user.as_str().into());
    Ok(content)
}

fn edu(edu_type: &str, content: &Map<String, Value>) -> Result<Box<RawValue>, Failure> {
    Ok(to_raw_value(&json!({ "edu_type": edu_type, "content": content }))?)
}
