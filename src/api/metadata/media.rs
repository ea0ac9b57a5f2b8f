//! What is known of media, and which files of the store belong to it. Spec: "Content repository".
//!
//! A file is listed as a *stray* before its first byte is written, and stops being one in the transaction that makes
//! something refer to it; it becomes one again in the transaction that takes away what referred to it last. So whatever
//! crashes, every file is listed, and whoever clears away the strays leaves neither a file without a row nor a row
//! without a file.

use platform::{Fault, Metadata, Row, Statement};
use ruma_common::{ServerName, UserId};

/// Names media: `mxc://<server_name>/<media_id>`.
#[derive(Clone, Copy)]
pub(crate) struct Mxc<'a> {
    pub server_name: &'a ServerName,
    pub media_id: &'a str,
}

/// What is known of media.
pub(crate) struct Media {
    pub uploader: Option<String>,
    pub content_type: String,
    pub upload_name: Option<String>,
    /// When it is gone, unless it has its content by then. Milliseconds since the Unix epoch, as all times here.
    pub expires_ms: Option<u64>,
    /// When it was last served; it may be a day later.
    pub accessed_ms: u64,
    /// Whether only users are served.
    pub authenticated: bool,
    pub is_quarantined: bool,
    pub content: Option<Content>,
}

/// A file of the store that belongs to media.
pub(crate) struct Content {
    pub sha256: String,
    pub size: u64,
    pub file: String,
}

/// What an upload says of itself.
pub(crate) struct Upload<'a> {
    /// `None` for what was fetched from elsewhere.
    pub uploader: Option<&'a UserId>,
    pub content_type: &'a str,
    pub upload_name: Option<&'a str>,
    pub authenticated: bool,
    pub quota: Quota,
}

/// How much media the uploader may have when this is there, in bytes; without end where it says nothing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Quota {
    pub stored_max: Option<u64>,
    /// What comes after a time, and that time.
    pub recent_max: Option<u64>,
    pub recent_from_ms: u64,
}

/// What is known of media; `None` if there is none of that name.
pub(crate) async fn find(metadata: &dyn Metadata, mxc: Mxc<'_>) -> Result<Option<Media>, Fault> {
    let statement = Statement::new(
        "SELECT media.uploader, media.content_type, media.upload_name, media.expires_ms, media.accessed_ms,
            media.authenticated, media.quarantined_by, content.sha256, content.size, content.file
         FROM media LEFT JOIN media_content content ON content.sha256 = media.sha256
         WHERE media.server_name = ?1 AND media.media_id = ?2",
        vec![mxc.server_name.as_str().into(), mxc.media_id.into()],
    );
    metadata.query(statement).await?.pop().map(from_row).transpose()
}

fn from_row(mut row: Row) -> Result<Media, Fault> {
    let content = match row.text_or_null(7)? {
        Some(sha256) => Some(Content { sha256, size: row.unsigned(8)?, file: row.text(9)? }),
        None => None,
    };
    Ok(Media {
        uploader: row.text_or_null(0)?,
        content_type: row.text(1)?,
        upload_name: row.text_or_null(2)?,
        expires_ms: row.unsigned_or_null(3)?,
        accessed_ms: row.unsigned(4)?,
        authenticated: row.flag(5)?,
        is_quarantined: row.text_or_null(6)?.is_some(),
        content,
    })
}

/// Whoever takes something of which a user has only so much holds this while the transaction lasts: of two at once, the
/// second waits until the first is done, and then finds what is left.
fn one_at_a_time(uploader: &UserId) -> Statement {
    Statement::new("UPDATE account SET created_ms = created_ms WHERE user_id = ?1", vec![uploader.as_str().into()])
}

/// Makes media without content; false if its uploader has `unused_max` of these already.
pub(crate) async fn reserve(
    metadata: &dyn Metadata,
    mxc: Mxc<'_>,
    uploader: &UserId,
    (now_ms, expires_ms): (u64, u64),
    is_authenticated: bool,
    unused_max: u64,
) -> Result<bool, Fault> {
    let reserved = Statement::new(
        "INSERT INTO media (server_name, media_id, uploader, size, content_type, created_ms, expires_ms, accessed_ms,
            authenticated, protected)
         SELECT ?1, ?2, ?3, 0, '', ?4, ?5, ?4, ?7, 0
         WHERE (SELECT count(*) FROM media WHERE uploader = ?3 AND sha256 IS NULL AND expires_ms > ?4) < ?6",
        vec![
            mxc.server_name.as_str().into(),
            mxc.media_id.into(),
            uploader.as_str().into(),
            now_ms.into(),
            expires_ms.into(),
            unused_max.into(),
            u64::from(is_authenticated).into(),
        ],
    );
    metadata.batch(vec![one_at_a_time(uploader), reserved]).await?;
    Ok(find(metadata, mxc).await?.is_some())
}

