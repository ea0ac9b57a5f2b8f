//! What users reported to the administrators. Spec: "Reporting Content".

use platform::{Fault, Metadata, Row, Statement};
use ruma_common::{EventId, RoomId, UserId};
use sha2::{Digest, Sha256};

/// The most reports kept of one user in [`PERIOD_MS`].
const REPORTS_MAX: u64 = 100;
/// One hour, in milliseconds.
pub(crate) const PERIOD_MS: u64 = 3_600_000;

/// One report: of a room, of an event in a room, or of a user.
pub(crate) struct Report<'a> {
    pub reporter: &'a UserId,
    pub room_id: Option<&'a RoomId>,
    pub event_id: Option<&'a EventId>,
    /// The user reported, or the sender of the event.
    pub user_id: Option<&'a UserId>,
    pub reason: &'a str,
}

impl Report<'_> {
    /// A digest of all it says, in hexadecimal: the same report again is the same row.
    fn id(&self) -> String {
        let parts = [
            Some(self.reporter.as_str()),
            self.room_id.map(RoomId::as_str),
            self.event_id.map(EventId::as_str),
            self.user_id.map(UserId::as_str),
            Some(self.reason),
        ];
        let mut hash = Sha256::new();
        for part in parts {
            let part = part.unwrap_or_default();
            // With its length, so that no two lists of parts look alike.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Keeps a report; false if its reporter made too many in the last [`PERIOD_MS`].
pub(crate) async fn insert(metadata: &dyn Metadata, report: &Report<'_>, now_ms: u64) -> Result<bool, Fault> {
    let statement = Statement::new(
        "INSERT INTO report (report_id, reporter, room_id, event_id, user_id, reason, received_ms)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7
         WHERE (SELECT count(*) FROM report WHERE reporter = ?2 AND received_ms > ?8) < ?9
         ON CONFLICT (report_id) DO UPDATE SET report_id = excluded.report_id RETURNING report_id",
        vec![
            report.id().into(),
            report.reporter.as_str().into(),
            report.room_id.map(RoomId::as_str).into(),
            report.event_id.map(EventId::as_str).into(),
            report.user_id.map(UserId::as_str).into(),
            report.reason.into(),
            now_ms.into(),
            now_ms.saturating_sub(PERIOD_MS).into(),
            REPORTS_MAX.into(),
        ],
    );
    Ok(!metadata.query(statement).await?.is_empty())
}

/// A report as it is kept.
pub(crate) struct Kept {
    pub report_id: String,
    pub reporter: String,
    pub room_id: Option<String>,
    pub event_id: Option<String>,
    pub user_id: Option<String>,
    pub reason: String,
    pub received_ms: u64,
}

fn kept(mut row: Row) -> Result<Kept, Fault> {
    Ok(Kept {
        report_id: row.text(0)?,
        reporter: row.text(1)?,
        room_id: row.text_or_null(2)?,
        event_id: row.text_or_null(3)?,
        user_id: row.text_or_null(4)?,
        reason: row.text(5)?,
        received_ms: row.unsigned(6)?,
    })
}

/// Which reports are wanted.
#[derive(Default)]
pub(crate) struct Wanted {
    /// Those of one reporter.
    pub reporter: Option<String>,
    /// Those of one room and of its events.
    pub room_id: Option<String>,
}

/// Up to `limit` reports after the first `from`, by the time they came.
pub(crate) async fn page(
    metadata: &dyn Metadata,
    wanted: &Wanted,
    newest_first: bool,
    from: u64,
    limit: u64,
) -> Result<Vec<Kept>, Fault> {
    const NEWEST_FIRST: &str = "SELECT report_id, reporter, room_id, event_id, user_id, reason, received_ms FROM report
        WHERE reporter = coalesce(?3, reporter) AND coalesce(room_id, '') = coalesce(?4, room_id, '')
        ORDER BY received_ms DESC, report_id DESC LIMIT ?1 OFFSET ?2";
    const OLDEST_FIRST: &str = "SELECT report_id, reporter, room_id, event_id, user_id, reason, received_ms FROM report
        WHERE reporter = coalesce(?3, reporter) AND coalesce(room_id, '') = coalesce(?4, room_id, '')
        ORDER BY received_ms, report_id LIMIT ?1 OFFSET ?2";
    let statement = if newest_first { NEWEST_FIRST } else { OLDEST_FIRST };
    let from = from.min(platform::INTEGER_MAX.unsigned_abs());
    let bound = vec![limit.into(), from.into(), wanted.reporter.as_deref().into(), wanted.room_id.as_deref().into()];
    let rows = metadata.query(Statement::new(statement, bound)).await?;
    rows.into_iter().map(kept).collect()
}

/// One report.
pub(crate) async fn one(metadata: &dyn Metadata, report_id: &str) -> Result<Option<Kept>, Fault> {
    let statement = Statement::new(
        "SELECT report_id, reporter, room_id, event_id, user_id, reason, received_ms FROM report WHERE report_id = ?1",
        vec![report_id.into()],
    );
    metadata.query(statement).await?.pop().map(kept).transpose()
}

/// How many there are of those that are wanted.
pub(crate) async fn count(metadata: &dyn Metadata, wanted: &Wanted) -> Result<u64, Fault> {
    let statement = Statement::new(
        "SELECT count(*) FROM report
         WHERE reporter = coalesce(?1, reporter) AND coalesce(room_id, '') = coalesce(?2, room_id, '')",
        vec![wanted.reporter.as_deref().into(), wanted.room_id.as_deref().into()],
    );
    let row = metadata.query(statement).await?.pop();
    row.map_or(Ok(0), |mut row| row.unsigned(0))
}

/// Strikes a report; false if there is none.
pub(crate) async fn strike(metadata: &dyn Metadata, report_id: &str) -> Result<bool, Fault> {
    let statement =
        Statement::new("DELETE FROM report WHERE report_id = ?1 RETURNING report_id", vec![report_id.into()]);
    Ok(!metadata.query(statement).await?.is_empty())
}

#[cfg(test)]
mod tests {
    use platform::{Metadata, Statement};
    use ruma_common::{room_id, user_id};

    use super::{PERIOD_MS, REPORTS_MAX, Report, insert};
    use crate::{
        load_settings,
        testing::{MemoryMetadata, TestRandom, block_on, config},
    };

    #[test]
    fn the_same_report_is_kept_once_and_nobody_reports_without_end() {
        let metadata = MemoryMetadata::default();
        block_on(async {
            load_settings(&metadata, config(&[]), &TestRandom::default()).await.unwrap();
            let reports = async |reason: &str, now_ms| {
                let report = Report {
                    reporter: user_id!("@alice:a"),
                    room_id: Some(room_id!("!room:a")),
                    event_id: None,
                    user_id: None,
                    reason,
                };
                insert(&metadata, &report, now_ms).await.unwrap()
            };
            let kept = async || {
                let count = Statement::new("SELECT count(*) FROM report", vec![]);
                metadata.query(count).await.unwrap().pop().unwrap().unsigned(0).unwrap()
            };
            assert!(reports("spam", PERIOD_MS).await);
            assert!(reports("spam", PERIOD_MS + 1).await);
            assert_eq!(kept().await, 1);
            for number in 1..REPORTS_MAX {
                assert!(reports(&number.to_string(), PERIOD_MS).await);
            }
            assert!(!reports("one more", PERIOD_MS).await);
            assert_eq!(kept().await, REPORTS_MAX);
            assert!(reports("later", 2 * PERIOD_MS + 1).await);
        });
    }
}
