//! What was found at URLs. Spec: "Content repository", `GET /media/preview_url`.

use platform::{Fault, Metadata, Statement};

/// What was found at a URL.
pub(crate) struct Preview<'a> {
    pub url_sha256: &'a str,
    /// Milliseconds since the Unix epoch, as all times here.
    pub fetched_ms: u64,
    pub expires_ms: u64,
    /// JSON, as clients get it.
    pub answer: &'a str,
    /// Media of ours that goes with it.
    pub image_media_id: Option<&'a str>,
}

/// A preview that nobody is to see any more.
pub(crate) struct Outdated {
    pub url_sha256: String,
    pub expires_ms: u64,
    pub image_media_id: Option<String>,
}

/// The answer that held at a time; if there is none, the next one after it.
pub(crate) async fn find(metadata: &dyn Metadata, url_sha256: &str, at_ms: u64) -> Result<Option<String>, Fault> {
    let statement = Statement::new(
        "SELECT answer FROM url_preview WHERE url_sha256 = ?1 AND expires_ms > ?2 ORDER BY expires_ms LIMIT 1",
        vec![url_sha256.into(), at_ms.into()],
    );
    metadata.query(statement).await?.pop().map(|mut row| row.text(0)).transpose()
}

/// Keeps a preview: the statement goes with those that make media of its image.
pub(crate) fn inserting(preview: &Preview<'_>) -> Statement {
    Statement::new(
        "INSERT INTO url_preview (url_sha256, expires_ms, fetched_ms, answer, image_media_id)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        vec![
            preview.url_sha256.into(),
            preview.expires_ms.into(),
            preview.fetched_ms.into(),
            preview.answer.into(),
            preview.image_media_id.into(),
        ],
    )
}

/// Those from before a time, and those that are more than `kept_max`; the oldest first.
pub(crate) async fn outdated(
    metadata: &dyn Metadata,
    before_ms: u64,
    kept_max: u64,
    limit: u64,
) -> Result<Vec<Outdated>, Fault> {
    let statement = Statement::new(
        "SELECT url_sha256, expires_ms, image_media_id FROM url_preview
         WHERE fetched_ms < ?1
            OR fetched_ms <= (SELECT fetched_ms FROM url_preview ORDER BY fetched_ms DESC LIMIT 1 OFFSET ?2)
         ORDER BY fetched_ms LIMIT ?3",
        vec![before_ms.into(), kept_max.into(), limit.into()],
    );
    let rows = metadata.query(statement).await?;
    let outdated = rows.into_iter().map(|mut row| {
        Ok(Outdated { url_sha256: row.text(0)?, expires_ms: row.unsigned(1)?, image_media_id: row.text_or_null(2)? })
    });
    outdated.collect()
}

/// Forgets a preview; its image is deleted by then.
pub(crate) async fn forget(metadata: &dyn Metadata, preview: &Outdated) -> Result<(), Fault> {
    let statement = Statement::new(
        "DELETE FROM url_preview WHERE url_sha256 = ?1 AND expires_ms = ?2",
        vec![preview.url_sha256.as_str().into(), preview.expires_ms.into()],
    );
    metadata.query(statement).await.map(drop)
}
