//! The room's entry in the directory of published rooms: the room decides whether it has one, and metadata shows it.
//!
//! Guarantees: while the room is published, what its state says is owed to metadata in the transaction that changed it,
//! and written before the answer. A room in which nobody of this server is any more has no entry until somebody
//! returns: what it is by now is not known here. Members come and go more often: the first change of their number is
//! shown at once, and what follows within [`MEMBERS_DELAY_MS`] after that time, together. So an entry costs a busy room
//! a written row per five seconds, and its number of members is that old at most while metadata can be reached.

use domain::{
    Refusal,
    directory::{PublishedRoom, SHOWN_STATE},
};
use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::{Room, append::room_id, networks, store};
use crate::{Call, Cx, Error, outbox, projection::DirectoryEntry, schedule};

/// The schedule's name for a look at the number of members.
pub(super) const DUE: &str = "directory";
/// How long members may come and go before the directory is told, in milliseconds.
const MEMBERS_DELAY_MS: u64 = 5_000;
/// Where the listing is kept among the small facts.
const LISTING: &str = "directory";

/// Publishes the room in the directory, or takes it from there; what is already so stays as it is.
///
/// Refused: `Forbidden` for whoever could not set the canonical alias, unless they are a server administrator.
/// Spec: `PUT /directory/list/room/{roomId}`.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetPublished {
    pub user: OwnedUserId,
    #[serde(default)]
    pub admin: bool,
    pub published: bool,
}

impl Call for SetPublished {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "set_published";
    type Reply = ();
}

/// Whether the room is published. Spec: `GET /directory/list/room/{roomId}`.
#[derive(Debug, Serialize, Deserialize)]
pub struct IsPublished {}

impl Call for IsPublished {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "is_published";
    type Reply = bool;
}

/// What the room knows of its entry.
#[derive(Default, Serialize, Deserialize)]
struct Listing {
    /// Of the newest entry that was owed: `max(last + 1, now in ms)`, so that it grows even after a restoration.
    version: u64,
    /// What that entry shows; nothing while the room is not published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    room: Option<PublishedRoom>,
    /// Whether the room is published all the same, and shows nothing because nobody of this server is in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    hidden: bool,
}

impl Listing {
    fn load(sql: &dyn Sql) -> Result<Self, Error> {
        match store::meta::text(sql, LISTING)? {
            Some(listing) => Ok(serde_json::from_str(&listing)?),
            None => Ok(Self::default()),
        }
    }

    fn is_published(&self) -> bool {
        self.room.is_some() || self.hidden
    }

    /// Has metadata show the room as it is now, or nothing of it, unless it does.
    fn show(self, tx: &Tx<'_>, cx: &Cx<'_>, published: bool, before_answer: bool) -> Result<(), Error> {
        let room = if published { shown_here(&**tx, cx)? } else { None };
        let hidden = published && room.is_none();
        if self.room == room && self.hidden == hidden {
            return Ok(());
        }
        let listing = Self { version: self.version.saturating_add(1).max(cx.now_ms), room, hidden };
        store::meta::set(tx, LISTING, serde_json::to_string(&listing)?.into())?;
        let entry = DirectoryEntry { room_id: room_id(cx)?, version: listing.version, room: listing.room };
        outbox::project(tx, cx, &entry, before_answer)
    }
}

impl Room {
    pub(super) fn set_published(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: SetPublished) -> Result<(), Error> {
        if !call.admin && !self.may_set_alias(&**tx, cx, &call.user)? {
            let sentence = "Who may set the room's canonical alias decides whether it is published";
            return Err(Refusal::Forbidden(sentence.to_owned()).into());
        }
        publish(tx, cx, call.published)
    }

    pub(super) fn is_published(&self, sql: &dyn Sql, _cx: &Cx<'_>, _call: IsPublished) -> Result<bool, Error> {
        is_published(sql)
    }
}

pub(super) fn is_published(sql: &dyn Sql) -> Result<bool, Error> {
    Ok(Listing::load(sql)?.is_published())
}

/// Publishes the room as it is now, or takes it from the directory.
pub(super) fn publish(tx: &Tx<'_>, cx: &Cx<'_>, published: bool) -> Result<(), Error> {
    Listing::load(&**tx)?.show(tx, cx, published, true)
}

