//! What was found at URLs. Spec: "Content repository", `GET /media/preview_url`.

use platform::{Fault, Metadata, Row, Statement};

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
    pub image: Option<Image>,
}

/// Media of ours that goes with a preview.
pub(crate) struct Image {
    pub media_id: String,
    pub sha256: String,
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

/// Those from before a time, and those that are more than `kept_max`; the oldest first. An image that an administrator
/// keeps, or keeps from being seen, is not among what goes with them.
pub(crate) async fn outdated(
    metadata: &dyn Metadata,
    server_name: &str,
    before_ms: u64,
    kept_max: u64,
    limit: u64,
) -> Result<Vec<Outdated>, Fault> {
    let statement = Statement::new(
        "SELECT preview.url_sha256, preview.expires_ms, image.media_id, image.sha256
         FROM url_preview preview LEFT JOIN media image ON image.server_name = ?4
            AND image.media_id = preview.image_media_id AND image.sha256 IS NOT NULL
            AND image.protected = 0 AND image.quarantined_by IS NULL
         WHERE preview.fetched_ms < ?1
            OR preview.fetched_ms <= (SELECT fetched_ms FROM url_preview ORDER BY fetched_ms DESC LIMIT 1 OFFSET ?2)
         ORDER BY preview.fetched_ms LIMIT ?3",
        vec![before_ms.into(), kept_max.into(), limit.into(), server_name.into()],
    );
    metadata.query(statement).await?.into_iter().map(outdated_from_row).collect()
}

fn outdated_from_row(mut row: Row) -> Result<Outdated, Fault> {
    let image = match row.text_or_null(2)? {
        Some(media_id) => Some(Image { media_id, sha256: row.text(3)? }),
        None => None,
    };
    Ok(Outdated { url_sha256: row.text(0)?, expires_ms: row.unsigned(1)?, image })
}

/// Forgets a preview: the statement goes with those that delete its image.
pub(crate) fn forgetting(preview: &Outdated) -> Statement {
    Statement::new(
        "DELETE FROM url_preview WHERE url_sha256 = ?1 AND expires_ms = ?2",
        vec![preview.url_sha256.as_str().into(), preview.expires_ms.into()],
    )
}
