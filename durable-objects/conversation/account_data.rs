//! What the clients of random conversations keep on the server.

use domain::push::{Change, Kind, NewRule};
use ruma_common::{OwnedRoomId, UserId};
use serde_json::value::RawValue;

use super::{Story, device::Device};
use crate::user;

impl Story {
    pub(super) fn keeps(&mut self, user: &UserId, room_id: Option<OwnedRoomId>) {
        self.sent += 1;
        let event_type = format!("type{}", self.world.dice.roll(2));
        let content = format!(r#"{{"number":{}}}"#, self.sent);
        let call = user::SetAccountData {
            token_hash: format!("{}0", user.localpart()),
            room_id: room_id.clone(),
            event_type: event_type.clone(),
            content: RawValue::from_string(content.clone()).unwrap(),
        };
        self.world.call(user.as_str(), &call).unwrap();
        self.account_data.entry(user.to_owned()).or_default().insert((room_id, event_type), content);
    }

    /// Makes, switches or removes a push rule of the user's own.
    pub(super) fn rules(&mut self, user: &UserId) {
        let (kind, rule_id) = (Kind::Content, format!("rule{}", self.world.dice.roll(2)));
        let change = match self.world.dice.roll(3) {
            0 => Change::Remove { kind, rule_id },
            1 => Change::Enable { kind, rule_id, enabled: self.world.dice.roll(2) == 0 },
            _ => {
                let (pattern, actions, conditions) = (Some("word".to_owned()), Vec::new(), Vec::new());
                Change::Put(NewRule { kind, rule_id, actions, conditions, pattern, before: None, after: None })
            }
        };
        let call = user::ChangePushRules { token_hash: format!("{}0", user.localpart()), change };
        // Refused if there is no such rule.
        drop(self.world.call(user.as_str(), &call));
    }

    /// The content of account data as the server has it.
    pub(super) fn kept(&self, device: &Device, event_type: &str) -> String {
        let (token_hash, event_type) = (device.token_hash.clone(), event_type.to_owned());
        let call = user::GetAccountData { token_hash, room_id: None, event_type };
        self.world.call(device.user.as_str(), &call).unwrap().get().to_owned()
    }
}
