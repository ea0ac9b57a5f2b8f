//! Asking an identity server, which a client names and has a token for, who is behind an address.
//!
//! It may be anybody's: it is reached as other servers are, never at a private address, and gets nothing but the
//! client's own token for it. Spec: Identity Service API, "Association lookup", "Invitation storage".

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use domain::{
    Refusal,
    contact::{Email, check_secret},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use platform::{OutgoingRequest, Peer, Scheme};
use ruma_client_api::membership::Invite3pid;
use ruma_common::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{Context, Failure, federation::USER_AGENT};

/// The largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long one answer may take, in milliseconds: a person waits.
const TIMEOUT_MS: u64 = 10_000;
/// The most keys with which an invitation may be signed.
const KEYS_MAX: usize = 10;
/// The longest address that is no email address, in digits. E.164.
const DIGITS_MAX: usize = 15;

/// Whom a client wants to invite without knowing their user id. Spec: `Invite3pid`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ThirdParty {
    id_server: String,
    id_access_token: String,
    medium: String,
    address: String,
}

/// An identity server, and whom it is asked about.
pub(crate) struct Asked<'a> {
    cx: &'a Context,
    server: OwnedServerName,
    token: HeaderValue,
    medium: &'a str,
    address: String,
}

/// What came of an invitation that it keeps.
#[derive(Debug, Deserialize)]
pub(crate) struct Kept {
    pub token: String,
    pub public_keys: Vec<PublicKey>,
    pub display_name: String,
}

/// A key with which it signs that the invitation is somebody's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PublicKey {
    pub public_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_validity_url: Option<String>,
}

impl From<Invite3pid> for ThirdParty {
    fn from(wanted: Invite3pid) -> Self {
        let Invite3pid { id_server, id_access_token, medium, address, .. } = wanted;
        Self { id_server, id_access_token, medium: medium.to_string(), address }
    }
}

impl ThirdParty {
    /// # Errors
    /// `M_INVALID_PARAM` for what cannot be; `M_FORBIDDEN` for a server that the operator keeps this one from.
    pub(crate) fn at<'a>(&'a self, cx: &'a Context) -> Result<Asked<'a>, Refusal> {
        let server = OwnedServerName::try_from(&*self.id_server)
            .map_err(|_| Refusal::InvalidParam("The `id_server` is no name of a server".to_owned()))?;
        if !cx.config().federation.allows(&server) {
            return Err(Refusal::Forbidden(format!("This server does not talk to {server}")));
        }
        let token = HeaderValue::from_str(&format!("Bearer {}", self.id_access_token))
            .map_err(|_| Refusal::InvalidParam("The `id_access_token` is none".to_owned()))?;
        let address = match &*self.medium {
            "email" => Email::parse(&self.address)?.as_str().to_owned(),
            "msisdn" if is_number(&self.address) => self.address.clone(),
            "msisdn" => return Err(Refusal::InvalidParam("This is no phone number".to_owned())),
            _ => return Err(Refusal::InvalidParam("There is no such medium".to_owned())),
        };
        Ok(Asked { cx, server, token, medium: &self.medium, address })
    }
}

fn is_number(address: &str) -> bool {
    (1..=DIGITS_MAX).contains(&address.len()) && address.bytes().all(|byte| byte.is_ascii_digit())
}

/// Why there is no answer to work with.
enum Unanswered {
    /// Its error code, and what it says.
    Refused(String, String),
    Failed,
}