/// Some state changed: what the directory shows of it follows.
pub(super) fn follow(tx: &Tx<'_>, cx: &Cx<'_>, event_type: &str, state_key: &str) -> Result<(), Error> {
    let is_member = event_type == "m.room.member";
    let is_shown = state_key.is_empty() && SHOWN_STATE.contains(&event_type);
    if !is_member && !is_shown {
        return Ok(());
    }
    let listing = Listing::load(&**tx)?;
    if !listing.is_published() && !networks::is_listed(&**tx)? {
        return Ok(());
    }
    if is_member {
        if schedule::has(&**tx, DUE)? {
            return Ok(());
        }
        schedule::at(tx, cx, DUE, cx.now_ms.saturating_add(MEMBERS_DELAY_MS))?;
    }
    networks::refresh(tx, cx, true)?;
    if !listing.is_published() {
        return Ok(());
    }
    listing.show(tx, cx, true, true)
}

/// Time to look at the number of members.
pub(super) fn refresh(tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
    networks::refresh(tx, cx, false)?;
    let listing = Listing::load(&**tx)?;
    if !listing.is_published() {
        return Ok(());
    }
    listing.show(tx, cx, true, false)
}

/// What a directory shows of the room as it is now: nothing where nobody of this server is in it.
pub(super) fn shown_here(sql: &dyn Sql, cx: &Cx<'_>) -> Result<Option<PublishedRoom>, Error> {
    if store::members::joined_locals(sql, 1)?.is_empty() {
        return Ok(None);
    }
    shown(sql, cx).map(Some)
}

/// What is shown of the room as it is now.
pub(super) fn shown(sql: &dyn Sql, cx: &Cx<'_>) -> Result<PublishedRoom, Error> {
    let (joined, _invited) = store::members::counts(sql)?;
    let content = |event_type: &str| {
        let event = store::state::current(sql, event_type, "")?;
        Ok::<_, Fault>(event.map(|event| event.pdu.content().to_owned()))
    };
    Ok(PublishedRoom::new(room_id(cx)?, joined, content)?)
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use ruma_common::user_id;

    use super::{IsPublished, MEMBERS_DELAY_MS, SetPublished};
    use crate::{
        room::{MembershipAction, SetNetwork},
        world::World,
    };

    #[test]
    fn the_first_of_many_who_join_is_counted_at_once() {
        let world = World::new(1);
        let alice = user_id!("@alice:myelin.test");
        let room_id = world.creates_room(alice, "11", Preset::PublicChat);
        let published = SetPublished { user: alice.to_owned(), admin: false, published: true };
        world.call(room_id.as_str(), &published).unwrap();
        let entries = "SELECT members, version FROM directory WHERE entry <> ''";
        let shown = || {
            let mut row = world.shows(entries, &[]).remove(0);
            (row.unsigned(0).unwrap(), row.unsigned(1).unwrap())
        };
        world.joins_from_elsewhere(&room_id, user_id!("@bob:away.test"));
        let first = shown();
        assert_eq!(first.0, 2);
        world.joins_from_elsewhere(&room_id, user_id!("@carol:away.test"));
        world.joins_from_elsewhere(&room_id, user_id!("@dave:away.test"));
        assert_eq!(shown(), first);
        world.passes(MEMBERS_DELAY_MS + 1);
        world.passes(1);
        assert_eq!(shown().0, 4);
    }

    #[test]
    fn a_room_that_everybody_here_left_is_shown_again_when_somebody_returns() {
        let world = World::new(1);
        let alice = user_id!("@alice:myelin.test");
        let room_id = world.creates_room(alice, "11", Preset::PublicChat);
        let published = SetPublished { user: alice.to_owned(), admin: false, published: true };
        world.call(room_id.as_str(), &published).unwrap();
        let network = SetNetwork { network: "irc".to_owned(), listed: true };
        world.call(room_id.as_str(), &network).unwrap();
        world.joins_from_elsewhere(&room_id, user_id!("@bob:away.test"));
        let changes = |action| {
            world.changes(alice, &room_id, alice, action).unwrap();
            world.passes(MEMBERS_DELAY_MS + 1);
            world.passes(1);
        };
        let shown = |table: &str| {
            let entries = format!("SELECT members FROM {table} WHERE entry <> ''");
            world.shows(&entries, &[]).into_iter().map(|mut row| row.unsigned(0).unwrap()).collect::<Vec<_>>()
        };
        let both = || (shown("directory"), shown("network_directory"));
        changes(MembershipAction::Leave);
        assert_eq!(both(), (vec![], vec![]));
        assert!(world.call(room_id.as_str(), &IsPublished {}).unwrap(), "that nobody took back");
        changes(MembershipAction::Join);
        assert_eq!(both(), (vec![2], vec![2]));
    }
}
