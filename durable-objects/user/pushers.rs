//! Where the user's notifications are sent. A pusher belongs to the device that made it, and goes with it.
//! Spec: "Push Notifications".

use domain::push::{Pusher, PusherKind};
use platform::{ActorKind, Sql, Tx};
use ruma_common::OwnedDeviceId;
use serde::{Deserialize, Serialize};

use super::{User, authenticate, store};
use crate::{Call, Cx, Error};

/// The most pushers of a user: each is a row for every event that notifies them.
const PUSHERS_MAX: usize = 20;

/// Adds a pusher, or changes the one with its `app_id` and `pushkey`, which then belongs to the caller's device.
///
/// One that does nothing but switch another device's pusher on or off leaves it to that device. What happened while it
/// was off it is not told.
/// One too many takes the place of the one that was set longest ago: clients leave behind what they no longer use.
/// Refused: `UnknownToken`. Whether the pusher can be is checked before.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetPusher {
    pub token_hash: String,
    pub pusher: Pusher,
}

impl Call for SetPusher {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "set_pusher";
    type Reply = ();
}

/// Removes a pusher of the user's; one that is gone is no matter.
///
/// Refused: `UnknownToken`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RemovePusher {
    pub token_hash: String,
    pub app_id: String,
    pub pushkey: String,
}

impl Call for RemovePusher {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "remove_pusher";
    type Reply = ();
}

/// The pusher is another user's from now on, or its gateway knows it no longer.
#[derive(Debug, Serialize, Deserialize)]
pub struct DropPusher {
    pub app_id: String,
    pub pushkey: String,
}

impl Call for DropPusher {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "drop_pusher";
    type Reply = ();
}

/// The user's pushers.
///
/// Refused: `UnknownToken`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetPushers {
    pub token_hash: String,
}

impl Call for GetPushers {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_pushers";
    type Reply = Vec<OwnPusher>;
}

/// A pusher and the device that made it.
#[derive(Debug, Serialize, Deserialize)]
pub struct OwnPusher {
    #[serde(flatten)]
    pub pusher: Pusher,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<OwnedDeviceId>,
}

impl User {
    pub(super) fn set_pusher(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: SetPusher) -> Result<(), Error> {
        let device_id = authenticate(&**tx, cx, &call.token_hash)?;
        let all = store::pushers::all(&**tx)?;
        let is_it = |known: &Pusher| known.app_id == call.pusher.app_id && known.pushkey == call.pusher.pushkey;
        let known = all.iter().find(|known| is_it(&known.pusher));
        let device_id = match known {
            Some(known) if known.pusher.enabled != call.pusher.enabled && is_switched(&known.pusher, &call.pusher) => {
                known.device_id.as_str().into()
            }
            _ => device_id,
        };
        match known {
            Some(known) if known.pusher == call.pusher && known.device_id == device_id.as_str() => return Ok(()),
            // As if it came now: what was before is not for it.
            Some(known) if call.pusher.enabled && !known.pusher.enabled => {
                let id = self.with_moves(&**tx, |moves| Ok(moves.number(cx.now_ms)))?;
                self.forget(tx, |tx| store::pushers::remove(tx, &call.pusher.app_id, &call.pusher.pushkey))?;
                store::pushers::insert(tx, id, &device_id, &call.pusher, cx.now_ms, begins_ms(cx, &call.pusher))?;
            }
            Some(known) => store::pushers::update(tx, known.id, &device_id, &call.pusher, cx.now_ms)?,
            None => {
                let id = self.with_moves(&**tx, |moves| Ok(moves.number(cx.now_ms)))?;
                if let Some(oldest) =
                    all.iter().min_by_key(|known| known.changed_ms).filter(|_| all.len() >= PUSHERS_MAX)
                {
                    let Pusher { app_id, pushkey, .. } = &oldest.pusher;
                    self.forget(tx, |tx| store::pushers::remove(tx, app_id, pushkey))?;
                }
                store::pushers::insert(tx, id, &device_id, &call.pusher, cx.now_ms, begins_ms(cx, &call.pusher))?;
            }
        }
        self.pushers_changed();
        self.look_for_a_carrier(&**tx, cx)
    }

    pub(super) fn remove_pusher(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: RemovePusher) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        self.drop_pusher(tx, cx, DropPusher { app_id: call.app_id, pushkey: call.pushkey })
    }

    pub(super) fn drop_pusher(&self, tx: &Tx<'_>, _cx: &Cx<'_>, call: DropPusher) -> Result<(), Error> {
        self.pushers_changed();
        self.forget(tx, |tx| store::pushers::remove(tx, &call.app_id, &call.pushkey))
    }

    pub(super) fn pushers(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetPushers) -> Result<Vec<OwnPusher>, Error> {
        authenticate(sql, cx, &call.token_hash)?;
        let all = store::pushers::all(sql)?.into_iter();
        Ok(all.map(|stored| OwnPusher { pusher: stored.pusher, device_id: Some(stored.device_id.into()) }).collect())
    }
}

/// When a new pusher asks the rooms: for the badge, at once, or for what waits to be mailed. Rooms may be silent until
/// then: who has no pushers is told once, until they read.
fn begins_ms(cx: &Cx<'_>, pusher: &Pusher) -> u64 {
    let mail = cx.settings.config.mail.as_ref().filter(|_| pusher.kind == PusherKind::Email);
    mail.map_or(0, |mail| cx.now_ms.saturating_add(mail.notification_delay_ms))
}

/// Whether nothing else changes of a pusher than whether it is sent anything.
fn is_switched(known: &Pusher, set: &Pusher) -> bool {
    *set == Pusher { enabled: set.enabled, ..known.clone() }
}
