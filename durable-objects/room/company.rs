//! Who is in the room, as far as a summary says it: how many, and who came first. Spec: "Syncing", `RoomSummary`.

use std::rc::Rc;

use platform::Sql;
use ruma_events::room::member::MembershipState;
use serde::Serialize;

use super::{Room, store, viewer::Viewer};
use crate::{Error, cx::MemberMoved};

/// Users whose names describe a room without a name. Spec: "Syncing", `m.heroes`.
const HEROES_MAX: usize = 5;
/// Those who came first that are remembered: one more, as nobody is their own hero.
const FIRST_MAX: usize = HEROES_MAX + 1;

#[derive(Serialize)]
pub(super) struct Summary {
    #[serde(rename = "m.heroes")]
    pub heroes: Vec<String>,
    #[serde(rename = "m.joined_member_count")]
    pub joined: u64,
    #[serde(rename = "m.invited_member_count")]
    pub invited: u64,
}

/// Kept in memory: to count the members of a large room is to read them all.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Company {
    pub joined: u64,
    pub invited: u64,
    /// Those in the room or invited who came first.
    first: Vec<String>,
}

impl Company {
    fn load(sql: &dyn Sql) -> Result<Self, Error> {
        let (joined, invited) = store::members::counts(sql)?;
        let first = store::members::first_of(sql, ["join", "invite"], FIRST_MAX as u64)?;
        Ok(Self { joined, invited, first })
    }

    /// After whom the room is called for one who is not among them, where it has no name.
    pub(super) fn heroes_for(&self, user_id: &str) -> Vec<String> {
        self.first.iter().filter(|user| *user != user_id).take(HEROES_MAX).cloned().collect()
    }

    /// A membership changed. Answers whether what is remembered is still so.
    fn follows(&mut self, moved: &MemberMoved) -> bool {
        if self.first.contains(&moved.user) {
            // They came last now, or are gone, and somebody else is first.
            return false;
        }
        match moved.before.as_deref() {
            Some("join") => self.joined = self.joined.saturating_sub(1),
            Some("invite") => self.invited = self.invited.saturating_sub(1),
            _ => {}
        }
        match moved.now {
            MembershipState::Join => self.joined = self.joined.saturating_add(1),
            MembershipState::Invite => self.invited = self.invited.saturating_add(1),
            _ => return true,
        }
        if self.first.len() < FIRST_MAX {
            self.first.push(moved.user.clone());
        }
        true
    }
}

impl Room {
    pub(super) fn company(&self, sql: &dyn Sql) -> Result<Rc<Company>, Error> {
        if let Some(company) = &*self.company.borrow() {
            return Ok(company.clone());
        }
        let company = Rc::new(Company::load(sql)?);
        Ok(self.company.borrow_mut().insert(company).clone())
    }

    /// Memory follows the memberships that an operation changed.
    pub(super) fn company_changed(&self, moved: &[MemberMoved]) {
        let mut company = self.company.borrow_mut();
        let follows = |company: &mut Rc<Company>| {
            let company = Rc::make_mut(company);
            moved.iter().all(|moved| company.follows(moved))
        };
        if !company.as_mut().is_none_or(follows) {
            *company = None;
        }
    }

    pub(super) fn summary(&self, sql: &dyn Sql, viewer: &Viewer) -> Result<Summary, Error> {
        let company = self.company(sql)?;
        let mut heroes = company.heroes_for(viewer.user.as_str());
        if heroes.is_empty() {
            let gone = store::members::first_of(sql, ["leave", "ban"], FIRST_MAX as u64)?;
            heroes = gone.into_iter().filter(|user| user != viewer.user.as_str()).take(HEROES_MAX).collect();
        }
        Ok(Summary { heroes, joined: company.joined, invited: company.invited })
    }
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use platform::{ActorKind, Address};
    use ruma_common::{UserId, user_id};
    use serde_json::{Value, json};

    use super::{Company, HEROES_MAX};
    use crate::{
        room::{Delta, MembershipAction},
        world::World,
    };

    /// What is remembered is what would be read.
    #[test]
    fn memory_follows_every_change() {
        let world = World::new(7);
        let alice = user_id!("@alice:myelin.test");
        let room_id = world.creates_room(alice, "11", Preset::PublicChat);
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let look: Delta = serde_json::from_value(json!({ "user": alice, "device": "PHONE" })).unwrap();
        for _ in 0..300 {
            let user = UserId::parse(format!("@user{}:myelin.test", world.dice.roll(12))).unwrap();
            let (sender, action) = match world.dice.roll(6) {
                0 => (alice, MembershipAction::Invite),
                1 => (alice, MembershipAction::Kick),
                2 => (&*user, MembershipAction::Leave),
                _ => (&*user, MembershipAction::Join),
            };
            // Some of this may not happen, which changes nothing.
            let _ = world.changes(sender, &room_id, &user, action);
            let shown = world.call(room_id.as_str(), &look).unwrap();
            let shown: Value = serde_json::from_str(shown.room.get()).unwrap();
            let read = Company::load(&*sql).unwrap();
            let heroes: Vec<_> = read.first.iter().filter(|user| *user != alice.as_str()).take(HEROES_MAX).collect();
            let summary = &shown["summary"];
            assert_eq!(summary["m.joined_member_count"], read.joined);
            assert_eq!(summary["m.invited_member_count"], read.invited);
            if !heroes.is_empty() {
                assert_eq!(summary["m.heroes"], json!(heroes));
            }
        }
    }
}
