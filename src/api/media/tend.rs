//! What is done to the store of media from time to time: whatever crashed, no file stays that belongs to nothing.
//!
//! A round is small, for D1 takes 1,000 statements of one invocation; the rest waits for the next.

use platform::Fault;

use super::preview;
use crate::{
    Services,
    metadata::deletion::{self, DELETED_TOGETHER, Whose},
};

/// Strays that are cleared away together: their files in one call, their rows in eleven statements.
const STRAYS_TOGETHER: u64 = 100;
/// How often that is done before anything else, and afterwards, for what has just become one.
const STRAYS_BEFORE: usize = 10;
const STRAYS_AFTER: usize = 2;

/// Deletes files that belong to nothing, names that were never used, and what nobody fetched for as long as the
/// configuration says. Any number of hosts may do so at once, and whoever is interrupted is taken up from.
///
/// # Errors
/// The database or the store does not answer.
pub(crate) async fn tend(services: &Services) -> Result<(), Fault> {
    let (metadata, now_ms) = (&*services.metadata, services.clock.now_ms());
    clear(services, STRAYS_BEFORE).await?;
    deletion::delete_expired(metadata, now_ms).await?;
    let config = &services.settings.config;
    for (whose, retention_ms) in
        [(Whose::Ours, config.media_retention_ms), (Whose::Others, config.remote_media_retention_ms)]
    {
        let Some(retention_ms) = retention_ms else { continue };
        let before_ms = now_ms.saturating_sub(retention_ms);
        let unused = deletion::unused(metadata, whose, before_ms, 0, DELETED_TOGETHER as u64).await?;
        deletion::delete(metadata, &unused).await?;
    }
    // Files are deleted, whatever became of the previews.
    let previews = preview::tend(services).await;
    clear(services, STRAYS_AFTER).await?;
    previews
}

/// Deletes files that belong to nothing and that nobody writes.
pub(crate) async fn clear_strays(services: &Services) -> Result<(), Fault> {
    clear(services, STRAYS_AFTER).await
}

