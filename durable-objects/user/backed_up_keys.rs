//! The keys in a backup.

use domain::Refusal;
use platform::{ActorKind, ROW_BYTES_MAX, Sql, Tx};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{
    User, authenticate,
    key_backup::{named, once_made},
    store::{
        self,
        backup::{Amount, PageLimits},
    },
};
use crate::{Call, Cx, Error};

/// Bytes of `session_data`: a session that went through many hands names each of them.
const SESSION_DATA_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the id of a room or session.
const ID_BYTES_MAX: usize = 255;
/// Keys stored by one statement.
const KEYS_AT_ONCE: usize = 1_000;
/// Bytes of JSON that one statement stores: it takes them as one text. A key has much less.
const STATEMENT_BYTES_MAX: usize = ROW_BYTES_MAX / 2;
/// Keys of one page.
const PAGE_KEYS: u64 = 500;
/// Keys that one call deletes, if the caller goes on.
const KEYS_DELETED: u64 = if cfg!(test) { 100 } else { 10_000 };
/// Bytes of `session_data` that end a page.
const PAGE_BYTES: u64 = 1024 * 1024;
/// Keys of all backups of a user together.
const KEYS_MAX: u64 = if cfg!(test) { 3_000 } else { 2_000_000 };
/// Bytes of these, with those of deleted backups that are not removed yet.
const BYTES_MAX: u64 = if cfg!(test) { 2_000_000 } else { 1_000_000_000 };

/// A room key as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackedUpKey {
    pub room_id: String,
    pub session_id: String,
    pub data: KeyData,
}

/// What is said of a key, and the key itself, encrypted. Spec: `KeyBackupData`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyData {
    pub first_message_index: u64,
    pub forwarded_count: u64,
    pub is_verified: bool,
    /// A JSON object.
    pub session_data: Box<RawValue>,
}

/// How many keys there are, and the state they are in.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupChanged {
    pub count: u64,
    pub etag: String,
    /// Whether there may be more to delete: the caller calls again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// Stores keys in the newest backup. One that is there stays unless the new one is worth more.
///
/// Refused: `UnknownToken`; `NotFound` without any backup, or if there never was such a one; `WrongRoomKeysVersion` for
/// another than the newest one; `BadJson` or `InvalidParam` for what is no key, or beyond the limits.
#[derive(Debug, Serialize, Deserialize)]
pub struct PutBackedUpKeys {
    pub token_hash: String,
    pub version: String,
    pub keys: Vec<BackedUpKey>,
}

impl Call for PutBackedUpKeys {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "put_backed_up_keys";
    type Reply = BackupChanged;
}

/// A page of the keys of a backup: of all rooms, or of one, or the key of one session.
///
/// Refused: `UnknownToken`; `NotFound` if there is no such backup, or no such key.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GetBackedUpKeys {
    pub token_hash: String,
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The room and session that the page before ended with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<[String; 2]>,
}

/// Keys in the order of their rooms and sessions.
#[derive(Debug, Serialize, Deserialize)]
pub struct BackedUpKeys {
    pub keys: Vec<BackedUpKey>,
    /// Whether there may be more.
    pub more: bool,
}

impl Call for GetBackedUpKeys {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_backed_up_keys";
    type Reply = BackedUpKeys;
}

/// Deletes the keys of a backup: all, those of a room, or one. What is not there is no matter. There may be two
/// million, so that they go in slices, and are gone once the answer says that there are no more: whoever reads
/// meanwhile finds some.
///
/// Refused: `UnknownToken`, `NotFound` if there is no such backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteBackedUpKeys {
    pub token_hash: String,
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Whether the caller calls again while there is more. An older one does not, and has all of it done at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_slices: bool,
}

impl Call for DeleteBackedUpKeys {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "delete_backed_up_keys";
    type Reply = BackupChanged;
}

