//! A walk through a space, depth first: a space among its rooms is walked through before the next room.
//!
//! What is known here is asked of the rooms themselves, some ahead at the same time; other servers are asked where
//! nobody of this one is in a room. A page ends early rather than cost too much.

use std::{collections::HashMap, sync::Arc};

use actors::room::{Asker, GetSummary, IsJoined, Summary};
use domain::{
    Refusal,
    space::{Accessible, Child, RoomSummary},
};
use futures_util::{StreamExt, stream};
use ruma_common::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId};
use serde_json::value::{RawValue, to_raw_value};

use super::{here, is_invited, token::Token};
use crate::{
    Context, Failure,
    client::first_joined,
    federation::{
        Chunk, SpaceElsewhere,
        elsewhere::{candidates, residence},
    },
};

/// Rooms asked at the same time, of which the last ones may not be needed.
const AHEAD: usize = 16;
/// Rooms asked for one page: most of a space may be none of a user's business.
const ROOMS_ASKED_MAX: usize = 200;
/// A page that took so long ends, in milliseconds.
const PAGE_MS_MAX: u64 = 15_000;
/// A page that has grown so large ends, in bytes.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Servers asked for one room, one after the other.
const SERVERS_MAX: usize = 3;

/// A room that is to be looked at.
struct Next {
    room_id: OwnedRoomId,
    /// How far below the space it is.
    depth: usize,
    via: Vec<OwnedServerName>,
    /// The parent, where another server told of it, which may have told of the room as well.
    told_with: Option<Arc<SpaceElsewhere>>,
    /// What the room says, once asked; nothing where it is not here.
    here: Option<Option<Summary>>,
}

/// A room that the user may know of.
struct Shown {
    summary: RoomSummary,
    children: Vec<Box<RawValue>>,
    is_here: bool,
    /// All that another server told of it.
    told: Option<Arc<SpaceElsewhere>>,
}

impl Shown {
    /// What comes below it.
    fn children(&self, depth: usize) -> impl DoubleEndedIterator<Item = Next> {
        self.children.iter().filter_map(|event| Child::read(event)).map(move |child| Next {
            room_id: child.room_id,
            depth: depth.saturating_add(1),
            via: child.via,
            told_with: self.told.clone(),
            here: None,
        })
    }
}

pub(super) struct Walk<'a> {
    cx: &'a Context,
    user_id: OwnedUserId,
    token: Token,
    /// The last one comes first.
    stack: Vec<Next>,
    /// Which rooms the user is in, of those whose members may join others.
    joined: HashMap<OwnedRoomId, bool>,
    asked: usize,
    started_ms: u64,
}

impl<'a> Walk<'a> {
    /// A walk that begins, or goes on where a token says.
    ///
    /// Refused: `Forbidden` for a space that the user may not know of.
    pub(super) async fn from(cx: &'a Context, user_id: OwnedUserId, token: Token) -> Result<Self, Failure> {
        let path = token.path.clone();
        let started_ms = cx.now_ms();
        let mut walk = Self { cx, user_id, token, stack: Vec::new(), joined: HashMap::new(), asked: 0, started_ms };
        if walk.token.is_start() {
            walk.token.path.clear();
            if let Some(root) = path.into_iter().next() {
                let via = walk.servers_of_root(&root).await?;
                walk.stack.push(Next { room_id: root, depth: 0, via, told_with: None, here: None });
            }
            return Ok(walk);
        }
        let mut path = path.into_iter();
        let Some(root) = path.next() else { return Ok(walk) };
        let via = walk.servers_of_root(&root).await?;
        let mut next = Next { room_id: root, depth: 0, via, told_with: None, here: None };
        loop {
            let depth = next.depth;
            let Some(shown) = walk.look(next).await? else {
                if depth == 0 {
                    return Err(forbidden().into());
                }
                // It is none of the user's business any more.
                return Ok(walk);
            };
            walk.push_children(depth, &shown);
            let Some(below) = path.next() else { return Ok(walk) };
            let mut children = shown.children(depth);
            match children.find(|child| child.room_id == below) {
                Some(child) => next = child,
                None => return Ok(walk),
            }
        }
    }

    async fn servers_of_root(&self, room_id: &RoomId) -> Result<Vec<OwnedServerName>, Failure> {
        let residence = residence(self.cx, room_id).await?;
        if residence.here {
            return Ok(Vec::new());
        }
        candidates(self.cx, room_id, &self.user_id, Vec::new(), residence.servers).await
    }

    /// The next page.
    ///
    /// Refused: as [`Walk::from`].
    pub(super) async fn page(&mut self, limit: usize) -> Result<Vec<Box<RawValue>>, Failure> {
        let mut rooms: Vec<Box<RawValue>> = Vec::new();
        let mut bytes = 0_usize;
        while rooms.len() < limit && bytes < PAGE_BYTES_MAX && !self.is_tired() {
            self.ask_ahead().await?;
            let Some(next) = self.stack.pop() else { break };
            if self.token.seen.contains(&next.room_id) {
                continue;
            }
            self.token.seen.insert(&next.room_id);
            let depth = next.depth;
            let room_id = next.room_id.clone();
            let Some(shown) = self.look(next).await? else {
                if depth == 0 {
                    return Err(forbidden().into());
                }
                continue;
            };
            self.token.path.truncate(depth);
            self.token.path.push(room_id);
            let summary = shown.summary.clone().as_specified();
            let chunk = to_raw_value(&Chunk { summary: &summary, children_state: &shown.children })?;
            bytes = bytes.saturating_add(chunk.get().len());
            rooms.push(chunk);
            self.push_children(depth, &shown);
        }
        Ok(rooms)
    }