async fn clear(services: &Services, times: usize) -> Result<(), Fault> {
    let metadata = &*services.metadata;
    for _ in 0..times {
        let files = deletion::strays(metadata, services.clock.now_ms(), STRAYS_TOGETHER).await?;
        if files.is_empty() {
            return Ok(());
        }
        services.blobs.delete(&files).await?;
        deletion::forget_files(metadata, &files).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::{Method, Request, StatusCode, header};
    use serde_json::Value;

    use platform::Fault;

    use super::{DELETED_TOGETHER, clear_strays, tend};
    use crate::{
        metadata::{deletion, media::Mxc},
        testing::{TestServer, block_on},
    };

    const DAY_MS: u64 = 86_400_000;

    /// Uploads, and answers what is after `mxc://`.
    fn uploads(server: &TestServer, token: &str, body: &'static str) -> String {
        let request = Request::builder().method(Method::POST).uri("/_matrix/media/v3/upload");
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        let answer = server.answer(request.body(body.into()).unwrap());
        let answer: Value = serde_json::from_slice(answer.body()).unwrap();
        answer["content_uri"].as_str().unwrap_or_default().trim_start_matches("mxc://").to_owned()
    }

    fn downloads(server: &TestServer, token: &str, mxc: &str) -> StatusCode {
        server.get(&format!("/_matrix/client/v1/media/download/{mxc}"), token).0
    }

    fn tends(server: &TestServer) {
        block_on(tend(server.context().services())).unwrap();
    }

    /// Every file belongs to something or is a stray, and everything has its file.
    fn is_in_order(server: &TestServer) {
        let (kept, strays) = (server.files(), server.strays());
        for file in server.blobs.keys() {
            assert!(kept.contains(&file) || strays.contains(&file), "{file} belongs to nothing");
        }
        for file in kept {
            assert!(server.blobs.keys().contains(&file), "{file} is lost");
        }
    }

    #[test]
    fn an_upload_that_was_interrupted_is_cleared_away_when_nobody_can_be_at_it() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let token = server.register("alice");
        server.blobs.fails_after(0);
        uploads(&server, &token, "lost");
        server.blobs.fails_after(usize::MAX);
        let kept = uploads(&server, &token, "kept");
        tends(&server);
        assert_eq!((server.blobs.keys().len(), server.strays().len()), (2, 1), "its time is not over");
        server.pass_ms(2 * 3_600_000);
        server.blobs.fails_after(0);
        assert!(block_on(tend(server.context().services())).is_err());
        is_in_order(&server);
        server.blobs.fails_after(usize::MAX);
        tends(&server);
        assert_eq!((server.blobs.keys().len(), server.strays().len()), (1, 0));
        assert_eq!(downloads(&server, &token, &kept), StatusCode::OK);
    }

    /// Deletes media and its file; stops where that fails.
    fn deletes(server: &TestServer, mxc: &str) -> Result<(), Fault> {
        let cx = server.context();
        let (_, media_id) = mxc.split_once('/').unwrap();
        block_on(async {
            let media = deletion::one(cx.metadata(), Mxc { server_name: cx.server_name(), media_id }).await?.unwrap();
            deletion::delete(cx.metadata(), &[media]).await?;
            clear_strays(cx.services()).await
        })
    }

    #[test]
    fn a_deletion_that_is_interrupted_anywhere_leaves_neither_a_file_without_a_row_nor_a_row_without_a_file() {
        let (mut interrupted, mut went_through) = (0, 0);
        // Which of the database's calls fails, and whether it happens all the same; or the store's.
        let faults = (0..8).flat_map(|calls| [Some((calls, false)), Some((calls, true)), None].map(|at| (calls, at)));
        for (calls, at_database) in faults {
            let server = TestServer::new(&[("REGISTRATION", "open")]);
            let token = server.register("alice");
            let [alone, shared, same] = ["alone", "shared", "shared"].map(|body| uploads(&server, &token, body));
            for mxc in [&alone, &shared] {
                match at_database {
                    Some((calls, is_done)) => server.metadata.fails_after(calls, is_done),
                    None => server.blobs.fails_after(calls),
                }
                let outcome = deletes(&server, mxc);
                server.metadata.is_well();
                server.blobs.fails_after(usize::MAX);
                is_in_order(&server);
                let is_there = downloads(&server, &token, mxc);
                assert!(is_there == StatusCode::OK || is_there == StatusCode::NOT_FOUND, "{is_there}");
                if outcome.is_ok() {
                    assert_eq!(is_there, StatusCode::NOT_FOUND);
                    went_through += 1;
                } else {
                    interrupted += 1;
                }
            }
            assert_eq!(downloads(&server, &token, &same), StatusCode::OK);
            tends(&server);
            let mut files = server.blobs.keys();
            files.sort();
            assert_eq!((files, server.strays()), (server.files(), vec![]));
        }
        assert!(interrupted > 10 && went_through > 10, "{interrupted} {went_through}");
    }

    #[test]
    fn names_that_were_never_used_are_forgotten() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let token = server.register("alice");
        server.post("/_matrix/media/v1/create", &token, &serde_json::json!({}));
        uploads(&server, &token, "kept");
        let count = || server.numbers("SELECT count(*) FROM media");
        server.pass_ms(DAY_MS - 1);
        tends(&server);
        assert_eq!(count(), [2]);
        server.pass_ms(2);
        tends(&server);
        assert_eq!(count(), [1]);
    }

    #[test]
    fn what_nobody_fetches_goes_after_its_time() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("MEDIA_RETENTION", "10")]);
        let token = server.register("alice");
        let [unused, used, shared] = ["unused", "used", "shared"].map(|body| uploads(&server, &token, body));
        server.pass_ms(9 * DAY_MS);
        assert_eq!(downloads(&server, &token, &used), StatusCode::OK);
        let again = uploads(&server, &token, "shared");
        tends(&server);
        assert_eq!(server.blobs.keys().len(), 3);
        server.pass_ms(2 * DAY_MS);
        tends(&server);
        for (mxc, status) in [(&unused, 404), (&used, 200), (&shared, 404), (&again, 200)] {
            assert_eq!(downloads(&server, &token, mxc), status, "{mxc}");
        }
        assert_eq!((server.blobs.keys().len(), server.strays().len()), (2, 0));
        is_in_order(&server);
    }

    #[test]
    fn a_round_is_small_and_begins_with_the_strays() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("MEDIA_RETENTION", "10")]);
        let token = server.register("alice");
        server.blobs.fails_after(0);
        uploads(&server, &token, "lost");
        server.blobs.fails_after(usize::MAX);
        let count = DELETED_TOGETHER + 5;
        for number in 0..count {
            uploads(&server, &token, number.to_string().leak());
        }
        server.pass_ms(11 * DAY_MS);
        let calls = server.metadata.statements();
        // The first stray goes, whatever becomes of the rest.
        server.blobs.fails_after(1);
        assert!(block_on(tend(server.context().services())).is_err());
        server.blobs.fails_after(usize::MAX);
        assert_eq!((server.blobs.keys().len(), server.strays().len()), (count, DELETED_TOGETHER));
        assert!(server.metadata.statements() - calls < 1_000);
        tends(&server);
        assert_eq!((server.blobs.keys().len(), server.strays().len()), (0, 0));
        is_in_order(&server);
    }

    #[test]
    fn a_deletion_that_is_interrupted_is_taken_up() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("MEDIA_RETENTION", "1")]);
        let token = server.register("alice");
        let mxc = uploads(&server, &token, "content");
        server.pass_ms(2 * DAY_MS);
        server.blobs.fails_after(0);
        assert!(block_on(tend(server.context().services())).is_err());
        is_in_order(&server);
        assert_eq!((server.blobs.keys().len(), server.strays().len()), (1, 1));
        // The same content again is a file of its own.
        server.blobs.fails_after(usize::MAX);
        let again = uploads(&server, &token, "content");
        tends(&server);
        is_in_order(&server);
        assert_eq!((server.blobs.keys().len(), server.strays().len()), (1, 0));
        assert_eq!(
            (downloads(&server, &token, &mxc), downloads(&server, &token, &again)),
            (StatusCode::NOT_FOUND, StatusCode::OK)
        );
    }
}
