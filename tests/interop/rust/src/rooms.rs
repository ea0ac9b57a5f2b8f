//! What people do in rooms besides talking: read, type, tag, mute, redact, publish, upgrade, and look after their
//! account.

use matrix_sdk::{
    Room, RoomState,
    notification_settings::RoomNotificationMode,
    ruma::{
        OwnedEventId, OwnedRoomAliasId, OwnedRoomId, RoomVersionId, UInt,
        api::client::{
            receipt::create_receipt::v3::ReceiptType,
            room::{
                create_room::v3::{Request as CreateRoom, RoomPreset},
                upgrade_room::v3::Request as UpgradeRoom,
            },
            uiaa::{AuthData, MatrixUserIdentifier, Password, UserIdentifier},
        },
        events::{
            receipt::{ReceiptThread, ReceiptType as StoredReceiptType},
            room::message::RoomMessageEventContent,
            tag::{TagInfo, TagName},
        },
    },
};

use crate::people::{Outcome, PASSWORD, Person, assert_that, step};

/// What the steps build up.
struct Life {
    alice: Person,
    bob: Person,
    room_id: OwnedRoomId,
}

async fn two_meet_in_a_room(url: &str) -> Outcome<Life> {
    let (alice, bob) = (Person::arrives(url, "alice").await?, Person::arrives(url, "bob").await?);
    let mut request = CreateRoom::new();
    request.name = Some("Rooms".to_owned());
    request.preset = Some(RoomPreset::PrivateChat);
    request.invite = vec![bob.id()?.to_owned()];
    let room_id = alice.client.create_room(request).await?.room_id().to_owned();
    bob.room_in(&room_id, RoomState::Invited).await?.join().await?;
    bob.room_in(&room_id, RoomState::Joined).await?;
    Ok(Life { alice, bob, room_id })
}

impl Life {
    async fn room_of(&self, person: &Person) -> Outcome<Room> {
        person.room_in(&self.room_id, RoomState::Joined).await
    }

    /// Alice says something, Bob hears it.
    async fn says(&self, body: &str) -> Outcome<OwnedEventId> {
        let sent = self.room_of(&self.alice).await?.send(RoomMessageEventContent::text_plain(body)).await?;
        self.bob.hears(body).await?;
        Ok(sent.response.event_id)
    }

    async fn messages_count_until_they_are_read(&self) -> Outcome {
        self.says("one").await?;
        let event_id = self.says("two").await?;
        let (hers, his) = (self.room_of(&self.alice).await?, self.room_of(&self.bob).await?);
        self.bob.until(|_| (his.unread_notification_counts().notification_count == 2).then_some(())).await?;
        his.send_single_receipt(ReceiptType::Read, ReceiptThread::Unthreaded, event_id.clone()).await?;
        self.bob.until(|_| (his.unread_notification_counts().notification_count == 0).then_some(())).await?;
        // The store answers asynchronously: ask it after each sync.
        let bob = self.bob.id()?;
        let mut synced = self.alice.syncs();
        loop {
            synced.mark_unchanged();
            let receipt = hers.load_user_receipt(StoredReceiptType::Read, ReceiptThread::Unthreaded, bob).await?;
            if receipt.is_some_and(|(read, _)| read == event_id) {
                return Ok(());
            }
            synced.changed().await?;
        }
    }

    async fn a_tag_arrives(&self) -> Outcome {
        let his = self.room_of(&self.bob).await?;
        his.set_tag(TagName::Favorite, TagInfo::new()).await?;
        self.bob.until(|_| his.is_favourite().then_some(())).await?;
        his.remove_tag(TagName::Favorite).await?;
        self.bob.until(|_| (!his.is_favourite()).then_some(())).await
    }

    async fn a_muted_room_does_not_count(&self) -> Outcome {
        let settings = self.bob.client.notification_settings().await;
        settings.set_room_notification_mode(&self.room_id, RoomNotificationMode::Mute).await?;
        self.says("not heard").await?;
        let his = self.room_of(&self.bob).await?;
        let counts = his.unread_notification_counts();
        assert_that(counts.notification_count == 0, &format!("{} unread", counts.notification_count))
    }

    async fn what_is_redacted_is_gone(&self) -> Outcome {
        let event_id = self.says("regretted").await?;
        self.room_of(&self.alice).await?.redact(&event_id, Some("spoke too soon"), None).await?;
        let his = self.room_of(&self.bob).await?;
        let event = his.event(&event_id, None).await?;
        let raw = event.raw().json().get().to_owned();
        assert_that(!raw.contains("regretted") && raw.contains("redacted_because"), &raw)
    }

