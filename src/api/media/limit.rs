//! How large an upload may be: as any, or less where its user has not much of a quota left.

use domain::Refusal;
use ruma_common::UserId;

use crate::{
    Context, Failure,
    metadata::media::{self, Quota, Used},
};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// When to try again for whom there was no room a moment ago, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// The largest upload that is taken, and what is said of larger ones.
#[derive(Clone)]
pub(super) struct Limit {
    /// In bytes.
    pub size_max: u64,
    pub refusal: Refusal,
}

impl Limit {
    /// What holds for whatever is stored.
    pub(super) fn of_any(cx: &Context) -> Self {
        let size_max = cx.config().max_upload_size;
        Self { size_max, refusal: Refusal::TooLarge(format!("A file can have at most {size_max} bytes")) }
    }

    /// What holds for a user. Uploads that are under way at the same moment do not count yet: [`quota`] is asked when
    /// one is there.
    pub(super) async fn of_user(cx: &Context, user_id: &UserId) -> Result<Self, Failure> {
        let (any, quota) = (Self::of_any(cx), &cx.config().media_quota);
        if quota.stored_max.is_none() && quota.daily_max.is_none() {
            return Ok(any);
        }
        let now_ms = cx.now_ms();
        let used = media::used(cx.metadata(), user_id, day_from_ms(now_ms)).await?;
        let stored = quota.stored_max.map(|stored_max| Self {
            size_max: stored_max.saturating_sub(used.stored),
            refusal: full(stored_max, quota.info_url.as_deref()),
        });
        let daily = quota.daily_max.map(|daily_max| Self {
            size_max: daily_max.saturating_sub(used.recent),
            refusal: later(daily_max, &used, now_ms),
        });
        // Of equals the first: what no waiting helps against.
        let limits = [Some(any.clone()), stored, daily].into_iter().flatten();
        Ok(limits.min_by_key(|limit| limit.size_max).unwrap_or(any))
    }

    /// Whether so much is taken.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn check(&self, size: u64) -> Result<(), Refusal> {
        if size > self.size_max { Err(self.refusal.clone()) } else { Ok(()) }
    }
}

/// Why an upload that was within its user's limit is not taken now that it is there: others were faster.
pub(super) async fn reached_meanwhile(cx: &Context, user_id: &UserId, size: u64) -> Result<Refusal, Failure> {
    let refusal = Limit::of_user(cx, user_id).await?.check(size).err();
    // Unless there is room again since.
    Ok(refusal.unwrap_or(Refusal::LimitExceeded { retry_after_ms: RETRY_MS }))
}

/// What the transaction that makes media of an upload holds to.
pub(super) fn quota(cx: &Context) -> Quota {
    let quota = &cx.config().media_quota;
    Quota { stored_max: quota.stored_max, recent_max: quota.daily_max, recent_from_ms: day_from_ms(cx.now_ms()) }
}

fn day_from_ms(now_ms: u64) -> u64 {
    now_ms.saturating_sub(DAY_MS)
}

/// Spec: "The user has reached a quota for uploaded content."
fn full(stored_max: u64, info_url: Option<&str>) -> Refusal {
    let message = format!("All your files together can have at most {stored_max} bytes");
    match info_url {
        Some(info_url) => Refusal::UserLimitExceeded { message, info_uri: info_url.to_owned() },
        // M_USER_LIMIT_EXCEEDED must name one.
        None => Refusal::Forbidden(message),
    }
}

