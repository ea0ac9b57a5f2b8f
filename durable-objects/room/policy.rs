//! Policy servers: a room may name one of its servers to be asked about each event before anybody is told of it.
//!
//! Guarantees: with such a server in the room, no event takes a place in the log without its signature, but for the one
//! that names it. The room asks nobody: it names what has to be signed, nothing changes, the tier asks, brings the
//! signature, and calls again. What was signed is kept in memory until then; after a restart it is asked for anew. An
//! event that nobody waits for is asked about by the room's fetcher.
//! Spec: Server-Server API, "Policy Servers".

use std::{collections::VecDeque, rc::Rc};

use domain::{
    Pdu, Refusal,
    policy_server::{self, PolicyServer},
};
use platform::{ActorKind, Sql, Tx};
use ruma_common::OwnedServerName;
use serde::{Deserialize, Serialize};

use super::{CheckedEvent, Room, store};
use crate::{Call, Cx, Error};

/// What was signed is of use for this long, in milliseconds.
const KEPT_MS: u64 = 60_000;
/// How many signed events are kept.
const KEPT_MAX: usize = 128;

/// An event that the room's policy server has to sign before it may happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsigned {
    pub server: OwnedServerName,
    pub event: CheckedEvent,
}

/// The policy server signed an event: whatever was to make it, made again, makes this one.
///
/// Refused: `Forbidden` where the signature is not good.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeepSigned {
    pub event: CheckedEvent,
}

impl Call for KeepSigned {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "keep_signed";
    type Reply = ();
}

/// Events that the policy server signed a moment ago, with the time until which they are of use.
#[derive(Default)]
pub(super) struct Signed(VecDeque<(u64, Pdu)>);

impl Signed {
    fn keep(&mut self, pdu: Pdu, now_ms: u64) {
        self.0.retain(|(until_ms, kept)| now_ms < *until_ms && kept.event_id() != pdu.event_id());
        if self.0.len() >= KEPT_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now_ms.saturating_add(KEPT_MS), pdu));
    }

    fn at(&self, now_ms: u64) -> impl Iterator<Item = &Pdu> {
        self.0.iter().filter(move |(until_ms, _)| now_ms < *until_ms).map(|(_, pdu)| pdu)
    }
}

