//! Spec: "Capabilities negotiation".

use domain::RoomVersion;
use ruma_client_api::discovery::get_capabilities::v3::Request;
use serde_json::{Map, Value, json};

use crate::{Caller, Context, Failure, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(capabilities);
}

async fn capabilities(cx: &Context, caller: Caller, _: Request) -> Result<Vec<u8>, Failure> {
    let available: Map<String, Value> =
        RoomVersion::ALL.iter().map(|version| ((*version).to_owned(), "stable".into())).collect();
    let mut capabilities = json!({
        "m.room_versions": { "default": cx.config().default_room_version.as_str(), "available": available },
        "m.change_password": { "enabled": true },
        "m.set_displayname": { "enabled": true },
        "m.set_avatar_url": { "enabled": true },
        "m.profile_fields": { "enabled": true },
        "m.3pid_changes": { "enabled": cx.config().mail.is_some() },
        "m.get_login_token": { "enabled": cx.config().login_tokens },
    });
    // «This property should be omitted altogether if `suspend` and `lock` would be `false`.»
    if let Some(capabilities) = capabilities.as_object_mut().filter(|_| caller.administrator) {
        capabilities.insert("m.account_moderation".to_owned(), json!({ "suspend": true, "lock": true }));
    }
    Ok(serde_json::to_vec(&json!({ "capabilities": capabilities }))?)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use crate::testing::TestServer;

    #[test]
    fn what_a_client_asks_at_its_start() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("DEFAULT_ROOM_VERSION", "11")]);
        let alice = server.register("alice");
        let (_, versions) = server.get("/_matrix/client/versions", "");
        assert!(versions["versions"].as_array().unwrap().contains(&json!("v1.1")));
        let (_, capabilities) = server.get("/_matrix/client/v3/capabilities", &alice);
        let versions = &capabilities["capabilities"]["m.room_versions"];
        assert_eq!((&versions["default"], &versions["available"]["12"]), (&json!("11"), &json!("stable")));
        assert_eq!(versions["available"].as_object().unwrap().len(), 12);
        let (status, rules) = server.get("/_matrix/client/v3/pushrules/", &alice);
        assert_eq!(status, StatusCode::OK);
        assert!(rules["global"]["override"].as_array().unwrap().len() > 3, "{rules}");
        assert_eq!(server.get("/_matrix/client/v3/pushrules/global/", &alice).1, rules["global"]);
    }
}
