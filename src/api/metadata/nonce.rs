//! What may be used only once.

use platform::{Fault, Metadata, Statement};

/// Uses a nonce up; false if someone did before. What has expired is forgotten with the first write after.
pub(crate) async fn use_up(metadata: &dyn Metadata, nonce: &str, expires_ms: u64, now_ms: u64) -> Result<bool, Fault> {
    let forget = Statement::new("DELETE FROM used_nonce WHERE expires_ms <= ?1", vec![now_ms.into()]);
    metadata.query(forget).await?;
    let statement = Statement::new(
        "INSERT INTO used_nonce (nonce, expires_ms) VALUES (?1, ?2) ON CONFLICT (nonce) DO NOTHING RETURNING nonce",
        vec![nonce.into(), expires_ms.into()],
    );
    Ok(!metadata.query(statement).await?.is_empty())
}
