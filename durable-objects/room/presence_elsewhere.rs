//! The presence of members of other servers, as their servers' Destinations know it, and that of ours on its way there.
//!
//! A Destination tells the room what changed; the room passes it on as it does its own members'. A room that is asked
//! who is there asks the Destinations, once, and the one of each member who joins. To whom ours are told is the users'
//! to find out: the room names the servers in it to who tells their presence, and those that came to who is there.

use std::collections::{BTreeMap, BTreeSet};

use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedUserId, UserId};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, Serialize};

use super::{
    Room,
    append::room_id,
    presence::{MEMBERS_MAX, Presences},
    store,
};
use crate::{
    Call, Cx, Error, call,
    cx::{Key, PresenceTo},
    destination::GetPresences,
    presence::{Presence, PresenceState},
    user::ServersCame,
};

/// In a room of more servers presence stays at home.
const SERVERS_MAX: usize = 200;
/// A Destination is asked for what the room lacks, or of somebody who joined.
const LACKED: u64 = 0;
const JOINED: u64 = 1;

/// How users of another server are. Answers who of them is in the room.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HearPresences {
    pub presences: Vec<Presence>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct MembersHeard {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<OwnedUserId>,
    /// Who is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<OwnedUserId>,
}

impl Call for HearPresences {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "hear_presences";
    type Reply = MembersHeard;
}

/// The users of each server.
type ByServer = BTreeMap<String, Vec<OwnedUserId>>;

fn by_server(cx: &Cx<'_>, users: impl IntoIterator<Item = String>) -> ByServer {
    let mut by_server = ByServer::new();
    for user in users.into_iter().filter_map(|user| OwnedUserId::try_from(user).ok()) {
        if !cx.is_local(&user) {
            by_server.entry(user.server_name().to_string()).or_default().push(user);
        }
    }
    by_server
}

fn ask(cx: &Cx<'_>, by_server: ByServer, serial: u64) -> Result<(), Error> {
    for (server, users) in by_server {
        let call = GetPresences { room_id: Some(room_id(cx)?), users };
        cx.deliver(server.clone(), &call, Key::Presence(PresenceTo { peer: server, serial }), false)?;
    }
    Ok(())
}

impl Room {
    pub(super) fn hear_presences(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: HearPresences,
    ) -> Result<MembersHeard, Error> {
        let (mut heard, mut members) = (MembersHeard::default(), Vec::new());
        for presence in call.presences {
            if store::members::membership(sql, presence.user.as_str())?.as_deref() == Some("join") {
                heard.members.push(presence.user.clone());
                members.push(presence);
            } else {
                heard.strangers.push(presence.user);
            }
        }
        if !members.is_empty() && !store::members::joined_exceed(sql, MEMBERS_MAX)? {
            let followers = self.live_followers(sql, cx.now_ms)?;
            self.appservices_hear_presences(sql, cx, &members)?;
            let mut presences = self.presences.borrow_mut();
            let presences = presences.get_or_insert_default();
            presences.uncommitted = true;
            members.into_iter().for_each(|member| presences.hears(member, true));
            followers.iter().try_for_each(|follower| presences.tell(cx, follower, false))?;
        }
        Ok(heard)
    }

    /// The servers that are to know of a member's presence.
    pub(super) fn servers_of_presence(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<Vec<String>, Error> {
        if !cx.settings.config.federation.is_on {
            return Ok(Vec::new());
        }
        let mut servers = store::servers::joined(sql)?;
        if servers.len() > SERVERS_MAX {
            servers.clear();
        }
        Ok(servers)
    }

    /// Asks the servers in the room how their users are, each once.
    pub(super) fn ask_servers(&self, sql: &dyn Sql, cx: &Cx<'_>, presences: &mut Presences) -> Result<(), Error> {
        let mut unknown = self.servers_of_presence(sql, cx)?;
        unknown.retain(|server| !presences.servers.contains_key(server));
        if unknown.is_empty() {
            return Ok(());
        }
        let mut members = by_server(cx, store::members::joined_by(sql, self.head(sql)?, MEMBERS_MAX)?);
        members.retain(|server, _| unknown.contains(server));
        presences.servers.extend(members.keys().map(|server| (server.clone(), false)));
        ask(cx, members, LACKED)
    }

    /// A Destination says how its users are, or could not be reached.
    pub(super) fn servers_presence(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        (server, serial): (&str, u64),
        reply: Option<&[u8]>,
    ) -> Result<(), Error> {
        let mut there = Vec::new();
        if let Some(Ok(told)) = reply.map(call::open::<GetPresences>) {
            for presence in told {
                if store::members::membership(&**tx, presence.user.as_str())?.as_deref() == Some("join") {
                    there.push(presence);
                }
            }
        }
        let mut presences = self.presences.borrow_mut();
        let presences = presences.get_or_insert_default();
        presences.uncommitted = true;
        if let Some(answered) = presences.servers.get_mut(server) {
            *answered = true;
        }
        there.into_iter().for_each(|presence| presences.hears(presence, serial == JOINED));
        self.pass_presences_on(tx, cx, presences)
    }

    /// Memory follows the memberships of other servers' users.
    pub(super) fn presence_elsewhere_committed(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<(), Error> {
        let (mut joined, mut left) = (Vec::new(), Vec::new());
        for moved in &*cx.room.members.borrow() {
            let was_joined = moved.before.as_deref() == Some("join");
            match moved.now == MembershipState::Join {
                true if !was_joined => joined.push(moved.user.clone()),
                false if was_joined => left.push(moved.user.clone()),
                _ => {}
            }
        }
        let (joined, left) = (by_server(cx, joined), by_server(cx, left));
        if joined.is_empty() && left.is_empty() || !cx.settings.config.presence {
            return Ok(());
        }
        let followers = self.live_followers(sql, cx.now_ms)?;
        let mut presences = self.presences.borrow_mut();
        if let Some(presences) = presences.as_mut() {
            left.values().flatten().for_each(|user| presences.leaves(user.as_str()));
            followers.iter().try_for_each(|follower| presences.tell(cx, follower, false))?;
        }
        let servers = self.servers_of_presence(sql, cx)?;
        if servers.is_empty() || store::members::joined_exceed(sql, MEMBERS_MAX)? {
            return Ok(());
        }
        let mut came = Vec::new();
        for (server, users) in &joined {
            if servers.contains(server) && store::servers::joined_users(sql, server)? <= users.len() as u64 {
                came.push(server.clone());
            }
        }
        ask(cx, joined, JOINED)?;
        if came.is_empty() {
            return Ok(());
        }
        // Who joined just now tells their presence themselves.
        let moved: BTreeSet<_> = cx.room.members.borrow().iter().map(|moved| moved.user.clone()).collect();
        let mut there: BTreeSet<_> = followers.into_iter().collect();
        if let Some(presences) = presences.as_ref() {
            there.retain(|user| presences.status_of(user).is_none_or(|status| status.state != PresenceState::Offline));
            there.extend(presences.those_there());
        }
        for user in there.difference(&moved) {
            if <&UserId>::try_from(user.as_str()).is_ok_and(|user_id| cx.is_local(user_id)) {
                cx.deliver(user.as_str(), &ServersCame { servers: came.clone() }, Key::Unsettled, false)?;
            }
        }
        Ok(())
    }
}