impl User {
    pub(super) fn put_backed_up_keys(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        call: PutBackedUpKeys,
    ) -> Result<BackupChanged, Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        let newest = store::backup::newest(&**tx)?;
        let newest = newest.ok_or_else(|| Refusal::NotFound("There is no backup".to_owned()))?;
        let version = once_made(&**tx, &call.version)?;
        if newest.version != call.version {
            return Err(Refusal::WrongRoomKeysVersion { current_version: newest.version }.into());
        }
        call.keys.iter().try_for_each(check)?;
        let total = store::backup::total(&**tx)?;
        let others = total.keys.saturating_sub(newest.count);
        let (mut stored, mut count, mut more_bytes) = (0_u64, newest.count, 0_i64);
        for (new, keys) in statements(&call.keys)? {
            let before = store::backup::known(&**tx, version, &keys)?;
            count = count.saturating_add(new.saturating_sub(before.keys));
            if count.saturating_add(others) > KEYS_MAX {
                return Err(
                    Refusal::InvalidParam(format!("Your backups can have at most {KEYS_MAX} keys together")).into()
                );
            }
            let stored_now = store::backup::put_keys(tx, version, &keys)?;
            if stored_now > 0 {
                stored = stored.saturating_add(stored_now);
                let after = store::backup::known(&**tx, version, &keys)?;
                more_bytes =
                    more_bytes.saturating_add(after.bytes.cast_signed().saturating_sub(before.bytes.cast_signed()));
            }
            if more_bytes > 0 && total.bytes.saturating_add_signed(more_bytes) > BYTES_MAX {
                return Err(
                    Refusal::InvalidParam(format!("Your backups can have at most {BYTES_MAX} bytes together")).into()
                );
            }
        }
        changed(tx, version, stored > 0, count, more_bytes)
    }

    pub(super) fn backed_up_keys(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetBackedUpKeys,
    ) -> Result<BackedUpKeys, Error> {
        authenticate(sql, cx, &call.token_hash)?;
        let (version, _) = named(sql, &call.version)?;
        if let (Some(room_id), Some(session_id)) = (&call.room_id, &call.session_id) {
            let key = store::backup::one_key(sql, version, room_id, session_id)?;
            let key = key.ok_or_else(|| Refusal::NotFound("There is no such key".to_owned()))?;
            return Ok(BackedUpKeys { keys: vec![key], more: false });
        }
        let [last_room_id, session_id] = call.after.unwrap_or_default();
        let room_id = call.room_id.as_deref().unwrap_or(&last_room_id);
        let limits = PageLimits { keys: PAGE_KEYS, bytes: PAGE_BYTES };
        let (keys, more) =
            store::backup::keys_after(sql, version, [room_id, &session_id], call.room_id.is_some(), limits)?;
        Ok(BackedUpKeys { keys, more })
    }

    pub(super) fn delete_backed_up_keys(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        call: DeleteBackedUpKeys,
    ) -> Result<BackupChanged, Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        let (version, before) = named(&**tx, &call.version)?;
        let (room_id, session_id) = (call.room_id.as_deref(), call.session_id.as_deref());
        let (mut deleted, mut more) = (Amount::default(), true);
        while more {
            let slice = store::backup::delete_keys(tx, version, room_id, session_id, KEYS_DELETED)?;
            deleted = deleted.and(slice);
            more = slice.keys == KEYS_DELETED;
            if call.in_slices {
                break;
            }
        }
        let count = before.count.saturating_sub(deleted.keys);
        let changed = changed(tx, version, deleted.keys > 0, count, deleted.bytes.cast_signed().saturating_neg())?;
        Ok(BackupChanged { more, ..changed })
    }
}

/// Notes a change, if it was one.
fn changed(tx: &Tx<'_>, version: u64, is_change: bool, count: u64, more_bytes: i64) -> Result<BackupChanged, Error> {
    if is_change {
        store::backup::changed(tx, version, count, more_bytes)?;
    }
    let (_, info) = named(&**tx, &version.to_string())?;
    Ok(BackupChanged { count: info.count, etag: info.etag, more: false })
}

fn check(key: &BackedUpKey) -> Result<(), Refusal> {
    let BackedUpKey { room_id, session_id, data } = key;
    if !data.session_data.get().starts_with('{') {
        return Err(Refusal::BadJson("`session_data` is an object".to_owned()));
    }
    if data.session_data.get().len() > SESSION_DATA_BYTES_MAX {
        return Err(Refusal::InvalidParam(format!("`session_data` can have at most {SESSION_DATA_BYTES_MAX} bytes")));
    }
    if [room_id, session_id].iter().any(|id| id.len() > ID_BYTES_MAX || id.is_empty() || id.contains('\0')) {
        return Err(Refusal::InvalidParam(format!("An id has 1 to {ID_BYTES_MAX} bytes and no NUL")));
    }
    if [data.first_message_index, data.forwarded_count].iter().any(|number| *number >= 1 << 53) {
        return Err(Refusal::BadJson("A number of a key is too large".to_owned()));
    }
    Ok(())
}

