//! Sessions that prove email addresses. Spec: `POST …/email/requestToken`.

use platform::{Fault, Metadata, Row, Statement};

/// A session that somebody asks for.
pub(crate) struct Requested<'a> {
    pub sid: &'a str,
    pub purpose: &'a str,
    pub address: &'a str,
    pub token_hash: &'a str,
    pub send_attempt: u64,
    pub next_link: Option<&'a str>,
    pub expires_ms: u64,
}

/// A link that somebody opened.
pub(crate) struct Link {
    pub sid: String,
    pub purpose: String,
    pub address: String,
    pub next_link: Option<String>,
    /// Whether that was confirmed already.
    pub validated: bool,
}

/// An address that was proven.
pub(crate) struct Proven {
    pub address: String,
    pub validated_ms: u64,
}

/// The largest attempt that is told from others: what every database takes.
const ATTEMPT_MAX: u64 = (1 << 53) - 1;

/// Begins a session, or has another link for one. Answers whether a message is to be sent: one statement decides,
/// however many ask at once.
pub(crate) async fn request(metadata: &dyn Metadata, wish: &Requested<'_>, now_ms: u64) -> Result<bool, Fault> {
    let statements = vec![
        Statement::new("DELETE FROM email_validation WHERE expires_ms <= ?1", vec![now_ms.into()]),
        Statement::new(
            "INSERT INTO email_validation (sid, purpose, address, token_hash, send_attempt, next_link, expires_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (sid) DO UPDATE SET token_hash = excluded.token_hash, send_attempt = excluded.send_attempt,
                 next_link = excluded.next_link, expires_ms = excluded.expires_ms, validated_ms = NULL
             WHERE excluded.send_attempt > email_validation.send_attempt RETURNING sid",
            vec![
                wish.sid.into(),
                wish.purpose.into(),
                wish.address.into(),
                wish.token_hash.into(),
                wish.send_attempt.min(ATTEMPT_MAX).into(),
                wish.next_link.into(),
                wish.expires_ms.into(),
            ],
        ),
    ];
    let mut last = Vec::new();
    for statement in statements {
        last = metadata.query(statement).await?;
    }
    Ok(!last.is_empty())
}

/// Forgets a session, unless it has another link since.
pub(crate) async fn forget(metadata: &dyn Metadata, sid: &str, token_hash: &str) -> Result<(), Fault> {
    let statement = Statement::new(
        "DELETE FROM email_validation WHERE sid = ?1 AND token_hash = ?2",
        vec![sid.into(), token_hash.into()],
    );
    metadata.query(statement).await.map(drop)
}

/// Postgres takes no text with a NUL, which strangers may send.
fn is_no_session(sid: &str) -> bool {
    sid.contains('\0')
}

/// The link with this token, if it is still good.
pub(crate) async fn link(
    metadata: &dyn Metadata,
    sid: &str,
    token_hash: &str,
    now_ms: u64,
) -> Result<Option<Link>, Fault> {
    if is_no_session(sid) {
        return Ok(None);
    }
    let statement = Statement::new(
        "SELECT sid, purpose, address, next_link, validated_ms FROM email_validation
         WHERE sid = ?1 AND token_hash = ?2 AND expires_ms > ?3",
        vec![sid.into(), token_hash.into(), now_ms.into()],
    );
    let link = |mut row: Row| {
        Ok(Link {
            sid: row.text(0)?,
            purpose: row.text(1)?,
            address: row.text(2)?,
            next_link: row.text_or_null(3)?,
            validated: row.unsigned_or_null(4)?.is_some(),
        })
    };
    metadata.query(statement).await?.pop().map(link).transpose()
}

/// The address is proven, until its proof is too old. The first time counts.
pub(crate) async fn confirm(metadata: &dyn Metadata, sid: &str, now_ms: u64, proof_until_ms: u64) -> Result<(), Fault> {
    let statement = Statement::new(
        "UPDATE email_validation SET validated_ms = ?2, expires_ms = ?3 WHERE sid = ?1 AND validated_ms IS NULL",
        vec![sid.into(), now_ms.into(), proof_until_ms.into()],
    );
    metadata.query(statement).await.map(drop)
}

/// What a session proved.
pub(crate) async fn proven(metadata: &dyn Metadata, sid: &str, now_ms: u64) -> Result<Option<Proven>, Fault> {
    if is_no_session(sid) {
        return Ok(None);
    }
    let statement = Statement::new(
        "SELECT address, validated_ms FROM email_validation
         WHERE sid = ?1 AND validated_ms IS NOT NULL AND expires_ms > ?2",
        vec![sid.into(), now_ms.into()],
    );
    metadata.query(statement).await?.pop().map(read).transpose()
}

