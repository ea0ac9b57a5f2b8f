//! Rooms that everybody may join or read, as they project themselves. Spec: "User Directory".

use platform::{Fault, Metadata, Statement};
use ruma_common::OwnedRoomId;

/// Some of the rooms that are open.
pub(crate) async fn some(metadata: &dyn Metadata, limit: u64) -> Result<Vec<OwnedRoomId>, Fault> {
    let statement =
        Statement::new("SELECT room_id FROM open_room WHERE open = 1 ORDER BY room_id LIMIT ?1", vec![limit.into()]);
    let rows = metadata.query(statement).await?;
    let ids = rows.into_iter().map(|mut row| row.text(0)).collect::<Result<Vec<_>, _>>()?;
    Ok(ids.into_iter().filter_map(|room_id| OwnedRoomId::try_from(room_id).ok()).collect())
}
