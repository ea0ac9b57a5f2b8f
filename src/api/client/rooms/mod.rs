//! Rooms: creation, membership, sending, reading. Spec: "Rooms", "Events".

mod create;
mod joining;
mod members;
mod membership;
mod messages;
mod receipts;
mod redact;
mod send;
mod state;
mod typing;

use domain::Refusal;
use platform::Fault;
use ruma_common::UserId;
use serde_json::value::RawValue;

pub(crate) use messages::{event_filter, wants_room};

use crate::{Context, Routes};

pub(crate) fn routes(routes: &mut Routes) {
    create::routes(routes);
    joining::routes(routes);
    members::routes(routes);
    membership::routes(routes);
    messages::routes(routes);
    receipts::routes(routes);
    redact::routes(routes);
    send::routes(routes);
    state::routes(routes);
    typing::routes(routes);
}

/// What a room that nobody made here is to a client.
fn no_such_room() -> Refusal {
    Refusal::NotFound("There is no such room on this server".to_owned())
}

/// What a room that nobody made here is to who wants to read it: the same as a room they are not in, so that asking
/// does not tell which rooms there are.
fn not_in_room(user_id: &UserId) -> Refusal {
    Refusal::Forbidden(format!("{user_id} is not in this room"))
}

/// A call id: a repeated call is recognised by it.
fn call_id(cx: &Context) -> Result<String, Fault> {
    Ok(format!("{:032x}", u128::from_be_bytes(cx.random()?)))
}

/// The JSON array of these values, without looking into them again.
fn json_array(name: &str, values: &[Box<RawValue>]) -> String {
    let length: usize = values.iter().map(|value| value.get().len().saturating_add(1)).sum();
    let mut json = String::with_capacity(length.saturating_add(name.len()).saturating_add(8));
    json.push_str("{\"");
    json.push_str(name);
    json.push_str("\":");
    push_array(&mut json, values);
    json.push('}');
    json
}

fn push_array(json: &mut String, values: &[Box<RawValue>]) {
    json.push('[');
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        json.push_str(value.get());
    }
    json.push(']');
}
