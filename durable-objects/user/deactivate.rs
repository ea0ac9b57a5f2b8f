use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use platform::{ActorKind, Tx};
use serde::{Deserialize, Serialize};

use super::{
    ROOMS_BEFORE_ANSWER_MAX, User, appservice::is_appservice, authenticate, check_password_hash,
    device::remove_devices_but, own_id, store,
};
use crate::{
    Call, Cx, Error, outbox,
    projection::NoContacts,
    room::{ChangeMembership, EraseSender},
};

/// Memberships that a user who is gone must not have.
const PRESENT: [&str; 3] = ["join", "invite", "knock"];

/// Ends the account for good: its devices and their tokens are gone, it leaves its rooms, and its name stays taken.
///
/// The leaves are owed to the rooms, and so is every one for a membership that arrives later. That its addresses are
/// nobody's is owed to metadata. Repeated, it changes nothing.
///
/// Refused: `UnknownToken`; `Forbidden` if the password is another one meanwhile. Spec: "Account deactivation".
#[derive(Debug, Serialize, Deserialize)]
pub struct Deactivate {
    pub token_hash: String,
    /// What the caller checked the user's password against. It does not matter if an application service calls.
    pub password_hash: String,
    /// Whether what the user keeps here is to be forgotten, and what they said kept from who comes later.
    #[serde(default)]
    pub erase: bool,
}

impl Call for Deactivate {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "deactivate";
    type Reply = ();
}

impl User {
    pub(super) fn deactivate(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: Deactivate) -> Result<(), Error> {
        if store::account::get(&**tx)?.deactivated {
            return Ok(());
        }
        authenticate(&**tx, cx, &call.token_hash)?;
        if !is_appservice(&call.token_hash) {
            check_password_hash(&**tx, &call.password_hash)?;
        }
        // The hash of the password stays: it tells the user apart who is told that the account is deactivated.
        store::account::deactivate(tx, cx.now_ms)?;
        remove_devices_but(tx, cx, None)?;
        store::login_token::clear(tx, cx.now_ms, 0)?;
        outbox::project(tx, cx, &NoContacts { user_id: own_id(cx)? }, true)?;
        // Nobody can read these any more.
        for version in store::backup::versions(&**tx)? {
            store::backup::delete(tx, version)?;
        }
        Self::remove_deleted_backups(tx, cx)?;
        self.forget(tx, |tx| store::keys::clear(tx, store::keys::Kind::CrossSigning))?;
        self.forget(tx, |tx| store::keys::clear(tx, store::keys::Kind::Signature))?;
        if call.erase {
            self.forget(tx, store::account::erase)?;
            let rooms = store::rooms::all(&**tx)?;
            let before_answer = rooms.len() <= ROOMS_BEFORE_ANSWER_MAX;
            for room in rooms {
                outbox::owe(tx, cx, room.room_id, &EraseSender { user: own_id(cx)? }, before_answer)?;
            }
        }
        let mut rooms = Vec::new();
        for membership in PRESENT {
            rooms.extend(store::rooms::with_membership(&**tx, membership)?);
        }
        let before_answer = rooms.len() <= ROOMS_BEFORE_ANSWER_MAX;
        rooms.iter().try_for_each(|room| owe_leave(tx, cx, &room.room_id, before_answer))
    }
}

/// A room decided about a membership while, or after, the account was deactivated: it is left, too.
pub(super) fn leave_if_deactivated(tx: &Tx<'_>, cx: &Cx<'_>, room_id: &str, membership: &str) -> Result<(), Error> {
    if PRESENT.contains(&membership) && store::account::get(&**tx)?.deactivated {
        owe_leave(tx, cx, room_id, false)?;
    }
    Ok(())
}

