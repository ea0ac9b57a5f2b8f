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

/// Previews that nobody is to see any more.
pub(crate) struct Outdated {
    /// They were fetched until then.
    pub until_ms: u64,
    pub count: u64,
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

/// The oldest of those from before a time, and of those that are more than `kept_max`: about `limit`.
pub(crate) async fn outdated(
    metadata: &dyn Metadata,
    before_ms: u64,
    kept_max: u64,
    limit: u64,
) -> Result<Option<Outdated>, Fault> {
    let statement = Statement::new(
        "SELECT max(fetched_ms), count(*) FROM (SELECT fetched_ms FROM url_preview
            WHERE fetched_ms < ?1
                OR fetched_ms <= (SELECT fetched_ms FROM url_preview ORDER BY fetched_ms DESC LIMIT 1 OFFSET ?2)
            ORDER BY fetched_ms LIMIT ?3) AS outdated",
        vec![before_ms.into(), kept_max.into(), limit.into()],
    );
    let Some(mut row) = metadata.query(statement).await?.pop() else { return Ok(None) };
    let (until_ms, count) = (row.unsigned_or_null(0)?, row.unsigned(1)?);
    Ok(until_ms.map(|until_ms| Outdated { until_ms, count }))
}

/// Forgets previews and deletes their images; [`super::deletion::leaving`] comes after it. An image that an
/// administrator keeps, or keeps from being seen, stays.
pub(crate) fn forgetting(server_name: &str, until_ms: u64) -> [Statement; 3] {
    let of_images = || vec![until_ms.into(), server_name.into()];
    [
        Statement::new(
            "INSERT INTO media_leaving (sha256) SELECT image.sha256
             FROM url_preview preview JOIN media image ON image.server_name = ?2 AND image.media_id = preview.image_media_id
             WHERE preview.fetched_ms <= ?1 AND image.sha256 IS NOT NULL AND image.protected = 0
                AND image.quarantined_by IS NULL
             ON CONFLICT (sha256) DO NOTHING",
            of_images(),
        ),
        Statement::new(
            "DELETE FROM media WHERE server_name = ?2
                AND media_id IN (SELECT image_media_id FROM url_preview WHERE fetched_ms <= ?1)
                AND protected = 0 AND quarantined_by IS NULL AND sha256 IN (SELECT sha256 FROM media_leaving)",
            of_images(),
        ),
        Statement::new("DELETE FROM url_preview WHERE fetched_ms <= ?1", vec![until_ms.into()]),
    ]
}
