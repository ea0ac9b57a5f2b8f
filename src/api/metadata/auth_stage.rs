//! Completed stages of user-interactive authentication, for the operations that need more than one.

use platform::{Fault, Metadata, Row, Statement};

/// The request of a stage that was completed without knowing it, in a browser.
pub(crate) const ANY_REQUEST: &str = "";

/// One stage a session has completed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CompletedStage {
    pub stage: String,
    /// What the stage was completed with, if that is needed later: a registration token.
    pub proof: Option<String>,
    /// A digest of the request it was completed for.
    pub request: String,
}

/// Remembers a completed stage. What has expired is forgotten with the first write after.
pub(crate) async fn insert(
    metadata: &dyn Metadata,
    session: &str,
    completed: &CompletedStage,
    expires_ms: u64,
    now_ms: u64,
) -> Result<(), Fault> {
    let forget = Statement::new("DELETE FROM auth_stage WHERE expires_ms <= ?1", vec![now_ms.into()]);
    metadata.batch(vec![forget, inserted(session, completed, expires_ms)]).await
}

fn inserted(session: &str, completed: &CompletedStage, expires_ms: u64) -> Statement {
    let CompletedStage { stage, proof, request } = completed.clone();
    Statement::new(
        "INSERT INTO auth_stage (session, stage, proof, request, expires_ms) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (session, stage) DO NOTHING",
        vec![session.into(), stage.into(), proof.into(), request.into(), expires_ms.into()],
    )
}

/// The stages a session has completed.
pub(crate) async fn of_session(metadata: &dyn Metadata, session: &str) -> Result<Vec<CompletedStage>, Fault> {
    let statement = Statement::new(
        "SELECT stage, proof, request FROM auth_stage WHERE session = ?1 ORDER BY stage",
        vec![session.into()],
    );
    metadata.query(statement).await?.into_iter().map(read).collect()
}

/// Uses up what a session has completed, and answers that: one statement decides, however many try at once.
pub(crate) async fn take(metadata: &dyn Metadata, session: &str) -> Result<Vec<CompletedStage>, Fault> {
    let statement = Statement::new(
        "DELETE FROM auth_stage WHERE session = ?1 RETURNING stage, proof, request",
        vec![session.into()],
    );
    metadata.query(statement).await?.into_iter().map(read).collect()
}

/// What stages were taken for came to nothing: they are completed again.
pub(crate) async fn give_back(
    metadata: &dyn Metadata,
    session: &str,
    taken: &[CompletedStage],
    expires_ms: u64,
) -> Result<(), Fault> {
    metadata.batch(taken.iter().map(|stage| inserted(session, stage, expires_ms)).collect()).await
}

fn read(mut row: Row) -> Result<CompletedStage, Fault> {
    Ok(CompletedStage { stage: row.text(0)?, proof: row.text_or_null(1)?, request: row.text(2)? })
}
