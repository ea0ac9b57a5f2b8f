//! User-interactive authentication: stages a client completes before an operation is performed.
//!
//! A session is a sealed text that names its operation, and whose it is; it costs us nothing until a stage is completed
//! and another one is still needed. From then on the request must not change: what was authenticated for one thing does
//! not allow another. Before that it may, because clients learn the flows with an empty request and keep the session.
//! A flow allows one thing: the stages that were remembered are used up with it.
//! Spec: "User-Interactive Authentication API".

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use domain::Refusal;
use platform::Fault;
use ruma_client_api::uiaa::{AuthFlow, AuthType, UiaaInfo};
use ruma_common::{
    UserId,
    api::error::{ErrorKind, StandardErrorBody},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json, value::to_raw_value};
use sha2::{Digest, Sha256};

use crate::{
    Context, Failure,
    credentials::{self, NamedUser},
    mail::validation::{self, Credentials, Purpose},
    metadata::{auth_stage, auth_stage::CompletedStage, registration_token},
    recaptcha, sealed,
};

/// How long a session lasts: one day.
const SESSION_MS: u64 = 86_400_000;

/// The flows of what a user does to their own account.
pub(crate) const PASSWORD: &[&[AuthType]] = &[&[AuthType::Password]];

/// The flows of who cannot log in.
pub(crate) const EMAIL: &[&[AuthType]] = &[&[AuthType::EmailIdentity]];

/// The name of the operation that gives somebody a new password who has forgotten the old one.
pub(crate) const RESET_PASSWORD: &str = "reset password";

/// The name of the operation that makes accounts: its sessions may be carried on in a browser.
pub(crate) const REGISTER: &str = "register";

/// What is wrong with an address as long as nobody opened its link.
pub(crate) const NOT_CONFIRMED: &str = "This address has not been confirmed";

/// An operation that needs authentication.
pub(crate) struct Operation<'a> {
    /// Its name, stable.
    pub name: &'a str,
    /// Who asks for it, if that is known: only they can authenticate for it.
    pub user_id: Option<&'a UserId>,
    /// Each a list of stages that suffice when completed in their order.
    pub flows: &'a [&'a [AuthType]],
    /// A digest of what is asked for, see [`digest`].
    pub request: String,
}

/// What a client submits to authenticate.
#[derive(Default, Deserialize)]
pub(crate) struct Auth {
    /// Left out when the stage was completed elsewhere.
    #[serde(rename = "type")]
    stage: Option<AuthType>,
    session: Option<String>,
    token: Option<String>,
    password: Option<String>,
    /// What a client got for a solved challenge.
    response: Option<String>,
    threepid_creds: Option<Credentials>,
    /// The same under its former name. Clients send either, or both.
    #[serde(rename = "threepidCreds")]
    former_threepid_creds: Option<Credentials>,
    #[serde(flatten)]
    user: NamedUser,
}

/// A client has completed a flow.
#[derive(Debug)]
pub(crate) struct Authenticated {
    /// The registration token, if the flow had that stage. It still has to be used up.
    pub registration_token: Option<String>,
    /// The session that proved an email address, if the flow had that stage. It still has to be used up.
    pub email_session: Option<String>,
    password_hash: Option<String>,
    used: Used,
}

/// What was remembered of a session and is used up.
#[derive(Debug)]
struct Used {
    session: String,
    stages: Vec<CompletedStage>,
    expires_ms: u64,
}

impl Authenticated {
    /// What the password was checked against, for an operation all of whose flows have that stage.
    pub(crate) fn password_hash(self) -> Result<String, Fault> {
        self.password_hash.ok_or_else(|| Fault::new("a flow without a password sufficed"))
    }

    /// What it was for is refused: the client may try another thing with what it has completed before.
    pub(crate) async fn give_back(&self, cx: &Context) -> Result<(), Fault> {
        let Used { session, stages, expires_ms } = &self.used;
        if stages.is_empty() {
            return Ok(());
        }
        auth_stage::give_back(cx.metadata(), session, stages, *expires_ms).await
    }
}

/// What was wrong with a stage.
struct Wrong(ErrorKind, &'static str);

/// A digest of what a client asks for. Leave out passwords: it may be stored.
pub(crate) fn digest(request: &impl Serialize) -> Result<String, Failure> {
    Ok(BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(serde_json::to_vec(request)?)))
}

