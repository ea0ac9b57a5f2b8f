//! How the user sorts their rooms. Kept as `m.tag` of a room's account data. Spec: "Room Tagging".

use domain::Refusal;
use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::OwnedRoomId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{User, authenticate, store};
use crate::{Call, Cx, Error};

pub(super) const TAG: &str = "m.tag";
/// The tag of the room in which the server speaks to the user. Spec: "Server Notices".
pub(super) const NOTICE_TAG: &str = "m.server_notice";
/// Where the tags stand in the content of [`TAG`].
const TAGS: &str = "tags";
/// The longest name of a tag, in bytes. Spec: "The name of a tag MUST NOT exceed 255 bytes".
const TAG_BYTES_MAX: usize = 255;
/// The most tags of a room.
const TAGS_MAX: usize = 100;

/// What is said of a tag, such as the room's place under it.
pub type Tag = Map<String, Value>;
/// Tags by name.
type Tags = Map<String, Value>;

/// Tags a room, or changes what is said of a tag.
///
/// Refused: `UnknownToken`, `InvalidParam` for a name that is too long or a place that is none, `BadJson` for a place
/// that is no number, `TooLarge`.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetTag {
    pub token_hash: String,
    pub room_id: OwnedRoomId,
    pub name: String,
    pub tag: Tag,
}

impl Call for SetTag {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "set_tag";
    type Reply = ();
}

/// Removes a tag from a room, if it has it.
///
/// Refused: `UnknownToken`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RemoveTag {
    pub token_hash: String,
    pub room_id: OwnedRoomId,
    pub name: String,
}

impl Call for RemoveTag {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "remove_tag";
    type Reply = ();
}

/// The tags of a room.
///
/// Refused: `UnknownToken`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetTags {
    pub token_hash: String,
    pub room_id: OwnedRoomId,
}

impl Call for GetTags {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_tags";
    type Reply = Tags;
}

impl User {
    pub(super) fn set_tag(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: SetTag) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        if call.name.len() > TAG_BYTES_MAX {
            return Err(
                Refusal::InvalidParam(format!("The name of a tag can have at most {TAG_BYTES_MAX} bytes")).into()
            );
        }
        check_order(&call.tag)?;
        self.tag_room(tx, cx, call.room_id.as_str(), call.name, call.tag)
    }

    /// Gives a room a tag.
    pub(super) fn tag_room(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        room_id: &str,
        name: String,
        tag: Tag,
    ) -> Result<(), Error> {
        let (mut content, mut tags) = of_room(&**tx, room_id)?;
        tags.insert(name, Value::Object(tag));
        if tags.len() > TAGS_MAX {
            return Err(Refusal::TooLarge(format!("A room can have at most {TAGS_MAX} tags")).into());
        }
        content.insert(TAGS.to_owned(), Value::Object(tags));
        self.put_account_data(tx, cx, room_id, TAG, &serde_json::to_string(&content)?)
    }

    pub(super) fn remove_tag(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: RemoveTag) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        let (mut content, mut tags) = of_room(&**tx, call.room_id.as_str())?;
        if tags.remove(&call.name).is_none() {
            return Ok(());
        }
        content.insert(TAGS.to_owned(), Value::Object(tags));
        self.put_account_data(tx, cx, call.room_id.as_str(), TAG, &serde_json::to_string(&content)?)
    }

    pub(super) fn tags(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetTags) -> Result<Tags, Error> {
        authenticate(sql, cx, &call.token_hash)?;
        Ok(of_room(sql, call.room_id.as_str())?.1)
    }

    /// Gives a room the tags of another that it does not have.
    pub(super) fn copy_tags(&self, tx: &Tx<'_>, cx: &Cx<'_>, from: &str, to: &str) -> Result<(), Error> {
        let (_, missing) = of_room(&**tx, from)?;
        let (mut content, mut tags) = of_room(&**tx, to)?;
        let known = tags.len();
        for (name, tag) in missing {
            tags.entry(name).or_insert(tag);
        }
        if tags.len() == known {
            return Ok(());
        }
        content.insert(TAGS.to_owned(), Value::Object(tags));
        self.put_account_data(tx, cx, to, TAG, &serde_json::to_string(&content)?)
    }
}

/// «A number in a range `[0,1]` describing a relative position of the room under the given tag.»
fn check_order(tag: &Tag) -> Result<(), Refusal> {
    match tag.get("order").map(Value::as_f64) {
        None => Ok(()),
        Some(Some(order)) if (0.0..=1.0).contains(&order) => Ok(()),
        Some(Some(_)) => Err(Refusal::InvalidParam("`order` is between 0 and 1".to_owned())),
        Some(None) => Err(Refusal::BadJson("`order` is a number".to_owned())),
    }
}

/// The content of a room's [`TAG`] and the tags in it. Clients may have set it to something else.
fn of_room(sql: &dyn Sql, room_id: &str) -> Result<(Map<String, Value>, Tags), Fault> {
    let content = store::account_data::get(sql, room_id, TAG)?;
    // What nests too deeply to be read holds no tags.
    let content: Map<String, Value> =
        content.and_then(|content| serde_json::from_str(&content).ok()).unwrap_or_default();
    let tags = content.get(TAGS).and_then(Value::as_object).cloned().unwrap_or_default();
    Ok((content, tags))
}
