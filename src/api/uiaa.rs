//! User-interactive authentication: stages a client completes before an operation is performed.
//!
//! A session is a sealed text that names its operation; it costs us nothing until a stage is completed and another
//! one is still needed. From then on the request must not change: what was authenticated for one thing does not
//! allow another. Before that it may, because clients learn the flows with an empty request and keep the session.
//! Spec: "User-Interactive Authentication API".

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use domain::Refusal;
use ruma_client_api::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo};
use ruma_common::api::error::{ErrorKind, StandardErrorBody};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{
    Context, Failure,
    metadata::{auth_stage, auth_stage::CompletedStage, registration_token},
    sealed,
};

/// How long a session lasts: one day.
const SESSION_MS: u64 = 86_400_000;

/// An operation that needs authentication.
pub(crate) struct Operation<'a> {
    /// Its name, stable.
    pub name: &'static str,
    /// Each a list of stages that together suffice.
    pub flows: &'a [&'a [AuthType]],
    /// A digest of what is asked for, see [`digest`].
    pub request: String,
}

/// A client has completed a flow.
#[derive(Debug)]
pub(crate) struct Authenticated {
    /// The registration token, if the flow had that stage. It still has to be used up.
    pub registration_token: Option<String>,
}

/// A digest of what a client asks for. Leave out passwords: it may be stored.
pub(crate) fn digest(request: &impl Serialize) -> Result<String, Failure> {
    Ok(BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(serde_json::to_vec(request)?)))
}

impl Operation<'_> {
    /// Checks what the client submitted, and answers once it has completed a flow.
    ///
    /// # Errors
    /// [`Failure::Challenge`] as long as something is missing or wrong; `M_FORBIDDEN` when the request changed after a
    /// stage was completed for it.
    pub(crate) async fn authenticate(&self, cx: &Context, auth: Option<&AuthData>) -> Result<Authenticated, Failure> {
        let Some(auth) = auth else { return Err(self.challenge(&self.new_session(cx)?, &[], None)) };
        // A client may begin with its first stage and have no session yet.
        let (session, expires_ms) = match auth.session() {
            Some(session) => match sealed::open(cx, self.name, session)? {
                Some(expires_ms) => (session.to_owned(), expires_ms),
                None => return Err(self.challenge(&self.new_session(cx)?, &[], Some("This session has expired"))),
            },
            None => (self.new_session(cx)?, cx.now_ms().saturating_add(SESSION_MS)),
        };
        let mut completed = self.completed(cx, auth, &session).await?;
        let stage = auth.auth_type();
        if let Some(stage) = stage.as_ref().filter(|stage| !completed.iter().any(|done| done.stage == stage.as_str())) {
            match self.check(cx, stage, auth).await? {
                Ok(proof) => {
                    let done = CompletedStage { stage: stage.to_string(), proof, request: self.request.clone() };
                    completed.push(done.clone());
                    if !self.suffices(&completed) {
                        auth_stage::insert(cx.metadata(), &session, &done, expires_ms, cx.now_ms()).await?;
                    }
                }
                Err(wrong) => return Err(self.challenge(&session, &completed, Some(wrong))),
            }
        }
        if !self.suffices(&completed) {
            return Err(self.challenge(&session, &completed, None));
        }
        let registration_token = completed
            .into_iter()
            .find(|done| done.stage == AuthType::RegistrationToken.as_str())
            .and_then(|done| done.proof);
        Ok(Authenticated { registration_token })
    }

    /// Asks again, because something turned out to be wrong with a flow that was completed.
    pub(crate) fn ask_again(&self, cx: &Context, wrong: &'static str) -> Failure {
        match self.new_session(cx) {
            Ok(session) => self.challenge(&session, &[], Some(wrong)),
            Err(failure) => failure,
        }
    }

    fn new_session(&self, cx: &Context) -> Result<String, Failure> {
        Ok(sealed::seal(cx, self.name, SESSION_MS)?)
    }

    /// What the session completed before. Only a flow of several stages leaves anything to be remembered.
    async fn completed(&self, cx: &Context, auth: &AuthData, session: &str) -> Result<Vec<CompletedStage>, Failure> {
        if auth.session().is_none() || self.flows.iter().all(|flow| flow.len() < 2) {
            return Ok(Vec::new());
        }
        let completed = auth_stage::of_session(cx.metadata(), session).await?;
        if completed.iter().any(|done| done.request != self.request) {
            return Err(Refusal::Forbidden("This session is for another request".to_owned()).into());
        }
        Ok(completed)
    }

    /// Checks one stage: what it was completed with, or what was wrong.
    async fn check(
        &self,
        cx: &Context,
        stage: &AuthType,
        auth: &AuthData,
    ) -> Result<Result<Option<String>, &'static str>, Failure> {
        if !self.flows.iter().any(|flow| flow.contains(stage)) {
            return Ok(Err("This stage is not offered here"));
        }
        Ok(match auth {
            AuthData::Dummy(_) => Ok(None),
            AuthData::RegistrationToken(stage) => {
                let is_valid = registration_token::is_valid(cx.metadata(), &stage.token, cx.now_ms()).await?;
                if is_valid { Ok(Some(stage.token.clone())) } else { Err("This registration token is not valid") }
            }
            _ => Err("This stage cannot be completed here"),
        })
    }

    fn suffices(&self, completed: &[CompletedStage]) -> bool {
        let done = |stage: &AuthType| completed.iter().any(|done| done.stage == stage.as_str());
        self.flows.iter().any(|flow| flow.iter().all(done))
    }

    fn challenge(&self, session: &str, completed: &[CompletedStage], wrong: Option<&str>) -> Failure {
        let mut challenge = UiaaInfo::new(self.flows.iter().map(|flow| AuthFlow::new(flow.to_vec())).collect());
        challenge.session = Some(session.to_owned());
        challenge.completed = completed.iter().map(|done| AuthType::from(&*done.stage)).collect();
        // Some clients need the object, empty as it is.
        challenge.params = RawValue::from_string("{}".to_owned()).ok();
        challenge.auth_error =
            wrong.map(|wrong| Box::new(StandardErrorBody::new(ErrorKind::Unauthorized, wrong.to_owned())));
        Failure::Challenge(Box::new(challenge))
    }
}

