//! Which events notify a user, by their push rules and the room as it is now: how many are in it, who has which power,
//! what the user is called there.

use std::rc::Rc;

use domain::{
    push::{self, Effort, Recipient},
    standing::Standing,
};
use platform::{Fault, Sql};
use ruma_common::{
    RoomId, UserId,
    push::{Action, Ruleset},
};
use serde_json::{Map, Value};

use super::{
    MemberProfile, Room,
    store::{self, log::Logged},
};
use crate::Error;

/// What one user's patterns may cost a room at a time, in characters that are compared: fifty keywords, held against a
/// thousand messages of three hundred characters each, take half of it. Beyond that no pattern of theirs matches.
const EFFORT_MAX: u64 = 30_000_000;
/// The longest name that is looked for in messages, in bytes. Memberships may have longer ones.
const DISPLAY_NAME_BYTES_MAX: usize = 1_024;

/// Judges events for one user.
pub(super) struct Judge<'a> {
    room: &'a Room,
    sql: &'a dyn Sql,
    room_id: &'a RoomId,
    user: &'a UserId,
    changes: Option<&'a Ruleset>,
    /// Made when the first event asks for it.
    grounds: Option<Grounds>,
    effort: Effort,
}

/// What decides.
struct Grounds {
    /// The rules in effect.
    rules: Ruleset,
    standing: Rc<Standing>,
    member_count: u64,
    display_name: Option<String>,
}

impl<'a> Judge<'a> {
    /// `changes` is what the user changed of the rules that everyone starts with.
    pub(super) fn new(
        room: &'a Room,
        sql: &'a dyn Sql,
        room_id: &'a RoomId,
        user: &'a UserId,
        changes: Option<&'a Ruleset>,
    ) -> Self {
        Self { room, sql, room_id, user, changes, grounds: None, effort: Effort::new(EFFORT_MAX) }
    }

    /// The actions of the rule that matches the event.
    pub(super) fn actions(&mut self, event: &Logged) -> Result<&[Action], Error> {
        let mut json: Map<String, Value> = serde_json::from_str(event.pdu.json())?;
        // As clients know it: servers tell each other neither the id of an event nor the room that one creates.
        json.insert("event_id".to_owned(), Value::from(event.pdu.event_id().as_str()));
        json.insert("room_id".to_owned(), Value::from(self.room_id.as_str()));
        let grounds = match self.grounds.take() {
            Some(grounds) => grounds,
            None => Grounds {
                rules: push::effective(self.user, self.changes.cloned()),
                standing: self.room.standing(self.sql)?,
                member_count: self.room.company(self.sql)?.joined,
                display_name: display_name(self.sql, self.user)?,
            },
        };
        let grounds = self.grounds.insert(grounds);
        let recipient = Recipient {
            user_id: self.user,
            room_id: self.room_id,
            display_name: grounds.display_name.as_deref(),
            member_count: grounds.member_count,
            sender_level: grounds.standing.level(event.pdu.sender()),
            notification_levels: grounds.standing.notifications(),
            effort: &self.effort,
        };
        Ok(push::actions(&grounds.rules, &Value::Object(json), &recipient))
    }
}

impl Room {
    /// Who has which power in the room now.
    fn standing(&self, sql: &dyn Sql) -> Result<Rc<Standing>, Error> {
        if let Some(standing) = &*self.standing.borrow() {
            return Ok(standing.clone());
        }
        let create = store::state::current(sql, "m.room.create", "")?;
        let create = create.ok_or_else(|| Fault::new("the room has no create event"))?.pdu;
        let levels = store::state::current(sql, "m.room.power_levels", "")?.map(|levels| levels.pdu);
        let standing = Rc::new(Standing::new(&*self.version(sql)?, &create, levels.as_ref()));
        Ok(self.standing.borrow_mut().insert(standing).clone())
    }
}

/// What a user is called in the room.
/// What the user is called, if that is anything to look for in messages.
pub(super) fn display_name(sql: &dyn Sql, user_id: &UserId) -> Result<Option<String>, Fault> {
    let member = store::state::current(sql, "m.room.member", user_id.as_str())?;
    let profile = member.and_then(|member| member.pdu.content_as::<MemberProfile>().ok());
    Ok(profile.and_then(|profile| profile.displayname).filter(|name| name.len() <= DISPLAY_NAME_BYTES_MAX))
}