    /// Where the next page begins, if there is one.
    pub(super) fn next(&self) -> Option<String> {
        let is_more = self.stack.iter().any(|next| !self.token.seen.contains(&next.room_id));
        if is_more && !self.token.seen.is_full() { self.token.text() } else { None }
    }

    fn is_tired(&self) -> bool {
        self.asked >= ROOMS_ASKED_MAX
            || self.token.seen.is_full()
            || self.cx.now_ms().saturating_sub(self.started_ms) >= PAGE_MS_MAX
    }

    /// The children of a room come next, unless they are too deep.
    fn push_children(&mut self, depth: usize, shown: &Shown) {
        if depth >= usize::from(self.token.max_depth) {
            return;
        }
        let seen = &self.token.seen;
        self.stack.extend(shown.children(depth).rev().filter(|child| !seen.contains(&child.room_id)));
    }

    /// Asks the rooms that come next, if the very next one was not asked.
    async fn ask_ahead(&mut self) -> Result<(), Failure> {
        if self.stack.last().is_none_or(|next| next.here.is_some()) {
            return Ok(());
        }
        let unasked = self.stack.iter().enumerate().rev().take(AHEAD).filter(|(_, next)| next.here.is_none());
        let unasked = unasked.filter(|(_, next)| !self.token.seen.contains(&next.room_id));
        let unasked: Vec<_> = unasked.map(|(index, next)| (index, next.room_id.clone())).collect();
        self.asked = self.asked.saturating_add(unasked.len());
        let (cx, call) = (self.cx, &self.call());
        let answers = stream::iter(unasked)
            .map(|(index, room_id)| async move { (index, here(cx, &room_id, call).await) })
            .buffered(AHEAD)
            .collect::<Vec<_>>();
        for (index, answer) in answers.await {
            if let Some(next) = self.stack.get_mut(index) {
                next.here = Some(answer?);
            }
        }
        Ok(())
    }

    fn call(&self) -> GetSummary {
        let asker = Asker::User(self.user_id.clone());
        GetSummary { asker, children: true, suggested_only: self.token.suggested_only }
    }

    /// What the user may know of a room.
    async fn look(&mut self, next: Next) -> Result<Option<Shown>, Failure> {
        let here = match next.here {
            Some(here) => here,
            None => here(self.cx, &next.room_id, &self.call()).await?,
        };
        // «the local data should be used instead of the remote server's data».
        let (accessible, shown) = match here {
            Some(Summary { accessible, room: summary, children, .. }) => {
                (accessible, Shown { summary, children, is_here: true, told: None })
            }
            None => {
                let Some(shown) = self.elsewhere(&next.room_id, &next.via, next.told_with.as_deref()).await? else {
                    return Ok(None);
                };
                (shown.summary.accessible_to_strangers(), shown)
            }
        };
        let may_know = match accessible {
            Accessible::Yes => true,
            Accessible::ToMembers => self.is_in_any(&shown.summary.allowed_room_ids).await?,
            Accessible::No => false,
        };
        if may_know || (!shown.is_here && is_invited(self.cx, &next.room_id, &self.user_id).await?) {
            return Ok(Some(shown));
        }
        Ok(None)
    }

    /// What other servers tell of a room: with its parent, or asked for it.
    async fn elsewhere(
        &mut self,
        room_id: &RoomId,
        via: &[OwnedServerName],
        told_with: Option<&SpaceElsewhere>,
    ) -> Result<Option<Shown>, Failure> {
        if let Some(parent) = told_with {
            if parent.inaccessible.contains(room_id) {
                return Ok(None);
            }
            // What is told of a space with its parent is without its children.
            if let Some(summary) = parent.children.get(room_id).filter(|summary| !summary.is_space()) {
                let summary = summary.clone();
                return Ok(Some(Shown { summary, children: Vec::new(), is_here: false, told: None }));
            }
        }
        let founder = room_id.server_name().map(ToOwned::to_owned);
        let servers: Vec<OwnedServerName> = via.iter().cloned().chain(founder).take(SERVERS_MAX).collect();
        self.asked = self.asked.saturating_add(1);
        let told = self.cx.hierarchy_elsewhere(room_id, &servers, self.token.suggested_only).await;
        Ok(told.map(|told| Shown {
            summary: told.room.clone(),
            children: if told.room.is_space() { told.children_state.clone() } else { Vec::new() },
            is_here: false,
            told: Some(told),
        }))
    }

    /// Whether the user is in one of some rooms. Many rooms of a space ask for the same.
    async fn is_in_any(&mut self, rooms: &[OwnedRoomId]) -> Result<bool, Failure> {
        if rooms.iter().any(|room_id| self.joined.get(room_id) == Some(&true)) {
            return Ok(true);
        }
        let unknown: Vec<OwnedRoomId> =
            rooms.iter().filter(|room_id| !self.joined.contains_key(*room_id)).cloned().collect();
        self.asked = self.asked.saturating_add(unknown.len());
        let is_joined = IsJoined { user: self.user_id.clone() };
        let met = first_joined(self.cx, &is_joined, unknown.clone()).await?;
        match &met {
            Some(room_id) => drop(self.joined.insert(room_id.clone(), true)),
            None => self.joined.extend(unknown.into_iter().map(|room_id| (room_id, false))),
        }
        Ok(met.is_some())
    }
}

fn forbidden() -> Refusal {
    Refusal::Forbidden("You are not allowed to view this room".to_owned())
}
