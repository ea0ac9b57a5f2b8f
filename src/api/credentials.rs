//! Who somebody says they are, and whether their password bears it out: for logging in, and for user-interactive
//! authentication. Spec: "Identifier types".

use actors::user::PasswordHash;
use domain::{RateLimited, Refusal, contact::Email};
use ruma_common::{OwnedUserId, UserId};
use serde::Deserialize;

use crate::{Context, Failure, metadata::contact, password};

/// A user as clients name one.
#[derive(Default, Deserialize)]
pub(crate) struct NamedUser {
    identifier: Option<Identifier>,
    /// What the identifier was before r0.4.0; old clients still send it.
    user: Option<String>,
    /// What a third-party identifier was before r0.4.0.
    medium: Option<String>,
    address: Option<String>,
}

#[derive(Deserialize)]
struct Identifier {
    #[serde(rename = "type")]
    kind: Option<String>,
    user: Option<String>,
    /// Of a third-party identifier, for which the specification once leaves the type out.
    medium: Option<String>,
    address: Option<String>,
}

impl NamedUser {
    /// The user meant: a full id or a localpart, in the identifier or in its deprecated predecessor, or whose an email
    /// address is.
    ///
    /// # Errors
    /// `M_FORBIDDEN`, as for a wrong password, for whom we cannot know; `M_UNKNOWN` for a kind of identifier that is
    /// not supported, `M_BAD_JSON` for none, `M_INVALID_PARAM` for a name that is none.
    pub(crate) async fn user_id(&self, cx: &Context) -> Result<OwnedUserId, Failure> {
        if let Some(email) = self.email()
            && cx.config().mail.is_some()
        {
            return of_email(cx, email).await;
        }
        Ok(self.named(cx)?)
    }

    /// What limits count for the user meant. An address by itself: or it would tell whose it is.
    pub(crate) fn counted(&self, user_id: &UserId) -> String {
        self.email().map_or_else(|| counted(user_id), str::to_ascii_lowercase)
    }

    /// Whether a third-party identifier is meant, of any medium.
    pub(crate) fn is_third_party(&self) -> bool {
        match &self.identifier {
            Some(identifier) => identifier.is_third_party(),
            None => self.address.is_some(),
        }
    }

    /// The email address that is meant.
    fn email(&self) -> Option<&str> {
        let (medium, address) = match &self.identifier {
            Some(identifier) if matches!(identifier.kind.as_deref(), Some("m.id.thirdparty") | None) => {
                (&identifier.medium, &identifier.address)
            }
            Some(_) => return None,
            None => (&self.medium, &self.address),
        };
        address.as_deref().filter(|_| medium.as_deref() == Some("email"))
    }

    fn named(&self, cx: &Context) -> Result<OwnedUserId, Refusal> {
        let user = match &self.identifier {
            Some(identifier) => identifier.user()?,
            None if self.address.is_some() => return Err(wrong()),
            None => self.user.as_deref().ok_or_else(|| Refusal::BadJson("There is no identifier".to_owned()))?,
        };
        let user_id = UserId::parse_with_server_name(user, cx.server_name())
            .map_err(|error| Refusal::InvalidParam(error.to_string()))?;
        if cx.is_local(&user_id) { Ok(user_id) } else { Err(wrong()) }
    }
}

impl Identifier {
    fn is_third_party(&self) -> bool {
        match self.kind.as_deref() {
            Some(kind) => ["m.id.thirdparty", "m.id.phone"].contains(&kind),
            None => self.address.is_some(),
        }
    }

    fn user(&self) -> Result<&str, Refusal> {
        // Nobody here has a telephone, and an address only where mail is sent.
        if self.is_third_party() {
            return Err(wrong());
        }
        match (self.kind.as_deref(), &self.user) {
            (Some("m.id.user"), Some(user)) => Ok(user),
            (Some("m.id.user"), None) => Err(Refusal::BadJson("The identifier has no user".to_owned())),
            (Some(_), _) => Err(Refusal::Unknown("This identifier is not supported".to_owned())),
            (None, _) => Err(Refusal::BadJson("The identifier has no type".to_owned())),
        }
    }
}

/// Whose an email address is. Of nobody's it is a user who cannot be: what follows takes as long as it does for others.
async fn of_email(cx: &Context, address: &str) -> Result<OwnedUserId, Failure> {
    let email = Email::parse(address).map_err(|_| wrong())?;
    if let Some(owner) = contact::owner(cx.metadata(), &email).await? {
        return Ok(owner);
    }
    // No user is registered with an exclamation mark.
    let nobody = UserId::parse(format!("@!{}:{}", email.as_str().replace('@', "!"), cx.server_name()));
    Ok(nobody.map_err(|_| wrong())?)
}

