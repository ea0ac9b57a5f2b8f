//! Files that belong to nothing yet, or no longer. See [`crate::metadata::media`].

use platform::Fault;

use crate::{Context, metadata::media};

/// How long nobody touches a file after the time at which it should be written, whatever the clocks of others say.
const MARGIN_MS: u64 = 10 * 60 * 1000;

/// The name of a new file, listed before it is written.
pub(super) async fn new_file(cx: &Context, written_until_ms: u64) -> Result<String, Fault> {
    let file: String = cx.random::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    media::expect_file(cx.metadata(), &file, written_until_ms.saturating_add(MARGIN_MS)).await?;
    Ok(file)
}

/// Deletes the file unless it belongs to something by now.
pub(super) async fn settle(cx: &Context, file: &str) -> Result<(), Fault> {
    if media::is_stray(cx.metadata(), file).await? {
        discard(cx, file).await?;
    }
    Ok(())
}

/// Deletes a file that belongs to nothing.
pub(super) async fn discard(cx: &Context, file: &str) -> Result<(), Fault> {
    cx.services().blobs.delete(&[file.to_owned()]).await?;
    media::forget_file(cx.metadata(), file).await
}
