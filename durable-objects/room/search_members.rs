//! Finding people among the members of the room, for who is in it, or for everybody where everybody may come in or
//! read.
//! Spec: Client-Server API, "User Directory".

use std::collections::BTreeMap;

use domain::user_search::{Rank, Term};
use platform::{ActorKind, Sql};
use ruma_common::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::{
    Room, open,
    store::{
        self,
        members::{Ids, LAST_CHARACTER, Profile},
    },
    transactions,
};
use crate::{Call, Cx, Error};

/// Members looked at in one read.
const SLICE_MEMBERS: u64 = 500;
/// Members looked at whose ids begin with what is looked for.
const BEGINNING_MAX: u64 = if cfg!(test) { 1_000 } else { 5_000 };
/// Members looked at in all, besides.
const MEMBERS_MAX: u64 = if cfg!(test) { 1_500 } else { 20_000 };
/// Members that are found, at most.
const FOUND_MAX: usize = 100;

/// Looks for members who are called like this, users of ours by what they call themselves everywhere. Somebody
/// whose business the room is not finds nobody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SearchMembers {
    pub user: OwnedUserId,
    pub term: String,
    pub limit: u64,
}

/// The members who fit best.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FoundMembers {
    #[serde(default)]
    pub members: Vec<FoundMember>,
    /// Whether there are more, or may be.
    #[serde(default)]
    pub limited: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundMember {
    pub user_id: OwnedUserId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
}

impl FoundMember {
    /// Where they stand among all who are found, the best first. Spec: «Ordered by rank and then whether or not profile
    /// info is available.» Nothing for who is not called like that.
    pub fn place(&self, term: &Term) -> Option<(Rank, bool, OwnedUserId)> {
        let rank = term.rank(&self.user_id, self.display_name.as_deref())?;
        Some((rank, self.display_name.is_none() && self.avatar_url.is_none(), self.user_id.clone()))
    }
}

impl Call for SearchMembers {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "search_members";
    type Reply = FoundMembers;
}

impl Room {
    pub(super) fn search_members(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: SearchMembers,
    ) -> Result<FoundMembers, Error> {
        let is_member = store::members::membership(sql, call.user.as_str())?.as_deref() == Some("join");
        if !is_member && !open::is_open(sql)? {
            return Ok(FoundMembers::default());
        }
        let limit = usize::try_from(call.limit).unwrap_or(FOUND_MAX).min(FOUND_MAX);
        let mut search =
            Looking { sql, cx, term: Term::new(&call.term), user: call.user, limit, found: BTreeMap::new() };
        // Those whose ids begin so are found wherever they are among the members.
        let mut left = BEGINNING_MAX;
        for from in search.term.beginnings_of_ids().collect::<Vec<_>>() {
            search.among(&from, &format!("{from}{LAST_CHARACTER}"), &mut left)?;
        }
        let mut limited = left == 0;
        let mut left = MEMBERS_MAX;
        search.among("", LAST_CHARACTER, &mut left)?;
        limited |= left == 0 || search.found.len() > limit;
        Ok(FoundMembers { members: search.found.into_values().take(limit).collect(), limited })
    }
}

/// A look through the members.
struct Looking<'a> {
    sql: &'a dyn Sql,
    cx: &'a Cx<'a>,
    term: Term,
    /// Who looks, and does not find themselves.
    user: OwnedUserId,
    limit: usize,
    /// The best, and one more than is wanted if there are more.
    found: BTreeMap<(Rank, bool, OwnedUserId), FoundMember>,
}

