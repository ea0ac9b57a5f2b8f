//! What other servers ask about our users and aliases, and what we ask about theirs. Spec: "Querying for information".

use actors::user::GetProfile;
use domain::Refusal;
use ruma_common::{UserId, profile::ProfileFieldName};
use ruma_federation_api::query::get_profile_information::v1 as profile;
use serde_json::{Map, Value};

use super::{AskError, Bounds, Origin};
use crate::{Context, Failure, OrAbsent, Routes};

/// A person waits for the answer, in milliseconds.
const TIMEOUT_MS: u64 = 10_000;
/// The largest profile that is shown, in bytes. Spec: "Profiles", at most 64 KiB, and what JSON adds.
const PROFILE_BYTES_MAX: usize = 128 * 1024;

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(profile);
}

async fn profile(cx: &Context, _: Origin, request: profile::Request) -> Result<Vec<u8>, Failure> {
    if !cx.is_local(&request.user_id) {
        return Err(Refusal::InvalidParam("This user is of another server".to_owned()).into());
    }
    let mut fields = cx.user(&request.user_id).call(&GetProfile {}).await.or_absent(unknown_user())?;
    if let Some(field) = &request.field {
        fields.retain(|name, _| name == field.as_str());
    }
    Ok(serde_json::to_vec(&fields)?)
}

fn unknown_user() -> Refusal {
    Refusal::NotFound("There is no such user".to_owned())
}

impl Context {
    /// The profile of another server's user, or one field of it.
    ///
    /// # Errors
    /// `M_NOT_FOUND` where that server knows of none, or does not answer.
    pub(crate) async fn profile_elsewhere(
        &self,
        user_id: &UserId,
        field: Option<ProfileFieldName>,
    ) -> Result<Map<String, Value>, Failure> {
        let mut request = profile::Request::new(user_id.to_owned());
        request.field = field;
        let bounds = Bounds { response_bytes_max: PROFILE_BYTES_MAX, timeout_ms: TIMEOUT_MS };
        match self.ask_within(user_id.server_name(), request, bounds).await {
            Ok(response) => Ok(response.into_iter().collect()),
            Err(error) => Err(not_told(&error, unknown_user)),
        }
    }
}

/// What a client learns of another server's refusal.
fn not_told(error: &AskError, unknown: impl Fn() -> Refusal) -> Failure {
    match error {
        AskError::Refused { status, .. } if status.as_u16() == 404 => unknown().into(),
        AskError::Denied => Refusal::Forbidden("This server does not talk to that one".to_owned()).into(),
        AskError::Refused { .. } | AskError::Unreachable(_) | AskError::Nonsense(_) => {
            tracing::debug!(%error, "another server did not say");
            Refusal::NotFound("The other server does not say".to_owned()).into()
        }
    }
}
