//! Which media are listed, deleted, quarantined and protected, and the files that nothing refers to any more.

use std::iter::repeat;

use platform::{Fault, Metadata, Row, Statement, Value};
use ruma_common::UserId;

use super::media::Mxc;

/// Media that has its content, as lists say.
pub(crate) struct Listed {
    pub server_name: String,
    pub media_id: String,
    pub sha256: String,
    pub size: u64,
    pub content_type: String,
    pub upload_name: Option<String>,
    pub created_ms: u64,
    pub accessed_ms: u64,
    pub quarantined_by: Option<String>,
    pub is_protected: bool,
    pub uploader: Option<String>,
}

fn listed(mut row: Row) -> Result<Listed, Fault> {
    Ok(Listed {
        server_name: row.text(0)?,
        media_id: row.text(1)?,
        sha256: row.text(2)?,
        size: row.unsigned(3)?,
        content_type: row.text(4)?,
        upload_name: row.text_or_null(5)?,
        created_ms: row.unsigned(6)?,
        accessed_ms: row.unsigned(7)?,
        quarantined_by: row.text_or_null(8)?,
        is_protected: row.flag(9)?,
        uploader: row.text_or_null(10)?,
    })
}

async fn query_listed(metadata: &dyn Metadata, sql: &'static str, params: Vec<Value>) -> Result<Vec<Listed>, Fault> {
    metadata.query(Statement::new(sql, params)).await?.into_iter().map(listed).collect()
}

/// One by its name.
pub(crate) async fn one(metadata: &dyn Metadata, mxc: Mxc<'_>) -> Result<Option<Listed>, Fault> {
    let sql = "SELECT server_name, media_id, sha256, size, content_type, upload_name, created_ms, accessed_ms,
            quarantined_by, protected, uploader
         FROM media WHERE server_name = ?1 AND media_id = ?2 AND sha256 IS NOT NULL";
    Ok(query_listed(metadata, sql, vec![mxc.server_name.as_str().into(), mxc.media_id.into()]).await?.pop())
}

/// A user's, the newest first, from a place on.
pub(crate) async fn of_user(
    metadata: &dyn Metadata,
    uploader: &UserId,
    from: u64,
    limit: u64,
) -> Result<Vec<Listed>, Fault> {
    let sql = "SELECT server_name, media_id, sha256, size, content_type, upload_name, created_ms, accessed_ms,
            quarantined_by, protected, uploader
         FROM media WHERE uploader = ?1 AND sha256 IS NOT NULL
         ORDER BY created_ms DESC, media_id LIMIT ?2 OFFSET ?3";
    query_listed(metadata, sql, vec![uploader.as_str().into(), limit.into(), from.into()]).await
}

/// How many a user has.
pub(crate) async fn count_of_user(metadata: &dyn Metadata, uploader: &UserId) -> Result<u64, Fault> {
    let sql = "SELECT count(*) FROM media WHERE uploader = ?1 AND sha256 IS NOT NULL";
    let rows = metadata.query(Statement::new(sql, vec![uploader.as_str().into()])).await?;
    rows.into_iter().next().map_or(Ok(0), |mut row| row.unsigned(0))
}

/// Whose media.
#[derive(Clone, Copy)]
pub(crate) enum Whose {
    /// What our users uploaded.
    Ours,
    /// Copies of what other servers have.
    Others,
}