impl Looking<'_> {
    /// Looks among the members whose ids are in a range; `left`: how many may still be looked at.
    fn among(&mut self, from: &str, before: &str, left: &mut u64) -> Result<(), Error> {
        let (mut from, mut but) = (from.to_owned(), String::new());
        while *left > 0 {
            let ids = Ids { from: &from, but: &but, before };
            let members = store::members::joined_profiles(self.sql, ids, SLICE_MEMBERS)?;
            let Some(last) = members.last() else { break };
            from.clone_from(&last.user_id);
            but.clone_from(&last.user_id);
            let is_last = (members.len() as u64) < SLICE_MEMBERS;
            for member in members {
                self.look_at(member);
            }
            if is_last {
                break;
            }
            *left = left.saturating_sub(SLICE_MEMBERS);
        }
        Ok(())
    }

    fn look_at(&mut self, member: Profile) {
        let Profile { user_id, display_name, avatar_url, txn } = member;
        let Ok(user_id) = OwnedUserId::try_from(user_id) else { return };
        let mut member = FoundMember { user_id, display_name, avatar_url };
        // What users of ours call themselves in this room alone is not for everybody; of others nothing else is known.
        if self.cx.is_local(&member.user_id) && !transactions::shows_profile(txn.as_deref()) {
            (member.display_name, member.avatar_url) = (None, None);
        }
        if member.user_id == self.user {
            return;
        }
        if let Some(place) = member.place(&self.term) {
            self.found.insert(place, member);
            if self.found.len() > self.limit.saturating_add(1) {
                self.found.pop_last();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use ruma_common::{OwnedUserId, user_id};
    use serde_json::json;

    use super::SearchMembers;
    use crate::{room::MembershipAction, world::World};

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    #[test]
    fn only_who_may_know_of_the_members_finds_them() {
        let world = World::new(1);
        let room_id = world.creates_room(&alice(), "12", Preset::PrivateChat);
        let (bob, carol) = (user_id!("@bob:myelin.test"), user_id!("@carol:myelin.test"));
        world.changes(&alice(), &room_id, bob, MembershipAction::Invite).unwrap();
        let finds = |user: &ruma_common::UserId, term: &str| {
            let call = SearchMembers { user: user.to_owned(), term: term.to_owned(), limit: 10 };
            let found = world.call(room_id.as_str(), &call).unwrap();
            found.members.into_iter().map(|member| member.user_id.localpart().to_owned()).collect::<Vec<_>>()
        };
        assert!(finds(carol, "").is_empty() && finds(bob, "ali").is_empty() && finds(&alice(), "ali").is_empty());
        world.changes(bob, &room_id, bob, MembershipAction::Join).unwrap();
        assert_eq!((finds(bob, "ali"), finds(&alice(), "")), (vec!["alice".to_owned()], vec!["bob".to_owned()]));
        assert!(finds(carol, "").is_empty() && finds(bob, "nobody").is_empty());
        let rule = json!({ "join_rule": "public" });
        world.sends(&alice(), &room_id, "m.room.join_rules", Some(""), &rule).unwrap();
        assert_eq!(finds(carol, "").len(), 2);
        let rows = world.shows("SELECT open FROM open_room", &[]);
        assert_eq!(rows.len(), 1, "the directory of users knows of the room");
        world.sends(&alice(), &room_id, "m.room.join_rules", Some(""), &json!({ "join_rule": "invite" })).unwrap();
        assert!(finds(carol, "").is_empty());
    }

    #[test]
    fn a_crowd_is_looked_through_in_slices() {
        let world = World::new(1);
        let room_id = world.creates_room(&alice(), "12", Preset::PublicChat);
        world.crowds(&room_id, 1_200);
        let call = SearchMembers { user: alice(), term: String::new(), limit: 1_000 };
        let found = world.call(room_id.as_str(), &call).unwrap();
        assert_eq!((found.members.len(), found.limited), (super::FOUND_MAX, true));
        let last = found.members.last().unwrap().clone();
        let call = SearchMembers { term: last.user_id.to_string(), limit: 5, ..call };
        let found = world.call(room_id.as_str(), &call).unwrap();
        assert_eq!((found.members, found.limited), (vec![last], false));
    }

    #[test]
    fn whose_id_begins_so_is_found_in_any_crowd() {
        let world = World::new(1);
        let room_id = world.creates_room(&alice(), "12", Preset::PublicChat);
        world.crowds(&room_id, super::MEMBERS_MAX + 500);
        let zoe = user_id!("@zoe:myelin.test");
        world.changes(zoe, &room_id, zoe, MembershipAction::Join).unwrap();
        let finds = |term: &str| {
            let call = SearchMembers { user: alice(), term: term.to_owned(), limit: 5 };
            let found = world.call(room_id.as_str(), &call).unwrap();
            let ids: Vec<_> = found.members.iter().map(|member| member.user_id.to_string()).collect();
            (ids, found.limited)
        };
        for term in ["zo", "@ZOE", "zoe:myelin.test", "@zoe:myelin.test", "zoe myelin"] {
            assert_eq!(finds(term), (vec![zoe.to_string()], true), "{term}");
        }
        assert_eq!(finds("oe").0, [""; 0], "the middle of an id is looked for among the first only");
        assert_eq!(finds("user").0.len(), 5, "each is found once");
    }
}
