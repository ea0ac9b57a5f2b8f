//! Which servers may take part in a room. Spec: "Server Access Control Lists (ACLs) for rooms".

use ruma_common::ServerName;
use ruma_events::room::server_acl::RoomServerAclEventContent;
use serde_json::{Map, Value};

use crate::Pdu;

/// Whether the room's `m.room.server_acl`, if it has one, lets a server take part. What is malformed in it is as if it
/// were not there, and the rest holds: one wrong field lets nobody in.
pub fn allows(acl: Option<&Pdu>, server: &ServerName) -> bool {
    let Some(acl) = acl else { return true };
    let content: Map<String, Value> = acl.content_as().unwrap_or_default();
    let patterns = |field: &str| {
        let list = content.get(field).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(ToOwned::to_owned).collect()
    };
    // «Defaults to `true` if missing or otherwise not a boolean.»
    let literals = content.get("allow_ip_literals").and_then(Value::as_bool).unwrap_or(true);
    RoomServerAclEventContent::new(literals, patterns("allow"), patterns("deny")).is_allowed(server)
}

#[cfg(test)]
mod tests {
    use ruma_common::ServerName;
    use serde_json::json;

    use super::allows;
    use crate::fixture::{Room, state, version};

    #[test]
    fn lists_are_read_as_the_specification_has_them() {
        let table = [
            (json!({ "allow": ["*"], "deny": ["evil.com"] }), "evil.com", false),
            (json!({ "allow": ["*"], "deny": ["evil.com"] }), "evil.com:8448", false),
            (json!({ "allow": ["*"], "deny": ["*.evil.com"] }), "evil.com", true),
            (json!({ "allow": ["*"], "deny": ["*.evil.com"] }), "very.evil.com", false),
            (json!({ "allow": ["example.org"] }), "example.org", true),
            (json!({ "allow": ["example.org"] }), "example.com", false),
            (json!({ "allow": [] }), "example.org", false),
            (json!({ "allow": ["*"], "allow_ip_literals": false }), "1.2.3.4:8448", false),
            (json!({ "allow": ["*"], "allow_ip_literals": false }), "[::1]", false),
            (json!({ "allow": ["*"] }), "1.2.3.4", true),
            (json!({ "allow": "*" }), "example.org", false),
            (json!({}), "example.org", false),
            (json!({ "allow": ["*"], "allow_ip_literals": "false" }), "1.2.3.4", true),
            (json!({ "allow": ["*"], "deny": ["evil.com"], "allow_ip_literals": "no" }), "evil.com", false),
            (json!({ "allow": ["*", 5], "deny": [{}, "evil.com"] }), "evil.com", false),
            (json!({ "allow": ["*", 5], "deny": [{}, "evil.com"] }), "example.org", true),
        ];
        for (content, server, expected) in table {
            let mut room = Room::of_alice(version("11"), []);
            let acl = room.force(&state("alice", "m.room.server_acl", "", content.clone()));
            let server = <&ServerName>::try_from(server).unwrap();
            assert_eq!(allows(Some(&acl), server), expected, "{server} by {content}");
        }
        assert!(allows(None, <&ServerName>::try_from("example.org").unwrap()));
    }
}