/// Those last served before a time and larger than a size, but for the protected; the longest unused first.
pub(crate) async fn unused(
    metadata: &dyn Metadata,
    whose: Whose,
    before_ms: u64,
    larger_than: u64,
    limit: u64,
) -> Result<Vec<Listed>, Fault> {
    let sql = match whose {
        Whose::Ours => {
            "SELECT server_name, media_id, sha256, size, content_type, upload_name, created_ms, accessed_ms,
                quarantined_by, protected, uploader
             FROM media WHERE accessed_ms < ?1 AND size >= ?2 AND protected = 0 AND quarantined_by IS NULL
                AND sha256 IS NOT NULL AND uploader IS NOT NULL
             ORDER BY accessed_ms LIMIT ?3"
        }
        Whose::Others => {
            "SELECT server_name, media_id, sha256, size, content_type, upload_name, created_ms, accessed_ms,
                quarantined_by, protected, uploader
             FROM media WHERE accessed_ms < ?1 AND size >= ?2 AND protected = 0 AND quarantined_by IS NULL
                AND sha256 IS NOT NULL AND uploader IS NULL
             ORDER BY accessed_ms LIMIT ?3"
        }
    };
    query_listed(metadata, sql, vec![before_ms.into(), larger_than.into(), limit.into()]).await
}

/// How many are deleted in one transaction, where it is said which.
const DELETED_TOGETHER: usize = 50;

/// Deletes media, some in one transaction: two statements for each.
pub(crate) async fn delete(metadata: &dyn Metadata, all: &[Listed]) -> Result<(), Fault> {
    for some in all.chunks(DELETED_TOGETHER) {
        let deleting = some.iter().flat_map(|media| deleting(&media.server_name, &media.media_id, &media.sha256));
        metadata.batch(deleting.chain(leaving()).collect()).await?;
    }
    Ok(())
}

/// Deletes media of this content; [`leaving`] comes after it.
fn deleting(server_name: &str, media_id: &str, sha256: &str) -> [Statement; 2] {
    [
        Statement::new(
            "INSERT INTO media_leaving (sha256) VALUES (?1) ON CONFLICT (sha256) DO NOTHING",
            vec![sha256.into()],
        ),
        Statement::new(
            "DELETE FROM media WHERE server_name = ?1 AND media_id = ?2 AND sha256 = ?3",
            vec![server_name.into(), media_id.into(), sha256.into()],
        ),
    ]
}

/// Deletes what [`unused`] lists, and whatever else of the same content is as long unused, in one transaction and as
/// many statements however many there are. Answers how many are listed.
pub(crate) async fn delete_unused(
    metadata: &dyn Metadata,
    whose: Whose,
    before_ms: u64,
    limit: u64,
) -> Result<u64, Fault> {
    let (count, leave, delete) = match whose {
        Whose::Ours => (
            "SELECT count(*) FROM (SELECT 1 FROM media WHERE accessed_ms < ?1 AND protected = 0 AND quarantined_by IS NULL
                AND sha256 IS NOT NULL AND uploader IS NOT NULL LIMIT ?2) AS unused",
            "INSERT INTO media_leaving (sha256) SELECT sha256 FROM media WHERE accessed_ms < ?1 AND protected = 0
                AND quarantined_by IS NULL AND sha256 IS NOT NULL AND uploader IS NOT NULL
             ORDER BY accessed_ms LIMIT ?2 ON CONFLICT (sha256) DO NOTHING",
            "DELETE FROM media WHERE sha256 IN (SELECT sha256 FROM media_leaving) AND accessed_ms < ?1 AND protected = 0
                AND quarantined_by IS NULL AND uploader IS NOT NULL",
        ),
        Whose::Others => (
            "SELECT count(*) FROM (SELECT 1 FROM media WHERE accessed_ms < ?1 AND protected = 0 AND quarantined_by IS NULL
                AND sha256 IS NOT NULL AND uploader IS NULL LIMIT ?2) AS unused",
            "INSERT INTO media_leaving (sha256) SELECT sha256 FROM media WHERE accessed_ms < ?1 AND protected = 0
                AND quarantined_by IS NULL AND sha256 IS NOT NULL AND uploader IS NULL
             ORDER BY accessed_ms LIMIT ?2 ON CONFLICT (sha256) DO NOTHING",
            "DELETE FROM media WHERE sha256 IN (SELECT sha256 FROM media_leaving) AND accessed_ms < ?1 AND protected = 0
                AND quarantined_by IS NULL AND uploader IS NULL",
        ),
    };
    let oldest = || vec![before_ms.into(), limit.into()];
    let count =
        metadata.query(Statement::new(count, oldest())).await?.pop().map_or(Ok(0), |mut row| row.unsigned(0))?;
    if count > 0 {
        let chosen = [Statement::new(leave, oldest()), Statement::new(delete, vec![before_ms.into()])];
        metadata.batch(chosen.into_iter().chain(leaving()).collect()).await?;
    }
    Ok(count)
}

