//! Who is in the room.

use std::collections::BTreeMap;

use domain::{Refusal, appservice::Appservice};
use platform::{ActorKind, Sql};
use ruma_common::{OwnedDeviceId, OwnedUserId, UserId};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, Serialize};

use super::{
    Room, StatePage,
    append::{check_joined, membership_of},
    omitted_members,
    state::StateSpan,
    store::{self, log::Logged, members::Profile},
    viewer::{Sight, Viewer},
};
use crate::{Call, Cx, Error};

/// Members on a page of profiles.
const PAGE_MEMBERS_MAX: u64 = 2_000;
/// Local users among whom those of an application service are looked for.
const LOCALS_SEARCHED_MAX: u64 = 10_000;

/// The membership events, now or at a position, in pages. Spec: `GET /rooms/{roomId}/members`.
///
/// Refused: `Forbidden` for who was never in the room, unless it is world-readable.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetMembers {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    /// The member with whom the page before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<MembershipState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_membership: Option<MembershipState>,
}

impl Call for GetMembers {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "members_page";
    type Reply = StatePage;
}

/// The profiles of the joined members. Spec: `GET /rooms/{roomId}/joined_members`.
///
/// Refused: `Forbidden` for who is not in the room.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetJoinedMembers {
    pub user: OwnedUserId,
    /// The id of the application service that asks: it suffices that any of its users is in the room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appservice: Option<String>,
    /// The member with whom the page before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Some of the joined members.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinedMembersPage {
    pub joined: BTreeMap<String, JoinedMember>,
    /// Where the next page starts; none: this is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A member's profile in this room.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinedMember {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
}

impl Call for GetJoinedMembers {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "joined_members_page";
    type Reply = JoinedMembersPage;
}

impl Room {
    pub(super) fn members(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetMembers) -> Result<StatePage, Error> {
        omitted_members::check_whole(sql)?;
        let viewer = Viewer::load(sql, call.user, call.device)?;
        let newest = match viewer.sight()? {
            Sight::Now => self.head(sql)?,
            Sight::Until(left) => left,
        };
        let at = call.at.unwrap_or(newest).min(newest);
        if at < newest && !viewer.may_see_state_at(at) {
            return Err(Refusal::Forbidden("You may not see who was in this room then".to_owned()).into());
        }
        let wanted = |event: &Logged| {
            let membership = membership_of(&event.pdu)?;
            Ok(is_wanted(&membership, call.membership.as_ref(), call.not_membership.as_ref()))
        };
        self.state_page(sql, cx, &viewer, StateSpan::of_members(at, call.after.as_deref()), wanted)
    }

    pub(super) fn joined_members(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetJoinedMembers,
    ) -> Result<JoinedMembersPage, Error> {
        let appservice = call.appservice.as_deref().and_then(|id| cx.settings.config.appservice(id));
        match (check_joined(sql, &call.user), appservice) {
            (Ok(()), _) => {}
            // Spec: «any of the AS's users must be in the room».
            (Err(_), Some(appservice)) if is_any_joined(sql, appservice)? => {}
            (Err(error), _) => return Err(error),
        }
        omitted_members::check_whole(sql)?;
        let after = call.after.as_deref().unwrap_or_default();
        let profiles = store::members::joined_profiles(sql, store::members::Ids::after(after), PAGE_MEMBERS_MAX)?;
        let is_last = (profiles.len() as u64) < PAGE_MEMBERS_MAX;
        let next = profiles.last().map(|profile| profile.user_id.clone()).filter(|_| !is_last);
        let joined = profiles.into_iter().map(|Profile { user_id, display_name, avatar_url, .. }| {
            (user_id, JoinedMember { display_name, avatar_url })
        });
        Ok(JoinedMembersPage { joined: joined.collect(), next })
    }
}

/// Whether a user of an application service is in the room, as far as one looks.
fn is_any_joined(sql: &dyn Sql, appservice: &Appservice) -> Result<bool, Error> {
    let locals = store::members::joined_locals(sql, LOCALS_SEARCHED_MAX)?;
    Ok(locals.iter().any(|user_id| <&UserId>::try_from(&**user_id).is_ok_and(|user_id| appservice.has_user(user_id))))
}

/// Spec: «the two parameters create an "or" condition».
fn is_wanted(membership: &MembershipState, only: Option<&MembershipState>, but: Option<&MembershipState>) -> bool {
    match (only, but) {
        (None, None) => true,
        (only, but) => only.is_some_and(|only| only == membership) || but.is_some_and(|but| but != membership),
    }
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use ruma_common::{OwnedUserId, user_id};
    use serde_json::json;

    use super::{GetJoinedMembers, GetMembers};
    use crate::world::World;

    /// The largest reply that a room should give, in bytes.
    const REPLY_BYTES_MAX: usize = 1_200_000;

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    #[test]
    fn twenty_thousand_members_come_in_small_pages() {
        let world = World::new(1);
        let room_id = world.creates_room(&alice(), "11", Preset::PrivateChat);
        world.crowds(&room_id, 20_000);
        let mut members = 0;
        let mut call = GetMembers {
            user: alice(),
            device: "PHONE".into(),
            at: None,
            after: None,
            membership: None,
            not_membership: None,
        };
        loop {
            let page = world.call(room_id.as_str(), &call).unwrap();
            assert!(page.events.iter().map(|event| event.get().len()).sum::<usize>() < REPLY_BYTES_MAX);
            members += page.events.len();
            let Some((_, after)) = page.next else { break };
            (call.at, call.after) = (Some(page.at), Some(after));
        }
        assert_eq!(members, 20_001);

        let mut joined = 0;
        let mut call = GetJoinedMembers { user: alice(), appservice: None, after: None };
        loop {
            let page = world.call(room_id.as_str(), &call).unwrap();
            assert!(serde_json::to_string(&page).unwrap().len() < REPLY_BYTES_MAX);
            joined += page.joined.len();
            let Some(after) = page.next else { break };
            call.after = Some(after);
        }
        assert_eq!(joined, 20_001);
    }

    #[test]
    fn an_application_service_asks_where_any_of_its_users_is() {
        let registration = r#"{ "id": "irc", "url": null, "as_token": "a", "hs_token": "h", "sender_localpart": "irc",
            "namespaces": { "users": [{ "regex": "@irc_.*", "exclusive": true }] } }"#;
        let world = World::configured(1, &[("APPSERVICES", registration)]);
        let room_id = world.creates_room(&alice(), "11", Preset::PublicChat);
        let asks = |user: &str, appservice: Option<&str>| {
            let (user, appservice) = (user.try_into().unwrap(), appservice.map(ToOwned::to_owned));
            world.call(room_id.as_str(), &GetJoinedMembers { user, appservice, after: None }).is_ok()
        };
        let irc = "@irc:myelin.test";
        assert!(!asks(irc, Some("irc")), "nobody of it is there");
        let joins = json!({ "membership": "join" });
        let ghost = user_id!("@irc_bob:myelin.test");
        world.sends(ghost, &room_id, "m.room.member", Some(ghost.as_str()), &joins).unwrap();
        assert!(asks(irc, Some("irc")) && asks(alice().as_str(), None));
        for (user, appservice) in [(irc, None), (irc, Some("other")), ("@eve:myelin.test", None)] {
            assert!(!asks(user, appservice), "{user} {appservice:?}");
        }
    }
}
