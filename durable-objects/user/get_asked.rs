use std::collections::BTreeSet;

use platform::{ActorKind, Sql};
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{User, store};
use crate::{Call, Cx, Error};

/// Servers that are looked for in what the user was shown of a room.
const SERVERS_MAX: usize = 10;

/// The invitation to a room that the user has, or their knock on it, as far as it still stands.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetAsked {
    pub room_id: OwnedRoomId,
}

/// What is known of a room that is not here by what the user was shown of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// `invite` or `knock`.
    pub membership: String,
    /// Who invited, if it is an invitation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inviter: Option<OwnedUserId>,
    /// Servers whose users had a part in what was shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<OwnedServerName>,
    /// As the server said it that told of it, or as its create event says; the first one where that says none.
    pub room_version: String,
    /// Whether nobody said anything of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_version_guessed: bool,
    /// The invitation or the knock itself, where another server told of it: whoever ends it names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<OwnedEventId>,
    /// The server that took the knock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident: Option<OwnedServerName>,
}

/// The rooms that the user is invited to, or knocks on.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetAskedRooms {}

impl Call for GetAskedRooms {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_asked_rooms";
    type Reply = Vec<OwnedRoomId>;
}

impl Call for GetAsked {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_asked";
    type Reply = Option<Asked>;
}

impl User {
    pub(super) fn get_asked(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetAsked) -> Result<Option<Asked>, Error> {
        let room = store::rooms::by_id(sql, call.room_id.as_str())?;
        let Some(room) = room.filter(|room| matches!(room.membership.as_str(), "invite" | "knock")) else {
            return Ok(None);
        };
        let shown = store::rooms::stripped_state(sql, call.room_id.as_str(), &room.membership)?.unwrap_or_default();
        let shown = read(&shown);
        let create = shown.iter().find(|event| event.event_type == "m.room.create" && event.state_key.is_empty());
        // Whoever took the knock, or invited, is the likeliest to be there still.
        let heard = store::rooms::heard(sql, call.room_id.as_str())?.unwrap_or_default();
        let shown_version =
            create.map(|create| create.content.get("room_version").and_then(Value::as_str).unwrap_or("1").to_owned());
        let version = heard.room_version.or(shown_version);
        let resident: Option<OwnedServerName> = heard.resident.and_then(|server| server.try_into().ok());
        let senders = shown.iter().rev().map(|event| &event.sender).filter(|sender| sender.as_str() != cx.id);
        let mut seen = BTreeSet::new();
        let servers = resident.iter().map(|server| &**server).chain(senders.map(|sender| sender.server_name()));
        let servers = servers.filter(|server| seen.insert(*server));
        Ok(Some(Asked {
            inviter: if room.membership == "invite" { inviter_by(&shown, cx.id) } else { None },
            membership: room.membership,
            servers: servers.take(SERVERS_MAX).map(ToOwned::to_owned).collect(),
            is_version_guessed: version.is_none(),
            room_version: version.unwrap_or_else(|| "1".to_owned()),
            // What the room itself decided last is not what others told of it.
            event_id: heard
                .asked
                .filter(|_| heard.decided.is_none_or(|decided| decided < room.effect))
                .and_then(|event_id| event_id.try_into().ok()),
            resident,
        }))
    }

    pub(super) fn get_asked_rooms(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        _call: GetAskedRooms,
    ) -> Result<Vec<OwnedRoomId>, Error> {
        let mut rooms = store::rooms::with_membership(sql, "invite")?;
        rooms.extend(store::rooms::with_membership(sql, "knock")?);
        Ok(rooms.into_iter().filter_map(|room| room.room_id.try_into().ok()).collect())
    }
}

#[derive(Deserialize)]
struct Stripped {
    #[serde(rename = "type")]
    event_type: String,
    state_key: String,
    sender: OwnedUserId,
    #[serde(default)]
    content: Value,
}

fn read(stripped: &str) -> Vec<Stripped> {
    let events: Vec<Value> = serde_json::from_str(stripped).unwrap_or_default();
    events.into_iter().filter_map(|event| serde_json::from_value(event).ok()).collect()
}

/// Who invited a user, by the stripped state of the invitation.
pub(super) fn inviter(stripped: &str, invited: &str) -> Option<OwnedUserId> {
    inviter_by(&read(stripped), invited)
}

/// The invitation itself comes last: what is before it is only what the inviting server says.
fn inviter_by(shown: &[Stripped], invited: &str) -> Option<OwnedUserId> {
    let own = |event: &&Stripped| event.event_type == "m.room.member" && event.state_key == invited;
    shown.iter().rev().find(own).map(|event| event.sender.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::inviter;

    #[test]
    fn what_the_inviting_server_shows_hides_no_inviter() {
        let member = |sender: &str| json!({ "type": "m.room.member", "state_key": "@alice:us", "sender": sender });
        let shown = json!([member("@friend:x"), { "type": 5 }, member("@eve:evil")]).to_string();
        assert_eq!(inviter(&shown, "@alice:us").unwrap(), "@eve:evil");
        assert_eq!(inviter(&shown, "@bob:us"), None);
    }
}
