//! Asking the policy server of a room to sign an event. Spec: Server-Server API, "Policy Servers".

use actors::room::{CheckedEvent, KeepSigned, Unsigned};
use domain::{Pdu, Refusal, policy_server};
use http::{Method, StatusCode};
use ruma_common::{CanonicalJsonObject, ServerName};
use serde_json::value::RawValue;

use super::{AskError, Bounds};
use crate::{Context, Failure};

/// Somebody waits for the answer.
const BOUNDS: Bounds = Bounds { response_bytes_max: 64 * 1024, timeout_ms: 10_000 };
const PATH: &str = "/_matrix/policy/v1/sign";
/// The statuses with which it refuses. Others are of a server that does not work, or that does not know us.
const REFUSES_WITH: [StatusCode; 4] =
    [StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::TOO_MANY_REQUESTS];

impl Context {
    /// Has the policy server sign an event, and the room keep it: whatever was to make it may be tried again.
    ///
    /// # Errors
    /// What the policy server says, verbatim, if it does not sign; `OtherServer` if it gives no answer.
    pub(crate) async fn has_signed(&self, unsigned: &Unsigned) -> Result<(), Failure> {
        let Unsigned { server, event } = unsigned;
        let pdu = Pdu::from_stored(event.event_id.clone(), event.json.as_str(), false)?;
        let content = RawValue::from_string(event.json.clone())?;
        let answer = match self.ask_raw(server, Method::POST, PATH, Some(content), BOUNDS).await {
            Ok((_, answer)) => answer,
            Err(AskError::Refused { status, errcode, message, mut body }) if REFUSES_WITH.contains(&status) => {
                body.insert("errcode".to_owned(), errcode.into());
                body.insert("error".to_owned(), message.into());
                return Err(Refusal::ByPolicyServer { status: status.as_u16(), body }.into());
            }
            Err(error) => return Err(no_answer(server, &error).into()),
        };
        let signature = match serde_json::from_slice::<CanonicalJsonObject>(&answer) {
            Ok(answer) => policy_server::signature_in(&answer, server).map(ToOwned::to_owned),
            Err(_) => None,
        };
        let nonsense = || no_answer(server, &AskError::Nonsense("no signature".to_owned()));
        let signed = policy_server::signed(&pdu, server, &signature.ok_or_else(nonsense)?)?;
        self.room(pdu.room_id()).call(&KeepSigned { event: CheckedEvent::of(&signed) }).await
    }
}

fn no_answer(server: &ServerName, error: &AskError) -> Refusal {
    tracing::info!(%server, %error, "a policy server does not sign");
    Refusal::OtherServer(format!("{server}, the policy server of this room, does not answer"))
}
