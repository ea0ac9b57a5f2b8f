//! What application services are told of rooms that are not here: that users of theirs are invited, and what becomes of
//! that.

use actors::appservice::QueueEvent;
use domain::{
    Pdu,
    event::{Unsigned, client_json},
};
use ruma_common::UserId;
use serde_json::value::RawValue;

use crate::{Context, Failure};

impl Context {
    /// Tells those who have the user of a membership in a room that is not here, with what lets one recognise the room.
    pub(crate) async fn tell_appservices(
        &self,
        user_id: &UserId,
        membership: &Pdu,
        invite_room_state: Vec<Box<RawValue>>,
    ) -> Result<(), Failure> {
        let unsigned = Unsigned { invite_room_state, ..Unsigned::default() };
        for appservice in self.config().told_appservices().filter(|appservice| appservice.has_user(user_id)) {
            let event_id = membership.event_id().to_owned();
            let call = QueueEvent { event_id, event: client_json(membership, &unsigned, true) };
            self.call(&appservice.actor(), &call).await?;
        }
        Ok(())
    }
}
