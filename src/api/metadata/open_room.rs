//! Rooms that everybody may join or read, as they project themselves. Spec: "User Directory".

use platform::{Fault, Metadata, Statement};
use ruma_common::OwnedRoomId;

/// How many rooms are open.
pub(crate) async fn count(metadata: &dyn Metadata) -> Result<u64, Fault> {
    let rows = metadata.query(Statement::new("SELECT count(*) FROM open_room WHERE open = 1", vec![])).await?;
    rows.into_iter().next().map_or(Ok(0), |mut row| row.unsigned(0))
}

/// Up to `limit` of the rooms that are open, by their ids, after so many others.
pub(crate) async fn some(metadata: &dyn Metadata, after: u64, limit: u64) -> Result<Vec<OwnedRoomId>, Fault> {
    let statement = Statement::new(
        "SELECT room_id FROM open_room WHERE open = 1 ORDER BY room_id LIMIT ?1 OFFSET ?2",
        vec![limit.into(), after.into()],
    );
    let rows = metadata.query(statement).await?;
    let ids = rows.into_iter().map(|mut row| row.text(0)).collect::<Result<Vec<_>, _>>()?;
    Ok(ids.into_iter().filter_map(|room_id| OwnedRoomId::try_from(room_id).ok()).collect())
}
