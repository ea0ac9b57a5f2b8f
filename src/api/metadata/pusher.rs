//! Which users have a pusher with a key. What a pusher is, their actors know. Spec: `POST /pushers/set`.

use platform::{Fault, Metadata, Statement};
use ruma_common::{OwnedUserId, UserId};

/// The most other users who are looked for: a phone is handed on to one of them at a time.
const OTHERS_MAX: u64 = 100;

/// Notes that a user has such a pusher.
pub(crate) async fn note(metadata: &dyn Metadata, app_id: &str, pushkey: &str, user_id: &UserId) -> Result<(), Fault> {
    let statement = Statement::new(
        "INSERT INTO pusher (app_id, pushkey, user_id) VALUES (?1, ?2, ?3) ON CONFLICT (app_id, pushkey, user_id) DO NOTHING",
        vec![app_id.into(), pushkey.into(), user_id.as_str().into()],
    );
    metadata.query(statement).await.map(drop)
}

/// The other users who have such a pusher, or had one.
pub(crate) async fn others(
    metadata: &dyn Metadata,
    app_id: &str,
    pushkey: &str,
    user_id: &UserId,
) -> Result<Vec<OwnedUserId>, Fault> {
    let statement = Statement::new(
        "SELECT user_id FROM pusher WHERE app_id = ?1 AND pushkey = ?2 AND user_id <> ?3 ORDER BY user_id LIMIT ?4",
        vec![app_id.into(), pushkey.into(), user_id.as_str().into(), OTHERS_MAX.into()],
    );
    let rows = metadata.query(statement).await?;
    let user_id = |text: String| OwnedUserId::try_from(text).map_err(|_| Fault::new("a pusher of nobody"));
    rows.into_iter().map(|mut row| user_id(row.text(0)?)).collect()
}

/// Notes that a user has no such pusher any more.
pub(crate) async fn forget(
    metadata: &dyn Metadata,
    app_id: &str,
    pushkey: &str,
    user_id: &UserId,
) -> Result<(), Fault> {
    let statement = Statement::new(
        "DELETE FROM pusher WHERE app_id = ?1 AND pushkey = ?2 AND user_id = ?3",
        vec![app_id.into(), pushkey.into(), user_id.as_str().into()],
    );
    metadata.query(statement).await.map(drop)
}
