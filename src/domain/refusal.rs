//! Every way we say no, with its HTTP status and its `M_` code.
//!
//! A refusal is for the client: it is the client's to understand and to act on. What is *our* failure is a fault and
//! lives in `platform`. Refusals cross the actor boundary as JSON, so the tags below are a wire format: add, never
//! rename.
//!
//! Spec: Client-Server API, "Standard error response".

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Why a request was refused. Strings are sentences for a person, without ids the caller does not already know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// 403 `M_FORBIDDEN`: not allowed to, whoever asks again.
    Forbidden(String),
    /// 404 `M_NOT_FOUND`.
    NotFound(String),
    /// 400 `M_BAD_JSON`: valid JSON, but not what was expected.
    BadJson(String),
    /// 400 `M_NOT_JSON`: no JSON at all.
    NotJson(String),
    /// 400 `M_INVALID_PARAM`.
    InvalidParam(String),
    /// 400 `M_MISSING_PARAM`.
    MissingParam(String),
    /// 400 `M_USER_IN_USE`: the user id is taken.
    UserInUse,
    /// 400 `M_INVALID_USERNAME`.
    InvalidUsername(String),
    /// 400 `M_EXCLUSIVE`: the name lies in the namespace of an appservice.
    Exclusive(String),
    /// 408 `M_UNKNOWN`: the client stopped sending its request half way.
    TooSlow,
    /// 413 `M_TOO_LARGE`.
    TooLarge(String),
    /// 403 `M_USER_LIMIT_EXCEEDED`: there is a limit to what one account may have.
    UserLimitExceeded {
        /// What is said of it.
        message: String,
        /// Where more is said.
        info_uri: String,
    },
    /// 409 `M_CANNOT_OVERWRITE_MEDIA`.
    CannotOverwriteMedia,
    /// 504 `M_NOT_YET_UPLOADED`.
    NotYetUploaded,
    /// 502 `M_TOO_LARGE`: what another server has is larger than is taken from it.
    TooLargeElsewhere(String),
    /// 429 `M_LIMIT_EXCEEDED`.
    LimitExceeded {
        /// Milliseconds after which to try again.
        retry_after_ms: u64,
    },
    /// 401 `M_UNKNOWN_TOKEN`.
    UnknownToken {
        /// Whether the client may keep its data and log in again.
        soft_logout: bool,
    },
    /// 401 `M_MISSING_TOKEN`.
    MissingToken,
    /// 403 `M_USER_DEACTIVATED`.
    UserDeactivated,
    /// 401 `M_USER_LOCKED`: the account cannot be used for the time being.
    UserLocked,
    /// 403 `M_USER_SUSPENDED`: the account cannot be used for this.
    UserSuspended,
    /// 400 `M_UNSUPPORTED_ROOM_VERSION`: carries the version asked for.
    UnsupportedRoomVersion(String),
    /// 400 `M_INCOMPATIBLE_ROOM_VERSION`: the room has a version the other server does not support.
    IncompatibleRoomVersion {
        /// The version of the room.
        room_version: String,
    },
    /// 400 `M_UNABLE_TO_AUTHORISE_JOIN`: whether the user meets a condition is not known here.
    UnableToAuthoriseJoin(String),
    /// 400 `M_UNABLE_TO_GRANT_JOIN`: the user meets a condition, and another server has to let them in.
    UnableToGrantJoin(String),
    /// 400 `M_ROOM_IN_USE`: the alias is taken.
    RoomInUse(String),
    /// 400 `M_INVALID_ROOM_STATE`: the initial state of a new room contradicts itself.
    InvalidRoomState(String),
    /// 403 `M_BAD_STATE`: the state change cannot be made, such as unbanning someone who is not banned.
    BadState(String),
    /// 400 `M_WEAK_PASSWORD`.
    WeakPassword(String),
    /// 403 `M_INVITE_BLOCKED`: the user wants no invitations.
    InviteBlocked,
    /// 403 `M_GUEST_ACCESS_FORBIDDEN`.
    GuestAccessForbidden,
    /// `M_UNRECOGNIZED`: no such endpoint (404), or not with this method (405).
    Unrecognized {
        /// 404 or 405.
        status: u16,
    },
    /// 401 `M_UNAUTHORIZED`: the request was not correctly authorised.
    Unauthorized(String),
    /// 400 `M_UNKNOWN`.
    Unknown(String),
    /// 400 `M_BAD_ALIAS`: an alias that does not point to the room.
    BadAlias(String),
    /// 409 `M_UNKNOWN`: an alias of that name exists already.
    AliasExists(String),
    /// 400 `M_KEY_TOO_LARGE`: the name of a profile's field.
    KeyTooLarge,
    /// 400 `M_PROFILE_TOO_LARGE`: the whole profile.
    ProfileTooLarge,
    /// 403 `M_WRONG_ROOM_KEYS_VERSION`: keys go into the newest backup only.
    WrongRoomKeysVersion {
        /// The newest one.
        current_version: String,
    },
    /// 400 `M_INVALID_SIGNATURE`.
    InvalidSignature(String),
    /// 405 `M_BAD_JSON`: the server alone writes this account data.
    ServerManaged(String),
    /// 400 `M_THREEPID_MEDIUM_NOT_SUPPORTED`: contacts of this kind cannot be added.
    ThreepidMediumNotSupported(String),
    /// 403 `M_THREEPID_DENIED`: the address is not allowed.
    ThreepidDenied(String),
    /// 400 `M_THREEPID_NOT_FOUND`: the address is nobody's.
    ThreepidNotFound(String),
    /// 400 `M_THREEPID_IN_USE`: the address is an account's already.
    ThreepidInUse,
    /// 403 `M_THREEPID_AUTH_FAILED`: whose the address is was not proven.
    ThreepidAuthFailed(String),
    /// 403 `M_SERVER_NOT_TRUSTED`: an identity server that this one does not work with.
    ServerNotTrusted(String),
    /// 502 `M_UNKNOWN`: another server, on whose answer ours depends, gives none.
    OtherServer(String),
    /// 403 `M_CANNOT_LEAVE_SERVER_NOTICE_ROOM`: the invitation is the server's own.
    CannotLeaveServerNoticeRoom,
    /// 400 `M_UNKNOWN_POS`: a sliding sync has to begin anew.
    UnknownPos,
    /// 400 `M_UNKNOWN_DEVICE`: an application service acts with a device that the user does not have.
    UnknownDevice,
    /// 408 `M_UNKNOWN`: an application service, on whose answer ours depends, gives none.
    AppserviceTooSlow,
    /// 400 `M_URL_NOT_SET`: the application service is registered without a URL.
    UrlNotSet,
    /// 502 `M_CONNECTION_FAILED`: the application service is not reached.
    ConnectionFailed(String),
    /// 504 `M_CONNECTION_TIMEOUT`: the application service does not answer.
    ConnectionTimeout,
    /// 502 `M_BAD_STATUS`: the application service answers something else.
    BadStatus {
        /// The HTTP status of its answer.
        status: u16,
        /// The beginning of what it says.
        body: String,
    },
    /// The room's policy server does not recommend the event: what it says, verbatim.
    ByPolicyServer {
        /// The HTTP status.
        status: u16,
        /// The whole body.
        body: Map<String, Value>,
    },
    /// 400: another server refuses what the user asked it for, in its own words. [`Refusal::by_other_server`] makes
    /// one.
    ByOtherServer {
        /// Its code.
        errcode: String,
        /// Its sentence.
        message: String,
    },
    /// 400 `M_DUPLICATE_ANNOTATION`: the user annotated the event with the same key before.
    DuplicateAnnotation,
    /// 503 `M_UNKNOWN`: not now. Nobody sent too much, so `M_LIMIT_EXCEEDED` would be a lie.
    Unavailable {
        /// Milliseconds after which to try again.
        retry_after_ms: u64,
    },
}

