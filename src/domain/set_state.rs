//! State that clients set: what the rules of authorisation take, and nobody could go by, is refused. A room would be
//! stuck with it, or other servers would make something else of it. Spec: "m.room.join_rules", "m.room.power_levels";
//! Server-Server API, "Policy Servers".

use ruma_common::ServerName;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Refusal, policy_server, power};

/// Checks the content of a state event. `no_policy_server`: this server, if it is none.
///
/// # Errors
/// `BadJson` for what nobody could go by; `InvalidParam` for this server as the policy server while it is none.
pub fn check(event_type: &str, content: &RawValue, no_policy_server: Option<&ServerName>) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct JoinRules {
        #[serde(rename = "join_rule")]
        _join_rule: String,
    }
    #[derive(Deserialize)]
    struct Policy {
        via: String,
    }
    fn read<'a, T: Deserialize<'a>>(content: &'a RawValue) -> Result<T, Refusal> {
        serde_json::from_str(content.get()).map_err(|error| Refusal::BadJson(format!("The content: {error}")))
    }
    match (event_type, no_policy_server) {
        ("m.room.join_rules", _) => read::<JoinRules>(content).map(drop),
        ("m.room.power_levels", _) => power::check_levels(&read(content)?),
        // One that is not valid is none.
        (policy_server::EVENT_TYPE, Some(own)) => match read::<Policy>(content) {
            Ok(Policy { via }) if via == *own => Err(Refusal::InvalidParam(format!("{own} is no policy server"))),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}
