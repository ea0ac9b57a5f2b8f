//! Who and what there is: every user and every room is written here before its actor is founded, so that whatever
//! exists can be listed. A row says that an actor may exist; the actor itself says whether it does.

use platform::{Fault, Metadata, Statement};
use ruma_common::{RoomId, UserId};

/// Lists a local user.
pub(crate) async fn register_account(metadata: &dyn Metadata, user_id: &UserId, now_ms: u64) -> Result<(), Fault> {
    let statement = Statement::new(
        "INSERT INTO account (user_id, created_ms) VALUES (?1, ?2) ON CONFLICT (user_id) DO NOTHING",
        vec![user_id.as_str().into(), now_ms.into()],
    );
    metadata.query(statement).await.map(drop)
}

/// Lists a room.
pub(crate) async fn register_room(metadata: &dyn Metadata, room_id: &RoomId, now_ms: u64) -> Result<(), Fault> {
    let statement = Statement::new(
        "INSERT INTO room (room_id, created_ms) VALUES (?1, ?2) ON CONFLICT (room_id) DO NOTHING",
        vec![room_id.as_str().into(), now_ms.into()],
    );
    metadata.query(statement).await.map(drop)
}