impl Operation<'_> {
    /// Checks what the client submitted, and answers once it has completed a flow.
    ///
    /// # Errors
    /// [`Failure::Challenge`] as long as something is missing or wrong; `M_FORBIDDEN` when the request changed after a
    /// stage was completed for it; `M_LIMIT_EXCEEDED` after too many wrong passwords.
    pub(crate) async fn authenticate(&self, cx: &Context, auth: Option<&Auth>) -> Result<Authenticated, Failure> {
        // Some clients begin with an empty object.
        let Some(auth) = auth.filter(|auth| auth.stage.is_some() || auth.session.is_some()) else {
            return Err(self.challenge(cx, &self.new_session(cx)?, &[], None));
        };
        // A client may begin with its first stage and have no session yet.
        let (session, expires_ms) = match &auth.session {
            Some(session) => match sealed::open(cx, &purpose(cx, self.name, self.user_id), session)? {
                Some(expires_ms) => (session.to_owned(), expires_ms),
                None => return Err(self.ask_again(cx, "This session has expired")),
            },
            None => (self.new_session(cx)?, cx.now_ms().saturating_add(SESSION_MS)),
        };
        let remembered = self.completed(cx, auth, &session).await?;
        let mut completed = remembered.clone();
        let stage = auth.stage.as_ref();
        if let Some(stage) = stage.filter(|stage| !completed.iter().any(|done| done.stage == stage.as_str())) {
            match self.check(cx, stage, auth, &completed).await? {
                Ok(proof) => {
                    let done = CompletedStage { stage: stage.to_string(), proof, request: self.request.clone() };
                    completed.push(done.clone());
                    if !self.suffices(&completed) {
                        auth_stage::insert(cx.metadata(), &session, &done, expires_ms, cx.now_ms()).await?;
                    }
                }
                Err(wrong) => return Err(self.challenge(cx, &session, &completed, Some(wrong))),
            }
        }
        if !self.suffices(&completed) {
            return Err(self.challenge(cx, &session, &completed, None));
        }
        let used = Used { stages: self.use_up(cx, &session, &remembered).await?, session, expires_ms };
        let mut proof = |stage: &AuthType| {
            completed.iter_mut().find(|done| done.stage == stage.as_str()).and_then(|done| done.proof.take())
        };
        Ok(Authenticated {
            registration_token: proof(&AuthType::RegistrationToken),
            email_session: proof(&AuthType::EmailIdentity),
            password_hash: proof(&AuthType::Password),
            used,
        })
    }

    /// Uses up what was remembered of a session. Of several requests with the same session one does.
    async fn use_up(
        &self,
        cx: &Context,
        session: &str,
        remembered: &[CompletedStage],
    ) -> Result<Vec<CompletedStage>, Failure> {
        if remembered.is_empty() {
            return Ok(Vec::new());
        }
        let taken = auth_stage::take(cx.metadata(), session).await?;
        if remembered.iter().any(|stage| !taken.contains(stage)) {
            return Err(self.ask_again(cx, "This session has been used"));
        }
        Ok(taken)
    }

    /// Asks again, because something turned out to be wrong with a session or with a flow that was completed.
    pub(crate) fn ask_again(&self, cx: &Context, wrong: &'static str) -> Failure {
        match self.new_session(cx) {
            Ok(session) => self.challenge(cx, &session, &[], Some(Wrong(ErrorKind::Unauthorized, wrong))),
            Err(failure) => failure,
        }
    }

    fn new_session(&self, cx: &Context) -> Result<String, Failure> {
        Ok(sealed::seal(cx, &purpose(cx, self.name, self.user_id), SESSION_MS)?)
    }

    /// What the session completed before. Only a flow of several stages leaves anything to be remembered, and one that
    /// was completed elsewhere.
    async fn completed(&self, cx: &Context, auth: &Auth, session: &str) -> Result<Vec<CompletedStage>, Failure> {
        let at_once = auth.stage.is_some() && self.flows.iter().all(|flow| flow.len() < 2);
        if auth.session.is_none() || at_once {
            return Ok(Vec::new());
        }
        let completed = auth_stage::of_session(cx.metadata(), session).await?;
        if completed.iter().any(|done| done.request != self.request && done.request != auth_stage::ANY_REQUEST) {
            return Err(Refusal::Forbidden("This session is for another request".to_owned()).into());
        }
        Ok(completed)
    }

    /// Checks one stage: what it was completed with, or what was wrong.
    async fn check(
        &self,
        cx: &Context,
        stage: &AuthType,
        auth: &Auth,
        completed: &[CompletedStage],
    ) -> Result<Result<Option<String>, Wrong>, Failure> {
        let unauthorized = |wrong| Ok(Err(Wrong(ErrorKind::Unauthorized, wrong)));
        if !self.flows.iter().any(|flow| flow.contains(stage)) {
            return unauthorized("This stage is not offered here");
        }
        // Spec: "the flow's stages must be completed in order".
        let is_next = |flow: &&[AuthType]| flow.iter().find(|stage| !is_done(completed, stage)) == Some(stage);
        if !self.flows.iter().any(is_next) {
            return unauthorized("Another stage comes before this one");
        }
        match stage {
            AuthType::Dummy => Ok(Ok(None)),
            AuthType::Password => self.check_password(cx, auth).await,
            AuthType::RegistrationToken => {
                let token = auth.token.as_deref().unwrap_or_default();
                check_registration_token(cx, token).await
            }
            AuthType::EmailIdentity => self.check_email(cx, auth).await,
            AuthType::ReCaptcha => check_captcha(cx, auth.response.as_deref()).await,
            AuthType::Terms => Ok(Ok(cx.config().terms.as_ref().map(|terms| terms.version.clone()))),
            _ => unauthorized("This stage cannot be completed here"),
        }
    }

    /// The address must have been proven for this very operation.
    async fn check_email(&self, cx: &Context, auth: &Auth) -> Result<Result<Option<String>, Wrong>, Failure> {
        let purpose = if self.name == RESET_PASSWORD { Purpose::ResetPassword } else { Purpose::Register };
        let credentials = auth.threepid_creds.as_ref().or(auth.former_threepid_creds.as_ref());
        let credentials = credentials.ok_or_else(|| Refusal::MissingParam("`threepid_creds` is missing".to_owned()))?;
        Ok(match validation::proven(cx, purpose, credentials).await? {
            Some(proven) => Ok(Some(proven.sid)),
            // Clients ask until it is, and show any other error.
            None => Err(Wrong(ErrorKind::Unauthorized, NOT_CONFIRMED)),
        })
    }

    /// The password must be of who asks.
    async fn check_password(&self, cx: &Context, auth: &Auth) -> Result<Result<Option<String>, Wrong>, Failure> {
        let wrong = Ok(Err(Wrong(ErrorKind::Forbidden, "Invalid username or password")));
        let (Some(user_id), Some(password)) = (self.user_id, &auth.password) else { return wrong };
        match auth.user.user_id(cx).await {
            // Spec: «In the case that the homeserver does not know about the supplied 3PID, the homeserver must respond
            // with 403 Forbidden.» Where there is no mail, it knows none; and nowhere a telephone.
            Ok(named) if credentials::is_nobody(&named) => return Err(credentials::wrong().into()),
            Err(Failure::Refused(Refusal::Forbidden(_))) if auth.user.is_third_party() => {
                return Err(credentials::wrong().into());
            }
            Ok(named) if named.as_str().eq_ignore_ascii_case(user_id.as_str()) => {}
            Ok(_) | Err(Failure::Refused(Refusal::Forbidden(_))) => return wrong,
            Err(failure) => return Err(failure),
        }
        let counted = auth.user.counted(user_id);
        match credentials::check_password(cx, user_id.to_owned(), &counted, password.clone()).await {
            Ok((_, hash)) => Ok(Ok(Some(hash))),
            Err(Failure::Refused(Refusal::Forbidden(_))) => wrong,
            Err(failure) => Err(failure),
        }
    }

    fn suffices(&self, completed: &[CompletedStage]) -> bool {
        self.flows.iter().any(|flow| flow.iter().all(|stage| is_done(completed, stage)))
    }

    fn challenge(&self, cx: &Context, session: &str, completed: &[CompletedStage], wrong: Option<Wrong>) -> Failure {
        let mut challenge = UiaaInfo::new(self.flows.iter().map(|flow| AuthFlow::new(flow.to_vec())).collect());
        challenge.session = Some(session.to_owned());
        challenge.completed = completed.iter().map(|done| AuthType::from(&*done.stage)).collect();
        let terms =
            cx.config().terms.as_ref().filter(|_| self.flows.iter().any(|flow| flow.contains(&AuthType::Terms)));
        // Some clients need the object, even an empty one.
        let mut params = Map::new();
        if let Some(terms) = terms {
            let policy = json!({ "version": terms.version, "en": { "name": terms.name, "url": terms.url } });
            params.insert("m.login.terms".to_owned(), json!({ "policies": { "terms_of_service": policy } }));
        }
        let has_captcha = self.flows.iter().any(|flow| flow.contains(&AuthType::ReCaptcha));
        if let Some(recaptcha) = cx.config().recaptcha.as_ref().filter(|_| has_captcha) {
            params.insert("m.login.recaptcha".to_owned(), json!({ "public_key": recaptcha.public_key }));
        }
        challenge.params = to_raw_value(&params).ok();
        challenge.auth_error =
            wrong.map(|Wrong(kind, message)| Box::new(StandardErrorBody::new(kind, message.to_owned())));
        Failure::Challenge(Box::new(challenge))
    }
}