/// The time after which other servers' media was last served that takes no more than `bytes_max` together; `None` if
/// all of it does. What an administrator keeps is not counted, nor what is kept from being seen.
pub(crate) async fn too_much_until(metadata: &dyn Metadata, bytes_max: u64) -> Result<Option<u64>, Fault> {
    let statement = Statement::new(
        // Sums of BIGINT are something else in PostgreSQL.
        "SELECT accessed_ms FROM (SELECT accessed_ms, CAST(sum(size) OVER (ORDER BY accessed_ms DESC) AS BIGINT) AS bytes
            FROM media WHERE protected = 0 AND quarantined_by IS NULL AND sha256 IS NOT NULL AND uploader IS NULL) AS copies
         WHERE bytes > ?1 ORDER BY accessed_ms DESC LIMIT 1",
        vec![bytes_max.into()],
    );
    metadata.query(statement).await?.pop().map(|mut row| row.unsigned(0)).transpose()
}

/// Ends a transaction that put content into `media_leaving` and deleted media of it: what nothing refers to any more
/// becomes a stray, to be deleted at once.
pub(crate) fn leaving() -> impl Iterator<Item = Statement> {
    let statements = [
        // Whoever makes media or a thumbnail of this content meanwhile is done first, or waits until we are.
        "UPDATE media_content SET size = size WHERE sha256 IN (SELECT sha256 FROM media_leaving)",
        "INSERT INTO media_stray (file, written_until_ms) SELECT file, 0 FROM media_content
         WHERE sha256 IN (SELECT sha256 FROM media_leaving)
            AND NOT EXISTS (SELECT 1 FROM media WHERE media.sha256 = media_content.sha256)
         ON CONFLICT (file) DO NOTHING",
        "INSERT INTO media_stray (file, written_until_ms) SELECT file, 0 FROM media_thumbnail
         WHERE sha256 IN (SELECT sha256 FROM media_leaving) AND file IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM media WHERE media.sha256 = media_thumbnail.sha256)
         ON CONFLICT (file) DO NOTHING",
        "DELETE FROM media_thumbnail WHERE sha256 IN (SELECT sha256 FROM media_leaving)
            AND NOT EXISTS (SELECT 1 FROM media WHERE media.sha256 = media_thumbnail.sha256)",
        "DELETE FROM media_content WHERE sha256 IN (SELECT sha256 FROM media_leaving)
            AND NOT EXISTS (SELECT 1 FROM media WHERE media.sha256 = media_content.sha256)",
        "DELETE FROM media_leaving",
    ];
    statements.into_iter().map(|sql| Statement::new(sql, vec![]))
}

/// Strays that nobody writes any more.
pub(crate) async fn strays(metadata: &dyn Metadata, now_ms: u64, limit: u64) -> Result<Vec<String>, Fault> {
    let statement = Statement::new(
        "SELECT file FROM media_stray WHERE written_until_ms < ?1 ORDER BY written_until_ms, file LIMIT ?2",
        vec![now_ms.into(), limit.into()],
    );
    metadata.query(statement).await?.into_iter().map(|mut row| row.text(0)).collect()
}

/// How many one statement takes off the list: D1 binds a hundred parameters.
const NAMED_TOGETHER: usize = 80;

/// So many files, the last of which stands for those that are not there.
fn named(files: &[String]) -> impl Iterator<Item = Value> {
    let last = files.last().map_or("", String::as_str);
    files.iter().map(String::as_str).chain(repeat(last)).take(NAMED_TOGETHER).map(Value::from)
}