impl Refusal {
    /// The longest code of another server that is passed on, in bytes, and the longest sentence, in characters.
    const OTHER_ERRCODE_BYTES_MAX: usize = 64;
    const OTHER_MESSAGE_CHARS_MAX: usize = 1_000;
    /// Codes that say something of the request, which was ours and not the user's, or to a client that it is logged
    /// out, locked out or too fast here.
    const OTHER_ERRCODES_KEPT: [&'static str; 14] = [
        "M_MISSING_PARAM",
        "M_INVALID_PARAM",
        "M_BAD_JSON",
        "M_NOT_JSON",
        "M_UNRECOGNIZED",
        "M_UNAUTHORIZED",
        "M_UNKNOWN_TOKEN",
        "M_MISSING_TOKEN",
        "M_USER_DEACTIVATED",
        "M_USER_LOCKED",
        "M_USER_SUSPENDED",
        "M_CONSENT_NOT_GIVEN",
        "M_LIMIT_EXCEEDED",
        "M_GUEST_ACCESS_FORBIDDEN",
    ];

    /// What another server answered with status 400, for the user whom it concerns. `None` for a code that is none, or
    /// that concerns somebody else.
    ///
    /// Spec: Server-Server API, `/make_join` and others: «The error should be passed through to clients so that they
    /// may give better feedback to users»; `/send_join`, `/invite`: «If `M_MISSING_PARAM` or `M_INVALID_PARAM` is
    /// returned … the Client-Server API request SHOULD fail with a 5xx error rather than being passed through.»
    pub fn by_other_server(errcode: &str, message: &str) -> Option<Self> {
        let is_code = (1..=Self::OTHER_ERRCODE_BYTES_MAX).contains(&errcode.len())
            && errcode.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"_.-".contains(&byte));
        if !is_code || Self::OTHER_ERRCODES_KEPT.contains(&errcode) {
            return None;
        }
        let message = message.chars().take(Self::OTHER_MESSAGE_CHARS_MAX).collect();
        Some(Self::ByOtherServer { errcode: errcode.to_owned(), message })
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::BadJson(_)
            | Self::NotJson(_)
            | Self::InvalidParam(_)
            | Self::MissingParam(_)
            | Self::UserInUse
            | Self::InvalidUsername(_)
            | Self::Exclusive(_)
            | Self::UnsupportedRoomVersion(_)
            | Self::IncompatibleRoomVersion { .. }
            | Self::UnableToAuthoriseJoin(_)
            | Self::UnableToGrantJoin(_)
            | Self::RoomInUse(_)
            | Self::InvalidRoomState(_)
            | Self::WeakPassword(_)
            | Self::Unknown(_)
            | Self::BadAlias(_)
            | Self::KeyTooLarge
            | Self::ProfileTooLarge
            | Self::ThreepidMediumNotSupported(_)
            | Self::ThreepidNotFound(_)
            | Self::DuplicateAnnotation
            | Self::UnknownDevice
            | Self::UnknownPos
            | Self::UrlNotSet
            | Self::ThreepidInUse
            | Self::ByOtherServer { .. }
            | Self::InvalidSignature(_) => 400,
            Self::UnknownToken { .. } | Self::MissingToken | Self::UserLocked | Self::Unauthorized(_) => 401,
            Self::Forbidden(_)
            | Self::UserLimitExceeded { .. }
            | Self::BadState(_)
            | Self::UserDeactivated
            | Self::UserSuspended
            | Self::InviteBlocked
            | Self::WrongRoomKeysVersion { .. }
            | Self::ThreepidDenied(_)
            | Self::ThreepidAuthFailed(_)
            | Self::ServerNotTrusted(_)
            | Self::CannotLeaveServerNoticeRoom
            | Self::GuestAccessForbidden => 403,
            Self::NotFound(_) => 404,
            Self::TooSlow | Self::AppserviceTooSlow => 408,
            Self::AliasExists(_) | Self::CannotOverwriteMedia => 409,
            Self::Unrecognized { status } | Self::ByPolicyServer { status, .. } => *status,
            Self::ServerManaged(_) => 405,
            Self::TooLarge(_) => 413,
            Self::LimitExceeded { .. } => 429,
            Self::OtherServer(_) | Self::TooLargeElsewhere(_) | Self::ConnectionFailed(_) | Self::BadStatus { .. } => {
                502
            }
            Self::Unavailable { .. } => 503,
            Self::NotYetUploaded | Self::ConnectionTimeout => 504,
        }
    }

    /// The `errcode` of the standard error response.
    pub fn errcode(&self) -> &'static str {
        match self {
            Self::Forbidden(_) => "M_FORBIDDEN",
            Self::NotFound(_) => "M_NOT_FOUND",
            Self::BadJson(_) | Self::ServerManaged(_) => "M_BAD_JSON",
            Self::NotJson(_) => "M_NOT_JSON",
            Self::InvalidParam(_) => "M_INVALID_PARAM",
            Self::MissingParam(_) => "M_MISSING_PARAM",
            Self::UserInUse => "M_USER_IN_USE",
            Self::InvalidUsername(_) => "M_INVALID_USERNAME",
            Self::Exclusive(_) => "M_EXCLUSIVE",
            Self::TooLarge(_) | Self::TooLargeElsewhere(_) => "M_TOO_LARGE",
            Self::UserLimitExceeded { .. } => "M_USER_LIMIT_EXCEEDED",
            Self::LimitExceeded { .. } => "M_LIMIT_EXCEEDED",
            Self::UnknownToken { .. } => "M_UNKNOWN_TOKEN",
            Self::MissingToken => "M_MISSING_TOKEN",
            Self::UserDeactivated => "M_USER_DEACTIVATED",
            Self::UserLocked => "M_USER_LOCKED",
            Self::UserSuspended => "M_USER_SUSPENDED",
            Self::UnsupportedRoomVersion(_) => "M_UNSUPPORTED_ROOM_VERSION",
            Self::IncompatibleRoomVersion { .. } => "M_INCOMPATIBLE_ROOM_VERSION",
            Self::UnableToAuthoriseJoin(_) => "M_UNABLE_TO_AUTHORISE_JOIN",
            Self::UnableToGrantJoin(_) => "M_UNABLE_TO_GRANT_JOIN",
            Self::RoomInUse(_) => "M_ROOM_IN_USE",
            Self::InvalidRoomState(_) => "M_INVALID_ROOM_STATE",
            Self::BadState(_) => "M_BAD_STATE",
            Self::WeakPassword(_) => "M_WEAK_PASSWORD",
            Self::InviteBlocked => "M_INVITE_BLOCKED",
            Self::GuestAccessForbidden => "M_GUEST_ACCESS_FORBIDDEN",
            Self::Unrecognized { .. } => "M_UNRECOGNIZED",
            Self::Unauthorized(_) => "M_UNAUTHORIZED",
            Self::Unknown(_)
            | Self::AliasExists(_)
            | Self::OtherServer(_)
            | Self::TooSlow
            | Self::AppserviceTooSlow
            | Self::Unavailable { .. } => "M_UNKNOWN",
            Self::CannotOverwriteMedia => "M_CANNOT_OVERWRITE_MEDIA",
            Self::NotYetUploaded => "M_NOT_YET_UPLOADED",
            Self::BadAlias(_) => "M_BAD_ALIAS",
            Self::KeyTooLarge => "M_KEY_TOO_LARGE",
            Self::ProfileTooLarge => "M_PROFILE_TOO_LARGE",
            Self::InvalidSignature(_) => "M_INVALID_SIGNATURE",
            Self::ThreepidMediumNotSupported(_) => "M_THREEPID_MEDIUM_NOT_SUPPORTED",
            Self::ThreepidDenied(_) => "M_THREEPID_DENIED",
            Self::ThreepidNotFound(_) => "M_THREEPID_NOT_FOUND",
            Self::ThreepidAuthFailed(_) => "M_THREEPID_AUTH_FAILED",
            Self::ServerNotTrusted(_) => "M_SERVER_NOT_TRUSTED",
            // As far as this server is concerned; `body` has what the other one says itself.
            Self::ByPolicyServer { .. } | Self::ByOtherServer { .. } => "M_FORBIDDEN",
            Self::DuplicateAnnotation => "M_DUPLICATE_ANNOTATION",
            Self::CannotLeaveServerNoticeRoom => "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM",
            Self::ThreepidInUse => "M_THREEPID_IN_USE",
            Self::UnknownPos => "M_UNKNOWN_POS",
            Self::UnknownDevice => "M_UNKNOWN_DEVICE",
            Self::UrlNotSet => "M_URL_NOT_SET",
            Self::ConnectionFailed(_) => "M_CONNECTION_FAILED",
            Self::ConnectionTimeout => "M_CONNECTION_TIMEOUT",
            Self::BadStatus { .. } => "M_BAD_STATUS",
            Self::WrongRoomKeysVersion { .. } => "M_WRONG_ROOM_KEYS_VERSION",
        }
    }

    /// The sentence for the `error` field.
    pub fn message(&self) -> String {
        match self {
            Self::Forbidden(sentence)
            | Self::NotFound(sentence)
            | Self::BadJson(sentence)
            | Self::NotJson(sentence)
            | Self::InvalidParam(sentence)
            | Self::MissingParam(sentence)
            | Self::InvalidUsername(sentence)
            | Self::Exclusive(sentence)
            | Self::TooLarge(sentence)
            | Self::UnableToAuthoriseJoin(sentence)
            | Self::TooLargeElsewhere(sentence)
            | Self::UnableToGrantJoin(sentence)
            | Self::RoomInUse(sentence)
            | Self::InvalidRoomState(sentence)
            | Self::BadState(sentence)
            | Self::WeakPassword(sentence)
            | Self::Unauthorized(sentence)
            | Self::Unknown(sentence)
            | Self::AliasExists(sentence)
            | Self::BadAlias(sentence)
            | Self::InvalidSignature(sentence)
            | Self::OtherServer(sentence)
            | Self::ThreepidMediumNotSupported(sentence)
            | Self::ThreepidDenied(sentence)
            | Self::ThreepidNotFound(sentence)
            | Self::ThreepidAuthFailed(sentence)
            | Self::ServerNotTrusted(sentence)
            | Self::ServerManaged(sentence)
            | Self::ConnectionFailed(sentence)
            | Self::UserLimitExceeded { message: sentence, .. }
            | Self::ByOtherServer { message: sentence, .. } => sentence.clone(),
            Self::UserInUse => "This user id is taken".to_owned(),
            Self::TooSlow => "The request did not arrive in time".to_owned(),
            Self::CannotOverwriteMedia => "This media has its content already".to_owned(),
            Self::NotYetUploaded => "The content has not yet been uploaded".to_owned(),
            Self::LimitExceeded { retry_after_ms } => format!("Too many requests: try again in {retry_after_ms} ms"),
            Self::UnknownToken { soft_logout: true } => "This access token has expired".to_owned(),
            Self::UnknownToken { soft_logout: false } => "This access token is not known".to_owned(),
            Self::MissingToken => "This request needs an access token".to_owned(),
            Self::UserDeactivated => "This account has been deactivated".to_owned(),
            Self::UserLocked => "This account has been locked".to_owned(),
            Self::UserSuspended => "You cannot perform this action while suspended".to_owned(),
            Self::UnsupportedRoomVersion(version) => format!("Room version {version:?} is not supported"),
            Self::IncompatibleRoomVersion { room_version } => {
                format!("The room has version {room_version:?}, which your server does not support")
            }
            Self::ByPolicyServer { .. } => "The policy server of this room does not recommend the event".to_owned(),
            Self::InviteBlocked => "This user accepts no invitations".to_owned(),
            Self::WrongRoomKeysVersion { .. } => "This is not the newest backup".to_owned(),
            Self::CannotLeaveServerNoticeRoom => "You cannot reject this invitation of your server's".to_owned(),
            Self::ThreepidInUse => "This address already belongs to an account".to_owned(),
            Self::UnknownPos => "This position is not known any more: begin without one".to_owned(),
            Self::UnknownDevice => "This user has no such device".to_owned(),
            Self::AppserviceTooSlow => "The application service that could know does not answer".to_owned(),
            Self::UrlNotSet => "This application service is registered without a URL".to_owned(),
            Self::ConnectionTimeout => "The application service does not answer".to_owned(),
            Self::BadStatus { status, .. } => format!("The application service answered with status {status}"),
            Self::DuplicateAnnotation => "You have annotated this event with this key already".to_owned(),
            Self::GuestAccessForbidden => "Guests may not do this".to_owned(),
            Self::KeyTooLarge => "The name of a field can have at most 255 bytes".to_owned(),
            Self::ProfileTooLarge => "A profile can have at most 64 KiB".to_owned(),
            Self::Unrecognized { status: 405 } => "This endpoint does not have this method".to_owned(),
            Self::Unrecognized { status: _ } => "There is no such endpoint".to_owned(),
            Self::Unavailable { retry_after_ms } => {
                format!("This is not available for the moment: try again in {retry_after_ms} ms")
            }
        }
    }

    /// The whole body of the error response: `errcode`, `error` and what the code adds to them.
    pub fn body(&self) -> Value {
        if let Self::ByPolicyServer { body, .. } = self {
            return Value::Object(body.clone());
        }
        let mut body = Map::new();
        let errcode = if let Self::ByOtherServer { errcode, .. } = self { errcode } else { self.errcode() };
        body.insert("errcode".to_owned(), errcode.into());
        body.insert("error".to_owned(), self.message().into());
        if let Self::LimitExceeded { retry_after_ms } | Self::Unavailable { retry_after_ms } = self {
            body.insert("retry_after_ms".to_owned(), (*retry_after_ms).into());
        }
        if let Self::UserLimitExceeded { info_uri, .. } = self {
            body.insert("info_uri".to_owned(), info_uri.as_str().into());
        }
        if let Self::BadStatus { status, body: said } = self {
            body.insert("status".to_owned(), (*status).into());
            body.insert("body".to_owned(), said.as_str().into());
        }
        if let Self::UnknownToken { soft_logout } = self {
            body.insert("soft_logout".to_owned(), (*soft_logout).into());
        }
        if matches!(self, Self::UserLocked) {
            // What the client has stays good for when the account is unlocked.
            body.insert("soft_logout".to_owned(), true.into());
        }
        if let Self::IncompatibleRoomVersion { room_version } = self {
            body.insert("room_version".to_owned(), room_version.as_str().into());
        }
        if let Self::WrongRoomKeysVersion { current_version } = self {
            body.insert("current_version".to_owned(), current_version.as_str().into());
        }
        Value::Object(body)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.errcode(), self.message())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Refusal;

    /// What is on the wire between two deployed versions: a changed line here breaks a rollout.
    #[test]
    fn the_wire_format_stays() {
        let table = [
            (r#"{"forbidden":"x"}"#, 403, "M_FORBIDDEN"),
            (r#"{"not_found":"x"}"#, 404, "M_NOT_FOUND"),
            (r#"{"bad_json":"x"}"#, 400, "M_BAD_JSON"),
            (r#"{"not_json":"x"}"#, 400, "M_NOT_JSON"),
            (r#"{"invalid_param":"x"}"#, 400, "M_INVALID_PARAM"),
            (r#"{"missing_param":"x"}"#, 400, "M_MISSING_PARAM"),
            (r#""user_in_use""#, 400, "M_USER_IN_USE"),
            (r#"{"invalid_username":"x"}"#, 400, "M_INVALID_USERNAME"),
            (r#"{"exclusive":"x"}"#, 400, "M_EXCLUSIVE"),
            (r#"{"too_large":"x"}"#, 413, "M_TOO_LARGE"),
            (r#"{"user_limit_exceeded":{"message":"x","info_uri":"x"}}"#, 403, "M_USER_LIMIT_EXCEEDED"),
            (r#""too_slow""#, 408, "M_UNKNOWN"),
            (r#""cannot_overwrite_media""#, 409, "M_CANNOT_OVERWRITE_MEDIA"),
            (r#""not_yet_uploaded""#, 504, "M_NOT_YET_UPLOADED"),
            (r#"{"too_large_elsewhere":"x"}"#, 502, "M_TOO_LARGE"),
            (r#"{"limit_exceeded":{"retry_after_ms":5}}"#, 429, "M_LIMIT_EXCEEDED"),
            (r#"{"unknown_token":{"soft_logout":true}}"#, 401, "M_UNKNOWN_TOKEN"),
            (r#""missing_token""#, 401, "M_MISSING_TOKEN"),
            (r#""user_deactivated""#, 403, "M_USER_DEACTIVATED"),
            (r#""user_locked""#, 401, "M_USER_LOCKED"),
            (r#""user_suspended""#, 403, "M_USER_SUSPENDED"),
            (r#"{"unsupported_room_version":"x"}"#, 400, "M_UNSUPPORTED_ROOM_VERSION"),
            (r#"{"incompatible_room_version":{"room_version":"x"}}"#, 400, "M_INCOMPATIBLE_ROOM_VERSION"),
            (r#"{"room_in_use":"x"}"#, 400, "M_ROOM_IN_USE"),
            (r#"{"invalid_room_state":"x"}"#, 400, "M_INVALID_ROOM_STATE"),
            (r#"{"bad_state":"x"}"#, 403, "M_BAD_STATE"),
            (r#"{"weak_password":"x"}"#, 400, "M_WEAK_PASSWORD"),
            (r#""invite_blocked""#, 403, "M_INVITE_BLOCKED"),
            (r#""guest_access_forbidden""#, 403, "M_GUEST_ACCESS_FORBIDDEN"),
            (r#"{"unrecognized":{"status":405}}"#, 405, "M_UNRECOGNIZED"),
            (r#"{"unauthorized":"x"}"#, 401, "M_UNAUTHORIZED"),
            (r#"{"unknown":"x"}"#, 400, "M_UNKNOWN"),
            (r#"{"bad_alias":"x"}"#, 400, "M_BAD_ALIAS"),
            (r#"{"alias_exists":"x"}"#, 409, "M_UNKNOWN"),
            (r#""key_too_large""#, 400, "M_KEY_TOO_LARGE"),
            (r#""profile_too_large""#, 400, "M_PROFILE_TOO_LARGE"),
            (r#"{"wrong_room_keys_version":{"current_version":"x"}}"#, 403, "M_WRONG_ROOM_KEYS_VERSION"),
            (r#"{"invalid_signature":"x"}"#, 400, "M_INVALID_SIGNATURE"),
            (r#"{"server_managed":"x"}"#, 405, "M_BAD_JSON"),
            (r#"{"threepid_medium_not_supported":"x"}"#, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
            (r#"{"threepid_denied":"x"}"#, 403, "M_THREEPID_DENIED"),
            (r#"{"threepid_not_found":"x"}"#, 400, "M_THREEPID_NOT_FOUND"),
            (r#"{"threepid_auth_failed":"x"}"#, 403, "M_THREEPID_AUTH_FAILED"),
            (r#"{"server_not_trusted":"x"}"#, 403, "M_SERVER_NOT_TRUSTED"),
            (r#"{"by_policy_server":{"status":400,"body":{}}}"#, 400, "M_FORBIDDEN"),
            (r#"{"by_other_server":{"errcode":"M_X","message":"x"}}"#, 400, "M_FORBIDDEN"),
            (r#""duplicate_annotation""#, 400, "M_DUPLICATE_ANNOTATION"),
            (r#"{"other_server":"x"}"#, 502, "M_UNKNOWN"),
            (r#"{"unavailable":{"retry_after_ms":5}}"#, 503, "M_UNKNOWN"),
            (r#"{"unable_to_authorise_join":"x"}"#, 400, "M_UNABLE_TO_AUTHORISE_JOIN"),
            (r#"{"unable_to_grant_join":"x"}"#, 400, "M_UNABLE_TO_GRANT_JOIN"),
            (r#""threepid_in_use""#, 400, "M_THREEPID_IN_USE"),
            (r#""cannot_leave_server_notice_room""#, 403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"),
            (r#""unknown_pos""#, 400, "M_UNKNOWN_POS"),
            (r#""unknown_device""#, 400, "M_UNKNOWN_DEVICE"),
            (r#""appservice_too_slow""#, 408, "M_UNKNOWN"),
            (r#""url_not_set""#, 400, "M_URL_NOT_SET"),
            (r#"{"connection_failed":"x"}"#, 502, "M_CONNECTION_FAILED"),
            (r#""connection_timeout""#, 504, "M_CONNECTION_TIMEOUT"),
            (r#"{"bad_status":{"status":500,"body":"x"}}"#, 502, "M_BAD_STATUS"),
        ];
        for (wire, status, errcode) in table {
            let refusal: Refusal = serde_json::from_str(wire).unwrap();
            assert_eq!(serde_json::to_string(&refusal).unwrap(), wire);
            assert_eq!((refusal.status(), refusal.errcode()), (status, errcode), "{wire}");
            assert!(!refusal.message().is_empty(), "{wire}");
        }
        // «unknown variant `none`, expected one of `forbidden`, `not_found`, …»
        let every = serde_json::from_str::<Refusal>(r#""none""#).unwrap_err().to_string();
        let every: BTreeSet<&str> = every.split('`').skip(3).step_by(2).collect();
        let of_table: BTreeSet<&str> = table.iter().filter_map(|(wire, ..)| wire.split('"').nth(1)).collect();
        assert_eq!(of_table, every);
    }

    #[test]
    fn another_servers_words_are_passed_on_as_far_as_they_are_for_the_user() {
        let told = |errcode: &str, message: &str| Refusal::by_other_server(errcode, message).map(|told| told.body());
        let unable = r#"{"errcode":"M_UNABLE_TO_GRANT_JOIN","error":"Ask b.test"}"#;
        assert_eq!(told("M_UNABLE_TO_GRANT_JOIN", "Ask b.test"), Some(serde_json::from_str(unable).unwrap()));
        assert!(told("ORG.EXAMPLE-1.NO_ROOM", "").is_some());
        let long = Refusal::by_other_server("M_UNKNOWN", &"é".repeat(5_000)).unwrap();
        assert_eq!((long.status(), long.message().chars().count()), (400, 1_000));
        let on_the_wire = r#"{"by_other_server":{"errcode":"M_X","message":"x"}}"#;
        assert_eq!(serde_json::to_string(&Refusal::by_other_server("M_X", "x")).unwrap(), on_the_wire);
        let code = "M".repeat(65);
        for kept in ["", "m_no", "M NO", "M_NO\n", "M_INVALID_PARAM", "M_MISSING_PARAM", "M_UNKNOWN_TOKEN", &code] {
            assert_eq!(told(kept, "No"), None, "{kept}");
        }
    }

    #[test]
    fn the_body_adds_what_the_code_promises() {
        let table = [
            (Refusal::Forbidden("No".to_owned()), r#"{"errcode":"M_FORBIDDEN","error":"No"}"#),
            (
                Refusal::LimitExceeded { retry_after_ms: 7 },
                r#"{"errcode":"M_LIMIT_EXCEEDED","error":"Too many requests: try again in 7 ms","retry_after_ms":7}"#,
            ),
            (
                Refusal::UserLimitExceeded { message: "Full".to_owned(), info_uri: "https://a".to_owned() },
                r#"{"errcode":"M_USER_LIMIT_EXCEEDED","error":"Full","info_uri":"https://a"}"#,
            ),
            (
                Refusal::UnknownToken { soft_logout: false },
                r#"{"errcode":"M_UNKNOWN_TOKEN","error":"This access token is not known","soft_logout":false}"#,
            ),
        ];
        for (refusal, body) in table {
            assert_eq!(refusal.body(), serde_json::from_str::<serde_json::Value>(body).unwrap());
        }
    }
}
