//! Carrying a user's notifications to their push gateways, or to them as mail.
//!
//! In scope: reading from the rooms what a user's pushers are owed, sending it, and saying what was sent. Out of scope:
//! which events notify (rooms judge them by the user's rules), what is owed and when to try again (the User's).
//! Spec: Push Gateway API.

mod gateway;
mod mail;

use actors::{
    room::{Notifications, ReadNotifications},
    user::{
        AcknowledgePushes, DropPusher, OwedPusher, OwedRoom, Pushes, ReportPushFailure, StartMail, StopPushing,
        TakePushes, ToldRoom, Unread,
    },
};
use domain::push::{PusherKind, for_room};
use futures_util::future::join_all;
use ruma_common::{OwnedUserId, UserId};

use crate::{Context, Failure, metadata, shift::Shift};
use gateway::Answer;
pub(crate) use mail::routes;

/// Carries what there is to be pushed. What goes wrong is logged, and tried again later by whoever comes next.
pub(crate) async fn carry(cx: &Context, user_id: &str) {
    let Ok(user_id) = OwnedUserId::try_from(user_id) else { return };
    let shift = Shift::begins(cx);
    let once = async || carry_once(cx, &user_id, &shift).await;
    let stop = StopPushing { carrier: shift.carrier.to_owned() };
    shift.works(once, async || cx.user(&user_id).call(&stop).await).await;
}

/// Answers whether there may be more.
async fn carry_once(cx: &Context, user_id: &UserId, shift: &Shift<'_>) -> Result<bool, Failure> {
    let take = TakePushes { carrier: shift.carrier.to_owned() };
    let pushes = match cx.user(user_id).call(&take).await {
        Err(Failure::Absent) => return Ok(false),
        pushes => pushes?,
    };
    let pushes = &pushes;
    let told = pushes.pushers.iter().map(|owed| async move {
        let telling = Telling { cx, user_id, pushes, owed, shift };
        telling.tell().await
    });
    let told = join_all(told).await.into_iter().collect::<Result<Vec<()>, Failure>>()?;
    Ok(!told.is_empty())
}

/// One pusher is told what it is owed.
struct Telling<'a> {
    cx: &'a Context,
    user_id: &'a UserId,
    pushes: &'a Pushes,
    owed: &'a OwedPusher,
    shift: &'a Shift<'a>,
}

