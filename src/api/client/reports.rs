//! Reporting what should not be here, to the administrators of this server. Spec: "Reporting Content".

use actors::{
    room::{GetAccess, GetEvent},
    user::GetProfile,
};
use domain::Refusal;
use futures_util::future::try_join;
use ruma_client_api::{
    reporting::report_user,
    room::{report_content, report_room},
};
use ruma_common::OwnedUserId;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Caller, Context, Failure, OrAbsent, Routes,
    metadata::report::{self, PERIOD_MS, Report},
};

/// The longest reason, in bytes: it is read by a person.
const REASON_BYTES_MAX: usize = 4_096;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(report_a_room);
    routes.add(report_an_event);
    routes.add(report_a_user);
}

/// `POST /rooms/{roomId}/report`. «Servers MUST NOT restrict room reports based on whether or not the reporting user is
/// joined to the room»: «users can be exposed to harmful content without being joined to a room. For instance, through
/// room directories or invites», whose rooms are on other servers. They «MAY prevent room ID enumeration by using the
/// 200 response regardless of the existence of the reported room»: the report is kept, too, which costs no more than
/// that of a user of whom we never heard.
async fn report_a_room(
    cx: &Context,
    caller: Caller,
    request: report_room::v3::Request,
) -> Result<report_room::v3::Response, Failure> {
    check_reason(&request.reason)?;
    if request.room_id.as_str().contains('\0') {
        return Err(Refusal::InvalidParam("A room id has no NUL".to_owned()).into());
    }
    let report = Report {
        reporter: &caller.user_id,
        room_id: Some(&request.room_id),
        event_id: None,
        user_id: None,
        reason: &request.reason,
    };
    keep(cx, &report).await?;
    Ok(report_room::v3::Response::new())
}

/// `POST /rooms/{roomId}/report/{eventId}`: for members, and of what they may see.
async fn report_an_event(
    cx: &Context,
    caller: Caller,
    request: report_content::v3::Request,
) -> Result<report_content::v3::Response, Failure> {
    let reason = request.reason.unwrap_or_default();
    check_reason(&reason)?;
    let room = cx.room(&request.room_id);
    let access = GetAccess { user: caller.user_id.clone() };
    let event =
        GetEvent { user: caller.user_id, device: caller.device_id, ignored: Vec::new(), event_id: request.event_id };
    let found = match try_join(room.call(&access), room.call(&event)).await {
        Ok((access, found)) if access.joined => found,
        // In the same words, whether it is the room that is not there, the event or the reporter.
        Ok(_) | Err(Failure::Absent | Failure::Refused(Refusal::NotFound(_))) => {
            return Err(Refusal::NotFound("There is no such event, or you are not in its room".to_owned()).into());
        }
        Err(failure) => return Err(failure),
    };
    let report = Report {
        reporter: &event.user,
        room_id: Some(&request.room_id),
        event_id: Some(&event.event_id),
        user_id: Some(&sender(&found)?),
        reason: &reason,
    };
    keep(cx, &report).await?;
    Ok(report_content::v3::Response::new())
}

fn sender(event: &RawValue) -> Result<OwnedUserId, Failure> {
    #[derive(Deserialize)]
    struct Event {
        sender: OwnedUserId,
    }
    Ok(serde_json::from_str::<Event>(event.get())?.sender)
}

/// `POST /users/{userId}/report`. Who is on this server is no secret (their profile tells); of others we may never have
/// heard, and the report is kept all the same.
async fn report_a_user(
    cx: &Context,
    caller: Caller,
    request: report_user::v3::Request,
) -> Result<report_user::v3::Response, Failure> {
    check_reason(&request.reason)?;
    if request.user_id.as_str().contains('\0') {
        return Err(Refusal::InvalidParam("A user id has no NUL".to_owned()).into());
    }
    if cx.is_local(&request.user_id) {
        let missing = Refusal::NotFound(format!("There is no user {}", request.user_id));
        cx.user(&request.user_id).call(&GetProfile {}).await.or_absent(missing)?;
    }
    let report = Report {
        reporter: &caller.user_id,
        room_id: None,
        event_id: None,
        user_id: Some(&request.user_id),
        reason: &request.reason,
    };
    keep(cx, &report).await?;
    Ok(report_user::v3::Response::new())
}

fn check_reason(reason: &str) -> Result<(), Refusal> {
    if reason.len() > REASON_BYTES_MAX {
        return Err(Refusal::TooLarge(format!("A reason can have at most {REASON_BYTES_MAX} bytes")));
    }
    if reason.contains('\0') {
        return Err(Refusal::InvalidParam("A reason has no NUL".to_owned()));
    }
    Ok(())
}

async fn keep(cx: &Context, report: &Report<'_>) -> Result<(), Failure> {
    if report::insert(cx.metadata(), report, cx.now_ms()).await? {
        Ok(())
    } else {
        Err(Refusal::LimitExceeded { retry_after_ms: PERIOD_MS }.into())
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use crate::testing::{TestServer, refused};

    #[test]
    fn a_room_that_is_known_from_an_invitation_only_is_reported() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let bob = server.register("bob");
        let reports = |room: &str| {
            server.post(&format!("/_matrix/client/v3/rooms/{room}/report"), &bob, &json!({ "reason": "spam" }))
        };
        assert_eq!(reports("!x:evil.test"), (StatusCode::OK, json!({})));
        assert_eq!(server.texts("SELECT room_id FROM report"), ["!x:evil.test"]);
        assert_eq!(refused(reports("!x%00:evil.test")), (400, "M_INVALID_PARAM".to_owned()));
    }
}