fn is_done(completed: &[CompletedStage], stage: &AuthType) -> bool {
    completed.iter().any(|done| done.stage == stage.as_str())
}

async fn check_registration_token(cx: &Context, token: &str) -> Result<Result<Option<String>, Wrong>, Failure> {
    let is_valid = registration_token::is_valid(cx.metadata(), token, cx.now_ms()).await?;
    let wrong = Wrong(ErrorKind::Unauthorized, "This registration token is not valid");
    Ok(if is_valid { Ok(Some(token.to_owned())) } else { Err(wrong) })
}

async fn check_captcha(cx: &Context, response: Option<&str>) -> Result<Result<Option<String>, Wrong>, Failure> {
    let (Some(recaptcha), Some(response)) = (&cx.config().recaptcha, response) else {
        return Ok(Err(Wrong(ErrorKind::CaptchaNeeded, "A captcha has to be solved")));
    };
    let is_solved = recaptcha::is_solved(cx, recaptcha, response).await?;
    Ok(if is_solved { Ok(None) } else { Err(Wrong(ErrorKind::CaptchaInvalid, "The captcha is not solved")) })
}

/// What a session is good for. Those of a server with terms know which version they showed.
fn purpose(cx: &Context, name: &str, user_id: Option<&UserId>) -> String {
    let user_id = user_id.map_or("", UserId::as_str);
    let terms = cx.config().terms.as_ref().map_or("", |terms| &*terms.version);
    format!("{name} {user_id} {terms}")
}