    async fn an_event_has_its_context(&self) -> Outcome {
        let event_id = self.says("in the middle").await?;
        self.says("afterwards").await?;
        let his = self.room_of(&self.bob).await?;
        let context = his.event_with_context(&event_id, true, UInt::from(4_u32), None).await?;
        let middle = context.event.and_then(|event| event.event_id());
        assert_that(middle == Some(event_id), &format!("{middle:?}"))?;
        assert_that(!context.events_before.is_empty() && context.events_after.len() == 1, "no context")
    }

    async fn an_alias_leads_to_the_room(&self) -> Outcome {
        let server = self.alice.id()?.server_name().to_owned();
        let local = self.room_id.as_str().trim_start_matches('!').split(':').next().unwrap_or_default().to_lowercase();
        let alias = OwnedRoomAliasId::try_from(format!("#{local}:{server}"))?;
        self.alice.client.create_room_alias(&alias, &self.room_id).await?;
        let resolved = self.bob.client.resolve_room_alias(&alias).await?;
        assert_that(resolved.room_id == self.room_id, "another room")?;
        self.alice.client.remove_room_alias(&alias).await?;
        assert_that(self.bob.client.resolve_room_alias(&alias).await.is_err(), "still there")
    }

    async fn an_upgraded_room_leads_to_its_successor(&self) -> Outcome {
        let request = UpgradeRoom::new(self.room_id.clone(), RoomVersionId::V11);
        let successor = self.alice.client.send(request).await?.replacement_room;
        let his = self.room_of(&self.bob).await?;
        self.bob
            .until(|_| {
                his.tombstone_content().filter(|tombstone| tombstone.replacement_room.as_ref() == Some(&successor))
            })
            .await?;
        self.alice.room_in(&successor, RoomState::Joined).await?.invite_user_by_id(self.bob.id()?).await?;
        self.bob.room_in(&successor, RoomState::Invited).await?.join().await?;
        let room = self.bob.room_in(&successor, RoomState::Joined).await?;
        self.bob.until(|_| room.name().filter(|name| name == "Rooms")).await.map(drop)
    }

    async fn a_room_left_is_forgotten(&self) -> Outcome {
        let his = self.room_of(&self.bob).await?;
        his.leave().await?;
        self.bob.room_in(&self.room_id, RoomState::Left).await?.forget().await?;
        assert_that(self.bob.client.get_room(&self.room_id).is_none(), "still known")
    }

    async fn devices_are_removed_with_the_password(&self, url: &str) -> Outcome {
        let id = self.bob.id()?;
        let other = matrix_sdk::Client::builder().homeserver_url(url).build().await?;
        other.matrix_auth().login_username(id, PASSWORD).await?;
        let device = other.device_id().ok_or("no device")?.to_owned();
        let challenge = self.bob.client.delete_devices(&[device.clone()], None).await;
        let session =
            challenge.err().and_then(|error| error.as_uiaa_response()?.session.clone()).ok_or("no challenge")?;
        let user = UserIdentifier::Matrix(MatrixUserIdentifier::new(id.to_string()));
        let mut password = Password::new(user, PASSWORD.to_owned());
        password.session = Some(session);
        self.bob.client.delete_devices(&[device], Some(AuthData::Password(password))).await?;
        assert_that(other.whoami().await.is_err(), "still in")?;
        assert_that(self.bob.client.devices().await?.devices.len() == 1, "still listed")
    }
}

/// Takes the steps one after the other; `None` when one failed.
pub async fn live(url: &str) -> Option<()> {
    let life = step("two meet in a room", two_meet_in_a_room(url)).await?;
    step("messages count until they are read", life.messages_count_until_they_are_read()).await?;
    step("a tag arrives", life.a_tag_arrives()).await?;
    step("a muted room does not count", life.a_muted_room_does_not_count()).await?;
    step("what is redacted is gone", life.what_is_redacted_is_gone()).await?;
    step("an event has its context", life.an_event_has_its_context()).await?;
    step("an alias leads to the room", life.an_alias_leads_to_the_room()).await?;
    step("an upgraded room leads to its successor", life.an_upgraded_room_leads_to_its_successor()).await?;
    step("a room left is forgotten", life.a_room_left_is_forgotten()).await?;
    step("devices are removed with the password", life.devices_are_removed_with_the_password(url)).await
}