/// As [`proven`], and it is none any more, unless it is [given back](give_back).
pub(crate) async fn take(metadata: &dyn Metadata, sid: &str, now_ms: u64) -> Result<Option<Proven>, Fault> {
    let statement = Statement::new(
        "UPDATE email_validation SET expires_ms = 0 WHERE sid = ?1 AND validated_ms IS NOT NULL AND expires_ms > ?2
         RETURNING address, validated_ms",
        vec![sid.into(), now_ms.into()],
    );
    metadata.query(statement).await?.pop().map(read).transpose()
}

/// What was taken came to nothing: it is a proof again, as long as one holds.
pub(crate) async fn give_back(metadata: &dyn Metadata, sid: &str, proof_until_ms: u64) -> Result<(), Fault> {
    let statement = Statement::new(
        "UPDATE email_validation SET expires_ms = ?2 WHERE sid = ?1 AND expires_ms = 0",
        vec![sid.into(), proof_until_ms.into()],
    );
    metadata.query(statement).await.map(drop)
}

fn read(mut row: Row) -> Result<Proven, Fault> {
    Ok(Proven { address: row.text(0)?, validated_ms: row.unsigned(1)? })
}

#[cfg(test)]
mod tests {
    use super::{Requested, confirm, forget, give_back, link, proven, request, take};
    use crate::testing::with_metadata;

    fn wish(token_hash: &'static str, send_attempt: u64, expires_ms: u64) -> Requested<'static> {
        let (sid, purpose, address) = ("s", "add", "a@b");
        Requested { sid, purpose, address, token_hash, send_attempt, next_link: None, expires_ms }
    }

    #[test]
    fn only_a_newer_attempt_has_a_message_sent() {
        with_metadata(async |metadata| {
            for (token, attempt, is_sent) in [("a", 5, true), ("b", 5, false), ("c", 4, false), ("d", 6, true)] {
                assert_eq!(request(metadata, &wish(token, attempt, 100), 1).await.unwrap(), is_sent, "{token}");
            }
            let is_good = async |token: &str| link(metadata, "s", token, 2).await.unwrap().is_some();
            assert_eq!([is_good("a").await, is_good("b").await, is_good("d").await], [false, false, true]);
            // After its time it begins anew.
            assert!(request(metadata, &wish("e", 1, 200), 100).await.unwrap());
            forget(metadata, "s", "d").await.unwrap();
            assert!(link(metadata, "s", "e", 150).await.unwrap().is_some(), "it is another link");
            forget(metadata, "s", "e").await.unwrap();
            assert!(request(metadata, &wish("f", 1, 200), 100).await.unwrap());
        });
    }

    #[test]
    fn links_and_proofs_have_their_time() {
        with_metadata(async |metadata| {
            request(metadata, &wish("a", 1, 100), 1).await.unwrap();
            assert!(link(metadata, "s", "a", 99).await.unwrap().is_some_and(|link| !link.validated));
            assert!(link(metadata, "s", "a", 100).await.unwrap().is_none(), "too late");
            assert!(proven(metadata, "s", 50).await.unwrap().is_none(), "nobody confirmed it");
            assert!(take(metadata, "s", 50).await.unwrap().is_none());
            confirm(metadata, "s", 50, 300).await.unwrap();
            confirm(metadata, "s", 60, 400).await.unwrap();
            let found = proven(metadata, "s", 299).await.unwrap().unwrap();
            assert_eq!((&*found.address, found.validated_ms), ("a@b", 50), "the first time counts");
            assert!(proven(metadata, "s", 300).await.unwrap().is_none(), "too late");
            assert!(take(metadata, "s", 299).await.unwrap().is_some());
            assert!(take(metadata, "s", 299).await.unwrap().is_none(), "once");
            give_back(metadata, "s", 350).await.unwrap();
            assert!(take(metadata, "s", 349).await.unwrap().is_some(), "it came to nothing");
            assert!(proven(metadata, "s", 349).await.unwrap().is_none());
            // Another message takes the proof back.
            request(metadata, &wish("a", 1, 100), 1).await.unwrap();
            confirm(metadata, "s", 2, 300).await.unwrap();
            request(metadata, &wish("b", 2, 100), 3).await.unwrap();
            assert!(proven(metadata, "s", 4).await.unwrap().is_none());
        });
    }
}
