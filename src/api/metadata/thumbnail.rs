//! The thumbnails there are, and why there is none where there is none. Spec: "Thumbnails".

use platform::{Fault, Metadata, Row, Statement};

/// What became of the attempt to make a thumbnail.
pub(crate) enum Outcome {
    /// The content serves as its own thumbnail; this is its type.
    Itself {
        content_type: String,
    },
    Made {
        content_type: String,
        size: u64,
        file: String,
    },
    /// The content is no picture.
    Unreadable,
    /// The picture is too large: it has too many pixels, or takes too much memory, where so many pixels are looked at.
    TooLarge {
        pixels_max: u64,
    },
}

const ITSELF: &str = "itself";
const MADE: &str = "made";
const UNREADABLE: &str = "unreadable";
const TOO_LARGE: &str = "too_large";

/// What became of the attempt to make the thumbnail of this name, if there was one.
pub(crate) async fn find(metadata: &dyn Metadata, sha256: &str, name: &str) -> Result<Option<Outcome>, Fault> {
    let statement = Statement::new(
        "SELECT outcome, content_type, size, file FROM media_thumbnail WHERE sha256 = ?1 AND name = ?2",
        vec![sha256.into(), name.into()],
    );
    metadata.query(statement).await?.pop().map(from_row).transpose()
}

fn from_row(mut row: Row) -> Result<Outcome, Fault> {
    match &*row.text(0)? {
        ITSELF => Ok(Outcome::Itself { content_type: row.text(1)? }),
        MADE => Ok(Outcome::Made { content_type: row.text(1)?, size: row.unsigned(2)?, file: row.text(3)? }),
        UNREADABLE => Ok(Outcome::Unreadable),
        // Releases that looked at less did not say so.
        TOO_LARGE => Ok(Outcome::TooLarge { pixels_max: row.unsigned_or_null(2)?.unwrap_or_default() }),
        other => Err(Fault::new(format!("a thumbnail of the unknown outcome {other}"))),
    }
}

/// Keeps an outcome, unless there is one other than that the picture is too large, or the content is gone. A file that
/// was made stays a stray if it is not used.
pub(crate) async fn insert(metadata: &dyn Metadata, sha256: &str, name: &str, outcome: &Outcome) -> Result<(), Fault> {
    let (word, content_type, size, file) = match outcome {
        Outcome::Itself { content_type } => (ITSELF, Some(&**content_type), None, None),
        Outcome::Made { content_type, size, file } => (MADE, Some(&**content_type), Some(*size), Some(&**file)),
        Outcome::Unreadable => (UNREADABLE, None, None, None),
        Outcome::TooLarge { pixels_max } => (TOO_LARGE, None, Some(*pixels_max), None),
    };
    let claim = Statement::new(
        // Whoever deletes the content meanwhile is done first, or waits until we are.
        "UPDATE media_content SET size = size WHERE sha256 = ?1",
        vec![sha256.into()],
    );
    let keep = Statement::new(
        "INSERT INTO media_thumbnail (sha256, name, outcome, content_type, size, file) SELECT ?1, ?2, ?3, ?4, CAST(?5 AS BIGINT), ?6
         WHERE EXISTS (SELECT 1 FROM media_content WHERE sha256 = ?1)
         ON CONFLICT (sha256, name) DO UPDATE SET outcome = excluded.outcome, content_type = excluded.content_type,
            size = excluded.size, file = excluded.file
         WHERE media_thumbnail.outcome = 'too_large'",
        vec![sha256.into(), name.into(), word.into(), content_type.into(), size.into(), file.into()],
    );
    let no_stray = Statement::new(
        "DELETE FROM media_stray WHERE file = ?3 AND EXISTS
            (SELECT 1 FROM media_thumbnail WHERE sha256 = ?1 AND name = ?2 AND file = ?3)",
        vec![sha256.into(), name.into(), file.into()],
    );
    metadata.batch(vec![claim, keep, no_stray]).await
}
