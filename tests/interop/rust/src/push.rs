//! How a sleeping client is woken, by what, and by whom it is not.
//!
//! Besides the steps, says «pushes EVENT» for each event of which the gateway must hear, and of no other, and waits for
//! a line that says that it did: what is not pushed yet goes with its pusher.

use std::io::stdin;

use matrix_sdk::{
    RoomState,
    notification_settings::{NotificationSettings, RoomNotificationMode},
    ruma::{
        EventId, OwnedRoomId,
        api::client::{
            push::{
                Pusher, PusherIds, PusherInit, PusherKind, get_notifications::v3::Request as Notifications,
                get_pushers::v3::Request as Pushers,
            },
            receipt::create_receipt::v3::ReceiptType,
        },
        events::{
            Mentions,
            receipt::ReceiptThread,
            room::message::{OriginalSyncRoomMessageEvent, RoomMessageEventContent},
        },
        push::{HttpPusherData, PushFormat},
    },
};
use tokio::task::spawn_blocking;

use crate::people::{Outcome, Person, assert_that, step};

/// What the steps build up: Bob sleeps, the others talk.
struct Sleep {
    alice: Person,
    bob: Person,
    carol: Person,
    settings: NotificationSettings,
    room_id: OwnedRoomId,
}

fn pusher_ids() -> PusherIds {
    PusherIds::new("a-key".to_owned(), "org.example.interop-rust".to_owned())
}

fn pusher_at(gateway: &str) -> Pusher {
    let mut data = HttpPusherData::new(gateway.to_owned());
    data.format = Some(PushFormat::EventIdOnly);
    PusherInit {
        ids: pusher_ids(),
        kind: PusherKind::Http(data),
        app_display_name: "Interop".to_owned(),
        device_display_name: "Phone".to_owned(),
        profile_tag: None,
        lang: "en".to_owned(),
    }
    .into()
}

async fn pushes(event_id: &EventId) -> Outcome {
    println!("pushes {event_id}");
    let heard = spawn_blocking(|| stdin().read_line(&mut String::new())).await??;
    assert_that(heard > 0, "nobody says whether it was pushed")
}

async fn a_client_says_where_it_is_woken(url: &str, gateway: &str) -> Outcome<Sleep> {
    let (alice, bob) = (Person::arrives(url, "alice").await?, Person::arrives(url, "bob").await?);
    let carol = Person::arrives(url, "carol").await?;
    let room_id = alice.gathers(&[&bob, &carol]).await?;
    bob.client.pusher().set(pusher_at(gateway), false).await?;
    let pushers = bob.client.send(Pushers::new()).await?.pushers;
    let [Pusher { ids, kind: PusherKind::Http(data), .. }] = &*pushers else {
        return Err(format!("there are {pushers:?}").into());
    };
    let is = (&*ids.pushkey, &*ids.app_id, &*data.url);
    assert_that(is == ("a-key", "org.example.interop-rust", gateway), &format!("it is {is:?}"))?;
    let settings = bob.client.notification_settings().await;
    Ok(Sleep { alice, bob, carol, settings, room_id })
}

impl Sleep {
    async fn it_is_woken_by_a_message(&self) -> Outcome {
        pushes(&self.alice.says(&self.room_id, "wake up").await?).await
    }

    async fn a_room_that_is_turned_down_wakes_it_by_mentions_only(&self) -> Outcome {
        self.settings.set_room_notification_mode(&self.room_id, RoomNotificationMode::MentionsAndKeywordsOnly).await?;
        self.alice.says(&self.room_id, "not heard").await?;
        self.wakes_by_mention("bob!").await
    }

    async fn wakes_by_mention(&self, body: &str) -> Outcome {
        let mention = Mentions::with_user_ids([self.bob.id()?.to_owned()]);
        let content = RoomMessageEventContent::text_plain(body).add_mentions(mention);
        let room = self.alice.room_in(&self.room_id, RoomState::Joined).await?;
        pushes(&room.send(content).await?.response.event_id).await
    }

    async fn a_keyword_wakes_it_as_long_as_it_is_one(&self) -> Outcome {
        self.settings.add_keyword("tomato".to_owned()).await?;
        pushes(&self.alice.says(&self.room_id, "who has a tomato?").await?).await?;
        self.settings.remove_keyword("tomato").await?;
        self.alice.says(&self.room_id, "one more tomato").await?;
        // A rule holds for what is pushed from then on, whenever it was said: what is quiet now is over before the next
        // rule.
        self.wakes_by_mention("bob, too?").await
    }

