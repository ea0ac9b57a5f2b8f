//! Tokens that let their holders register. Spec: "Token-authenticated registration".

use platform::{Fault, Metadata, Statement};

/// The longest token, in bytes. Spec: "Token-authenticated registration".
pub(crate) const TOKEN_BYTES_MAX: usize = 64;

/// Postgres takes no text with a NUL, which strangers may send.
fn may_be_one(token: &str) -> bool {
    token.len() <= TOKEN_BYTES_MAX && !token.contains('\0')
}

/// Whether the token would let someone register now.
pub(crate) async fn is_valid(metadata: &dyn Metadata, token: &str, now_ms: u64) -> Result<bool, Fault> {
    if !may_be_one(token) {
        return Ok(false);
    }
    let statement = Statement::new(
        "SELECT token FROM registration_token WHERE token = ?1
         AND (uses_allowed IS NULL OR uses < uses_allowed) AND (expires_ms IS NULL OR expires_ms > ?2)",
        vec![token.into(), now_ms.into()],
    );
    Ok(!metadata.query(statement).await?.is_empty())
}

/// Uses the token once, if it may be used: one statement decides, however many try at once.
pub(crate) async fn consume(metadata: &dyn Metadata, token: &str, now_ms: u64) -> Result<bool, Fault> {
    if !may_be_one(token) {
        return Ok(false);
    }
    let statement = Statement::new(
        "UPDATE registration_token SET uses = uses + 1 WHERE token = ?1
         AND (uses_allowed IS NULL OR uses < uses_allowed) AND (expires_ms IS NULL OR expires_ms > ?2)
         RETURNING token",
        vec![token.into(), now_ms.into()],
    );
    Ok(!metadata.query(statement).await?.is_empty())
}

/// Gives back a use that came to nothing.
pub(crate) async fn give_back(metadata: &dyn Metadata, token: &str) -> Result<(), Fault> {
    let statement = Statement::new(
        "UPDATE registration_token SET uses = uses - 1 WHERE token = ?1 AND uses > 0",
        vec![token.into()],
    );
    metadata.query(statement).await.map(drop)
}

/// Makes a token; false if there is one of that name.
pub(crate) async fn insert(
    metadata: &dyn Metadata,
    token: &str,
    uses_allowed: Option<u64>,
    expires_ms: Option<u64>,
) -> Result<bool, Fault> {
    let statement = Statement::new(
        "INSERT INTO registration_token (token, uses_allowed, uses, expires_ms) VALUES (?1, ?2, 0, ?3)
         ON CONFLICT (token) DO NOTHING RETURNING token",
        vec![token.into(), uses_allowed.into(), expires_ms.into()],
    );
    Ok(!metadata.query(statement).await?.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{consume, give_back, insert, is_valid};
    use crate::{
        load_settings,
        testing::{MemoryMetadata, TestRandom, block_on, config},
    };

    #[test]
    fn a_token_is_good_for_so_many_uses_and_so_long() {
        let metadata = MemoryMetadata::default();
        block_on(async {
            load_settings(&metadata, config(&[]), &TestRandom::default()).await.unwrap();
            assert!(insert(&metadata, "two", Some(2), Some(100)).await.unwrap());
            assert!(!insert(&metadata, "two", None, None).await.unwrap());
            assert!(insert(&metadata, "ever", None, None).await.unwrap());
            for (token, now_ms, good) in
                [("two", 1, true), ("two", 100, false), ("ever", 100, true), ("none", 1, false)]
            {
                assert_eq!(is_valid(&metadata, token, now_ms).await.unwrap(), good, "{token} at {now_ms}");
            }
            let long = "x".repeat(platform::ROW_BYTES_MAX + 1);
            assert!(!is_valid(&metadata, &long, 1).await.unwrap(), "a database would not even take it");
            assert!(consume(&metadata, "two", 1).await.unwrap());
            assert!(consume(&metadata, "two", 1).await.unwrap());
            assert!(!consume(&metadata, "two", 1).await.unwrap());
            assert!(!is_valid(&metadata, "two", 1).await.unwrap());
            give_back(&metadata, "two").await.unwrap();
            assert!(consume(&metadata, "two", 99).await.unwrap());
        });
    }
}