/// The keys as JSON lists that a statement can take, each with how many are in it.
fn statements(keys: &[BackedUpKey]) -> Result<Vec<(u64, String)>, Error> {
    let mut lists: Vec<(u64, String)> = Vec::new();
    for key in keys {
        let json = serde_json::to_string(&row(key))?;
        match lists.last_mut() {
            Some((count, list))
                if *count < KEYS_AT_ONCE as u64 && list.len().saturating_add(json.len()) < STATEMENT_BYTES_MAX =>
            {
                *count = count.saturating_add(1);
                list.push(',');
                list.push_str(&json);
            }
            _ => lists.push((1, format!("[{json}"))),
        }
    }
    lists.iter_mut().for_each(|(_, list)| list.push(']'));
    Ok(lists)
}

/// As a statement takes it: `session_data` as a text, which SQLite leaves as it is.
fn row(key: &BackedUpKey) -> serde_json::Value {
    json!({
        "room_id": key.room_id, "session_id": key.session_id,
        "is_verified": u64::from(key.data.is_verified),
        "first_message_index": key.data.first_message_index, "forwarded_count": key.data.forwarded_count,
        "session_data": key.data.session_data.get(),
    })
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::Refusal;
    use serde_json::{json, value::to_raw_value};

    use platform::{ActorKind, Address, Sql};

    use super::{
        BYTES_MAX, BackedUpKey, BackupChanged, DeleteBackedUpKeys, GetBackedUpKeys, KEYS_DELETED, KEYS_MAX, KeyData,
        PAGE_BYTES, PAGE_KEYS, PutBackedUpKeys, SESSION_DATA_BYTES_MAX,
    };
    use crate::{
        CallError,
        user::{Create, CreateBackup, DeleteBackup, GetBackup, NewDevice},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn alice() -> (Rc<World>, String) {
        let world = World::new(3);
        let device = Some(NewDevice::new("PHONE", "t"));
        world.call(ALICE, &Create { device, call_id: "a".to_owned(), ..Create::default() }).unwrap();
        let version = new_backup(&world);
        (world, version)
    }

    fn new_backup(world: &World) -> String {
        made_by(world, None)
    }

    fn made_by(world: &World, call_id: Option<&str>) -> String {
        let (token_hash, call_id) = ("t".to_owned(), call_id.map(ToOwned::to_owned));
        let auth_data = to_raw_value(&json!({})).unwrap();
        world.call(ALICE, &CreateBackup { token_hash, call_id, algorithm: "a".to_owned(), auth_data }).unwrap()
    }

    fn delete(world: &World, version: &str) {
        world.call(ALICE, &DeleteBackup { token_hash: "t".to_owned(), version: version.to_owned() }).unwrap();
    }

    fn key(room_id: &str, session_id: &str, (verified, index, count): (bool, u64, u64)) -> BackedUpKey {
        let session_data = to_raw_value(&json!({ "is": [verified, index, count] })).unwrap();
        let data = KeyData { first_message_index: index, forwarded_count: count, is_verified: verified, session_data };
        BackedUpKey { room_id: room_id.to_owned(), session_id: session_id.to_owned(), data }
    }

    fn put(world: &World, version: &str, keys: Vec<BackedUpKey>) -> Result<BackupChanged, CallError> {
        world.call(ALICE, &PutBackedUpKeys { token_hash: "t".to_owned(), version: version.to_owned(), keys })
    }

    fn get(version: &str) -> GetBackedUpKeys {
        GetBackedUpKeys { token_hash: "t".to_owned(), version: version.to_owned(), ..GetBackedUpKeys::default() }
    }

    #[test]
    fn the_better_key_stays() {
        let (world, version) = alice();
        let order = [(true, 0, 0), (true, 0, 5), (true, 3, 0), (false, 0, 0), (false, 0, 1), (false, 9, 0)];
        for (better, one) in order.into_iter().enumerate() {
            for (worse, other) in order.into_iter().enumerate() {
                let session = format!("{better} {worse}");
                let first = put(&world, &version, vec![key("!r", &session, one)]).unwrap();
                let second = put(&world, &version, vec![key("!r", &session, other)]).unwrap();
                assert_eq!(second.count, first.count);
                assert_eq!(second.etag == first.etag, better <= worse, "{one:?} and then {other:?}");
                let call =
                    GetBackedUpKeys { room_id: Some("!r".to_owned()), session_id: Some(session), ..get(&version) };
                let kept = world.call(ALICE, &call).unwrap().keys.pop().unwrap();
                let expected = order[better.min(worse)];
                let data = &kept.data;
                assert_eq!((data.is_verified, data.first_message_index, data.forwarded_count), expected);
                assert_eq!(kept.data.session_data.get(), key("", "", expected).data.session_data.get());
            }
        }
    }

    #[test]
    fn many_keys_come_in_pages_and_go() {
        let (world, version) = alice();
        let total = PAGE_KEYS * 2 + 10;
        let keys = (0..total).map(|number| key(&format!("!{}", number % 7), &number.to_string(), (true, 0, 0)));
        let keys: Vec<BackedUpKey> = keys.collect();
        let put_all = || put(&world, &version, keys.clone()).unwrap();
        let done = put_all();
        assert_eq!(done.count, total);
        assert_eq!(put_all(), done, "the answer was lost");
        let (mut call, mut seen) = (get(&version), Vec::new());
        loop {
            let page = world.call(ALICE, &call).unwrap();
            call.after = page.keys.last().map(|last| [last.room_id.clone(), last.session_id.clone()]);
            seen.extend(page.keys.into_iter().map(|key| (key.room_id, key.session_id)));
            if !page.more {
                break;
            }
        }
        let mut all: Vec<_> = keys.iter().map(|key| (key.room_id.clone(), key.session_id.clone())).collect();
        all.sort();
        assert_eq!(seen, all);
        let delete = |room_id: Option<&str>, session_id: Option<&str>| {
            let (room_id, session_id) = (room_id.map(ToOwned::to_owned), session_id.map(ToOwned::to_owned));
            let (token_hash, version) = ("t".to_owned(), version.clone());
            let call = DeleteBackedUpKeys { token_hash, version, room_id, session_id, in_slices: false };
            world.call(ALICE, &call).unwrap()
        };
        assert_eq!(delete(Some("!0"), Some("0")).count, total - 1);
        let of_room = delete(Some("!0"), None);
        assert!(of_room.count < total - 100);
        assert_eq!(delete(Some("!0"), None), of_room, "nothing more to delete");
        assert_eq!(delete(None, None).count, 0);
    }

    #[test]
    fn large_keys_are_taken_and_come_in_small_pages() {
        let (world, version) = alice();
        let large = |number: usize| {
            let mut large = key(&format!("!{}", number % 3), &format!("{number:03}"), (true, 0, 0));
            // Quotes are escaped twice on the way, and so make the longest text.
            large.data.session_data =
                to_raw_value(&json!({ "c": "\"".repeat(SESSION_DATA_BYTES_MAX / 2 - 8) })).unwrap();
            large
        };
        assert_eq!(put(&world, &version, (0..100).map(large).collect()).unwrap().count, 100);
        for (room_id, total) in [(None, 100), (Some("!1".to_owned()), 33)] {
            let (mut call, mut seen) = (GetBackedUpKeys { room_id, ..get(&version) }, 0);
            loop {
                let page = world.call(ALICE, &call).unwrap();
                let bytes: usize = page.keys.iter().map(|key| key.data.session_data.get().len()).sum();
                assert!(bytes < PAGE_BYTES as usize + SESSION_DATA_BYTES_MAX, "{bytes}");
                seen += page.keys.len();
                call.after = page.keys.last().map(|last| [last.room_id.clone(), last.session_id.clone()]);
                if !page.more {
                    break;
                }
            }
            assert_eq!(seen, total);
        }
    }

    #[test]
    fn a_deleted_backup_is_removed_slice_by_slice() {
        let (world, first) = alice();
        let sql = world.sql(&Address::new(ActorKind::User, ALICE));
        let rows = |table: &str| {
            sql.query(&format!("SELECT count(*) FROM {table}"), &[]).unwrap().pop().unwrap().unsigned(0).unwrap()
        };
        let keys = |count: usize| (0..count).map(|number| key("!r", &number.to_string(), (true, 0, 0))).collect();
        put(&world, &first, keys(350)).unwrap();
        let second = made_by(&world, Some("c"));
        put(&world, &second, keys(50)).unwrap();
        delete(&world, &first);
        assert_eq!((rows("backup_key"), rows("backup")), (300, 2));
        let outcome = world.call(ALICE, &get(&first));
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::NotFound(_)))), "{outcome:?}");
        world.crash();
        world.call(ALICE, &get(&second)).unwrap();
        for left in [200, 100, 50, 50] {
            world.passes(5_000);
            assert_eq!(rows("backup_key"), left);
        }
        assert_eq!((rows("backup"), rows("due WHERE what = 'deleted_backups'")), (1, 0));
        delete(&world, &first);
        delete(&world, &second);
        assert_eq!((rows("backup_key"), rows("backup")), (0, 1), "the last number is kept");
        // However often backups come and go.
        for number in 3..=32 {
            let version = new_backup(&world);
            assert_eq!(version, number.to_string());
            delete(&world, &version);
        }
        assert_eq!(rows("backup"), 1);
    }

    #[test]
    fn many_keys_are_deleted_call_by_call() {
        for (room_id, kept) in [(None, 0), (Some("!r".to_owned()), 50)] {
            let (world, version) = alice();
            let sql = world.sql(&Address::new(ActorKind::User, ALICE));
            let keys = |room: &str, count: u64| -> Vec<BackedUpKey> {
                (0..count).map(|number| key(room, &number.to_string(), (true, 0, 0))).collect()
            };
            put(&world, &version, keys("!other", 50)).unwrap();
            let etag = put(&world, &version, keys("!r", 250)).unwrap().etag;
            let token_hash = "t".to_owned();
            let call = DeleteBackedUpKeys { token_hash, version, room_id, session_id: None, in_slices: true };
            let mut counts = Vec::new();
            loop {
                sql.rows_at_once.set(0);
                let BackupChanged { count, etag: now, more } = world.call(ALICE, &call).unwrap();
                assert!(now != etag && sql.rows_at_once.get() <= KEYS_DELETED as usize);
                counts.push(count);
                if !more {
                    break;
                }
            }
            assert_eq!(counts.last(), Some(&kept), "{counts:?}");
            assert!(counts.len() >= 3, "{counts:?}");
            let mut rows = sql.query("SELECT count(*), (SELECT bytes > 0 FROM backup) FROM backup_key", &[]).unwrap();
            assert_eq!(rows[0].unsigned(0).unwrap(), kept);
            assert_eq!(rows[0].flag(1).unwrap(), kept > 0);
        }
    }

    #[test]
    fn a_repeated_call_makes_no_other_backup() {
        let (world, _) = alice();
        let version = made_by(&world, Some("c"));
        assert_eq!(made_by(&world, Some("c")), version);
        let next = made_by(&world, Some("d"));
        assert_ne!(next, version);
        assert_eq!([made_by(&world, Some("c")), made_by(&world, Some("d"))], [version, next]);
    }

    #[test]
    fn there_are_so_many_keys_at_most_in_all_backups() {
        let (world, first) = alice();
        let put_keys = |version: &str, from: u64, count: u64| {
            let keys = (from..from + count).map(|number| key("!r", &number.to_string(), (true, 0, 0)));
            put(&world, version, keys.collect())
        };
        put_keys(&first, 0, KEYS_MAX - 1_000).unwrap();
        let second = new_backup(&world);
        put_keys(&second, 0, 900).unwrap();
        for count in [101, 2_500] {
            let outcome = put_keys(&second, 900, count);
            assert!(matches!(outcome, Err(CallError::Refused(Refusal::InvalidParam(_)))), "{outcome:?}");
        }
        assert_eq!(put_keys(&second, 800, 200).unwrap().count, 1_000, "those that are there are not new");
        put_keys(&second, 0, 1_000).unwrap();
        delete(&world, &first);
        put_keys(&second, 0, KEYS_MAX).unwrap();
    }

    #[test]
    fn there_are_so_many_bytes_at_most_in_all_backups() {
        let (world, first) = alice();
        let sql = world.sql(&Address::new(ActorKind::User, ALICE));
        let number = |query: &str| sql.query(query, &[]).unwrap().pop().unwrap().unsigned(0).unwrap();
        let counted = || number("SELECT sum(bytes) FROM backup");
        let stored =
            || number("SELECT coalesce(sum(length(room_id || session_id || session_data)), 0) FROM backup_key");
        let large = |number: u64, index: u64, bytes: usize| {
            let mut large = key("!r", &number.to_string(), (true, index, 0));
            large.data.session_data = to_raw_value(&json!({ "c": "x".repeat(bytes) })).unwrap();
            large
        };
        let put_keys = |version: &str, from: u64, count: u64, index: u64, bytes: usize| {
            put(&world, version, (from..from + count).map(|number| large(number, index, bytes)).collect())
        };
        let refused = |outcome: Result<BackupChanged, CallError>| {
            assert!(matches!(outcome, Err(CallError::Refused(Refusal::InvalidParam(_)))), "{outcome:?}");
            assert_eq!(counted(), stored());
        };
        let fits = BYTES_MAX / 16_000;
        put_keys(&first, 0, fits - 20, 9, 15_980).unwrap();
        let second = new_backup(&world);
        put_keys(&second, 0, 20, 9, 15_900).unwrap();
        refused(put_keys(&second, 20, 10, 9, 15_900));
        // What takes the place of another counts for the difference.
        put_keys(&second, 0, 20, 8, 1_000).unwrap();
        assert_eq!(counted(), stored());
        put_keys(&second, 20, 10, 9, 15_900).unwrap();
        refused(put_keys(&second, 0, 20, 7, 15_980));
        refused(put(&world, &second, vec![large(99, 0, SESSION_DATA_BYTES_MAX)]));
        let (token_hash, version) = ("t".to_owned(), second.clone());
        let room_id = Some("!r".to_owned());
        let call = DeleteBackedUpKeys { token_hash, version, room_id, session_id: None, in_slices: false };
        world.call(ALICE, &DeleteBackedUpKeys { session_id: Some("20".to_owned()), ..call.clone() }).unwrap();
        assert_eq!(counted(), stored());
        world.call(ALICE, &call).unwrap();
        assert_eq!(counted(), stored());
        // Those of a deleted backup count until they are gone.
        delete(&world, &first);
        assert_eq!(counted(), stored());
        for _ in 0..3 {
            world.passes(5_000);
        }
        assert_eq!((counted(), stored()), (0, 0));
        put_keys(&second, 0, fits - 1, 9, 15_980).unwrap();
    }

    #[test]
    fn only_the_newest_backup_takes_keys_and_no_number_comes_twice() {
        let (world, first) = alice();
        let second = new_backup(&world);
        let outcome = put(&world, &first, vec![]);
        let expected = Refusal::WrongRoomKeysVersion { current_version: second.clone() };
        assert!(matches!(&outcome, Err(CallError::Refused(refusal)) if *refusal == expected), "{outcome:?}");
        put(&world, &second, vec![key("!r", "s", (true, 0, 0))]).unwrap();
        world.call(ALICE, &DeleteBackup { token_hash: "t".to_owned(), version: second.clone() }).unwrap();
        let newest = world.call(ALICE, &GetBackup { token_hash: "t".to_owned(), version: None }).unwrap();
        assert_eq!(newest.version, first);
        let third = new_backup(&world);
        assert!(![&first, &second].contains(&&third));
        assert!(world.call(ALICE, &get(&third)).unwrap().keys.is_empty());
        world.call(ALICE, &DeleteBackup { token_hash: "t".to_owned(), version: second.clone() }).unwrap();
        let outcome = put(&world, &second, vec![]);
        let expected = Refusal::WrongRoomKeysVersion { current_version: third };
        assert!(matches!(&outcome, Err(CallError::Refused(refusal)) if *refusal == expected), "{outcome:?}");
        for version in ["x", "01", "99"] {
            let outcome = put(&world, version, vec![]);
            assert!(matches!(outcome, Err(CallError::Refused(Refusal::NotFound(_)))), "{outcome:?}");
            let outcome = world.call(ALICE, &DeleteBackup { token_hash: "t".to_owned(), version: version.to_owned() });
            assert!(matches!(outcome, Err(CallError::Refused(Refusal::NotFound(_)))), "{outcome:?}");
        }
        for version in [&*second, "x", "01", "99"] {
            let outcome = world.call(ALICE, &get(version));
            assert!(matches!(outcome, Err(CallError::Refused(Refusal::NotFound(_)))), "{outcome:?}");
        }
    }
}