impl Telling<'_> {
    async fn tell(&self) -> Result<(), Failure> {
        if self.owed.pusher.kind == PusherKind::Email {
            return self.mail().await;
        }
        let (mut badge, mut is_whole) = (self.owed.badge, true);
        for room in &self.owed.rooms {
            if self.shift.is_over() {
                return Ok(());
            }
            let found = match self.read(room).await {
                Ok(found) => found,
                Err(failure) => {
                    tracing::error!(user_id = %self.user_id, failure = %failure.into_fault(), "a room was not read");
                    is_whole = false;
                    continue;
                }
            };
            let now = Unread { unread: found.unread, missed_calls: found.missed_calls };
            badge = with(badge, room.badge, now);
            match self.tell_of(room, &found, now, badge).await? {
                Answer::Taken => {}
                Answer::Failed => return self.failed().await,
                Answer::Rejected => return self.is_gone().await,
            }
        }
        if self.shift.is_over() {
            return Ok(());
        }
        if !is_whole {
            // The other rooms do not wait for it.
            return self.failed().await;
        }
        if self.owed.asks_all || self.owed.asks_to.is_some() {
            let (asked_to, asked_all) = (self.owed.asks_to, self.owed.asks_all);
            self.acknowledge(Vec::new(), asked_to, asked_all).await?;
        }
        Ok(())
    }

    /// One message tells of all rooms in which something is unread still, if there are any.
    async fn mail(&self) -> Result<(), Failure> {
        let (Some(mail), Ok(email)) = (&self.cx.config().mail, self.owed.pusher.email()) else {
            return self.failed().await;
        };
        if metadata::contact::owner(self.cx.metadata(), &email).await?.is_none_or(|owner| owner != self.user_id) {
            return self.is_gone().await;
        }
        let (mut unread, mut told) = (Vec::new(), Vec::new());
        for room in &self.owed.rooms {
            let found = match self.read(room).await {
                Ok(found) => found,
                Err(failure) => {
                    tracing::error!(user_id = %self.user_id, failure = %failure.into_fault(), "a room was not read");
                    return self.failed().await;
                }
            };
            let badge = Unread { unread: found.unread, missed_calls: found.missed_calls };
            let has_news = !found.notifications.is_empty();
            if has_news || !room.is_first {
                told.push(ToldRoom { number: room.number, to: found.to, badge });
            }
            if has_news {
                unread.push((room, found));
            }
        }
        let mailed = !unread.is_empty();
        if mailed {
            let start = StartMail { carrier: self.cx.request_id().to_owned(), pusher: self.owed.id };
            if !self.cx.user(self.user_id).call(&start).await? {
                return Ok(());
            }
            let to = (&self.owed.pusher, &email);
            match mail::send(self.cx, mail, self.user_id, to, &unread).await {
                Ok(()) => {}
                // It is logged.
                Err(Failure::Refused(_)) => return self.failed().await,
                Err(failure) => return Err(failure),
            }
        }
        let (carrier, pusher) = (self.cx.request_id().to_owned(), self.owed.id);
        let (asked_to, asked_all) = (self.owed.asks_to, self.owed.asks_all);
        let call = AcknowledgePushes { carrier, pusher, rooms: told, asked_to, asked_all, mailed };
        self.cx.user(self.user_id).call(&call).await
    }

    async fn read(&self, room: &OwedRoom) -> Result<Notifications, Failure> {
        if let Some(invitation) = &room.invitation {
            return Ok(invitation.clone());
        }
        let Pushes { push_rules, ignored, .. } = self.pushes;
        let push_rules = push_rules.as_ref().and_then(|rules| for_room(rules.clone(), &room.room_id));
        let (user, ignored) = (self.user_id.to_owned(), ignored.clone());
        let call = ReadNotifications { user, ignored, after: room.after, push_rules };
        match self.cx.room(&room.room_id).call(&call).await {
            Err(Failure::Absent) => Ok(Notifications { to: self.cx.now_ms(), ..Notifications::default() }),
            found => found,
        }
    }

    /// Tells of one room: its notifications one by one, or how much is unread by now.
    async fn tell_of(
        &self,
        room: &OwedRoom,
        found: &Notifications,
        now: Unread,
        badge: Unread,
    ) -> Result<Answer, Failure> {
        let told = |to| vec![ToldRoom { number: room.number, to, badge: now }];
        let Some((last, before)) = found.notifications.split_last() else {
            if room.is_first && now == Unread::default() {
                return Ok(Answer::Taken);
            }
            if now != room.badge && !room.is_first {
                let answer = gateway::tell_counts(self.cx, self.owed, badge).await;
                if answer != Answer::Taken {
                    return Ok(answer);
                }
            }
            self.acknowledge(told(found.to), None, false).await?;
            return Ok(Answer::Taken);
        };
        let each = before.iter().map(|notification| (notification, notification.position));
        for (notification, to) in each.chain([(last, found.to)]) {
            if self.shift.is_over() {
                break;
            }
            let answer = gateway::tell_event(self.cx, self.owed, room, found, notification, badge).await;
            if answer != Answer::Taken {
                return Ok(answer);
            }
            self.acknowledge(told(to), None, false).await?;
        }
        Ok(Answer::Taken)
    }

    async fn acknowledge(&self, rooms: Vec<ToldRoom>, asked_to: Option<u64>, asked_all: bool) -> Result<(), Failure> {
        let (carrier, pusher) = (self.cx.request_id().to_owned(), self.owed.id);
        self.cx
            .user(self.user_id)
            .call(&AcknowledgePushes { carrier, pusher, rooms, asked_to, asked_all, mailed: false })
            .await
    }

    async fn failed(&self) -> Result<(), Failure> {
        let (carrier, pusher) = (self.cx.request_id().to_owned(), self.owed.id);
        self.cx.user(self.user_id).call(&ReportPushFailure { carrier, pusher }).await
    }

    /// «Homeservers must cease sending notification requests for these pushkeys and remove the associated pushers.»
    async fn is_gone(&self) -> Result<(), Failure> {
        let (app_id, pushkey) = (self.owed.pusher.app_id.clone(), self.owed.pusher.pushkey.clone());
        metadata::pusher::forget(self.cx.metadata(), &app_id, &pushkey, self.user_id).await?;
        self.cx.user(self.user_id).call(&DropPusher { app_id, pushkey }).await
    }
}

/// A badge in which one room's part is another one now.
fn with(badge: Unread, before: Unread, now: Unread) -> Unread {
    let changed = |all: u64, before: u64, now: u64| all.saturating_sub(before).saturating_add(now);
    Unread {
        unread: changed(badge.unread, before.unread, now.unread),
        missed_calls: changed(badge.missed_calls, before.missed_calls, now.missed_calls),
    }
}
