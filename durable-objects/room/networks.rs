//! The room's entry in the directories of other networks, which application services keep beside ours: as
//! [`directory`](super::directory) for ours, and apart from it.
//!
//! Spec: Application Service API, "Published room directories".

use std::collections::BTreeSet;

use domain::{Refusal, directory::PublishedRoom};
use platform::{ActorKind, Sql, Tx};
use serde::{Deserialize, Serialize};

use super::{Room, append::room_id, directory::shown_here, store};
use crate::{Call, Cx, Error, outbox, projection::NetworkEntry};

/// Where the listing is kept among the small facts.
const LISTING: &str = "networks";
/// The most directories that a room is in.
const NETWORKS_MAX: usize = 32;
/// The longest name of one, in bytes.
const NETWORK_BYTES_MAX: usize = 512;

/// Shows the room in the directory of a network, or takes it from there; what is already so stays as it is.
///
/// Refused: `InvalidParam` for a network with a name that is too long or has control characters, and for too many.
/// Spec: `PUT /directory/list/appservice/{networkId}/{roomId}`.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetNetwork {
    /// Which, as `third_party_instance_id` names it.
    pub network: String,
    pub listed: bool,
}

impl Call for SetNetwork {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "set_network";
    type Reply = ();
}

/// What the room knows of its entry.
#[derive(Default, Serialize, Deserialize)]
struct Listing {
    /// Of the newest entry that was owed: `max(last + 1, now in ms)`.
    version: u64,
    networks: BTreeSet<String>,
    /// What that entry shows; nothing while the room is in none, or nobody of this server in the room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    room: Option<PublishedRoom>,
}

impl Room {
    pub(super) fn set_network(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: SetNetwork) -> Result<(), Error> {
        let SetNetwork { network, listed } = call;
        if network.is_empty() || network.len() > NETWORK_BYTES_MAX || network.chars().any(char::is_control) {
            let sentence =
                format!("The name of a network has 1 to {NETWORK_BYTES_MAX} bytes and no control characters");
            return Err(Refusal::InvalidParam(sentence).into());
        }
        let mut listing = load(&**tx)?;
        let is_changed = match listed {
            true => listing.networks.insert(network),
            false => listing.networks.remove(&network),
        };
        if !is_changed {
            return Ok(());
        }
        if listing.networks.len() > NETWORKS_MAX {
            let sentence = format!("A room may be in the directories of {NETWORKS_MAX} networks");
            return Err(Refusal::InvalidParam(sentence).into());
        }
        listing.room = if listing.networks.is_empty() { None } else { shown_here(&**tx, cx)? };
        show(tx, cx, listing, true)
    }
}

/// Whether the room is in any.
pub(super) fn is_listed(sql: &dyn Sql) -> Result<bool, Error> {
    Ok(!load(sql)?.networks.is_empty())
}

/// What is shown of the room may be something else by now.
pub(super) fn refresh(tx: &Tx<'_>, cx: &Cx<'_>, before_answer: bool) -> Result<(), Error> {
    let mut listing = load(&**tx)?;
    if listing.networks.is_empty() {
        return Ok(());
    }
    let room = shown_here(&**tx, cx)?;
    if listing.room == room {
        return Ok(());
    }
    listing.room = room;
    show(tx, cx, listing, before_answer)
}

fn load(sql: &dyn Sql) -> Result<Listing, Error> {
    match store::meta::text(sql, LISTING)? {
        Some(listing) => Ok(serde_json::from_str(&listing)?),
        None => Ok(Listing::default()),
    }
}

fn show(tx: &Tx<'_>, cx: &Cx<'_>, mut listing: Listing, before_answer: bool) -> Result<(), Error> {
    listing.version = listing.version.saturating_add(1).max(cx.now_ms);
    store::meta::set(tx, LISTING, serde_json::to_string(&listing)?.into())?;
    let Listing { version, mut networks, room } = listing;
    if room.is_none() {
        networks.clear();
    }
    outbox::project(tx, cx, &NetworkEntry { room_id: room_id(cx)?, version, networks, room }, before_answer)
}
