use domain::alias;
use platform::{ActorKind, Tx};
use ruma_common::{OwnedEventId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Room, access::canonical_alias, append::check_joined, send_event::already_made_by, store, transactions};
use crate::{Call, Cx, Error};

/// Sets the canonical alias and its alternatives. Where aliases point, metadata knows, which no actor can ask: the tier
/// says which of those in `content` it did not find to point here.
///
/// Refused: `Forbidden` by the room's rules; `BadAlias` for an alias that does not point to the room, `InvalidParam`
/// for one that is none, unless it is listed already.
/// Spec: `PUT /rooms/{roomId}/state/{eventType}/{stateKey}`, "m.room.canonical_alias".
#[derive(Debug, Serialize, Deserialize)]
pub struct SetCanonicalAlias {
    pub call_id: String,
    pub sender: OwnedUserId,
    /// A JSON object.
    pub content: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unproven: Vec<String>,
    /// As in [`super::SendEvent`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
}

impl Call for SetCanonicalAlias {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "set_canonical_alias";
    type Reply = OwnedEventId;
}

impl Room {
    pub(super) fn set_canonical_alias(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        call: SetCanonicalAlias,
    ) -> Result<OwnedEventId, Error> {
        let txn = transactions::of_call(&call.call_id);
        if let Some(event_id) = self.made_by(&**tx, cx, &txn)? {
            return Ok(event_id);
        }
        check_joined(&**tx, &call.sender)?;
        // Whoever may not do it learns nothing of what the room lists.
        let draft = canonical_alias(&call.sender, call.content);
        let pdu = self.authorised_for(&**tx, cx, &draft, &[], call.at_ms.unwrap_or(cx.now_ms))?;
        if let Some(event_id) = already_made_by(&**tx, &pdu)? {
            return Ok(event_id);
        }
        let pdu = self.signed(&**tx, cx, pdu)?;
        let current = store::state::current(&**tx, "m.room.canonical_alias", "")?;
        alias::check_canonical(&call.unproven, current.as_ref().map(|event| event.pdu.content()))?;
        self.insert(tx, cx, &pdu, Some(&txn))?;
        Ok(pdu.event_id().to_owned())
    }
}