/// Takes files off the list of strays: they were deleted.
pub(crate) async fn forget_files(metadata: &dyn Metadata, files: &[String]) -> Result<(), Fault> {
    let forget = |some: &[String]| {
        Statement::new(
            "DELETE FROM media_stray WHERE file IN (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
                ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34, ?35, ?36, ?37,
                ?38, ?39, ?40, ?41, ?42, ?43, ?44, ?45, ?46, ?47, ?48, ?49, ?50, ?51, ?52, ?53, ?54, ?55, ?56, ?57, ?58,
                ?59, ?60, ?61, ?62, ?63, ?64, ?65, ?66, ?67, ?68, ?69, ?70, ?71, ?72, ?73, ?74, ?75, ?76, ?77, ?78, ?79,
                ?80)",
            named(some).collect(),
        )
    };
    metadata.batch(files.chunks(NAMED_TOGETHER).map(forget).collect()).await
}

/// Leaves a stray alone until a time: it could not be deleted.
pub(crate) async fn put_off(metadata: &dyn Metadata, file: &str, until_ms: u64) -> Result<(), Fault> {
    let statement = Statement::new(
        "UPDATE media_stray SET written_until_ms = ?2 WHERE file = ?1",
        vec![file.into(), until_ms.into()],
    );
    metadata.query(statement).await.map(drop)
}

/// Forgets names that were never used and have expired.
pub(crate) async fn delete_expired(metadata: &dyn Metadata, now_ms: u64) -> Result<(), Fault> {
    let statement = Statement::new("DELETE FROM media WHERE sha256 IS NULL AND expires_ms < ?1", vec![now_ms.into()]);
    metadata.query(statement).await.map(drop)
}

/// Hides media of this content from everyone, by whatever name, but for the protected; answers how many were seen until
/// now.
pub(crate) async fn quarantine(metadata: &dyn Metadata, sha256: &str, by: &UserId) -> Result<u64, Fault> {
    let statement = Statement::new(
        "UPDATE media SET quarantined_by = ?2 WHERE sha256 = ?1 AND protected = 0 AND quarantined_by IS NULL
         RETURNING media_id",
        vec![sha256.into(), by.as_str().into()],
    );
    Ok(metadata.query(statement).await?.len() as u64)
}

/// As [`quarantine`], of all content that a user has.
pub(crate) async fn quarantine_of_user(metadata: &dyn Metadata, uploader: &UserId, by: &UserId) -> Result<u64, Fault> {
    let statement = Statement::new(
        "UPDATE media SET quarantined_by = ?2 WHERE protected = 0 AND quarantined_by IS NULL
            AND sha256 IN (SELECT sha256 FROM media WHERE uploader = ?1 AND sha256 IS NOT NULL)
         RETURNING media_id",
        vec![uploader.as_str().into(), by.as_str().into()],
    );
    Ok(metadata.query(statement).await?.len() as u64)
}

/// Shows media of this content again.
pub(crate) async fn release(metadata: &dyn Metadata, sha256: &str) -> Result<(), Fault> {
    let statement = Statement::new(
        "UPDATE media SET quarantined_by = NULL WHERE sha256 = ?1 AND quarantined_by IS NOT NULL",
        vec![sha256.into()],
    );
    metadata.query(statement).await.map(drop)
}

/// Protects media from being quarantined and from being deleted for its age, or no longer; false if there is none.
pub(crate) async fn protect(metadata: &dyn Metadata, mxc: Mxc<'_>, is_protected: bool) -> Result<bool, Fault> {
    let statement = Statement::new(
        "UPDATE media SET protected = ?3 WHERE server_name = ?1 AND media_id = ?2 AND sha256 IS NOT NULL
         RETURNING media_id",
        vec![mxc.server_name.as_str().into(), mxc.media_id.into(), is_protected.into()],
    );
    Ok(!metadata.query(statement).await?.is_empty())
}
