use domain::Refusal;
use platform::{ActorKind, Tx};
use ruma_common::OwnedDeviceId;
use serde::{Deserialize, Serialize};

use super::{User, store};
use crate::{Call, Cx, Error};

/// Gives a device new tokens for the one that refreshes it.
///
/// The old ones stay good until one of the new is used: whoever lost the answer refreshes again, and what the lost one
/// gave out is forgotten.
///
/// Refused: `UnknownToken`, a soft logout as long as the device exists; `UserLocked`. Spec: "Refreshing access tokens".
#[derive(Debug, Serialize, Deserialize)]
pub struct Refresh {
    pub device_id: OwnedDeviceId,
    /// The hash of the refresh token, as [`NewToken::refresh_hash`].
    pub refresh_hash: String,
    pub next: NewToken,
}

/// Tokens that will succeed a device's own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewToken {
    /// The SHA-256 of the access token in URL-safe base64.
    pub token_hash: String,
    /// When the access token ends, in milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// The SHA-256 of the refresh token in URL-safe base64.
    pub refresh_hash: String,
}

impl Call for Refresh {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "refresh";
    type Reply = ();
}

impl User {
    pub(super) fn refresh(&self, tx: &Tx<'_>, _cx: &Cx<'_>, call: Refresh) -> Result<(), Error> {
        let unknown = |soft_logout| Refusal::UnknownToken { soft_logout };
        let hashes = store::device::refresh_hashes(&**tx, &call.device_id)?.ok_or_else(|| unknown(false))?;
        if hashes.next.as_ref() == Some(&call.refresh_hash) {
            // The new refresh token is used: the old one is over.
            store::device::succeed(tx, &call.device_id)?;
        } else if hashes.current.as_ref() != Some(&call.refresh_hash) {
            return Err(unknown(true).into());
        }
        if store::account::get(&**tx)?.locked {
            return Err(Refusal::UserLocked.into());
        }
        store::device::put_next(tx, &call.device_id, &call.next)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::Refusal;
    use platform::{ActorKind, Address};

    use super::{NewToken, Refresh};
    use crate::{
        CallError,
        user::{Create, NewDevice, Verify},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";
    const LIFETIME_MS: u64 = 300_000;

    /// The tokens `a1` and `r1` on a device that refreshes.
    fn alice() -> Rc<World> {
        let world = World::new(1);
        let device = NewDevice {
            expires_ms: Some(world.now_ms() + LIFETIME_MS),
            refresh_hash: Some("r1".to_owned()),
            ..NewDevice::new("PHONE", "a1")
        };
        world.call(ALICE, &Create { device: Some(device), call_id: "a".to_owned(), ..Create::default() }).unwrap();
        world
    }

    fn refresh(world: &World, with: &str, number: u64) -> Result<(), CallError> {
        let next = NewToken {
            token_hash: format!("a{number}"),
            expires_ms: world.now_ms() + LIFETIME_MS,
            refresh_hash: format!("r{number}"),
        };
        world.call(ALICE, &Refresh { device_id: "PHONE".into(), refresh_hash: with.to_owned(), next })
    }

    fn is_good(world: &World, token_hash: &str) -> bool {
        world.call(ALICE, &Verify { token_hash: token_hash.to_owned(), active: false, ignored: false }).is_ok()
    }

    fn is_soft(outcome: Result<(), CallError>) -> bool {
        match outcome {
            Err(CallError::Refused(Refusal::UnknownToken { soft_logout })) => soft_logout,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_lost_answer_may_be_asked_for_again() {
        let world = alice();
        refresh(&world, "r1", 2).unwrap();
        refresh(&world, "r1", 3).unwrap();
        assert!(!is_good(&world, "a2"), "what was lost is forgotten");
        assert!(is_good(&world, "a1"), "nothing new was used yet");
    }

    #[test]
    fn the_old_tokens_end_when_the_new_access_token_is_used() {
        let world = alice();
        refresh(&world, "r1", 2).unwrap();
        assert!(is_good(&world, "a2"));
        world.evict(&Address::new(ActorKind::User, ALICE));
        assert!(!is_good(&world, "a1"));
        assert!(is_soft(refresh(&world, "r1", 3)));
        refresh(&world, "r2", 3).unwrap();
        assert!(is_good(&world, "a2") && is_good(&world, "a3"));
    }

    #[test]
    fn the_old_tokens_end_when_the_new_refresh_token_is_used() {
        let world = alice();
        refresh(&world, "r1", 2).unwrap();
        refresh(&world, "r2", 3).unwrap();
        assert!(is_soft(refresh(&world, "r1", 4)));
        assert_eq!(["a1", "a2", "a3"].map(|token| is_good(&world, token)), [false, true, true]);
    }

    #[test]
    fn tokens_end_by_themselves_and_with_their_device() {
        let world = alice();
        world.passes(LIFETIME_MS);
        let late = world.call(ALICE, &Verify { token_hash: "a1".to_owned(), active: false, ignored: false }).map(drop);
        assert!(is_soft(late));
        refresh(&world, "r1", 2).unwrap();
        assert!(is_good(&world, "a2"));
        let log_out = crate::user::LogOut { token_hash: "a2".to_owned(), all: false };
        world.call(ALICE, &log_out).unwrap();
        assert!(!is_soft(refresh(&world, "r2", 3)), "there is nothing to come back to");
    }

    #[test]
    fn the_encoding_stays() {
        let next = NewToken { token_hash: "a".to_owned(), expires_ms: 5, refresh_hash: "r".to_owned() };
        let call = Refresh { device_id: "PHONE".into(), refresh_hash: "o".to_owned(), next };
        insta::assert_snapshot!(serde_json::to_string(&call).unwrap(), @r#"{"device_id":"PHONE","refresh_hash":"o","next":{"token_hash":"a","expires_ms":5,"refresh_hash":"r"}}"#);
    }
}
