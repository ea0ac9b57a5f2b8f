//! How a request can fail, and how that is answered.

use actors::CallError;
use bytes::Bytes;
use domain::{Refusal, event::EventError};
use http::{HeaderValue, Response, StatusCode, header};
use platform::Fault;
use ruma_client_api::uiaa::UiaaInfo;
use serde::Serialize;

/// How long a client leaves alone what has too much to do, in milliseconds.
const OVERLOAD_MS: u64 = 5_000;

/// Why a request was not done.
#[derive(Debug)]
pub enum Failure {
    /// The client's doing: told with its `M_` code, not logged.
    Refused(Refusal),
    /// The client must authenticate further. Spec: "User-Interactive Authentication API".
    Challenge(Box<UiaaInfo>),
    /// The actor that was called was never founded: nobody created that room, registered that user.
    /// A handler says what that means to its client (see [`OrAbsent`]); left alone it is 404 `M_NOT_FOUND`.
    Absent,
    /// Ours: logged once, shown as a plain 500; as 503 where there is too much to do.
    Fault(Fault),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Refused(refusal)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Failure::Fault(fault)
    }
}

impl From<EventError> for Failure {
    /// For events of ours, and checked ones of others.
    fn from(error: EventError) -> Self {
        Failure::Fault(Fault::new(error.to_string()))
    }
}

impl From<serde_json::Error> for Failure {
    /// For answers and stored JSON: what a client sent is parsed before a handler sees it.
    fn from(error: serde_json::Error) -> Self {
        Failure::Fault(error.into())
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) => Failure::Refused(refusal),
            // It was signed again and again, and never the same.
            CallError::Unsigned(_) => Failure::Fault(Fault::retriable("a signed event was lost")),
            CallError::Absent => Failure::Absent,
            CallError::Fault(fault) => Failure::Fault(fault),
        }
    }
}

/// Says what a missing actor means to the client.
pub trait OrAbsent<T> {
    /// Refuses with `refusal` if the actor does not exist.
    fn or_absent(self, refusal: Refusal) -> Result<T, Failure>;
}

impl<T> OrAbsent<T> for Result<T, Failure> {
    fn or_absent(self, refusal: Refusal) -> Result<T, Failure> {
        self.map_err(|failure| match failure {
            Failure::Absent => Failure::Refused(refusal),
            other => other,
        })
    }
}

impl Failure {
    /// For where only a fault can be told: in the middle of an answer, or to nobody.
    pub(crate) fn into_fault(self) -> Fault {
        match self {
            Failure::Fault(fault) => fault,
            Failure::Refused(refusal) => Fault::new(refusal.to_string()),
            Failure::Challenge(_) => Fault::new("more authentication is asked for"),
            Failure::Absent => Fault::new("there is no such actor"),
        }
    }

    /// The answer a client gets. Spec: "Standard error response".
    pub(crate) fn response(&self) -> Response<Bytes> {
        match self {
            Failure::Refused(refusal) => refused(refusal),
            Failure::Absent => refused(&Refusal::NotFound("Not found".to_owned())),
            Failure::Challenge(challenge) => json(StatusCode::UNAUTHORIZED, &Challenge::of(challenge)),
            Failure::Fault(fault) if fault.overloaded => refused(&Refusal::Unavailable { retry_after_ms: OVERLOAD_MS }),
            Failure::Fault(_) => json(StatusCode::INTERNAL_SERVER_ERROR, &Broken::TOLD),
        }
    }
}

/// What is asked for, with the stages that are completed also where there are none, as the specification shows it.
#[derive(Serialize)]
struct Challenge<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<[(); 0]>,
    #[serde(flatten)]
    challenge: &'a UiaaInfo,
}

impl<'a> Challenge<'a> {
    fn of(challenge: &'a UiaaInfo) -> Self {
        Self { completed: challenge.completed.is_empty().then_some([]), challenge }
    }
}

/// All a client learns of a fault.
#[derive(Serialize)]
struct Broken {
    errcode: &'static str,
    error: &'static str,
}

impl Broken {
    const TOLD: Self = Self { errcode: "M_UNKNOWN", error: "Internal server error" };
}

fn refused(refusal: &Refusal) -> Response<Bytes> {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = json(status, &refusal.body());
    if let Refusal::LimitExceeded { retry_after_ms } | Refusal::Unavailable { retry_after_ms } = refusal {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_ms.div_ceil(1000)));
    }
    response
}

/// A JSON answer. What we answer always encodes; if it ever did not, the body would be empty.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response<Bytes> {
    json_bytes(status, serde_json::to_vec(body).unwrap_or_default().into())
}

/// A JSON answer whose bytes are ready.
pub(crate) fn json_bytes(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use domain::Refusal;
    use http::header;
    use platform::Fault;

    use super::Failure;

    #[test]
    fn a_fault_tells_nothing() {
        let response = Failure::from(Fault::new("the secret is 42")).response();
        assert_eq!(response.status(), 500);
        assert_eq!(response.body(), r#"{"errcode":"M_UNKNOWN","error":"Internal server error"}"#);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    }

    #[test]
    fn who_has_too_much_to_do_says_when_to_come_back() {
        let response =
            Failure::from(Fault::overloaded("room !r:a: it has too many requests").within("a call")).response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        let body = std::str::from_utf8(response.body()).unwrap();
        assert!(body.contains(r#""errcode":"M_UNKNOWN""#) && !body.contains("!r:a"), "{body}");
    }

    #[test]
    fn a_limit_says_when_to_come_back_in_both_units() {
        let response = Failure::from(Refusal::LimitExceeded { retry_after_ms: 1_500 }).response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert!(std::str::from_utf8(response.body()).unwrap().contains(r#""retry_after_ms":1500"#));
    }
}
