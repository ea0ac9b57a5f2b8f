//! Whether everybody may come in, or read the room: metadata knows which rooms are open, so that whoever looks for
//! people finds those in them. A room that nobody of this server is in any more is not one of them: who is in it is not
//! known. Spec: Client-Server API, "User Directory".

use platform::{Sql, Tx};
use ruma_common::UserId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{append::room_id, store};
use crate::{Cx, Error, outbox, projection::OpenRoom};

/// Where it is kept among the small facts.
const OPEN: &str = "open";
/// The state that decides.
const DECIDING: [&str; 2] = ["m.room.join_rules", "m.room.history_visibility"];

/// What metadata was told last.
#[derive(Default, Serialize, Deserialize)]
struct Told {
    /// As of a directory's entry: `max(last + 1, now in ms)`.
    version: u64,
    open: bool,
}

/// Some state changed: metadata learns when that opens the room, or closes it.
pub(super) fn follow(tx: &Tx<'_>, cx: &Cx<'_>, event_type: &str, state_key: &str) -> Result<(), Error> {
    let is_of_ours = || <&UserId>::try_from(state_key).is_ok_and(|user_id| cx.is_local(user_id));
    let decides = if event_type == "m.room.member" {
        is_of_ours()
    } else {
        state_key.is_empty() && DECIDING.contains(&event_type)
    };
    if !decides {
        return Ok(());
    }
    let told: Told = match store::meta::text(&**tx, OPEN)? {
        Some(told) => serde_json::from_str(&told)?,
        None => Told::default(),
    };
    let open = !store::members::joined_locals(&**tx, 1)?.is_empty() && is_open(&**tx)?;
    if told.open == open {
        return Ok(());
    }
    let told = Told { version: told.version.saturating_add(1).max(cx.now_ms), open };
    store::meta::set(tx, OPEN, serde_json::to_string(&told)?.into())?;
    outbox::project(tx, cx, &OpenRoom { room_id: room_id(cx)?, version: told.version, open }, true)
}

/// Whether everybody may come in, or read.
pub(super) fn is_open(sql: &dyn Sql) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct JoinRules {
        join_rule: String,
    }
    #[derive(Deserialize)]
    struct Visibility {
        history_visibility: String,
    }
    let is_public = content::<JoinRules>(sql, "m.room.join_rules")?.is_some_and(|rules| rules.join_rule == "public");
    Ok(is_public
        || content::<Visibility>(sql, "m.room.history_visibility")?
            .is_some_and(|visibility| visibility.history_visibility == "world_readable"))
}

fn content<T: DeserializeOwned>(sql: &dyn Sql, event_type: &str) -> Result<Option<T>, Error> {
    Ok(store::state::current(sql, event_type, "")?.and_then(|event| event.pdu.content_as().ok()))
}