/// What a page of a stage sends.
#[derive(Default, Deserialize)]
pub(crate) struct Form {
    token: Option<String>,
    #[serde(rename = "g-recaptcha-response")]
    captcha: Option<String>,
}

/// Completes a stage of a session that makes an account, in a browser and without knowing the request.
/// Answers what was wrong, if anything was.
pub(crate) async fn complete_elsewhere(
    cx: &Context,
    session: &str,
    stage: &AuthType,
    Form { token, captcha }: Form,
) -> Result<Option<&'static str>, Failure> {
    let Some(expires_ms) = sealed::open(cx, &purpose(cx, REGISTER, None), session)? else {
        return Ok(Some("This session has expired"));
    };
    let proof = match stage {
        AuthType::Terms => cx.config().terms.as_ref().map(|terms| terms.version.clone()),
        AuthType::RegistrationToken => {
            match check_registration_token(cx, token.as_deref().unwrap_or_default()).await? {
                Ok(token) => token,
                Err(Wrong(_, wrong)) => return Ok(Some(wrong)),
            }
        }
        AuthType::ReCaptcha => match check_captcha(cx, captcha.as_deref()).await? {
            Ok(proof) => proof,
            Err(Wrong(_, wrong)) => return Ok(Some(wrong)),
        },
        AuthType::Dummy => None,
        _ => return Ok(Some("This stage cannot be completed here")),
    };
    let done = CompletedStage { stage: stage.to_string(), proof, request: auth_stage::ANY_REQUEST.to_owned() };
    auth_stage::insert(cx.metadata(), session, &done, expires_ms, cx.now_ms()).await?;
    Ok(None)
}

/// Whether a session is one of those that [`complete_elsewhere`] takes.
pub(crate) fn is_session(cx: &Context, session: &str) -> Result<bool, Failure> {
    Ok(sealed::open(cx, &purpose(cx, REGISTER, None), session)?.is_some())
}

#[cfg(test)]
mod tests {
    use ruma_client_api::uiaa::{AuthType, UiaaInfo};
    use ruma_common::user_id;
    use serde_json::{Value, json};

    use super::{Auth, Operation, PASSWORD, digest};
    use crate::{
        Context, Failure,
        metadata::{auth_stage, registration_token},
        testing::{TestServer, block_on},
    };

    const DUMMY: &[&[AuthType]] = &[&[AuthType::Dummy]];
    const BOTH: &[&[AuthType]] = &[&[AuthType::RegistrationToken, AuthType::Dummy]];

