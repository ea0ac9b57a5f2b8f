//! Who is or was in the room.

use platform::{Fault, Sql, Tx};
use ruma_common::OwnedUserId;

/// A user's membership.
pub(crate) fn membership(sql: &dyn Sql, user_id: &str) -> Result<Option<String>, Fault> {
    sql.query("SELECT membership FROM member WHERE user_id = ?1", &[user_id.into()])?
        .pop()
        .map(|mut row| row.text(0))
        .transpose()
}

/// Those of these users who are in the room.
pub(crate) fn joined_among(sql: &dyn Sql, users: &[OwnedUserId]) -> Result<Vec<String>, Fault> {
    sql.query(
        "SELECT user_id FROM member WHERE user_id IN (SELECT value FROM json_each(?1)) AND membership = 'join'",
        &[serde_json::to_string(users)?.into()],
    )?
    .into_iter()
    .map(|mut row| row.text(0))
    .collect()
}

/// The position at which a user's membership became what it is.
pub(crate) fn position(sql: &dyn Sql, user_id: &str) -> Result<Option<u64>, Fault> {
    sql.query("SELECT position FROM member WHERE user_id = ?1", &[user_id.into()])?
        .pop()
        .map(|mut row| row.unsigned(0))
        .transpose()
}

/// The same of one who is in the room.
pub(crate) fn joined_position(sql: &dyn Sql, user_id: &str) -> Result<Option<u64>, Fault> {
    sql.query("SELECT position FROM member WHERE user_id = ?1 AND membership = 'join'", &[user_id.into()])?
        .pop()
        .map(|mut row| row.unsigned(0))
        .transpose()
}

/// Sets a membership; a user who may follow (a local one) gets a number and keeps it. One that ends nothing, a join, an
/// invitation or a knock, ends that the room is forgotten; any but a join ends that they are here as a guest. Answers
/// the membership before.
pub(crate) fn set(
    tx: &Tx<'_>,
    user_id: &str,
    membership: &str,
    position: u64,
    follows: bool,
) -> Result<Option<String>, Fault> {
    let before = self::membership(&**tx, user_id)?;
    if before.is_some() {
        tx.execute(
            "UPDATE member SET membership = ?2, position = ?3,
                 forgotten = CASE WHEN ?2 IN ('leave', 'ban') THEN forgotten END,
                 guest = CASE WHEN ?2 = 'join' THEN guest END
             WHERE user_id = ?1",
            &[user_id.into(), membership.into(), position.into()],
        )?;
        return Ok(before);
    }
    let follower = if follows { Some(next_follower(tx)?) } else { None };
    tx.execute(
        "INSERT INTO member (user_id, membership, position, follower) VALUES (?1, ?2, ?3, ?4)",
        &[user_id.into(), membership.into(), position.into(), follower.into()],
    )?;
    Ok(None)
}

/// Sets whether a member is a guest of ours; writes nothing where that is so.
pub(crate) fn set_guest(tx: &Tx<'_>, user_id: &str, guest: bool) -> Result<(), Fault> {
    tx.execute(
        "UPDATE member SET guest = ?2 WHERE user_id = ?1 AND coalesce(guest, 0) <> ?2",
        &[user_id.into(), guest.into()],
    )?;
    Ok(())
}

/// Guests of ours who are in the room, in the order of their names.
pub(crate) fn guests(sql: &dyn Sql, after: &str, limit: u64) -> Result<Vec<String>, Fault> {
    sql.query(
        "SELECT user_id FROM member WHERE guest = 1 AND membership = 'join' AND user_id > ?1 ORDER BY user_id LIMIT ?2",
        &[after.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| row.text(0))
    .collect()
}

fn next_follower(tx: &Tx<'_>) -> Result<u64, Fault> {
    let mut rows = tx.execute(
        "INSERT INTO meta (key, value) VALUES ('followers', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1
         RETURNING value - 1",
        &[],
    )?;
    rows.pop().ok_or_else(|| Fault::new("the room counts no followers"))?.unsigned(0)
}

/// How many followers have numbers: they count from 0.
pub(crate) fn followers_count(sql: &dyn Sql) -> Result<u64, Fault> {
    let row = sql.query("SELECT value FROM meta WHERE key = 'followers'", &[])?.pop();
    row.map_or(Ok(0), |mut row| row.unsigned(0))
}

/// Those of these numbers who are in the room.
pub(crate) fn followers(sql: &dyn Sql, numbers: &[u64]) -> Result<Vec<(String, u64)>, Fault> {
    sql.query(
        "SELECT user_id, follower FROM member
         WHERE follower IN (SELECT value FROM json_each(?1)) AND membership = 'join' ORDER BY follower",
        &[serde_json::to_string(numbers)?.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.text(0)?, row.unsigned(1)?)))
    .collect()
}

/// Up to `limit` local users in the room, those who came here first. Of the others, who may be many more, none is
/// looked at.
pub(crate) fn joined_locals(sql: &dyn Sql, limit: u64) -> Result<Vec<String>, Fault> {
    sql.query(
        "SELECT user_id FROM member INDEXED BY member_by_follower
         WHERE membership = 'join' AND follower IS NOT NULL ORDER BY follower LIMIT ?1",
        &[limit.into()],
    )?
    .into_iter()
    .map(|mut row| row.text(0))
    .collect()
}

