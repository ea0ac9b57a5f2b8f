//! What is done to the store of media from time to time: whatever crashed, no file stays that belongs to nothing.
//!
//! It goes in rounds, of a bounded number of statements each however much there is to do: D1 takes 1,000 of one
//! invocation. What fails keeps nothing else from being done, and is told in the end.

use platform::{Blobs, Fault};

use super::{content::ACCESS_PRECISION_MS, preview};
use crate::{
    Services,
    metadata::deletion::{self, Whose},
};

/// How often there is another round while there is more to do: on Workers as often as D1 allows for.
const ROUNDS_MAX: usize = if cfg!(target_family = "wasm") { 4 } else { 1_000 };
/// Media that are deleted in one round, ours and others': in nine statements each.
const DELETED_TOGETHER: u64 = 500;
/// Strays that are cleared away together: their files in one call, their rows in eight statements.
const STRAYS_TOGETHER: u64 = 500;
/// How often that is done before anything else, and afterwards, for what has just become one.
const STRAYS_TIMES: usize = 10;
/// Files that may fail before it is taken for granted that all do, and when these are tried again, in milliseconds.
const FAILING_MAX: usize = 8;
const AGAIN_MS: u64 = 60 * 60 * 1000;

/// Deletes files that belong to nothing, names that were never used, and what nobody fetched for as long as the
/// configuration says or has no room. Any number of hosts may do so at once, and whoever is interrupted is taken up
/// from.
///
/// # Errors
/// The database or the store does not answer, or not for every file.
pub(crate) async fn tend(services: &Services) -> Result<(), Fault> {
    for _ in 0..ROUNDS_MAX {
        if !round(services).await? {
            break;
        }
    }
    Ok(())
}

/// What came of a round until now.
#[derive(Default)]
struct Round {
    has_more: bool,
    fault: Option<Fault>,
}

impl Round {
    /// One of the things that are done in it, which may have left more to do.
    fn did(&mut self, outcome: Result<bool, Fault>) {
        match outcome {
            Ok(has_more) => self.has_more |= has_more,
            Err(fault) => self.fault = self.fault.take().or(Some(fault)),
        }
    }
}

/// Answers whether there may be more to do.
async fn round(services: &Services) -> Result<bool, Fault> {
    let (metadata, now_ms, config) = (&*services.metadata, services.clock.now_ms(), &services.settings.config);
    let mut round = Round::default();
    round.did(clear(services, STRAYS_TIMES).await);
    round.did(deletion::delete_expired(metadata, now_ms).await.map(|()| false));
    let kept = [(Whose::Ours, config.media_retention_ms), (Whose::Others, config.remote_media_retention_ms)];
    for (whose, retention_ms) in kept {
        let Some(retention_ms) = retention_ms else { continue };
        // It may have been served since that was noted.
        let before_ms = now_ms.saturating_sub(retention_ms).saturating_sub(ACCESS_PRECISION_MS);
        round.did(delete_unused(services, whose, before_ms).await);
    }
    if let Some(bytes_max) = config.media_quota.remote_max {
        round.did(delete_beyond(services, bytes_max).await);
    }
    round.did(preview::tend(services).await);
    round.did(clear(services, STRAYS_TIMES).await);
    round.fault.map_or(Ok(round.has_more), Err)
}

async fn delete_unused(services: &Services, whose: Whose, before_ms: u64) -> Result<bool, Fault> {
    let count = deletion::delete_unused(&*services.metadata, whose, before_ms, DELETED_TOGETHER).await?;
    Ok(count >= DELETED_TOGETHER)
}

/// Deletes the copies that were not served for the longest time, if all take more than that.
async fn delete_beyond(services: &Services, bytes_max: u64) -> Result<bool, Fault> {
    match deletion::too_much_until(&*services.metadata, bytes_max).await? {
        Some(until_ms) => delete_unused(services, Whose::Others, until_ms.saturating_add(1)).await,
        None => Ok(false),
    }
}

/// Deletes files that belong to nothing and that nobody writes.
///
/// # Errors
/// As [`tend`].
pub(crate) async fn clear_strays(services: &Services) -> Result<(), Fault> {
    clear(services, STRAYS_TIMES).await.map(drop)
}

