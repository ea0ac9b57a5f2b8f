use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::store::log::Logged;

/// The events a client wants of a room. Spec: "Filtering", `RoomEventFilter`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    /// The most events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_types: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub senders: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_senders: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains_url: Option<bool>,
    /// Whether of the members only those who sent what is shown are wanted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lazy_load_members: bool,
    /// Whether members are wanted again that the device was sent before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub include_redundant_members: bool,
    /// Whether unread notifications are wanted for each thread apart.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unread_thread_notifications: bool,
}

impl EventFilter {
    pub(super) fn allows(&self, event: &Logged) -> bool {
        self.allows_type(&event.pdu.event_type().to_string())
            && self.allows_sender(event.pdu.sender().as_str())
            && self.contains_url.is_none_or(|wanted| wanted == has_url(event))
    }

    /// Whether there is no event that it allows: then none need be looked at.
    pub(super) fn allows_nothing(&self) -> bool {
        self.types.as_ref().is_some_and(Vec::is_empty)
            || self.senders.as_ref().is_some_and(Vec::is_empty)
            || self.not_types.iter().any(|unwanted| unwanted == "*")
    }

    /// Whether account data of this type is wanted. It has no sender, so none of those that a client lists. There is
    /// one entry of each type: a limit would hide some for good, and is not for them.
    pub fn allows_account_data(&self, event_type: &str) -> bool {
        self.allows_type(event_type) && self.senders.is_none()
    }

    /// Whether the presence of this user is wanted.
    pub(crate) fn allows_presence(&self, user: &str) -> bool {
        self.allows_type(crate::presence::EVENT_TYPE) && self.allows_sender(user)
    }

    pub(crate) fn allows_type(&self, event_type: &str) -> bool {
        self.types.as_ref().is_none_or(|types| types.iter().any(|pattern| matches(pattern, event_type)))
            && !self.not_types.iter().any(|pattern| matches(pattern, event_type))
    }

    pub(super) fn allows_sender(&self, sender: &str) -> bool {
        self.senders.as_ref().is_none_or(|senders| senders.iter().any(|wanted| wanted == sender))
            && !self.not_senders.iter().any(|unwanted| unwanted == sender)
    }

    /// The number of events wanted: `default` if the client does not say, never more than `max`.
    pub(crate) fn limit(&self, default: u64, max: u64) -> u64 {
        self.limit.unwrap_or(default).min(max)
    }
}

fn has_url(event: &Logged) -> bool {
    #[derive(Deserialize)]
    struct Content {
        // Whatever it is.
        #[expect(dead_code, reason = "that it is there is what counts")]
        url: IgnoredAny,
    }
    event.pdu.content_as::<Content>().is_ok()
}

/// Whether a type matches a pattern in which `*` stands for any text.
fn matches(pattern: &str, event_type: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(rest) = pieces.next().and_then(|prefix| event_type.strip_prefix(prefix)) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    let mut rest = rest;
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, event_type, expected) in [
            ("m.room.message", "m.room.message", true),
            ("m.room.message", "m.room.messages", false),
            ("m.room.*", "m.room.message", true),
            ("*", "anything", true),
            ("m.*.message", "m.room.message", true),
            ("m.*.message", "m.room.member", false),
            ("*.message", "m.room.message", true),
            ("m.*e*e", "m.see", true),
            ("m.*e*e", "m.se", false),
            ("", "m.see", false),
        ] {
            assert_eq!(matches(pattern, event_type), expected, "{pattern} {event_type}");
        }
    }
}
