//! Whom and what application services could make is asked for when somebody needs it. Spec: Application Service API,
//! "Querying".
//!
//! An application service makes what it is asked for before it answers.

use actors::user::GetProfile;
use bytes::Bytes;
use domain::{Appservice, RateLimited, Refusal};
use http::Method;
use ruma_common::{RoomAliasId, UserId};

use super::ask::{Question, Unanswered, ask, segment};
use crate::{Context, Failure};

/// How long one answer may take, in milliseconds: a room is made meanwhile, and a person waits.
const TIMEOUT_MS: u64 = 10_000;
/// «the homeserver should retry several times before timing out»
const TRIES_MAX: u64 = 3;
/// How long it rests between two tries, in milliseconds.
const PAUSE_MS: u64 = 500;

impl Context {
    /// Whether an application service made the room of a local alias that points nowhere.
    ///
    /// # Errors
    /// 408 where one that could know does not answer.
    pub(crate) async fn alias_is_made(&self, alias: &RoomAliasId) -> Result<bool, Failure> {
        if self.config().appservices.iter().any(|appservice| appservice.url.is_some() && appservice.has_alias(alias)) {
            // Anybody may ask.
            self.limit_by_address(RateLimited::RemoteQueries)?.keep();
        }
        self.is_made("rooms", alias.as_str(), |appservice| appservice.has_alias(alias)).await
    }

    /// Whether [`Context::make_user`] may have something to do.
    pub(crate) fn could_be_made(&self, user_id: &UserId, acting: Option<&str>) -> bool {
        self.is_local(user_id)
            && self.config().appservices.iter().any(|appservice| could_make(appservice, user_id, acting))
    }

    /// Has an application service make a local user that does not exist, if the user is one of its own. One that acts
    /// itself, `acting`, has it made already if it wants to.
    ///
    /// # Errors
    /// 408 where one that could know does not answer.
    pub(crate) async fn make_user(&self, user_id: &UserId, acting: Option<&str>) -> Result<(), Failure> {
        if !self.could_be_made(user_id, acting) {
            return Ok(());
        }
        match self.user(user_id).call(&GetProfile {}).await {
            Err(Failure::Absent) => {}
            outcome => return outcome.map(drop),
        }
        self.is_made("users", user_id.as_str(), |appservice| could_make(appservice, user_id, acting)).await?;
        Ok(())
    }

    async fn is_made(&self, kind: &str, id: &str, is_its_own: impl Fn(&Appservice) -> bool) -> Result<bool, Failure> {
        for appservice in self.config().appservices.iter().filter(|appservice| is_its_own(appservice)) {
            if is_made_by(self, appservice, kind, id).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn could_make(appservice: &Appservice, user_id: &UserId, acting: Option<&str>) -> bool {
    appservice.has_user(user_id) && appservice.url.is_some() && Some(&*appservice.id) != acting
}

async fn is_made_by(cx: &Context, appservice: &Appservice, kind: &str, id: &str) -> Result<bool, Failure> {
    let question = Question {
        method: Method::GET,
        path: format!("/_matrix/app/v1/{kind}/{}", segment(id)),
        legacy_path: Some(format!("/{kind}/{}", segment(id))),
        is_insistent: false,
        body: Bytes::new(),
        timeout_ms: TIMEOUT_MS,
    };
    let until_ms = cx.now_ms().saturating_add(TIMEOUT_MS);
    for attempt in 1..=TRIES_MAX {
        match ask(cx, appservice, &question).await {
            Ok((status, _)) => return Ok(status.is_success()),
            Err(Unanswered::NoUrl) => return Ok(false),
            Err(Unanswered::Failed(_)) if attempt < TRIES_MAX && cx.now_ms() < until_ms => cx.pause(PAUSE_MS).await,
            Err(Unanswered::Failed(_)) => break,
        }
    }
    Err(Refusal::AppserviceTooSlow.into())
}
