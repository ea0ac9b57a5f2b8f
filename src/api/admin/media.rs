//! Media, with the endpoints of Synapse's admin API: looking at it, deleting, quarantining and protecting it.

use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use ruma_common::{OwnedServerName, OwnedUserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Context, Failure, Routes,
    authenticate::Administrator,
    failure,
    media::{self, ACCESS_PRECISION_MS, tend::clear_strays},
    metadata::{
        deletion::{self, Listed, Whose},
        media::Mxc,
    },
    router::query,
};

/// How many are deleted by one request: each takes a moment, and two of the 1,000 statements that D1 takes of an
/// invocation.
const DELETED_MAX: u64 = 100;
/// How many a page of a list has, unless it is said.
const PAGE: u64 = 100;
const PAGE_MAX: u64 = 1_000;

pub(super) fn routes(routes: &mut Routes) {
    let one = "/_synapse/admin/v1/media/{server_name}/{media_id}";
    routes.add_raw(Method::GET, one, show);
    routes.add_raw(Method::DELETE, one, delete);
    routes.add_raw(Method::POST, "/_synapse/admin/v1/media/delete", delete_unused);
    routes.add_raw(Method::POST, "/_synapse/admin/v1/media/{server_name}/delete", delete_unused);
    let of_user = "/_synapse/admin/v1/users/{user_id}/media";
    routes.add_raw(Method::GET, of_user, list_of_user);
    routes.add_raw(Method::DELETE, of_user, delete_of_user);
    routes.add_raw(Method::POST, "/_synapse/admin/v1/media/quarantine/{server_name}/{media_id}", quarantine);
    routes.add_raw(Method::POST, "/_synapse/admin/v1/media/unquarantine/{server_name}/{media_id}", release);
    routes.add_raw(Method::POST, "/_synapse/admin/v1/user/{user_id}/media/quarantine", quarantine_of_user);
    routes.add_raw(Method::POST, "/_synapse/admin/v1/purge_media_cache", purge_copies);
    routes.add_raw(Method::POST, "/_synapse/admin/v1/media/protect/{media_id}", protect);
    routes.add_raw(Method::POST, "/_synapse/admin/v1/media/unprotect/{media_id}", unprotect);
}

type Answer = Result<Response<Bytes>, Failure>;

fn ok(body: &Value) -> Response<Bytes> {
    failure::json(StatusCode::OK, body)
}

/// The media that a path names.
async fn named(cx: &Context, path_args: &[String]) -> Result<Listed, Failure> {
    let [server_name, media_id] = path_args else { return Err(unknown()) };
    let server_name = OwnedServerName::try_from(server_name.as_str())
        .map_err(|_| Refusal::InvalidParam("This is no server name".to_owned()))?;
    deletion::one(cx.metadata(), Mxc { server_name: &server_name, media_id }).await?.ok_or_else(unknown)
}

/// The local user that a path names.
fn user(cx: &Context, path_args: &[String]) -> Result<OwnedUserId, Failure> {
    let user_id = path_args.first().and_then(|user_id| OwnedUserId::try_from(user_id.as_str()).ok());
    let user_id = user_id.filter(|user_id| cx.is_local(user_id));
    user_id.ok_or_else(|| Refusal::InvalidParam("Only users of this server have media here".to_owned()).into())
}

fn unknown() -> Failure {
    Refusal::NotFound("There is no such media".to_owned()).into()
}

