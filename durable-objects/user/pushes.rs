//! What the user's pushers are to be told, and how that leaves.
//!
//! Nothing waits for a gateway inside an actor, and nothing of what is to be pushed is stored: of each room a pusher
//! has a cursor into its log, and how far it is owed to be told. A *carrier* of the request tier asks what there is,
//! reads it from the rooms, sends it to the gateway, and says how far that went. Only then does the cursor move:
//! whatever crashes, an event is pushed at least once, while it is unread, and not older than a day (see
//! [`crate::room::ReadNotifications`]). Without pushers none of this costs a row.
//!
//! One carrier at a time holds a lease, in memory alone: after a crash another one comes at once, and may push again
//! what the first had pushed, which gateways recognise by the event's id. A gateway that does not answer is left alone
//! for longer and longer.
//!
//! Mail waits: what is owed is sent after a while, together, if it is unread still, and then nothing for a longer
//! while. Nothing tells a message that comes twice: a carrier that dies over one is followed by another after a while
//! only.

use domain::{
    backoff,
    push::{self, Pusher, Recipient, Verdict},
};
use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::{OwnedRoomId, OwnedUserId, push::Ruleset};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{
    MembershipChanged, User,
    ask_invite::blocks_invites,
    ignored::ignored_users,
    own_id, push_rules,
    store::{
        self,
        pushers::{Badge, Owed, Stored},
    },
};
use crate::{
    Call, Cx, Error,
    room::{MemberProfile, Notification, Notifications},
};

/// How long a carrier may take between two calls, in milliseconds.
const LEASE_MS: u64 = 30_000;
/// What the user's patterns may cost for one invitation, in characters that are compared.
const EFFORT_MAX: u64 = 1_000_000;
/// When the alarm looks whether the carrier that was asked to come did, in milliseconds.
const COMES_WITHIN_MS: u64 = 10_000;
/// How long a gateway that failed is left alone at first, in milliseconds.
const PAUSE_MS_MIN: u64 = 2_000;
/// How long it is left alone at most, in milliseconds: one hour.
const PAUSE_MS_MAX: u64 = 3_600_000;
/// How long a pusher rests at least when a carrier began to send mail and does not say what came of it, in
/// milliseconds.
const MAIL_LOST_MS: u64 = 600_000;
/// Rooms that a carrier gets at once for each pusher.
const ROOMS_MAX: u64 = 50;

/// A carrier asks what to push. It has everything for itself until it asks in vain, or says nothing for a while.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TakePushes {
    /// Names the carrier.
    pub carrier: String,
}

/// What there is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Pushes {
    /// What the user has changed of the push rules that everyone starts with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_rules: Option<Ruleset>,
    /// Whose messages notify the user of nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    /// Those that are owed anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pushers: Vec<OwedPusher>,
}

/// A pusher, and of which rooms it is to be told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwedPusher {
    pub id: u64,
    pub pusher: Pusher,
    /// When its key was set last, in milliseconds since the Unix epoch.
    pub changed_ms: u64,
    /// What it was told is unread in all rooms.
    pub badge: Unread,
    pub rooms: Vec<OwedRoom>,
    /// Once these rooms were told, every room up to this number was asked what is unread there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks_to: Option<u64>,
    /// And there are no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks_all: bool,
}

/// Counts of what is unread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    pub unread: u64,
    pub missed_calls: u64,
}

/// A room, as far as a pusher was told of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwedRoom {
    /// The user's number for it.
    pub number: u64,
    pub room_id: OwnedRoomId,
    pub after: u64,
    /// What it was told is unread there.
    pub badge: Unread,
    /// Whether it was not told of the room before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_first: bool,
    /// For a room that the user is invited to, which need not be here: all that there is to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<Notifications>,
}

/// A carrier is about to send mail.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartMail {
    pub carrier: String,
    pub pusher: u64,
}

/// What a pusher was told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AcknowledgePushes {
    pub carrier: String,
    pub pusher: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<ToldRoom>,
    /// As in [`OwedPusher`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_to: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked_all: bool,
    /// Whether that was mail, of which there is no more for a while.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mailed: bool,
}

/// A room that a pusher was told of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToldRoom {
    pub number: u64,
    pub to: u64,
    pub badge: Unread,
}

/// A pusher could not be told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReportPushFailure {
    pub carrier: String,
    pub pusher: u64,
}

/// A carrier stops although there may be more: the next one need not wait for the end of its lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StopPushing {
    pub carrier: String,
}

impl Call for StopPushing {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "stop_pushing";
    type Reply = ();
}

impl Call for TakePushes {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "take_pushes";
    type Reply = Pushes;
}