/// Whether this stands for an address that is nobody's.
pub(crate) fn is_nobody(user_id: &UserId) -> bool {
    user_id.localpart().starts_with('!')
}

/// The user whose password this is, and the hash it was checked against. What fails is counted for the name that was
/// tried, `counted`, whether or not there is such a user.
///
/// # Errors
/// `M_FORBIDDEN`, `M_LIMIT_EXCEEDED`.
pub(crate) async fn check_password(
    cx: &Context,
    user_id: OwnedUserId,
    counted: &str,
    password: String,
) -> Result<(OwnedUserId, String), Failure> {
    // Counted as failed before it is tried, so that many at once are no way around the limit.
    let attempt = cx.limit(RateLimited::LoginFailedAttempts, counted)?;
    let found = match stored(cx, &user_id).await {
        // Registration makes small letters of capitals; ids from before may have them.
        Err(Failure::Absent) => {
            let lowercase = UserId::parse(user_id.as_str().to_ascii_lowercase());
            match lowercase.ok().filter(|lowercase| *lowercase != user_id && cx.is_local(lowercase)) {
                Some(lowercase) => stored(cx, &lowercase).await.map(|hash| (lowercase, hash)),
                None => Err(Failure::Absent),
            }
        }
        found => found.map(|hash| (user_id, hash)),
    };
    let (user_id, hash) = match found {
        Ok((user_id, hash)) => (Some(user_id), hash),
        Err(Failure::Absent) => (None, None),
        Err(failure) => return Err(failure),
    };
    match (password::verify(cx, password, hash.clone()).await?, user_id, hash) {
        (true, Some(user_id), Some(hash)) => {
            attempt.give_back();
            Ok((user_id, hash))
        }
        _ => Err(wrong().into()),
    }
}

/// The name under which limits count a user: a login takes capitals for small letters.
pub(crate) fn counted(user_id: &UserId) -> String {
    user_id.as_str().to_ascii_lowercase()
}

async fn stored(cx: &Context, user_id: &UserId) -> Result<Option<String>, Failure> {
    Ok(cx.user(user_id).call(&PasswordHash {}).await?.password_hash)
}

/// One answer for whatever is wrong: it does not tell who exists.
pub(crate) fn wrong() -> Refusal {
    Refusal::Forbidden("Invalid username or password".to_owned())
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use serde_json::json;

    use crate::testing::{TestServer, refused};

    /// Spec: «the homeserver must respond with 403 Forbidden» for a 3PID that it does not know; here it knows none.
    #[test]
    fn an_unknown_address_is_forbidden_and_an_unknown_user_is_asked_again() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let deletes = |user: serde_json::Value| {
            let mut auth = json!({ "type": "m.login.password", "password": "secret" });
            auth.as_object_mut().unwrap().extend(user.as_object().cloned().unwrap());
            server.request(Method::DELETE, "/_matrix/client/v3/devices/OTHER", &alice, &json!({ "auth": auth }))
        };
        for user in [
            json!({ "identifier": { "type": "m.id.thirdparty", "medium": "email", "address": "a@b.c" } }),
            json!({ "identifier": { "type": "m.id.thirdparty", "medium": "msisdn", "address": "447700900000" } }),
            json!({ "identifier": { "type": "m.id.phone", "country": "GB", "phone": "07700900000" } }),
            json!({ "medium": "email", "address": "a@b.c" }),
        ] {
            assert_eq!(refused(deletes(user.clone())), (403, "M_FORBIDDEN".to_owned()), "{user}");
            let mut login = user.clone();
            login["type"] = "m.login.password".into();
            login["password"] = "secret".into();
            let login = server.post("/_matrix/client/v3/login", "", &login);
            assert_eq!(refused(login), (403, "M_FORBIDDEN".to_owned()), "{user}");
        }
        let (status, challenge) = deletes(json!({ "identifier": { "type": "m.id.user", "user": "bob" } }));
        assert_eq!((status, challenge["flows"].is_array()), (StatusCode::UNAUTHORIZED, true), "{challenge}");
        let known = deletes(json!({ "identifier": { "type": "m.id.user", "user": "alice" } }));
        assert_eq!(known.0, StatusCode::OK, "{}", known.1);
    }
}
