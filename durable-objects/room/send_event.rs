use domain::{Refusal, event::Draft};
use platform::{ActorKind, Tx};
use ruma_common::{OwnedDeviceId, OwnedEventId, OwnedTransactionId, OwnedUserId};
use ruma_events::TimelineEventType;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Room, transactions};
use crate::{Call, Cx, Error};

/// The longest transaction id taken: each is remembered for a while.
const TRANSACTION_ID_BYTES_MAX: usize = 255;

/// Appends a message or state event and answers its id; repeated, answers the same id and appends nothing.
///
/// Refused: `Forbidden` by the room's rules, `BadJson` for content its type does not allow, `TooLarge`.
/// Spec: "Sending events to a room".
#[derive(Debug, Serialize, Deserialize)]
pub struct SendEvent {
    pub sender: OwnedUserId,
    pub device: OwnedDeviceId,
    /// The client's transaction id, or the tier's call id: one of them makes the call repeatable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<OwnedTransactionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    #[serde(rename = "type")]
    pub event_type: TimelineEventType,
    /// A JSON object.
    pub content: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_key: Option<String>,
}

impl Call for SendEvent {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "send_event";
    type Reply = OwnedEventId;
}

impl Room {
    pub(super) fn send_event(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: SendEvent) -> Result<OwnedEventId, Error> {
        let event_type = call.event_type.to_string();
        if call.transaction_id.as_ref().is_some_and(|id| id.as_str().len() > TRANSACTION_ID_BYTES_MAX) {
            let refusal = format!("a transaction id has at most {TRANSACTION_ID_BYTES_MAX} bytes");
            return Err(Refusal::InvalidParam(refusal).into());
        }
        let txn = match (&call.transaction_id, &call.call_id) {
            (Some(id), _) => Some(transactions::of_client(&call.sender, &call.device, &event_type, id)),
            (None, Some(id)) => Some(transactions::of_call(id)),
            (None, None) => None,
        };
        if let Some(name) = &txn
            && let Some(event_id) = self.made_by(&**tx, cx, name)?
        {
            return Ok(event_id);
        }
        match (&call.event_type, &call.state_key) {
            // What is a matter of the room's creation and of redaction has operations of its own.
            (TimelineEventType::RoomCreate, _) => {
                return Err(Refusal::Forbidden("a room is created only once".to_owned()).into());
            }
            (TimelineEventType::RoomRedaction, _) => {
                return Err(Refusal::InvalidParam("m.room.redaction is sent through /redact".to_owned()).into());
            }
            (TimelineEventType::RoomMember, None) => {
                return Err(Refusal::BadJson("m.room.member is a state event".to_owned()).into());
            }
            _ => {}
        }
        let draft = Draft {
            event_type: call.event_type,
            content: call.content,
            state_key: call.state_key,
            sender: call.sender,
            redacts: None,
        };
        Ok(self.append(tx, cx, &draft, txn.as_deref())?.event_id().to_owned())
    }
}