impl Call for StartMail {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "start_mail";
    /// Whether it may: otherwise somebody else carries by now.
    type Reply = bool;
}

impl Call for AcknowledgePushes {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "acknowledge_pushes";
    type Reply = ();
}

impl Call for ReportPushFailure {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "report_push_failure";
    type Reply = ();
}

/// What is remembered of it.
#[derive(Debug, Default)]
pub(super) struct Pushing {
    /// Whether there are pushers at all, and any that send mail, once it is known.
    any: Option<(bool, bool)>,
    /// Who carries, and until when, in milliseconds since the Unix epoch.
    carrier: Option<(String, u64)>,
}

impl Pushing {
    fn is_carried(&self, now_ms: u64) -> bool {
        self.carrier.as_ref().is_some_and(|(_, until_ms)| now_ms < *until_ms)
    }

    /// The carrier goes on, unless another one does by now.
    fn lease(&mut self, carrier: &str, now_ms: u64) -> bool {
        let is_others = self.is_carried(now_ms) && self.carrier.as_ref().is_some_and(|(name, _)| name != carrier);
        if !is_others {
            self.carrier = Some((carrier.to_owned(), now_ms.saturating_add(LEASE_MS)));
        }
        !is_others
    }
}

impl From<Badge> for Unread {
    fn from(badge: Badge) -> Self {
        Self { unread: badge.unread, missed_calls: badge.missed_calls }
    }
}

impl From<Unread> for Badge {
    fn from(unread: Unread) -> Self {
        Self { unread: unread.unread, missed_calls: unread.missed_calls }
    }
}

impl User {
    /// Whether there are pushers may be another matter now.
    pub(super) fn pushers_changed(&self) {
        self.pushing.borrow_mut().any = None;
    }

    fn has_pushers(&self, sql: &dyn Sql) -> Result<bool, Fault> {
        Ok(self.kinds(sql)?.0)
    }

    /// Whether there are pushers, and any that send mail.
    fn kinds(&self, sql: &dyn Sql) -> Result<(bool, bool), Fault> {
        let mut pushing = self.pushing.borrow_mut();
        match pushing.any {
            Some(any) => Ok(any),
            None => {
                let any = store::pushers::is_any(sql)?;
                Ok(*pushing.any.insert((any, any && store::pushers::is_any_email(sql)?)))
            }
        }
    }