fn owe_leave(tx: &Tx<'_>, cx: &Cx<'_>, room_id: &str, before_answer: bool) -> Result<(), Error> {
    let call = ChangeMembership::unattended_leave(BASE64_URL_SAFE_NO_PAD.encode(cx.random::<16>()?), own_id(cx)?);
    outbox::owe(tx, cx, room_id, &call, before_answer)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::Refusal;
    use platform::{ActorKind, Address, Sql, Statement};
    use serde_json::{json, value::to_raw_value};

    use super::Deactivate;
    use crate::{
        CallError,
        user::{BackedUpKey, Create, CreateBackup, KeyData, NewDevice, PutBackedUpKeys},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn alice() -> Rc<World> {
        let world = World::new(1);
        let (password_hash, device) = (Some("h".to_owned()), Some(NewDevice::new("PHONE", "t")));
        let create = Create { password_hash, device, call_id: "c".to_owned(), ..Create::default() };
        world.call(ALICE, &create).unwrap();
        world
    }

    fn deactivates(world: &World, password_hash: &str) -> Result<(), CallError> {
        let (token_hash, password_hash) = ("t".to_owned(), password_hash.to_owned());
        world.call(ALICE, &Deactivate { token_hash, password_hash, erase: false })
    }

    #[test]
    fn nothing_is_left_of_the_backups() {
        let world = alice();
        let (token_hash, object) = ("t".to_owned(), to_raw_value(&json!({})).unwrap());
        for keys in [10, 250] {
            let (algorithm, auth_data) = ("a".to_owned(), object.clone());
            let call = CreateBackup { token_hash: token_hash.clone(), call_id: None, algorithm, auth_data };
            let version = world.call(ALICE, &call).unwrap();
            let key = |number: u64| {
                let (first_message_index, forwarded_count, is_verified) = (0, 0, true);
                let session_data = object.clone();
                let data = KeyData { first_message_index, forwarded_count, is_verified, session_data };
                BackedUpKey { room_id: "!r".to_owned(), session_id: number.to_string(), data }
            };
            let keys = (0..keys).map(key).collect();
            world.call(ALICE, &PutBackedUpKeys { token_hash: token_hash.clone(), version, keys }).unwrap();
        }
        deactivates(&world, "h").unwrap();
        for _ in 0..5 {
            world.passes(5_000);
        }
        let sql = world.sql(&Address::new(ActorKind::User, ALICE));
        let rows = |table: &str| {
            sql.query(&format!("SELECT count(*) FROM {table}"), &[]).unwrap().pop().unwrap().unsigned(0).unwrap()
        };
        assert_eq!((rows("backup_key"), rows("backup")), (0, 1), "the last number is kept");
    }

    #[test]
    fn addresses_go_with_the_account_and_not_before() {
        let world = alice();
        for (address, user) in [("a@b", ALICE), ("c@d", ALICE), ("e@f", "@bob:myelin.test")] {
            let insert = "INSERT INTO contact (medium, address, user_id, validated_ms, added_ms)
                VALUES ('email', ?1, ?2, 1, 1)";
            world.projects(&Statement::new(insert, vec![address.into(), user.into()]));
        }
        let addresses = || world.shows("SELECT address FROM contact", &[]).len();
        let refused = deactivates(&world, "another");
        assert!(matches!(refused, Err(CallError::Refused(Refusal::Forbidden(_)))), "{refused:?}");
        world.settle();
        assert_eq!(addresses(), 3);
        // What crashes, or is lost, after it was decided is tried again.
        world.lost_calls.set(1);
        deactivates(&world, "h").unwrap();
        world.crash();
        world.lost_calls.set(0);
        assert_eq!(addresses(), 3);
        world.passes(3_600_000);
        assert_eq!(addresses(), 1);
    }

    #[test]
    fn the_encoding_stays() {
        let call = Deactivate { token_hash: "t".to_owned(), password_hash: "h".to_owned(), erase: true };
        insta::assert_snapshot!(serde_json::to_string(&call).unwrap(), @r#"{"token_hash":"t","password_hash":"h","erase":true}"#);
    }
}