impl Room {
    /// The server that is asked about events now.
    fn policy_server(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<Option<Rc<PolicyServer>>, Error> {
        let known = self.policy_server.borrow().clone();
        let server = match known {
            Some(server) => server,
            None => {
                let policy = store::state::current(sql, policy_server::EVENT_TYPE, "")?;
                let server = policy.and_then(|policy| PolicyServer::named_by(&policy.pdu)).map(Rc::new);
                self.policy_server.borrow_mut().insert(server).clone()
            }
        };
        let Some(server) = server else { return Ok(None) };
        // This server is none, unless its operator says that there is one of its name.
        let config = &cx.settings.config;
        let is_asked = if server.name() == config.server_name {
            config.policy_server_key.is_some() && !store::members::joined_locals(sql, 1)?.is_empty()
        } else {
            // It agrees to be asked by having somebody there.
            store::servers::is_joined(sql, server.name().as_str())?
        };
        Ok(Some(server).filter(|_| is_asked))
    }

    /// The server that has to sign an event before it may happen; `None` if it did, or none has to.
    pub(super) fn has_to_sign(&self, sql: &dyn Sql, cx: &Cx<'_>, pdu: &Pdu) -> Result<Option<OwnedServerName>, Error> {
        // Most rooms have none.
        let Some(server) = self.policy_server(sql, cx)? else { return Ok(None) };
        let needs_none = !policy_server::is_asked_about(pdu.event_type(), pdu.state_key())
            || server.recommends(pdu, &*self.version(sql)?);
        Ok((!needs_none).then(|| server.name().to_owned()))
    }

    /// An event of ours, as the policy server signed it: this one, or the one that was made of the same a moment ago.
    ///
    /// Fails with [`Error::Unsigned`] where it has not signed it yet.
    pub(super) fn signed(&self, sql: &dyn Sql, cx: &Cx<'_>, pdu: Pdu) -> Result<Pdu, Error> {
        let Some(server) = self.has_to_sign(sql, cx, &pdu)? else { return Ok(pdu) };
        for kept in self.signed.borrow().at(cx.now_ms) {
            if says_the_same(kept, &pdu)
                && self.has_to_sign(sql, cx, kept)?.is_none()
                && store::graph::by_id(sql, kept.event_id())?.is_none()
            {
                return Ok(kept.clone());
            }
        }
        Err(Error::Unsigned(Box::new(Unsigned { server, event: CheckedEvent::of(&pdu) })))
    }

    /// An event that came, as the policy server signed it: as it came, or a moment ago. Else that server.
    pub(super) fn signed_as_it_came(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        pdu: &Pdu,
    ) -> Result<Result<Pdu, OwnedServerName>, Error> {
        let Some(server) = self.has_to_sign(sql, cx, pdu)? else { return Ok(Ok(pdu.clone())) };
        for kept in self.signed.borrow().at(cx.now_ms) {
            if kept.event_id() == pdu.event_id() && self.has_to_sign(sql, cx, kept)?.is_none() {
                return Ok(Ok(kept.clone()));
            }
        }
        Ok(Err(server))
    }

    /// Puts an event of ours into the log that nobody waits for: if it has to be signed first, once it was.
    pub(super) fn insert_unattended(&self, tx: &Tx<'_>, cx: &Cx<'_>, pdu: Pdu, txn: Option<&str>) -> Result<(), Error> {
        match self.signed(&**tx, cx, pdu) {
            Ok(pdu) => self.insert(tx, cx, &pdu, txn),
            Err(Error::Unsigned(unsigned)) => {
                self.waits(tx, cx, &cx.settings.config.server_name, &unsigned.event).map(drop)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn keep_signed(&self, sql: &dyn Sql, cx: &Cx<'_>, call: KeepSigned) -> Result<(), Error> {
        let pdu = call.event.pdu(cx)?;
        if let Some(server) = self.has_to_sign(sql, cx, &pdu)? {
            let sentence = format!("{server}, the policy server of this room, gave no valid signature");
            return Err(Refusal::Forbidden(sentence).into());
        }
        let mut signed = self.signed.borrow_mut();
        // What happened meanwhile is of no more use, and many are signed at once.
        let mut happened = Vec::new();
        for kept in signed.at(cx.now_ms) {
            if store::graph::by_id(sql, kept.event_id())?.is_some() {
                happened.push(kept.event_id().to_owned());
            }
        }
        signed.0.retain(|(_, kept)| !happened.iter().any(|event_id| event_id == kept.event_id()));
        signed.keep(pdu, cx.now_ms);
        Ok(())
    }
}

/// Whether two events were made of the same.
fn says_the_same(one: &Pdu, other: &Pdu) -> bool {
    one.sender() == other.sender()
        && one.event_type() == other.event_type()
        && one.state_key() == other.state_key()
        && one.content().get() == other.content().get()
        && one.redacts_at_top() == other.redacts_at_top()
}

#[cfg(test)]
mod tests {
    use domain::{Refusal, power::Preset};
    use ruma_common::user_id;
    use serde_json::json;

    use crate::{CallError, world::World};

    /// Otherwise nobody here could say anything in such a room: this server cannot be asked to sign.
    #[test]
    fn this_server_is_a_policy_server_only_where_its_operator_says_so() {
        let key = "6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s";
        for is_asked in [false, true] {
            let world = World::configured(1, &[("POLICY_SERVER_KEY", key)]);
            let alice = user_id!("@alice:myelin.test");
            let room_id = world.creates_room(alice, "11", Preset::PublicChat);
            let policy = json!({ "via": "myelin.test", "public_keys": { "ed25519": key } });
            world.sends(alice, &room_id, "m.room.policy", Some(""), &policy).unwrap();
            if !is_asked {
                world.restarts_with(&[]);
                let again = json!({ "via": "myelin.test", "public_keys": { "ed25519": key }, "again": true });
                let outcome = world.sends(alice, &room_id, "m.room.policy", Some(""), &again);
                assert!(matches!(outcome, Err(CallError::Refused(Refusal::InvalidParam(_)))), "{outcome:?}");
            }
            let said = world.sends(alice, &room_id, "m.room.message", None, &json!({ "body": "hello" }));
            assert_eq!(matches!(said, Err(CallError::Unsigned(_))), is_asked, "{said:?}");
            assert_eq!(said.is_ok(), !is_asked);
        }
    }
}