    async fn rules_reach_the_other_device(&self, url: &str) -> Outcome {
        let other = Person::signs_in(url, self.bob.id()?).await?;
        let settings = other.client.notification_settings().await;
        for mode in [RoomNotificationMode::Mute, RoomNotificationMode::AllMessages] {
            self.settings.set_room_notification_mode(&self.room_id, mode).await?;
            other
                .until_asked(async || {
                    let known = settings.get_user_defined_room_notification_mode(&self.room_id).await;
                    Ok((known == Some(mode)).then_some(()))
                })
                .await?;
        }
        Ok(other.client.logout().await?)
    }

    async fn what_woke_it_is_listed(&self) -> Outcome {
        let mut request = Notifications::new();
        request.only = Some("highlight".to_owned());
        let notifications = self.bob.client.send(request).await?.notifications;
        let mut bodies = Vec::new();
        for notification in notifications {
            let message: OriginalSyncRoomMessageEvent = notification.event.deserialize_as_unchecked()?;
            bodies.push(message.content.body().to_owned());
        }
        assert_that(bodies == ["bob!"], &format!("{bodies:?} are listed"))
    }

    async fn who_is_ignored_is_not_heard_and_wakes_nobody(&self) -> Outcome {
        let (alice, bob) = (self.alice.id()?, &self.bob);
        bob.client.account().ignore_user(alice).await?;
        bob.until_asked(async || Ok(bob.client.is_user_ignored(alice).await.then_some(()))).await?;
        self.alice.says(&self.room_id, "nobody listens").await?;
        pushes(&self.carol.says(&self.room_id, "carol is heard").await?).await?;
        bob.hears("carol is heard").await?;
        assert_that(!bob.has_heard("nobody listens"), "heard all the same")
    }

    async fn who_is_ignored_no_more_is_heard_again(&self) -> Outcome {
        let (alice, bob) = (self.alice.id()?, &self.bob);
        bob.client.account().unignore_user(alice).await?;
        bob.until_asked(async || Ok((!bob.client.is_user_ignored(alice).await).then_some(()))).await?;
        pushes(&self.alice.says(&self.room_id, "somebody listens").await?).await?;
        bob.hears("somebody listens").await
    }

    async fn a_client_is_left_alone_until_it_asks_again(&self, gateway: &str) -> Outcome {
        self.bob.client.pusher().delete(pusher_ids()).await?;
        let pushers = self.bob.client.send(Pushers::new()).await?.pushers;
        assert_that(pushers.is_empty(), &format!("there are {pushers:?}"))?;
        let event_id = self.alice.says(&self.room_id, "nobody is woken").await?;
        self.bob.hears("nobody is woken").await?;
        // A new pusher is told of what is unread from a moment before it, too.
        let room = self.bob.room_in(&self.room_id, RoomState::Joined).await?;
        room.send_single_receipt(ReceiptType::Read, ReceiptThread::Unthreaded, event_id).await?;
        self.bob.client.pusher().set(pusher_at(gateway), false).await?;
        pushes(&self.alice.says(&self.room_id, "wake up again").await?).await
    }
}

/// Takes the steps one after the other; `None` when one failed.
pub async fn sleep(url: &str, gateway: &str) -> Option<()> {
    let sleep = step("a client says where it is woken", a_client_says_where_it_is_woken(url, gateway)).await?;
    step("it is woken by a message", sleep.it_is_woken_by_a_message()).await?;
    step(
        "a room that is turned down wakes it by mentions only",
        sleep.a_room_that_is_turned_down_wakes_it_by_mentions_only(),
    )
    .await?;
    step("what woke it is listed", sleep.what_woke_it_is_listed()).await?;
    step("a keyword wakes it as long as it is one", sleep.a_keyword_wakes_it_as_long_as_it_is_one()).await?;
    step("rules reach the other device", sleep.rules_reach_the_other_device(url)).await?;
    step("who is ignored is not heard and wakes nobody", sleep.who_is_ignored_is_not_heard_and_wakes_nobody()).await?;
    step("who is ignored no more is heard again", sleep.who_is_ignored_no_more_is_heard_again()).await?;
    step("a client is left alone until it asks again", sleep.a_client_is_left_alone_until_it_asks_again(gateway)).await
}