/// How much media a user has.
pub(crate) struct Used {
    /// In bytes, as all sizes here.
    pub stored: u64,
    /// What came since a time, and when the first of that did.
    pub recent: u64,
    pub recent_from_ms: Option<u64>,
}

/// How much media a user has, and has uploaded since a time.
pub(crate) async fn used(metadata: &dyn Metadata, uploader: &UserId, since_ms: u64) -> Result<Used, Fault> {
    let statement = Statement::new(
        // Sums of BIGINT are something else in PostgreSQL.
        "SELECT CAST(COALESCE(sum(size), 0) AS BIGINT),
            CAST(COALESCE(sum(CASE WHEN created_ms > ?2 THEN size ELSE 0 END), 0) AS BIGINT),
            min(CASE WHEN created_ms > ?2 THEN created_ms END)
         FROM media WHERE uploader = ?1 AND sha256 IS NOT NULL",
        vec![uploader.as_str().into(), since_ms.into()],
    );
    match metadata.query(statement).await?.pop() {
        Some(mut row) => {
            Ok(Used { stored: row.unsigned(0)?, recent: row.unsigned(1)?, recent_from_ms: row.unsigned_or_null(2)? })
        }
        None => Ok(Used { stored: 0, recent: 0, recent_from_ms: None }),
    }
}

/// Lists a file that is about to be written.
pub(crate) async fn expect_file(metadata: &dyn Metadata, file: &str, written_until_ms: u64) -> Result<(), Fault> {
    let statement = Statement::new(
        "INSERT INTO media_stray (file, written_until_ms) VALUES (?1, ?2)",
        vec![file.into(), written_until_ms.into()],
    );
    metadata.query(statement).await.map(drop)
}

/// Takes a file off the list: it was deleted.
pub(crate) async fn forget_file(metadata: &dyn Metadata, file: &str) -> Result<(), Fault> {
    metadata.query(Statement::new("DELETE FROM media_stray WHERE file = ?1", vec![file.into()])).await.map(drop)
}

/// Whether a file belongs to nothing.
pub(crate) async fn is_stray(metadata: &dyn Metadata, file: &str) -> Result<bool, Fault> {
    let statement = Statement::new("SELECT file FROM media_stray WHERE file = ?1", vec![file.into()]);
    Ok(!metadata.query(statement).await?.is_empty())
}

/// Makes media of a file, unless there is some of that name or the quota does not allow it. The file stays a stray if
/// there is one with the same content already.
pub(crate) async fn insert(
    metadata: &dyn Metadata,
    mxc: Mxc<'_>,
    upload: &Upload<'_>,
    content: &Content,
    now_ms: u64,
) -> Result<(), Fault> {
    metadata.batch(inserting(mxc, upload, content, now_ms)).await
}

/// What [`insert`] does, to be done together with more.
pub(crate) fn inserting(mxc: Mxc<'_>, upload: &Upload<'_>, content: &Content, now_ms: u64) -> Vec<Statement> {
    let media = Statement::new(
        // What is quarantined stays so by every other name.
        "INSERT INTO media (server_name, media_id, uploader, sha256, size, content_type, upload_name, created_ms,
            accessed_ms, authenticated, quarantined_by, protected)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9, (SELECT max(quarantined_by) FROM media WHERE sha256 = ?4), 0
         WHERE (CAST(?10 AS BIGINT) IS NULL OR ?10 >= ?5
                + (SELECT COALESCE(sum(size), 0) FROM media WHERE uploader = ?3 AND sha256 IS NOT NULL))
            AND (CAST(?11 AS BIGINT) IS NULL OR ?11 >= ?5 + (SELECT COALESCE(sum(size), 0) FROM media
                WHERE uploader = ?3 AND created_ms > ?12 AND sha256 IS NOT NULL))
         ON CONFLICT (server_name, media_id) DO NOTHING",
        vec![
            mxc.server_name.as_str().into(),
            mxc.media_id.into(),
            upload.uploader.map(UserId::as_str).into(),
            content.sha256.as_str().into(),
            content.size.into(),
            upload.content_type.into(),
            upload.upload_name.into(),
            now_ms.into(),
            upload.authenticated.into(),
            upload.quota.stored_max.into(),
            upload.quota.recent_max.into(),
            upload.quota.recent_from_ms.into(),
        ],
    );
    upload.claim().into_iter().chain([media, keep(mxc, content), no_stray(content)]).collect()
}