/// Up to `limit` local users in the room whose ids come after `after`, by id.
pub(crate) fn joined_locals_after(sql: &dyn Sql, after: &str, limit: u64) -> Result<Vec<String>, Fault> {
    sql.query(
        "SELECT user_id FROM member WHERE user_id > ?1 AND membership = 'join' AND follower IS NOT NULL
         ORDER BY user_id LIMIT ?2",
        &[after.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| row.text(0))
    .collect()
}

/// Up to `limit` local users who are invited or knock, those who came last.
pub(crate) fn waiting_locals(sql: &dyn Sql, limit: u64) -> Result<Vec<String>, Fault> {
    sql.query(
        "SELECT user_id FROM member INDEXED BY member_by_follower
         WHERE membership IN ('invite', 'knock') AND follower IS NOT NULL ORDER BY position DESC LIMIT ?1",
        &[limit.into()],
    )?
    .into_iter()
    .map(|mut row| row.text(0))
    .collect()
}

/// Whether somebody of another server is invited.
pub(crate) fn is_server_invited(sql: &dyn Sql, server: &str) -> Result<bool, Fault> {
    let rows = sql.query(
        "SELECT 1 FROM member INDEXED BY member_invited WHERE membership = 'invite' AND follower IS NULL
         AND substr(user_id, instr(user_id, ':') + 1) = ?1 LIMIT 1",
        &[server.into()],
    )?;
    Ok(!rows.is_empty())
}

/// Up to `limit` users who are in the room since `position` at least.
pub(crate) fn joined_by(sql: &dyn Sql, position: u64, limit: u64) -> Result<Vec<String>, Fault> {
    sql.query(
        "SELECT user_id FROM member WHERE membership = 'join' AND position <= ?1 ORDER BY user_id LIMIT ?2",
        &[position.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| row.text(0))
    .collect()
}

/// Whether more than so many users are joined. No more of them are looked at.
pub(crate) fn joined_exceed(sql: &dyn Sql, count: u64) -> Result<bool, Fault> {
    let row = sql.query("SELECT 1 FROM member WHERE membership = 'join' LIMIT 1 OFFSET ?1", &[count.into()])?;
    Ok(!row.is_empty())
}

/// Marks the room as forgotten by one who left, and answers the position of their membership.
pub(crate) fn forget(tx: &Tx<'_>, user_id: &str) -> Result<u64, Fault> {
    let position = tx
        .query("SELECT position FROM member WHERE user_id = ?1", &[user_id.into()])?
        .pop()
        .ok_or_else(|| Fault::new("who forgets the room was never in it"))?
        .unsigned(0)?;
    // Not again when it is so: a written row costs what a thousand read ones do.
    tx.execute(
        "UPDATE member SET forgotten = ?2 WHERE user_id = ?1 AND forgotten IS NULL",
        &[user_id.into(), position.into()],
    )?;
    Ok(position)
}

/// Whether a user forgot the room, and is out of it since.
pub(crate) fn has_forgotten(sql: &dyn Sql, user_id: &str) -> Result<bool, Fault> {
    let rows = sql.query("SELECT 1 FROM member WHERE user_id = ?1 AND forgotten IS NOT NULL", &[user_id.into()])?;
    Ok(!rows.is_empty())
}

/// How many members are joined and invited.
pub(crate) fn counts(sql: &dyn Sql) -> Result<(u64, u64), Fault> {
    let row = sql
        .query(
            "SELECT coalesce(sum(membership = 'join'), 0), coalesce(sum(membership = 'invite'), 0) FROM member",
            &[],
        )?
        .pop();
    row.map_or(Ok((0, 0)), |mut row| Ok((row.unsigned(0)?, row.unsigned(1)?)))
}

/// Up to `limit` users with one of two memberships, those who came first.
pub(crate) fn first_of(sql: &dyn Sql, memberships: [&str; 2], limit: u64) -> Result<Vec<String>, Fault> {
    let [one, other] = memberships;
    sql.query(
        // Along the changes of the state: what made the first few comes early, and the other members are not looked at.
        "SELECT user_id FROM state_change INDEXED BY state_change_position
         CROSS JOIN member ON user_id = state_key
         WHERE type = 'm.room.member' AND membership IN (?1, ?2) AND NOT EXISTS
          (SELECT 1 FROM state_change AS later WHERE later.type = 'm.room.member' AND later.state_key = user_id
           AND later.position > state_change.position)
         ORDER BY state_change.position LIMIT ?3",
        &[one.into(), other.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| row.text(0))
    .collect()
}

/// What a member shows of themselves in the room.
pub(crate) struct Profile {
    pub user_id: String,
    pub display_name: Option<String>,
    pub avatar_url: Option<String>,
    /// What the membership was made by, if anything.
    pub txn: Option<String>,
}

/// Ids from one on up to another, that one not, in their order; `but` is not among them.
#[derive(Clone, Copy)]
pub(crate) struct Ids<'a> {
    pub from: &'a str,
    pub but: &'a str,
    pub before: &'a str,
}

/// In the order of bytes no id goes on with a greater one.
pub(crate) const LAST_CHARACTER: &str = "\u{10FFFF}";

impl<'a> Ids<'a> {
    /// All that come after one.
    pub(crate) fn after(id: &'a str) -> Self {
        Self { from: id, but: id, before: LAST_CHARACTER }
    }
}

/// The profiles of the first `limit` joined members with such ids, by id. A field that is no text says nothing: nobody
/// checks what others put there.
pub(crate) fn joined_profiles(sql: &dyn Sql, ids: Ids<'_>, limit: u64) -> Result<Vec<Profile>, Fault> {
    sql.query(
        "SELECT user_id,
         CASE json_type(json, '$.content.displayname') WHEN 'text' THEN json_extract(json, '$.content.displayname') END,
         CASE json_type(json, '$.content.avatar_url') WHEN 'text' THEN json_extract(json, '$.content.avatar_url') END,
         txn
         FROM member CROSS JOIN state ON state.type = 'm.room.member' AND state.state_key = user_id
         CROSS JOIN event ON event.position = state.position
         WHERE user_id >= ?1 AND user_id <> ?2 AND user_id < ?3 AND membership = 'join' ORDER BY user_id LIMIT ?4",
        &[ids.from.into(), ids.but.into(), ids.before.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| {
        Ok(Profile {
            user_id: row.text(0)?,
            display_name: row.text_or_null(1)?,
            avatar_url: row.text_or_null(2)?,
            txn: row.text_or_null(3)?,
        })
    })
    .collect()
}

/// Up to `limit` membership events of who is banned, those of the newest bans, by their positions.
pub(crate) fn banned(sql: &dyn Sql, limit: u64) -> Result<Vec<u64>, Fault> {
    sql.query(
        "SELECT state.position FROM member
         JOIN state ON state.type = 'm.room.member' AND state.state_key = user_id AND state.position > 0
         WHERE membership = 'ban' ORDER BY member.position DESC LIMIT ?1",
        &[limit.into()],
    )?
    .into_iter()
    .map(|mut row| row.unsigned(0))
    .collect()
}

/// The number of a local user who is in the room.
pub(crate) fn follower_number(sql: &dyn Sql, user_id: &str) -> Result<Option<u64>, Fault> {
    let row =
        sql.query("SELECT follower FROM member WHERE user_id = ?1 AND membership = 'join'", &[user_id.into()])?.pop();
    row.map_or(Ok(None), |mut row| row.unsigned_or_null(0))
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use platform::{ActorKind, Address, Fault, Sql};
    use ruma_common::user_id;

    use super::{is_server_invited, joined_locals, waiting_locals};
    use crate::{room::MembershipAction, room::store::device_lists, world::World};

    type Look = (&'static str, fn(&dyn Sql) -> Result<Vec<String>, Fault>, &'static [&'static str]);

    /// What is asked of our users, and of those of one server, with what is answered.
    const LOOKS: [Look; 5] = [
        ("who is here", |sql| joined_locals(sql, 1), &["@zoe:myelin.test"]),
        ("who waits", |sql| waiting_locals(sql, 5), &["@yan:myelin.test"]),
        (
            "whose devices changed",
            |sql| Ok(device_lists::of_locals(sql, 1)?.into_iter().map(|(user, _)| user).collect()),
            &["@zoe:myelin.test"],
        ),
        ("who is invited", |sql| Ok(vec![is_server_invited(sql, "there.test")?.to_string()]), &["true"]),
        ("who is not", |sql| Ok(vec![is_server_invited(sql, "crowd.test")?.to_string()]), &["false"]),
    ];

    /// The steps that each look takes in a room of one user of ours, whose id is the last of all.
    fn costs(others: u64) -> [u64; 5] {
        let (world, zoe) = (World::new(1), user_id!("@zoe:myelin.test"));
        let room_id = world.creates_room(zoe, "11", Preset::PrivateChat);
        world.changes(zoe, &room_id, user_id!("@yan:myelin.test"), MembershipAction::Invite).unwrap();
        world.crowds(&room_id, others);
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        for statement in [
            "INSERT INTO member (user_id, membership, position) VALUES ('@wes:there.test', 'invite', 1)",
            "INSERT INTO device_list (user_id, changed_ms, position)
             SELECT user_id, 5, position FROM member WHERE membership = 'join' ON CONFLICT DO NOTHING",
        ] {
            sql.query(statement, &[]).unwrap();
        }
        LOOKS.map(|(what, look, expected)| {
            let before = sql.steps.get();
            assert_eq!(look(&*sql).unwrap(), expected, "{what}");
            sql.steps.get() - before
        })
    }

    #[test]
    fn a_look_at_our_users_costs_no_more_among_many_others() {
        let (few, many) = (costs(10), costs(10_000));
        for (index, (what, ..)) in LOOKS.iter().enumerate() {
            assert!(many[index] <= few[index] * 3 / 2, "{what}: {} steps became {}", few[index], many[index]);
        }
    }
}