#[cfg(test)]
mod tests {
    use ruma_client_api::uiaa::{AuthData, AuthType, Dummy, RegistrationToken, UiaaInfo};

    use super::{Operation, digest};
    use crate::{
        Context, Failure,
        metadata::registration_token,
        testing::{TestServer, block_on},
    };

    const DUMMY: &[&[AuthType]] = &[&[AuthType::Dummy]];
    const BOTH: &[&[AuthType]] = &[&[AuthType::RegistrationToken, AuthType::Dummy]];

    fn operation(flows: &'static [&'static [AuthType]], request: &str) -> Operation<'static> {
        Operation { name: "test", flows, request: digest(&request).unwrap() }
    }

    fn dummy(session: Option<&str>) -> Option<AuthData> {
        let mut dummy = Dummy::new();
        dummy.session = session.map(str::to_owned);
        Some(AuthData::Dummy(dummy))
    }

    fn token(token: &str, session: &str) -> Option<AuthData> {
        let mut stage = RegistrationToken::new(token.to_owned());
        stage.session = Some(session.to_owned());
        Some(AuthData::RegistrationToken(stage))
    }

    async fn challenged(cx: &Context, operation: &Operation<'_>, auth: Option<AuthData>) -> UiaaInfo {
        match operation.authenticate(cx, auth.as_ref()).await {
            Err(Failure::Challenge(challenge)) => *challenge,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_without_auth_never_succeeds() {
        let server = TestServer::new(&[]);
        let (cx, operation) = (server.context(), operation(DUMMY, "a"));
        block_on(async {
            let mut challenge = challenged(&cx, &operation, None).await;
            let session = challenge.session.take();
            insta::assert_snapshot!(serde_json::to_string(&challenge).unwrap(), @r#"{"flows":[{"stages":["m.login.dummy"]}],"params":{}}"#);
            operation.authenticate(&cx, dummy(session.as_deref()).as_ref()).await.unwrap();
            operation.authenticate(&cx, dummy(None).as_ref()).await.unwrap();
        });
    }

    #[test]
    fn sessions_are_ours_for_one_operation_and_expire() {
        let server = TestServer::new(&[]);
        let (cx, operation) = (server.context(), operation(DUMMY, "a"));
        block_on(async {
            let session = challenged(&cx, &operation, None).await.session.unwrap();
            let other = Operation { name: "other", ..self::operation(DUMMY, "a") };
            let forged = format!("f{session}");
            for (operation, session) in [(&other, &*session), (&operation, &*forged), (&operation, "x")] {
                let again = challenged(&cx, operation, dummy(Some(session))).await;
                assert_ne!(again.session.as_deref(), Some(session));
            }
            server.pass_ms(super::SESSION_MS);
            let again = challenged(&cx, &operation, dummy(Some(&session))).await;
            assert_ne!(again.session.unwrap(), session);
        });
    }

    #[test]
    fn stages_add_up_and_the_request_stays_the_same() {
        let server = TestServer::new(&[]);
        let (cx, operation) = (server.context(), operation(BOTH, "a"));
        block_on(async {
            registration_token::insert(cx.metadata(), "sesame", None, None).await.unwrap();
            let session = challenged(&cx, &operation, None).await.session.unwrap();
            let wrong = challenged(&cx, &operation, token("open", &session)).await;
            assert_eq!(wrong.auth_error.unwrap().message, "This registration token is not valid");
            assert_eq!(wrong.completed, []);

            let half = challenged(&cx, &operation, token("sesame", &session)).await;
            assert_eq!((half.completed, half.session), (vec![AuthType::RegistrationToken], Some(session.clone())));
            // A completed stage cannot be retried.
            let half = challenged(&cx, &operation, token("open", &session)).await;
            assert_eq!(half.completed, [AuthType::RegistrationToken]);

            let changed = self::operation(BOTH, "b").authenticate(&cx, dummy(Some(&session)).as_ref()).await;
            assert!(matches!(changed, Err(Failure::Refused(domain::Refusal::Forbidden(_)))), "{changed:?}");
            let done = operation.authenticate(&cx, dummy(Some(&session)).as_ref()).await.unwrap();
            assert_eq!(done.registration_token.unwrap(), "sesame");
        });
    }

    #[test]
    fn a_stage_that_is_not_offered_does_not_count() {
        let server = TestServer::new(&[]);
        let (cx, operation) = (server.context(), operation(&[&[AuthType::RegistrationToken]], "a"));
        block_on(async {
            let challenge = challenged(&cx, &operation, dummy(None)).await;
            assert_eq!(challenge.auth_error.unwrap().message, "This stage is not offered here");
            let acknowledged = AuthData::fallback_acknowledgement(challenge.session.unwrap());
            assert_eq!(challenged(&cx, &operation, Some(acknowledged)).await.completed, []);
        });
    }
}