fn told(media: &Listed) -> Map<String, Value> {
    let fields: [(&str, Value); 8] = [
        ("media_id", media.media_id.as_str().into()),
        ("media_type", media.content_type.as_str().into()),
        ("media_length", media.size.into()),
        ("upload_name", media.upload_name.as_deref().into()),
        ("created_ts", media.created_ms.into()),
        ("last_access_ts", media.accessed_ms.into()),
        ("quarantined_by", media.quarantined_by.as_deref().into()),
        ("safe_from_quarantine", media.is_protected.into()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

async fn show(cx: &Context, _: Administrator, _: Request<Bytes>, path_args: Vec<String>) -> Answer {
    let media = named(cx, &path_args).await?;
    let mut told = told(&media);
    told.insert("media_origin".to_owned(), media.server_name.into());
    told.insert("user_id".to_owned(), media.uploader.into());
    Ok(ok(&json!({ "media_info": told })))
}

async fn delete(cx: &Context, _: Administrator, _: Request<Bytes>, path_args: Vec<String>) -> Answer {
    let media = named(cx, &path_args).await?;
    delete_all(cx, vec![media]).await
}

/// Deletes these, then their files. A file that cannot be deleted now is a stray, and tried again later.
async fn delete_all(cx: &Context, all: Vec<Listed>) -> Answer {
    deletion::delete(cx.metadata(), &all).await?;
    clear_strays(cx.services()).await?;
    let ids: Vec<&str> = all.iter().map(|media| &*media.media_id).collect();
    Ok(ok(&json!({ "deleted_media": ids, "total": ids.len() })))
}

/// What is noted as served before this was not served since `before_ts`, both in milliseconds since the Unix epoch: the
/// note may be older than what it is of, but nothing was served in the future.
fn noted_before(cx: &Context, before_ts: u64) -> u64 {
    if before_ts > cx.now_ms() { before_ts } else { before_ts.saturating_sub(ACCESS_PRECISION_MS) }
}

#[derive(Deserialize)]
struct Unused {
    /// Milliseconds since the Unix epoch.
    before_ts: u64,
    #[serde(default)]
    size_gt: u64,
    keep_profiles: Option<bool>,
}

async fn delete_unused(cx: &Context, _: Administrator, request: Request<Bytes>, path_args: Vec<String>) -> Answer {
    let Unused { before_ts, size_gt, keep_profiles } = query(&request)?;
    if path_args.first().is_some_and(|server_name| server_name != cx.server_name().as_str()) {
        let told = "This is for media of this server; purge_media_cache is for that of others";
        return Err(Refusal::InvalidParam(told.to_owned()).into());
    }
    if keep_profiles != Some(false) {
        let told = "Which pictures belong to profiles and rooms is not known here: protect those that shall stay, and \
                    say keep_profiles=false";
        return Err(Refusal::InvalidParam(told.to_owned()).into());
    }
    let (before_ms, larger_than) = (noted_before(cx, before_ts), size_gt.saturating_add(1));
    let unused = deletion::unused(cx.metadata(), Whose::Ours, before_ms, larger_than, DELETED_MAX).await?;
    delete_all(cx, unused).await
}

#[derive(Deserialize)]
struct Copies {
    /// Milliseconds since the Unix epoch.
    before_ts: u64,
}

/// Deletes copies of other servers' media. Whoever asks for one again has it fetched again.
async fn purge_copies(cx: &Context, _: Administrator, request: Request<Bytes>, _: Vec<String>) -> Answer {
    let Copies { before_ts } = query(&request)?;
    let before_ms = noted_before(cx, before_ts);
    let unused = deletion::unused(cx.metadata(), Whose::Others, before_ms, 0, DELETED_MAX).await?;
    deletion::delete(cx.metadata(), &unused).await?;
    clear_strays(cx.services()).await?;
    Ok(ok(&json!({ "deleted": unused.len() })))
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    from: u64,
    limit: Option<u64>,
}

async fn list_of_user(cx: &Context, _: Administrator, request: Request<Bytes>, path_args: Vec<String>) -> Answer {
    let (Page { from, limit }, user_id) = (query(&request)?, user(cx, &path_args)?);
    let page = deletion::of_user(cx.metadata(), &user_id, from, limit.unwrap_or(PAGE).min(PAGE_MAX)).await?;
    let total = deletion::count_of_user(cx.metadata(), &user_id).await?;
    let mut answer = Map::new();
    answer.insert("media".to_owned(), page.iter().map(told).collect::<Vec<_>>().into());
    answer.insert("total".to_owned(), total.into());
    let next = from.saturating_add(page.len() as u64);
    if next < total {
        answer.insert("next_token".to_owned(), next.into());
    }
    Ok(ok(&answer.into()))
}

async fn delete_of_user(cx: &Context, _: Administrator, request: Request<Bytes>, path_args: Vec<String>) -> Answer {
    let (Page { from, limit }, user_id) = (query(&request)?, user(cx, &path_args)?);
    let page = deletion::of_user(cx.metadata(), &user_id, from, limit.unwrap_or(PAGE).min(DELETED_MAX)).await?;
    delete_all(cx, page).await
}

async fn quarantine(cx: &Context, by: Administrator, _: Request<Bytes>, path_args: Vec<String>) -> Answer {
    let media = named(cx, &path_args).await?;
    deletion::quarantine(cx.metadata(), &media.sha256, &by.user_id).await?;
    Ok(ok(&json!({})))
}

async fn release(cx: &Context, _: Administrator, _: Request<Bytes>, path_args: Vec<String>) -> Answer {
    let media = named(cx, &path_args).await?;
    deletion::release(cx.metadata(), &media.sha256).await?;
    Ok(ok(&json!({})))
}

async fn quarantine_of_user(cx: &Context, by: Administrator, _: Request<Bytes>, path_args: Vec<String>) -> Answer {
    let user_id = user(cx, &path_args)?;
    let quarantined = deletion::quarantine_of_user(cx.metadata(), &user_id, &by.user_id).await?;
    Ok(ok(&json!({ "num_quarantined": quarantined })))
}

async fn protect(cx: &Context, _: Administrator, _: Request<Bytes>, path_args: Vec<String>) -> Answer {
    set_protected(cx, &path_args, true).await
}

async fn unprotect(cx: &Context, _: Administrator, _: Request<Bytes>, path_args: Vec<String>) -> Answer {
    set_protected(cx, &path_args, false).await
}

async fn set_protected(cx: &Context, path_args: &[String], is_protected: bool) -> Answer {
    let media_id = path_args.first().map_or("", String::as_str);
    media::check_media_id(media_id)?;
    let mxc = Mxc { server_name: cx.server_name(), media_id };
    if deletion::protect(cx.metadata(), mxc, is_protected).await? { Ok(ok(&json!({}))) } else { Err(unknown()) }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::{Value, json};

    use crate::{
        admin::register::tests::{SECRET, administrator},
        testing::TestServer,
    };

    const DAY_MS: u64 = 86_400_000;

    /// A server with an administrator, whose token this is, and so many media of alice's, each fetched at the
    /// beginning.
    fn server(media: u64) -> (TestServer, String) {
        let server = TestServer::new(&[("REGISTRATION_SHARED_SECRET", SECRET)]);
        let token = administrator(&server);
        let now_ms = server.context().now_ms();
        let many = format!(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {media})
             INSERT INTO media (server_name, media_id, uploader, sha256, size, content_type, created_ms, accessed_ms,
                authenticated, protected)
             SELECT 'localhost', 'm' || n, '@alice:localhost', 'content' || n, 1, 'a/b', {now_ms}, {now_ms}, 1, 0 FROM n
             RETURNING 1"
        );
        server.numbers(many.leak());
        (server, token)
    }

    fn asks(server: &TestServer, token: &str, path: &str) -> Value {
        let (status, told) = server.request(Method::POST, &format!("/_synapse/admin/v1/{path}"), token, &json!({}));
        assert_eq!(status, 200, "{told}");
        told
    }

    #[test]
    fn however_much_somebody_has_it_is_quarantined_at_once() {
        let (server, token) = server(1_100);
        server.numbers("UPDATE media SET protected = 1 WHERE media_id = 'm7' RETURNING 1");
        let before = server.metadata.statements();
        let path = "user/@alice:localhost/media/quarantine";
        assert_eq!(asks(&server, &token, path)["num_quarantined"], 1_099);
        assert!(server.metadata.statements() - before < 10);
        assert_eq!(server.texts("SELECT media_id FROM media WHERE quarantined_by IS NULL"), ["m7"]);
        assert_eq!(asks(&server, &token, path)["num_quarantined"], 0);
    }

    #[test]
    fn what_may_have_been_fetched_since_is_not_unused() {
        let (server, token) = server(3);
        let begun_ms = server.context().now_ms();
        server.pass_ms(3 * DAY_MS);
        let deleted = |before_ts: u64| {
            asks(&server, &token, &format!("media/delete?before_ts={before_ts}&keep_profiles=false"))["total"].clone()
        };
        // Until then, each may have been fetched again without a note.
        assert_eq!(deleted(begun_ms + DAY_MS), 0);
        server.numbers("UPDATE media SET accessed_ms = accessed_ms + 1 WHERE media_id = 'm1' RETURNING 1");
        assert_eq!(deleted(begun_ms + DAY_MS + 1), 2);
        assert_eq!(deleted(server.context().now_ms() + 1), 1, "nothing was fetched in the future");
    }
}