/// Answers whether there may be more.
async fn clear(services: &Services, times: usize) -> Result<bool, Fault> {
    let metadata = &*services.metadata;
    for _ in 0..times {
        let files = deletion::strays(metadata, services.clock.now_ms(), STRAYS_TOGETHER).await?;
        let deletion = delete_files(&*services.blobs, &files).await;
        deletion::forget_files(metadata, &deletion.deleted).await?;
        let again_ms = services.clock.now_ms().saturating_add(AGAIN_MS);
        for file in &deletion.failed {
            deletion::put_off(metadata, file, again_ms).await?;
        }
        if let Some(fault) = deletion.fault {
            return Err(fault);
        }
        if (files.len() as u64) < STRAYS_TOGETHER {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What became of files that were to be deleted. Of others it was not tried.
#[derive(Default)]
struct Deletion {
    deleted: Vec<String>,
    failed: Vec<String>,
    /// Why the last one failed.
    fault: Option<Fault>,
}

/// Deletes files in one call, or if that fails in as many as it takes to find those that do.
async fn delete_files(blobs: &dyn Blobs, files: &[String]) -> Deletion {
    let mut deletion = Deletion::default();
    let mut left = vec![files];
    while let Some(some) = left.pop() {
        if some.is_empty() {
            continue;
        }
        match blobs.delete(some).await {
            Ok(()) => deletion.deleted.extend_from_slice(some),
            Err(fault) => {
                if let [file] = some {
                    deletion.failed.push(file.clone());
                } else {
                    let (first, second) = some.split_at(some.len() / 2);
                    left.extend([second, first]);
                }
                deletion.fault = Some(fault);
                if deletion.failed.len() >= FAILING_MAX {
                    break;
                }
            }
        }
    }
    if deletion.failed.is_empty() {
        // It went well in the end.
        deletion.fault = None;
    }
    deletion
}

#[cfg(test)]
mod tests {
    use http::{Method, Request, StatusCode, header};
    use serde_json::Value;

    use platform::{Fault, Statement};

    use super::{AGAIN_MS, clear_strays, round, tend};
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
        assert_eq!((server.blobs.keys().len(), server.strays().len()), (2, 1), "it is not tried again at once");
        server.pass_ms(AGAIN_MS + 1);
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
            server.pass_ms(AGAIN_MS + 1);
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
        // Until then what was there at the beginning may have been fetched ten days ago, without a note.
        server.pass_ms(2 * DAY_MS);
        tends(&server);
        assert_eq!(server.blobs.keys().len(), 3);
        server.pass_ms(1);
        tends(&server);
        for (mxc, status) in [(&unused, 404), (&used, 200), (&shared, 404), (&again, 200)] {
            assert_eq!(downloads(&server, &token, mxc), status, "{mxc}");
        }
        assert_eq!((server.blobs.keys().len(), server.strays().len()), (2, 0));
        is_in_order(&server);
    }

    /// Puts media into the store that were fetched from another server, and when: each has a file, and a thumbnail.
    fn copies(server: &TestServer, count: u64, size: u64, accessed_ms: u64) {
        let numbers = format!("WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})");
        for rows in [
            "media (server_name, media_id, sha256, size, content_type, created_ms, accessed_ms, authenticated, protected)
             SELECT 'b.test', 'm{at}' || n, 's{at}' || n, {size}, 'a/b', {at}, {at}, 1, 0 FROM n",
            "media_content (sha256, size, file) SELECT 's{at}' || n, {size}, 'f{at}' || n FROM n",
            "media_thumbnail (sha256, name, outcome, content_type, size, file)
             SELECT 's{at}' || n, '32x32-crop', 'made', 'image/png', 1, 't{at}' || n FROM n",
        ] {
            let rows = rows.replace("{at}", &accessed_ms.to_string()).replace("{size}", &size.to_string());
            server.numbers(format!("{numbers} INSERT INTO {rows} RETURNING 1").leak());
        }
    }

    #[test]
    fn many_copies_go_in_few_rounds_of_few_statements() {
        let server = TestServer::new(&[("REMOTE_MEDIA_RETENTION", "10")]);
        let begun_ms = server.context().now_ms();
        copies(&server, 2_000, 1, begun_ms);
        copies(&server, 3, 1, begun_ms + 10 * DAY_MS);
        server.pass_ms(12 * DAY_MS);
        let mut rounds = 1;
        loop {
            let before = server.metadata.statements();
            let has_more = block_on(round(server.context().services())).unwrap();
            // Of one invocation D1 takes 1,000.
            assert!((server.metadata.statements() - before) * 4 < 400, "{}", server.metadata.statements() - before);
            if !has_more {
                break;
            }
            rounds += 1;
        }
        assert_eq!(rounds, 5);
        assert_eq!((server.files().len(), server.strays().len()), (3, 0));
        assert_eq!(server.numbers("SELECT count(*) FROM media_thumbnail"), [3]);
        assert_eq!(server.numbers("SELECT count(*) FROM media_leaving"), [0]);
    }

    #[test]
    fn what_is_unused_is_looked_for_where_it_is_in_order() {
        let server = TestServer::new(&[]);
        for whose in ["uploader IS NULL", "uploader IS NOT NULL"] {
            let asked = format!(
                "SELECT sha256 FROM media WHERE accessed_ms < 1 AND protected = 0 AND quarantined_by IS NULL
                    AND sha256 IS NOT NULL AND {whose} ORDER BY accessed_ms LIMIT 500"
            );
            let steps = Statement::new(format!("EXPLAIN QUERY PLAN {asked}").leak(), vec![]);
            let steps = block_on(server.context().metadata().query(steps)).unwrap();
            let steps: Vec<String> = steps.into_iter().map(|mut step| step.text(3).unwrap()).collect();
            assert!(steps.len() == 1 && steps[0].contains("by_access (accessed_ms<?)"), "{steps:?}");
        }
    }

    #[test]
    fn there_is_room_for_so_many_copies() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("REMOTE_MEDIA_QUOTA", "10K")]);
        let token = server.register("alice");
        let ours = uploads(&server, &token, "ours is not counted");
        let now_ms = server.context().now_ms();
        for (count, days) in [(3, 5), (4, 3), (6, 1)] {
            copies(&server, count, 1_024, now_ms - days * DAY_MS);
        }
        server.numbers("UPDATE media SET quarantined_by = '@root:localhost' WHERE media_id LIKE 'm%1' RETURNING 1");
        tends(&server);
        let left =
            server.numbers("SELECT count(*) FROM media WHERE server_name = 'b.test' GROUP BY accessed_ms ORDER BY 1");
        assert_eq!(left, [3, 4, 6], "ten may be seen");
        copies(&server, 1, 1, now_ms);
        tends(&server);
        let left =
            server.numbers("SELECT count(*) FROM media WHERE server_name = 'b.test' GROUP BY accessed_ms ORDER BY 1");
        assert_eq!(left, [1, 1, 4, 6], "what was not fetched for the longest time is gone, but for what is hidden");
        assert_eq!(downloads(&server, &token, &ours), StatusCode::OK);
        assert_eq!(server.strays(), Vec::<String>::new());
    }

    #[test]
    fn files_that_cannot_be_deleted_are_in_nobodys_way() {
        let server = TestServer::new(&[("REMOTE_MEDIA_RETENTION", "10")]);
        copies(&server, 700, 1, server.context().now_ms());
        server.pass_ms(12 * DAY_MS);
        let of_copies = server.files();
        let stuck: Vec<String> = [0, 100, 650].map(|number| of_copies[number].clone()).to_vec();
        server.blobs.sticks(stuck.clone());
        // Each time it is told, and the rest is deleted.
        let told = (0..9).filter(|_| block_on(round(server.context().services())).is_err()).count();
        assert!((1..4).contains(&told), "{told}");
        let mut left = stuck.clone();
        left.sort();
        assert_eq!((server.strays(), server.files()), (left, vec![]));
        server.blobs.sticks(vec![]);
        server.pass_ms(AGAIN_MS + 1);
        tends(&server);
        assert_eq!(server.strays(), Vec::<String>::new());
    }

    #[test]
    fn a_store_that_is_gone_is_not_asked_for_every_file() {
        let server = TestServer::new(&[("REMOTE_MEDIA_RETENTION", "10")]);
        copies(&server, 300, 1, server.context().now_ms());
        server.pass_ms(12 * DAY_MS);
        server.blobs.fails_after(0);
        assert!(block_on(tend(server.context().services())).is_err());
        let put_off = server.numbers("SELECT count(*) FROM media_stray WHERE written_until_ms > 0");
        assert_eq!((put_off, server.strays().len()), (vec![8], 600));
    }

    #[test]
    fn a_round_begins_with_the_strays() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("MEDIA_RETENTION", "10")]);
        let token = server.register("alice");
        server.blobs.fails_after(0);
        uploads(&server, &token, "lost");
        server.blobs.fails_after(usize::MAX);
        for number in 0..5 {
            uploads(&server, &token, number.to_string().leak());
        }
        server.pass_ms(12 * DAY_MS);
        // The first stray goes, whatever becomes of the rest.
        server.blobs.fails_after(1);
        assert!(block_on(tend(server.context().services())).is_err());
        server.blobs.fails_after(usize::MAX);
        assert_eq!((server.blobs.keys().len(), server.strays().len()), (5, 5));
        server.pass_ms(AGAIN_MS + 1);
        tends(&server);
        assert_eq!((server.blobs.keys().len(), server.strays().len()), (0, 0));
        is_in_order(&server);
    }

    #[test]
    fn a_deletion_that_is_interrupted_is_taken_up() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("MEDIA_RETENTION", "1")]);
        let token = server.register("alice");
        let mxc = uploads(&server, &token, "content");
        server.pass_ms(2 * DAY_MS + 1);
        server.blobs.fails_after(0);
        assert!(block_on(tend(server.context().services())).is_err());
        is_in_order(&server);
        assert_eq!((server.blobs.keys().len(), server.strays().len()), (1, 1));
        // The same content again is a file of its own.
        server.blobs.fails_after(usize::MAX);
        let again = uploads(&server, &token, "content");
        server.pass_ms(AGAIN_MS + 1);
        tends(&server);
        is_in_order(&server);
        assert_eq!((server.blobs.keys().len(), server.strays().len()), (1, 0));
        assert_eq!(
            (downloads(&server, &token, &mxc), downloads(&server, &token, &again)),
            (StatusCode::NOT_FOUND, StatusCode::OK)
        );
    }
}