impl Asked<'_> {
    /// Who is behind the address, if that is known.
    ///
    /// # Errors
    /// `M_FORBIDDEN` where the identity server refuses; 502 where it does not answer, or not as it should.
    pub(crate) async fn user(&self) -> Result<Option<OwnedUserId>, Failure> {
        let found = match self.look_up().await {
            // It has another pepper since a moment ago.
            Err(Unanswered::Refused(errcode, _)) if errcode == "M_INVALID_PEPPER" => self.look_up().await,
            found => found,
        };
        Ok(found.map_err(|why| self.told(why))?)
    }

    async fn look_up(&self) -> Result<Option<OwnedUserId>, Unanswered> {
        #[derive(Deserialize)]
        struct HashDetails {
            lookup_pepper: String,
            algorithms: Vec<String>,
        }
        #[derive(Deserialize)]
        struct Found {
            mappings: std::collections::HashMap<String, String>,
        }
        let HashDetails { lookup_pepper: pepper, algorithms } = self.ask(Method::GET, "hash_details", None).await?;
        let knows = |algorithm: &str| algorithms.iter().any(|known| known == algorithm);
        let (algorithm, address) = if knows("sha256") {
            ("sha256", hashed(&self.address, self.medium, &pepper))
        } else if knows("none") {
            ("none", format!("{} {}", self.address, self.medium))
        } else {
            return Err(Unanswered::Failed);
        };
        let body = json!({ "algorithm": algorithm, "pepper": pepper, "addresses": [address] });
        let Found { mut mappings } = self.ask(Method::POST, "lookup", Some(&body)).await?;
        let user_id = mappings.remove(&address).map(OwnedUserId::try_from).transpose();
        user_id.map_err(|_| Unanswered::Failed)
    }

    /// Has it keep an invitation for whoever turns out to be behind the address, and write to them. `invitation` says
    /// of the room what there is to say.
    ///
    /// # Errors
    /// As [`Asked::user`].
    pub(crate) async fn keeps(&self, invitation: &impl Serialize) -> Result<Kept, Failure> {
        let mut body = serde_json::to_value(invitation)?;
        if let Some(body) = body.as_object_mut() {
            body.insert("medium".to_owned(), self.medium.into());
            body.insert("address".to_owned(), self.address.clone().into());
        }
        let kept: Kept = self.ask(Method::POST, "store-invite", Some(&body)).await.map_err(|why| self.told(why))?;
        let is_good = check_secret("token", &kept.token).is_ok() && (1..=KEYS_MAX).contains(&kept.public_keys.len());
        if is_good { Ok(kept) } else { Err(self.told(Unanswered::Failed).into()) }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        what: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<T, Unanswered> {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert(header::AUTHORIZATION, self.token.clone());
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let request = OutgoingRequest {
            peer: Peer::at(Scheme::Https, self.server.host(), self.server.port()),
            method,
            path_and_query: format!("/_matrix/identity/v2/{what}"),
            headers,
            body: body.map(|body| Bytes::from(body.to_string())).unwrap_or_default(),
            response_bytes_max: ANSWER_BYTES_MAX,
            timeout_ms: TIMEOUT_MS,
        };
        let outcome = match self.cx.send(request).await {
            Ok(response) => response.whole().await,
            Err(error) => Err(error),
        };
        let (status, _, body) = outcome.map_err(|error| {
            tracing::info!(server = %self.server, %error, "an identity server does not answer");
            Unanswered::Failed
        })?;
        answered(status, &body)
    }

    fn told(&self, why: Unanswered) -> Refusal {
        match why {
            Unanswered::Refused(_, said) => Refusal::Forbidden(format!("{} refuses: {said}", self.server)),
            Unanswered::Failed => Refusal::OtherServer(format!("{} does not answer as it should", self.server)),
        }
    }
}

fn answered<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, Unanswered> {
    #[derive(Deserialize)]
    struct Error {
        errcode: String,
        #[serde(default)]
        error: String,
    }
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|_| Unanswered::Failed);
    }
    match serde_json::from_slice::<Error>(body) {
        Ok(Error { errcode, error }) if status.is_client_error() => {
            let said = format!("{errcode} {error}").trim().chars().take(200).collect();
            Err(Unanswered::Refused(errcode, said))
        }
        _ => Err(Unanswered::Failed),
    }
}

/// Spec: «strings separated by spaces in the format `<address> <medium> <pepper>`», hashed, in URL-safe unpadded
/// Base64.
fn hashed(address: &str, medium: &str, pepper: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{address} {medium} {pepper}")))
}

#[cfg(test)]
mod tests {
    use super::hashed;

    /// Spec: Identity Service API, "sha256".
    #[test]
    fn addresses_are_hashed_as_the_specification_shows() {
        assert_eq!(hashed("alice@example.com", "email", "matrixrocks"), "4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc");
        assert_eq!(hashed("18005552067", "msisdn", "matrixrocks"), "nlo35_T5fzSGZzJApqu8lgIudJvmOQtDaHtr-I4rU7I");
    }
}