fn later(daily_max: u64, used: &Used, now_ms: u64) -> Refusal {
    match used.recent_from_ms {
        Some(from_ms) => {
            Refusal::LimitExceeded { retry_after_ms: from_ms.saturating_add(DAY_MS).saturating_sub(now_ms).max(1) }
        }
        None => Refusal::Forbidden(format!("Your files of one day can have at most {daily_max} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use http::{Method, Request, header};
    use serde_json::{Value, json};

    use super::DAY_MS;
    use crate::testing::{TestServer, refused};

    fn uploads(server: &TestServer, token: &str, body: &'static str) -> (http::StatusCode, Value) {
        let request = Request::builder().method(Method::POST).uri("/_matrix/media/v3/upload");
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        let response = server.answer(request.body(body.into()).unwrap());
        (response.status(), serde_json::from_slice(response.body()).unwrap())
    }

    /// What comes after `mxc://` of a name that is used later.
    fn creates(server: &TestServer, token: &str) -> String {
        let (_, created) = server.post("/_matrix/media/v1/create", token, &json!({}));
        created["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
    }

    fn fills(server: &TestServer, token: &str, mxc: &str, body: &'static str) -> u16 {
        let request = Request::builder().method(Method::PUT).uri(format!("/_matrix/media/v3/upload/{mxc}"));
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        server.answer(request.body(body.into()).unwrap()).status().as_u16()
    }

    fn server(settings: &[(&str, &str)]) -> (TestServer, String) {
        let server = TestServer::new(&[&[("REGISTRATION", "open"), ("MAX_UPLOAD_SIZE", "8")], settings].concat());
        let token = server.register("alice");
        (server, token)
    }

    #[test]
    fn a_quota_counts_what_is_there() {
        let (server, alice) = server(&[("MEDIA_QUOTA", "10")]);
        let bob = server.register("bob");
        assert_eq!(refused(uploads(&server, &alice, "123456789")), (413, "M_TOO_LARGE".to_owned()));
        uploads(&server, &alice, "123456");
        assert_eq!(refused(uploads(&server, &alice, "12345")), (403, "M_FORBIDDEN".to_owned()));
        server.pass_ms(2 * DAY_MS);
        assert_eq!(
            refused(uploads(&server, &alice, "123456")),
            (403, "M_FORBIDDEN".to_owned()),
            "the same counts again"
        );
        assert_eq!(uploads(&server, &alice, "1234").0, 200);
        assert_eq!(uploads(&server, &alice, "").0, 200, "nothing fits in nothing");
        assert_eq!(refused(uploads(&server, &alice, "1")), (403, "M_FORBIDDEN".to_owned()));
        assert_eq!(uploads(&server, &bob, "123456").0, 200);
        assert_eq!((server.strays(), server.blobs.keys().len()), (vec![], 3));
    }

    #[test]
    fn whoever_reaches_it_is_told_where_to_read_more() {
        let (server, token) = server(&[("MEDIA_QUOTA", "3"), ("MEDIA_QUOTA_INFO_URL", "https://example.org/quota")]);
        let (status, told) = uploads(&server, &token, "1234");
        assert_eq!((status.as_u16(), &told["errcode"]), (403, &json!("M_USER_LIMIT_EXCEEDED")));
        assert_eq!(told["info_uri"], "https://example.org/quota");
    }

    #[test]
    fn a_daily_quota_comes_back() {
        let (server, token) = server(&[("MEDIA_QUOTA_DAILY", "6"), ("MEDIA_QUOTA", "13")]);
        assert_eq!(
            refused(uploads(&server, &token, "1234567")),
            (403, "M_FORBIDDEN".to_owned()),
            "no day is long enough"
        );
        uploads(&server, &token, "1234");
        server.pass_ms(1_000);
        uploads(&server, &token, "12");
        server.pass_ms(1_000);
        let (status, told) = uploads(&server, &token, "1");
        assert_eq!((status.as_u16(), &told["errcode"]), (429, &json!("M_LIMIT_EXCEEDED")));
        let retry_after_ms = told["retry_after_ms"].as_u64().unwrap();
        assert_eq!(retry_after_ms, DAY_MS - 2_000);
        server.pass_ms(retry_after_ms);
        assert_eq!(uploads(&server, &token, "1234").0, 200);
        assert_eq!(uploads(&server, &token, "1").0, 429);
        server.pass_ms(DAY_MS);
        assert_eq!(uploads(&server, &token, "123").0, 200);
        server.pass_ms(DAY_MS);
        assert_eq!(refused(uploads(&server, &token, "1")), (403, "M_FORBIDDEN".to_owned()), "that is all there is");
    }

    #[test]
    fn a_name_made_before_is_no_way_around() {
        let (server, token) = server(&[("MEDIA_QUOTA", "3")]);
        let mxc = creates(&server, &token);
        assert_eq!((fills(&server, &token, &mxc, "1234"), fills(&server, &token, &mxc, "123")), (403, 200));
        assert_eq!(
            refused(server.post("/_matrix/media/v1/create", &token, &json!({}))),
            (403, "M_FORBIDDEN".to_owned())
        );
    }

    #[test]
    fn uploads_at_once_take_no_more_than_there_is() {
        for kind in [("MEDIA_QUOTA", "10"), ("MEDIA_QUOTA_DAILY", "10")] {
            for is_created in [false, true] {
                let (mut calls, mut refusals) = (0, 0);
                // The other upload comes before each of the calls that the first makes of the database.
                loop {
                    let (server, token) = server(&[kind]);
                    let server = Rc::new(server);
                    let mxc = is_created.then(|| creates(&server, &token));
                    let (other, others_token) = (server.clone(), token.clone());
                    server.metadata.interrupted_after(calls, move || drop(uploads(&other, &others_token, "123456")));
                    let status = match &mxc {
                        Some(mxc) => fills(&server, &token, mxc, "abcdef"),
                        None => uploads(&server, &token, "abcdef").0.as_u16(),
                    };
                    if !server.metadata.was_interrupted() {
                        break;
                    }
                    assert_eq!(server.numbers("SELECT CAST(sum(size) AS BIGINT) FROM media"), [6], "{kind:?} {calls}");
                    assert_eq!((server.strays(), server.blobs.keys().len()), (vec![], 1));
                    refusals += usize::from(status != 200);
                    calls += 1;
                }
                assert!(refusals > 2 && calls > refusals, "{refusals} {calls}");
            }
        }
    }

    #[test]
    fn what_was_named_before_counts_from_when_it_came() {
        let (server, token) = server(&[("MEDIA_QUOTA_DAILY", "6")]);
        let mxc = creates(&server, &token);
        server.pass_ms(DAY_MS - 1_000);
        assert_eq!(fills(&server, &token, &mxc, "123456"), 200);
        server.pass_ms(2_000);
        assert_eq!(uploads(&server, &token, "1").0, 429);
    }
}