    fn operation(flows: &'static [&'static [AuthType]], request: &str) -> Operation<'static> {
        Operation { name: "test", user_id: None, flows, request: digest(&request).unwrap() }
    }

    fn auth(auth: Value) -> Option<Auth> {
        Some(serde_json::from_value(auth).unwrap())
    }

    fn dummy(session: Option<&str>) -> Option<Auth> {
        auth(json!({ "type": "m.login.dummy", "session": session }))
    }

    fn token(token: &str, session: &str) -> Option<Auth> {
        auth(json!({ "type": "m.login.registration_token", "token": token, "session": session }))
    }

    async fn challenged(cx: &Context, operation: &Operation<'_>, auth: Option<Auth>) -> UiaaInfo {
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
    fn a_flow_allows_one_thing() {
        let server = TestServer::new(&[]);
        let (cx, operation) = (server.context(), operation(BOTH, "a"));
        block_on(async {
            registration_token::insert(cx.metadata(), "sesame", None, None).await.unwrap();
            let session = challenged(&cx, &operation, None).await.session.unwrap();
            challenged(&cx, &operation, token("sesame", &session)).await;
            let remembered = auth_stage::of_session(cx.metadata(), &session).await.unwrap();
            let done = operation.authenticate(&cx, dummy(Some(&session)).as_ref()).await.unwrap();
            let again = challenged(&cx, &operation, dummy(Some(&session))).await;
            assert_eq!(again.completed, [], "it is used up");
            // Another request with the session read what it had completed before that.
            let late = operation.use_up(&cx, &session, &remembered).await;
            assert!(
                matches!(&late, Err(Failure::Challenge(fresh)) if fresh.session.as_ref() != Some(&session)),
                "{late:?}"
            );
            // It came to nothing.
            done.give_back(&cx).await.unwrap();
            assert_eq!(auth_stage::of_session(cx.metadata(), &session).await.unwrap(), remembered);
            operation.authenticate(&cx, dummy(Some(&session)).as_ref()).await.unwrap();
            challenged(&cx, &operation, dummy(Some(&session))).await;
        });
    }

    #[test]
    fn a_stage_that_is_not_offered_does_not_count() {
        let server = TestServer::new(&[]);
        let (cx, operation) = (server.context(), operation(&[&[AuthType::RegistrationToken]], "a"));
        block_on(async {
            let challenge = challenged(&cx, &operation, dummy(None)).await;
            assert_eq!(challenge.auth_error.unwrap().message, "This stage is not offered here");
            let acknowledged = auth(json!({ "session": challenge.session.unwrap() }));
            assert_eq!(challenged(&cx, &operation, acknowledged).await.completed, []);
        });
    }

    #[test]
    fn stages_come_in_their_order() {
        let server = TestServer::new(&[]);
        let (cx, operation) = (server.context(), operation(BOTH, "a"));
        block_on(async {
            let session = challenged(&cx, &operation, None).await.session.unwrap();
            let early = challenged(&cx, &operation, dummy(Some(&session))).await;
            assert_eq!(early.auth_error.unwrap().message, "Another stage comes before this one");
            assert_eq!(early.completed, []);
        });
    }

    #[test]
    fn only_who_asks_can_say_who_they_are() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        server.register("alice");
        server.register("bob");
        let cx = server.context();
        let of = |user_id| Operation { user_id: Some(user_id), ..operation(PASSWORD, "a") };
        let (alice, bob) = (of(user_id!("@alice:localhost")), of(user_id!("@bob:localhost")));
        let password = |user: Value, password: &str, session: Option<&str>| {
            auth(json!({ "type": "m.login.password", "identifier": user, "password": password, "session": session }))
        };
        let id = |user: &str| json!({ "type": "m.id.user", "user": user });
        block_on(async {
            for (user, word) in [("alice", "wrong"), ("bob", "secret"), ("nobody", "secret"), ("@alice:b", "secret")] {
                let again = challenged(&cx, &alice, password(id(user), word, None)).await;
                assert_eq!(again.auth_error.unwrap().message, "Invalid username or password", "{user}");
            }
            let legacy = auth(json!({ "type": "m.login.password", "user": "@alice:localhost", "password": "secret" }));
            for good in
                [password(id("@alice:localhost"), "secret", None), password(id("Alice"), "secret", None), legacy]
            {
                assert!(alice.authenticate(&cx, good.as_ref()).await.unwrap().password_hash.is_some());
            }
            let nobody = alice.authenticate(&cx, password(Value::Null, "secret", None).as_ref()).await;
            assert!(matches!(nobody, Err(Failure::Refused(domain::Refusal::BadJson(_)))), "{nobody:?}");
            // A session is of one user, too.
            let session = challenged(&cx, &alice, None).await.session;
            let again = challenged(&cx, &bob, password(id("bob"), "secret", session.as_deref())).await;
            assert_ne!(again.session, session);
        });
    }
}
