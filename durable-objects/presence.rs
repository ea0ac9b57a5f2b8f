//! A user's presence, as actors tell it to each other. Spec: "Presence".

use ruma_common::OwnedUserId;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::room::MemberProfile;

/// Whoever did something so short a time ago does something right now, in milliseconds.
const CURRENTLY_MS: u64 = 60_000;

/// How much of a user is there; of several devices the most counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PresenceState {
    /// Not connected, or hiding it.
    #[default]
    Offline,
    /// Connected and idle.
    Unavailable,
    Online,
}

/// What a user has to say of themselves, and since when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceStatus {
    pub state: PresenceState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_msg: Option<String>,
    /// When the user did something last, in milliseconds since the Unix epoch; 0: never.
    #[serde(default)]
    pub last_active_ms: u64,
    /// When it became so, by the user's own clock; grows with every change, so the highest is the newest.
    #[serde(default)]
    pub since_ms: u64,
    /// Whether they do something right now, where that is told and not known from their devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currently_active: Option<bool>,
}

/// One user's presence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Presence {
    pub user: OwnedUserId,
    #[serde(flatten)]
    pub status: PresenceStatus,
    #[serde(flatten)]
    pub profile: MemberProfile,
}

/// The content of `m.presence`, and the answer to who asks for a user's presence.
#[derive(Serialize)]
struct Content<'a> {
    presence: PresenceState,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_active_ago: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_msg: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currently_active: Option<bool>,
    #[serde(flatten)]
    profile: Option<&'a MemberProfile>,
}

impl Presence {
    /// One of whom nothing is known but that they are not there.
    pub fn absent(user: OwnedUserId) -> Self {
        Self { user, status: PresenceStatus::default(), profile: MemberProfile::default() }
    }

    pub(crate) fn is_newer_than(&self, other: &Self) -> bool {
        self.status.since_ms > other.status.since_ms
    }

    /// Takes in the same presence told again: when they were active last may be news, to be told along with other news.
    pub(crate) fn hears_again(&mut self, other: &Self) {
        if !self.is_newer_than(other) {
            self.status.last_active_ms = self.status.last_active_ms.max(other.status.last_active_ms);
        }
    }

    fn content(&self, now_ms: u64, with_profile: bool) -> Content<'_> {
        let PresenceStatus { state, status_msg, last_active_ms, since_ms: _, currently_active } = &self.status;
        // Spec: "Last active ago".
        let is_active = *state == PresenceState::Online && now_ms.saturating_sub(*last_active_ms) < CURRENTLY_MS;
        Content {
            presence: *state,
            last_active_ago: (*last_active_ms > 0).then(|| now_ms.saturating_sub(*last_active_ms)),
            status_msg: status_msg.as_deref(),
            currently_active: (*state != PresenceState::Offline).then_some(currently_active.unwrap_or(is_active)),
            profile: with_profile.then_some(&self.profile),
        }
    }

    /// What another server is told. Spec: Server-Server API, "Presence".
    pub fn to_push(&self, now_ms: u64) -> serde_json::Result<Box<RawValue>> {
        #[derive(Serialize)]
        struct Push<'a> {
            user_id: &'a OwnedUserId,
            #[serde(flatten)]
            content: Content<'a>,
        }
        let mut content = self.content(now_ms, false);
        // Required there: who never did anything did not since they are so.
        content.last_active_ago.get_or_insert(now_ms.saturating_sub(self.status.since_ms));
        to_raw_value(&Push { user_id: &self.user, content })
    }

    /// The answer of `GET /presence/{userId}/status`.
    pub fn to_status(&self, now_ms: u64) -> serde_json::Result<Box<RawValue>> {
        to_raw_value(&self.content(now_ms, false))
    }

    /// The `m.presence` event that a sync shows.
    pub(crate) fn to_event(&self, now_ms: u64) -> serde_json::Result<Box<RawValue>> {
        #[derive(Serialize)]
        struct Event<'a> {
            #[serde(rename = "type")]
            event_type: &'static str,
            sender: &'a OwnedUserId,
            content: Content<'a>,
        }
        to_raw_value(&Event { event_type: EVENT_TYPE, sender: &self.user, content: self.content(now_ms, true) })
    }
}

/// The type of the events that tell of presence.
pub(crate) const EVENT_TYPE: &str = "m.presence";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_is_shown() {
        let alice = |state, last_active_ms| Presence {
            user: "@alice:a".try_into().unwrap(),
            status: PresenceStatus {
                state,
                status_msg: Some("tea".to_owned()),
                last_active_ms,
                since_ms: 5,
                currently_active: None,
            },
            profile: MemberProfile { displayname: Some("Alice".to_owned()), avatar_url: None },
        };
        let status = |presence: Presence| presence.to_status(1_000).unwrap().get().to_owned();
        insta::assert_snapshot!(status(alice(PresenceState::Online, 900)), @r#"{"presence":"online","last_active_ago":100,"status_msg":"tea","currently_active":true}"#);
        assert!(
            alice(PresenceState::Online, 900).to_status(60_899).unwrap().get().contains(r#""currently_active":true"#)
        );
        assert!(
            alice(PresenceState::Online, 900).to_status(60_900).unwrap().get().contains(r#""currently_active":false"#)
        );
        insta::assert_snapshot!(status(alice(PresenceState::Unavailable, 0)), @r#"{"presence":"unavailable","status_msg":"tea","currently_active":false}"#);
        insta::assert_snapshot!(status(Presence::absent("@bob:a".try_into().unwrap())), @r#"{"presence":"offline"}"#);
        insta::assert_snapshot!(alice(PresenceState::Offline, 2_000).to_event(1_000).unwrap(), @r#"{"type":"m.presence","sender":"@alice:a","content":{"presence":"offline","last_active_ago":0,"status_msg":"tea","displayname":"Alice"}}"#);
    }
}
