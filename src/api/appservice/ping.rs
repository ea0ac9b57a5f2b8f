//! Spec: Application Service API, "Pinging".

use std::time::Duration;

use actors::appservice::IsUp;
use domain::Refusal;
use http::Method;
use platform::SendError;
use ruma_client_api::appservice::request_ping::v1 as ping;
use serde_json::json;

use super::{
    OfAppservice,
    ask::{Question, Unanswered, ask},
};
use crate::{Context, Failure, Routes};

/// How long an application service may take, in milliseconds.
const TIMEOUT_MS: u64 = 10_000;
/// How much of what it says is passed on, in characters.
const BODY_CHARS_MAX: usize = 4_096;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(answer);
}

async fn answer(cx: &Context, caller: OfAppservice, request: ping::Request) -> Result<ping::Response, Failure> {
    if caller.id != request.appservice_id {
        return Err(Refusal::Forbidden("This is another application service's token".to_owned()).into());
    }
    let appservice = cx.config().appservice(&caller.id).ok_or(Refusal::UnknownToken { soft_logout: false })?;
    let body = match request.transaction_id {
        Some(transaction_id) => json!({ "transaction_id": transaction_id }),
        None => json!({}),
    };
    let question = Question {
        method: Method::POST,
        path: "/_matrix/app/v1/ping".to_owned(),
        legacy_path: None,
        is_insistent: false,
        body: serde_json::to_vec(&body)?.into(),
        timeout_ms: TIMEOUT_MS,
    };
    let asked_ms = cx.now_ms();
    match ask(cx, appservice, &question).await {
        Ok((status, _)) if status.is_success() => {
            // It is there: what waits for it need not wait any longer.
            match cx.call(&appservice.actor(), &IsUp {}).await {
                Ok(()) | Err(Failure::Absent) => {}
                Err(failure) => return Err(failure),
            }
            Ok(ping::Response::new(Duration::from_millis(cx.now_ms().saturating_sub(asked_ms))))
        }
        Ok((status, body)) => {
            let body = String::from_utf8_lossy(&body).chars().take(BODY_CHARS_MAX).collect();
            Err(Refusal::BadStatus { status: status.as_u16(), body }.into())
        }
        Err(Unanswered::NoUrl) => Err(Refusal::UrlNotSet.into()),
        Err(Unanswered::Failed(SendError::TimedOut)) => Err(Refusal::ConnectionTimeout.into()),
        Err(Unanswered::Failed(error)) => Err(Refusal::ConnectionFailed(error.to_string()).into()),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use platform::SendError;
    use serde_json::json;

    use crate::testing::{Answered, TestServer, refused};

    const REGISTRATION: &str = r#"{ "id": "irc", "url": "http://localhost:1/x", "as_token": "a", "hs_token": "h",
        "sender_localpart": "irc", "namespaces": {} }"#;

    fn pinged(answer: impl Fn() -> Answered + 'static) -> (u16, String) {
        let server = TestServer::new(&[("APPSERVICES", REGISTRATION)]);
        server.others_answer(move |request| {
            assert!(request.peer.is_operators_word, "its address may be a private one");
            assert_eq!(request.path_and_query, "/x/_matrix/app/v1/ping");
            assert_eq!(request.headers["authorization"], "Bearer h");
            answer()
        });
        refused(server.post("/_matrix/client/v1/appservice/irc/ping", "a", &json!({})))
    }

    #[test]
    fn whatever_goes_wrong_has_its_name() {
        assert_eq!(pinged(|| Err(SendError::TimedOut)), (504, "M_CONNECTION_TIMEOUT".to_owned()));
        let unreachable = || Err(SendError::Unreachable("nobody there".to_owned()));
        assert_eq!(pinged(unreachable), (502, "M_CONNECTION_FAILED".to_owned()));
        let unauthorized = || Ok((StatusCode::UNAUTHORIZED, HeaderMap::new(), "{}".into()));
        assert_eq!(pinged(unauthorized), (502, "M_BAD_STATUS".to_owned()));
    }
}
