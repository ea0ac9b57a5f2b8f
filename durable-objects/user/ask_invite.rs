use domain::Refusal;
use platform::{ActorKind, Sql};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    User, profile,
    shown_room::INVITATIONS_MAX,
    store::{self, account_data::GLOBAL},
};
use crate::{Call, Cx, Error, room::MemberProfile};

/// Whether the user may be invited, and what their profile says of them.
///
/// Refused: `InviteBlocked`; `Forbidden` for whose account is deactivated, or who has too many invitations already.
/// Spec: "Invite permission".
#[derive(Debug, Serialize, Deserialize)]
pub struct AskInvite {}

impl Call for AskInvite {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "ask_invite";
    type Reply = MemberProfile;
}

impl User {
    pub(super) fn ask_invite(&self, sql: &dyn Sql, _cx: &Cx<'_>, _call: AskInvite) -> Result<MemberProfile, Error> {
        if store::account::get(sql)?.deactivated {
            return Err(Refusal::Forbidden("This user is not here any more".to_owned()).into());
        }
        if blocks_invites(sql)? {
            return Err(Refusal::InviteBlocked.into());
        }
        if store::rooms::count(sql, "invite", INVITATIONS_MAX)? >= INVITATIONS_MAX {
            let sentence = "This user has more invitations than anybody answers: they have to decline some first";
            return Err(Refusal::Forbidden(sentence.to_owned()).into());
        }
        Ok(profile::shown_in_rooms(&store::profile::get(sql)?))
    }
}

/// Whether the user wants no invitations, made before or not. Their clients say so: what cannot be read says nothing.
pub(super) fn blocks_invites(sql: &dyn Sql) -> Result<bool, Error> {
    let Some(content) = store::account_data::get(sql, GLOBAL, "m.invite_permission_config")? else { return Ok(false) };
    let content: Map<String, Value> = serde_json::from_str(&content).unwrap_or_default();
    Ok(content.get("default_action").and_then(Value::as_str) == Some("block"))
}