impl Quota {
    pub(crate) fn is_any(&self) -> bool {
        self.stored_max.is_some() || self.recent_max.is_some()
    }
}

impl Upload<'_> {
    fn claim(&self) -> Option<Statement> {
        self.uploader.filter(|_| self.quota.is_any()).map(one_at_a_time)
    }
}

/// Gives reserved media its content, unless it has some or has expired, or the quota does not allow it. The file stays
/// a stray if it is not used.
pub(crate) async fn fill(
    metadata: &dyn Metadata,
    mxc: Mxc<'_>,
    upload: &Upload<'_>,
    content: &Content,
    now_ms: u64,
) -> Result<(), Fault> {
    let name = || [mxc.server_name.as_str().into(), mxc.media_id.into()];
    let claim = Statement::new(
        // Of two who fill it at once, the second waits here until the first is done, and then finds it filled.
        "UPDATE media SET created_ms = created_ms
         WHERE server_name = ?1 AND media_id = ?2 AND sha256 IS NULL AND expires_ms > ?3",
        name().into_iter().chain([now_ms.into()]).collect(),
    );
    let media = Statement::new(
        "UPDATE media SET sha256 = ?3, size = ?4, content_type = ?5, upload_name = ?6, created_ms = ?7, accessed_ms = ?7,
            authenticated = ?8, expires_ms = NULL,
            quarantined_by = (SELECT max(quarantined_by) FROM media WHERE sha256 = ?3)
         WHERE server_name = ?1 AND media_id = ?2 AND sha256 IS NULL AND expires_ms > ?7
            AND (CAST(?10 AS BIGINT) IS NULL OR ?10 >= ?4
                + (SELECT COALESCE(sum(size), 0) FROM media WHERE uploader = ?9 AND sha256 IS NOT NULL))
            AND (CAST(?11 AS BIGINT) IS NULL OR ?11 >= ?4 + (SELECT COALESCE(sum(size), 0) FROM media
                WHERE uploader = ?9 AND created_ms > ?12 AND sha256 IS NOT NULL))",
        name()
            .into_iter()
            .chain([
                content.sha256.as_str().into(),
                content.size.into(),
                upload.content_type.into(),
                upload.upload_name.into(),
                now_ms.into(),
                upload.authenticated.into(),
                upload.uploader.map(UserId::as_str).into(),
                upload.quota.stored_max.into(),
                upload.quota.recent_max.into(),
                upload.quota.recent_from_ms.into(),
            ])
            .collect(),
    );
    let filling = [claim, media, keep(mxc, content), no_stray(content)];
    metadata.batch(upload.claim().into_iter().chain(filling).collect()).await
}

/// Keeps the file of media that has this content, unless there is one already.
fn keep(mxc: Mxc<'_>, content: &Content) -> Statement {
    Statement::new(
        // Written anew where it is there, so that nobody who takes it away meanwhile overlooks us.
        "INSERT INTO media_content (sha256, size, file) SELECT ?3, ?4, ?5 WHERE EXISTS
            (SELECT 1 FROM media WHERE server_name = ?1 AND media_id = ?2 AND sha256 = ?3)
         ON CONFLICT (sha256) DO UPDATE SET size = excluded.size",
        vec![
            mxc.server_name.as_str().into(),
            mxc.media_id.into(),
            content.sha256.as_str().into(),
            content.size.into(),
            content.file.as_str().into(),
        ],
    )
}

/// A file that became the content of media is no stray.
fn no_stray(content: &Content) -> Statement {
    Statement::new(
        "DELETE FROM media_stray WHERE file = ?1 AND EXISTS
            (SELECT 1 FROM media_content WHERE sha256 = ?2 AND file = ?1)",
        vec![content.file.as_str().into(), content.sha256.as_str().into()],
    )
}

/// Notes that media was served.
pub(crate) async fn touch(metadata: &dyn Metadata, mxc: Mxc<'_>, now_ms: u64) -> Result<(), Fault> {
    let statement = Statement::new(
        "UPDATE media SET accessed_ms = ?3 WHERE server_name = ?1 AND media_id = ?2 AND accessed_ms < ?3",
        vec![mxc.server_name.as_str().into(), mxc.media_id.into(), now_ms.into()],
    );
    metadata.query(statement).await.map(drop)
}
