//! Who an application service is, and whom it acts as. Spec: Application Service API, "Identity assertion".

use actors::user::Acting;
use bytes::Bytes;
use domain::{Appservice, Refusal};
use http::Request;
use ruma_common::{OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use crate::{
    Bearer, Context, Failure, Who,
    authenticate::token,
    body::ANONYMOUS_BODY_BYTES_MAX,
    client::register::{Account, create},
    router::query,
};

/// The application service behind a request of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActsFor {
    /// The id of its registration.
    pub appservice: String,
    /// Whether rate limits do not hold for it. Spec: «Whether requests from masqueraded users are rate-limited. The
    /// sender is excluded.»
    pub is_exempt: bool,
}

/// The application service whose token this is.
pub(crate) fn of_token<'a>(cx: &'a Context, token: &str) -> Option<&'a Appservice> {
    // All of them, however early one is found: how long that takes tells nothing.
    let mut found = None;
    for appservice in &cx.config().appservices {
        if appservice.as_token.expose().as_bytes().ct_eq(token.as_bytes()).into() {
            found = Some(appservice);
        }
    }
    found
}

/// Whom it wants to act as.
#[derive(Deserialize)]
struct As {
    user_id: Option<String>,
    device_id: Option<OwnedDeviceId>,
    /// What bridges say that were written before that was specified.
    #[serde(rename = "org.matrix.msc3202.device_id")]
    msc3202_device_id: Option<OwnedDeviceId>,
}

/// The user that an application service acts as with this request.
///
/// # Errors
/// `M_FORBIDDEN` for a user that is not one of its own.
pub(crate) fn acts_as(appservice: &Appservice, request: &Request<Bytes>) -> Result<Bearer, Failure> {
    let As { user_id, device_id, msc3202_device_id } = query(request)?;
    let not_its_own = || Refusal::Forbidden("This user is not one of the application service's".to_owned());
    let user_id = match user_id {
        Some(user_id) => OwnedUserId::try_from(user_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?,
        None => appservice.sender.clone(),
    };
    if !appservice.has_user(&user_id) {
        return Err(not_its_own().into());
    }
    let device_id = device_id.or(msc3202_device_id);
    let acting = Acting { appservice: appservice.id.clone(), device_id };
    let is_exempt = !appservice.rate_limited || appservice.sender == user_id;
    Ok(Bearer {
        token_hash: acting.token_hash()?,
        is_guest: false,
        acts_for: Some(ActsFor { appservice: acting.appservice, is_exempt }),
        user_id,
    })
}

impl ActsFor {
    /// Makes the user that an application service is itself, if that is who acts: nobody else can register it. Another
    /// one it has to register.
    ///
    /// # Errors
    /// `M_FORBIDDEN` for another one.
    pub(crate) async fn found(&self, cx: &Context, user_id: &UserId) -> Result<(), Failure> {
        let is_sender = cx.config().appservice(&self.appservice).is_some_and(|appservice| appservice.sender == user_id);
        if !is_sender {
            let sentence = "The application service has not registered this user";
            return Err(Refusal::Forbidden(sentence.to_owned()).into());
        }
        let account = Account {
            user_id: user_id.to_owned(),
            password_hash: None,
            admin: false,
            guest: false,
            display_name: None,
        };
        match create(cx, &account, None).await {
            // Another request of it came first.
            Err(Failure::Refused(Refusal::UserInUse)) => Ok(()),
            outcome => outcome,
        }
    }
}

/// An application service as such, whomever it acts as.
pub struct OfAppservice {
    /// The id of its registration.
    pub id: String,
}

impl Who for OfAppservice {
    /// Refuses with `M_FORBIDDEN` whoever is a user.
    async fn of(cx: &Context, request: &Request<Bytes>) -> Result<Self, Failure> {
        let token = token(request).ok_or(Refusal::MissingToken)?;
        match of_token(cx, &token) {
            Some(appservice) => Ok(Self { id: appservice.id.clone() }),
            None => {
                Bearer::of_token(cx, &token)?.verify(cx).await?;
                Err(no_appservices().into())
            }
        }
    }
}

/// A token of somebody else is used for what is for application services.
pub(crate) fn no_appservices() -> Refusal {
    Refusal::Forbidden("This token is not an application service's".to_owned())
}

/// Who registers or logs in: an application service, which shows its token, or somebody who need not be anybody yet.
pub(crate) struct Perhaps {
    acts_for: Option<ActsFor>,
    showed_token: bool,
}

impl Perhaps {
    /// The application service, for what is for one only.
    ///
    /// # Errors
    /// `M_MISSING_TOKEN`; `M_UNKNOWN_TOKEN` for a token of anybody else.
    pub(crate) fn appservice<'a>(&self, cx: &'a Context) -> Result<&'a Appservice, Refusal> {
        match self.acts_for.as_ref().and_then(|acts_for| cx.config().appservice(&acts_for.appservice)) {
            Some(appservice) => Ok(appservice),
            None if self.showed_token => Err(Refusal::UnknownToken { soft_logout: false }),
            None => Err(Refusal::MissingToken),
        }
    }
}

impl Who for Perhaps {
    async fn of(cx: &Context, request: &Request<Bytes>) -> Result<Self, Failure> {
        let token = token(request);
        let appservice = token.as_deref().and_then(|token| of_token(cx, token));
        // It makes as many users as it has people to stand for.
        let acts_for = appservice.map(|found| ActsFor { appservice: found.id.clone(), is_exempt: true });
        Ok(Self { acts_for, showed_token: token.is_some() })
    }

    fn acts_for(&self) -> Option<&ActsFor> {
        self.acts_for.as_ref()
    }

    fn body_bytes_max(&self) -> usize {
        ANONYMOUS_BODY_BYTES_MAX
    }
}

/// Refuses a user that is not one of the application service's own, or that another one keeps for itself.
///
/// # Errors
/// `M_EXCLUSIVE`.
pub(crate) fn must_have_user(cx: &Context, appservice: &Appservice, user_id: &UserId) -> Result<(), Refusal> {
    if appservice.has_user(user_id) && !cx.config().keeps_user(user_id, Some(&appservice.id)) {
        return Ok(());
    }
    Err(Refusal::Exclusive("This user is not one of the application service's".to_owned()))
}
