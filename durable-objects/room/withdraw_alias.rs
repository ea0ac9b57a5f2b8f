use domain::{Refusal, alias};
use platform::{ActorKind, Tx};
use ruma_common::{OwnedRoomAliasId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;

use super::{Room, SetAlias, access::canonical_alias, store, transactions};
use crate::{Call, Cx, Error};

/// An alias of the room is about to be deleted: may the user do that? If so, the room no longer lists it, unless the
/// user has not the power to change that: the alias may be deleted all the same. Repeated, it changes nothing.
///
/// Refused: `Forbidden` for whoever neither made the alias nor could set the canonical one.
/// Spec: `DELETE /directory/room/{roomAlias}`.
#[derive(Debug, Serialize, Deserialize)]
pub struct WithdrawAlias {
    pub call_id: String,
    pub user: OwnedUserId,
    pub alias: OwnedRoomAliasId,
    /// Whether the user made the alias, or is a server administrator.
    pub entitled: bool,
}

impl Call for WithdrawAlias {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "withdraw_alias";
    type Reply = ();
}

impl Room {
    pub(super) fn withdraw_alias(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: WithdrawAlias) -> Result<(), Error> {
        if !call.entitled && !self.may_set_alias(&**tx, cx, &call.user)? {
            let sentence = "An alias is deleted by who made it, or who may set the room's canonical alias";
            return Err(Refusal::Forbidden(sentence.to_owned()).into());
        }
        self.set_alias(tx, cx, SetAlias { alias: call.alias.clone(), points_here: false })?;
        let current = store::state::current(&**tx, "m.room.canonical_alias", "")?;
        let Some(content) = current.and_then(|event| alias::without(event.pdu.content(), &call.alias)) else {
            return Ok(());
        };
        match self.authorised(&**tx, cx, &canonical_alias(&call.user, to_raw_value(&content)?)) {
            Ok(pdu) => self.insert(tx, cx, &self.signed(&**tx, cx, pdu)?, Some(&transactions::of_call(&call.call_id))),
            // «delete the alias and return a successful response even if the user does not have permission»
            Err(Error::Refused(_)) => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}