    /// Mail that is owed from now on waits for a while: what is read meanwhile is not told, and the rest together.
    fn delay_emails(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Fault> {
        match &cx.settings.config.mail {
            Some(mail) if self.kinds(&**tx)?.1 => {
                store::pushers::delay_emails(tx, cx.now_ms.saturating_add(mail.notification_delay_ms))
            }
            _ => Ok(()),
        }
    }

    /// A room reaches up to a position now. Answers whether there are pushers, who want to be told of the next one,
    /// too.
    pub(super) fn owe_pushes(&self, tx: &Tx<'_>, cx: &Cx<'_>, room: u64, position: u64) -> Result<bool, Error> {
        if !self.has_pushers(&**tx)? {
            return Ok(false);
        }
        self.delay_emails(tx, cx)?;
        if store::pushers::owe(tx, room, position, None)? {
            self.look_for_a_carrier(&**tx, cx)?;
        }
        Ok(true)
    }

    /// The user was invited to a room, joined or left it.
    pub(super) fn owe_pushes_of_membership(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        room: u64,
        changed: &MembershipChanged,
    ) -> Result<(), Error> {
        if !self.has_pushers(&**tx)? {
            return Ok(());
        }
        self.delay_emails(tx, cx)?;
        let owed = match changed.membership {
            MembershipState::Invite => store::pushers::owe(tx, room, changed.position, changed.event_id.as_deref())?,
            // The room may have been told that the user is silent, when they were there before.
            MembershipState::Join => store::pushers::owe(tx, room, changed.position, None)?,
            _ => store::pushers::owe_end(tx, room, changed.position)?,
        };
        if owed {
            self.look_for_a_carrier(&**tx, cx)?;
        }
        Ok(())
    }

    /// Has a carrier come if there is something to push and nobody does; else looks again when that may change.
    pub(super) fn look_for_a_carrier(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<(), Error> {
        if !self.has_pushers(sql)? {
            return Ok(());
        }
        let Some(next_ms) = store::pushers::next_ms(sql)? else { return Ok(()) };
        let pushing = self.pushing.borrow();
        if let Some((_, until_ms)) = pushing.carrier.as_ref().filter(|_| pushing.is_carried(cx.now_ms)) {
            return Ok(cx.set_alarm(*until_ms)?);
        }
        if next_ms > cx.now_ms {
            return Ok(cx.set_alarm(next_ms)?);
        }
        cx.carry();
        Ok(cx.set_alarm(cx.now_ms.saturating_add(COMES_WITHIN_MS))?)
    }

    pub(super) fn take_pushes(&self, sql: &dyn Sql, cx: &Cx<'_>, call: TakePushes) -> Result<Pushes, Error> {
        if !self.pushing.borrow_mut().lease(&call.carrier, cx.now_ms) {
            return Ok(Pushes::default());
        }
        let changes = push_rules::changes(sql)?;
        let mut pushers = Vec::new();
        for stored in store::pushers::all(sql)? {
            if stored.pusher.enabled && stored.not_before_ms <= cx.now_ms {
                pushers.extend(owed_pusher(sql, cx, stored, changes.as_ref())?);
            }
        }
        if pushers.is_empty() {
            self.pushing.borrow_mut().carrier = None;
            return Ok(Pushes::default());
        }
        Ok(Pushes { push_rules: changes, ignored: ignored_users(sql, cx)?, pushers })
    }

    pub(super) fn stop_pushing(&self, _sql: &dyn Sql, cx: &Cx<'_>, call: StopPushing) -> Result<(), Error> {
        let stopped = self.pushing.borrow_mut().carrier.take_if(|(name, _)| *name == call.carrier);
        // By the alarm: carriers that call actors that call carriers would soon be deeper than the platform lets them.
        if stopped.is_some() { Ok(cx.set_alarm(cx.now_ms)?) } else { Ok(()) }
    }

    pub(super) fn start_mail(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: StartMail) -> Result<bool, Error> {
        let Some(mail) = &cx.settings.config.mail else { return Ok(false) };
        if !self.pushing.borrow_mut().lease(&call.carrier, cx.now_ms) {
            return Ok(false);
        }
        let pause_ms = mail.notification_pause_ms.max(MAIL_LOST_MS);
        store::pushers::rests(tx, call.pusher, cx.now_ms.saturating_add(pause_ms))?;
        Ok(true)
    }

    pub(super) fn acknowledge_pushes(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: AcknowledgePushes) -> Result<(), Error> {
        self.pushing.borrow_mut().lease(&call.carrier, cx.now_ms);
        for room in &call.rooms {
            store::pushers::tell(tx, call.pusher, room.number, room.to, room.badge.into())?;
        }
        if call.asked_all || call.asked_to.is_some() {
            store::pushers::asked(tx, call.pusher, call.asked_to.filter(|_| !call.asked_all))?;
        }
        store::pushers::clear_failures(tx, call.pusher)?;
        if let (true, Some(mail)) = (call.mailed, &cx.settings.config.mail) {
            let until_ms = cx.now_ms.saturating_add(mail.notification_pause_ms);
            store::pushers::rests(tx, call.pusher, until_ms)?;
        }
        Ok(())
    }

    pub(super) fn report_push_failure(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: ReportPushFailure) -> Result<(), Error> {
        self.pushing.borrow_mut().lease(&call.carrier, cx.now_ms);
        let known = store::pushers::all(&**tx)?.into_iter().find(|known| known.id == call.pusher);
        let Some(known) = known else { return Ok(()) };
        let pause_ms = backoff::pause_ms(PAUSE_MS_MIN, known.failures, PAUSE_MS_MAX);
        // Gateways that fell silent for many users are not asked by all of them at once.
        let [chance] = cx.random()?;
        let pause_ms = pause_ms.saturating_add(pause_ms.saturating_mul(u64::from(chance)) / 1_024);
        let not_before_ms = cx.now_ms.saturating_add(pause_ms);
        store::pushers::set_failures(tx, known.id, known.failures.saturating_add(1), not_before_ms)?;
        Ok(cx.set_alarm(not_before_ms)?)
    }
}

/// What a pusher is owed; `None`: nothing.
fn owed_pusher(
    sql: &dyn Sql,
    cx: &Cx<'_>,
    stored: Stored,
    changes: Option<&Ruleset>,
) -> Result<Option<OwedPusher>, Error> {
    let mut rooms = Vec::new();
    for owed in store::pushers::owed(sql, stored.id, ROOMS_MAX)? {
        rooms.extend(owed_room(sql, cx, owed, changes, false)?);
    }
    let (mut asks_to, mut asks_all) = (None, false);
    if let Some(asked_to) = stored.asked_to {
        let unasked = store::pushers::unasked(sql, stored.id, asked_to, ROOMS_MAX)?;
        asks_to = unasked.last().map(|room| room.number);
        asks_all = unasked.len() as u64 != ROOMS_MAX;
        for room in unasked {
            if !rooms.iter().any(|known| known.number == room.number) {
                rooms.extend(owed_room(sql, cx, room, changes, true)?);
            }
        }
    }
    if rooms.is_empty() && !asks_all {
        return Ok(None);
    }
    let badge = store::pushers::badge(sql, stored.id)?.into();
    let Stored { id, changed_ms, pusher, .. } = stored;
    Ok(Some(OwedPusher { id, pusher, changed_ms, badge, rooms, asks_to, asks_all }))
}

fn owed_room(
    sql: &dyn Sql,
    cx: &Cx<'_>,
    owed: Owed,
    changes: Option<&Ruleset>,
    is_first: bool,
) -> Result<Option<OwedRoom>, Error> {
    let Ok(room_id) = OwnedRoomId::try_from(owed.room_id.as_str()) else { return Ok(None) };
    let invitation = match owed.membership.as_str() {
        "invite" => Some(invitation(sql, cx, &room_id, (owed.owed, owed.invitation.as_deref()), changes)?),
        // There is nothing to be read where the user is not, and may never have been.
        "leave" | "ban" | "knock" | store::rooms::FORGOTTEN => {
            Some(Notifications { to: owed.owed, ..Notifications::default() })
        }
        // The room knows whether they are in it, also while the news of that is on its way.
        _ => None,
    };
    let Owed { number, told, badge, .. } = owed;
    Ok(Some(OwedRoom { number, room_id, after: told, badge: badge.into(), is_first, invitation }))
}

/// What an invitation tells, by what the user was shown of the room: it need not be here. It has its position and, if
/// that is known, its event's id, without which it tells nothing.
pub(super) fn invitation(
    sql: &dyn Sql,
    cx: &Cx<'_>,
    room_id: &OwnedRoomId,
    (position, event_id): (u64, Option<&str>),
    changes: Option<&Ruleset>,
) -> Result<Notifications, Error> {
    #[derive(Deserialize)]
    struct Shown {
        #[serde(rename = "type")]
        event_type: String,
        state_key: String,
        sender: ruma_common::OwnedUserId,
        content: Box<RawValue>,
    }
    #[derive(Deserialize)]
    struct Named {
        name: Option<String>,
        alias: Option<String>,
    }
    let mut told = Notifications { to: position, ..Notifications::default() };
    let user_id = own_id(cx)?;
    let state = store::rooms::stripped_state(sql, room_id.as_str(), "invite")?;
    let shown: Vec<Shown> = state.and_then(|state| serde_json::from_str(&state).ok()).unwrap_or_default();
    // The invitation itself comes last: what is before it is only what the inviting server says.
    let find = |event_type: &str, state_key: &str| {
        shown.iter().rfind(|event| event.event_type == event_type && event.state_key == state_key)
    };
    let (Some(invite), Some(event_id)) = (find("m.room.member", user_id.as_str()), event_id) else {
        return Ok(told);
    };
    if ignored_users(sql, cx)?.contains(&invite.sender) || blocks_invites(sql)? {
        return Ok(told);
    }
    let content: Value = serde_json::from_str(invite.content.get())?;
    let event = json!({ "type": "m.room.member", "state_key": user_id, "sender": invite.sender, "content": content });
    let recipient = Recipient {
        user_id: &user_id,
        room_id,
        display_name: None,
        member_count: 0,
        sender_level: 0,
        notification_levels: &push::NotificationLevels::new(),
        effort: &push::Effort::new(EFFORT_MAX),
    };
    let rules = push::effective(&user_id, changes.cloned());
    let actions = push::actions(&rules, &event, &recipient);
    if !Verdict::of(actions).notify {
        return Ok(told);
    }
    let named =
        |event_type: &str| find(event_type, "").and_then(|event| serde_json::from_str(event.content.get()).ok());
    told.room_name = named("m.room.name").and_then(|content: Named| content.name);
    told.room_alias = named("m.room.canonical_alias").and_then(|content: Named| content.alias);
    let inviter = find("m.room.member", invite.sender.as_str());
    let profile = inviter.and_then(|event| serde_json::from_str::<MemberProfile>(event.content.get()).ok());
    told.notifications.push(Notification {
        position,
        event_id: event_id.try_into().ok(),
        event_type: invite.event_type.clone(),
        sender: invite.sender.clone(),
        sender_display_name: profile.and_then(|profile| profile.displayname),
        user_is_target: true,
        content: invite.content.clone(),
        actions: actions.to_vec(),
    });
    Ok(told)
}

#[cfg(test)]
mod tests;
