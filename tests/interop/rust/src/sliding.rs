//! People who see their rooms through a window that slides, as those with Element X do: matrix-sdk-ui's services keep
//! one connection for the room list and one for encryption.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use matrix_sdk::{
    Client, Room, RoomState,
    room::Receipts,
    ruma::{
        OwnedRoomId,
        api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset},
        events::{
            receipt::{ReceiptThread, ReceiptType},
            room::message::RoomMessageEventContent,
        },
    },
    sliding_sync::VersionBuilder,
};
use matrix_sdk_ui::{room_list_service::RoomListLoadingState, sync_service::SyncService};
use tokio::time::sleep;

use crate::people::{Outcome, PASSWORD, assert_that, ears, registers, step};

const LOOKS_EVERY: Duration = Duration::from_millis(50);

/// Somebody whose client looks through a window.
struct Onlooker {
    client: Client,
    service: SyncService,
    heard: Arc<Mutex<Vec<String>>>,
}

/// What the steps build up.
struct View {
    alice: Onlooker,
    bob: Onlooker,
    room_id: OwnedRoomId,
}

impl Onlooker {
    async fn arrives(url: &str, name: &str) -> Outcome<Self> {
        let user_id = registers(url, name).await?;
        // It asks the server whether it has sliding sync, and does not go on without.
        let builder = Client::builder().homeserver_url(url);
        let client = builder.sliding_sync_version_builder(VersionBuilder::DiscoverNative).build().await?;
        client.matrix_auth().login_username(&user_id, PASSWORD).initial_device_display_name("window").await?;
        let heard = ears(&client);
        let service = SyncService::builder(client.clone()).build().await?;
        service.start().await;
        Ok(Self { client, service, heard })
    }

    async fn until<T>(&self, found: impl Fn(&Self) -> Option<T>) -> T {
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            sleep(LOOKS_EVERY).await;
        }
    }

    async fn room_in(&self, room_id: &OwnedRoomId, state: RoomState) -> Room {
        self.until(|me| me.client.get_room(room_id).filter(|room| room.state() == state)).await
    }

    fn has_heard(&self, body: &str) -> bool {
        self.heard.lock().is_ok_and(|heard| heard.iter().any(|heard| heard == body))
    }

    async fn hears(&self, body: &str) {
        self.until(|me| me.has_heard(body).then_some(())).await;
    }

    async fn says(&self, room_id: &OwnedRoomId, body: &str) -> Outcome {
        let room = self.room_in(room_id, RoomState::Joined).await;
        room.send(RoomMessageEventContent::text_plain(body)).await?;
        Ok(())
    }
}

async fn two_meet(url: &str) -> Outcome<View> {
    let (alice, bob) = (Onlooker::arrives(url, "alice").await?, Onlooker::arrives(url, "bob").await?);
    let mut request = CreateRoom::new();
    request.preset = Some(RoomPreset::PrivateChat);
    request.name = Some("Den".to_owned());
    request.invite = vec![bob.client.user_id().ok_or("nobody")?.to_owned()];
    let room_id = alice.client.create_room(request).await?.room_id().to_owned();
    let invitation = bob.room_in(&room_id, RoomState::Invited).await;
    assert_that(invitation.display_name().await?.to_string() == "Den", "the invitation says no name")?;
    invitation.join().await?;
    bob.room_in(&room_id, RoomState::Joined).await;
    Ok(View { alice, bob, room_id })
}

impl View {
    async fn talk(&self) -> Outcome {
        self.alice.says(&self.room_id, "hello").await?;
        self.bob.hears("hello").await;
        self.bob.says(&self.room_id, "hello yourself").await?;
        self.alice.hears("hello yourself").await;
        let room = self.bob.room_in(&self.room_id, RoomState::Joined).await;
        assert_that(room.name().as_deref() == Some("Den"), "the room has no name")?;
        assert_that(room.active_members_count() == 2, "there are two")
    }

    async fn lists(&self) -> Outcome {
        let list = self.bob.service.room_list_service().all_rooms().await?;
        let state = list.loading_state();
        loop {
            if let RoomListLoadingState::Loaded { maximum_number_of_rooms: Some(1) } = state.get() {
                return Ok(());
            }
            sleep(LOOKS_EVERY).await;
        }
    }

    async fn see_each_other_type_and_read(&self) -> Outcome {
        let (alices, bobs) = (
            self.alice.room_in(&self.room_id, RoomState::Joined).await,
            self.bob.room_in(&self.room_id, RoomState::Joined).await,
        );
        self.alice.service.room_list_service().subscribe_to_rooms(&[&self.room_id]).await;
        let (_guard, mut typing) = alices.subscribe_to_typing_notifications();
        bobs.typing_notice(true).await?;
        let bob = self.bob.client.user_id().ok_or("nobody")?;
        while !typing.recv().await?.iter().any(|user| user == bob) {}
        let sent = alices.send(RoomMessageEventContent::text_plain("read this")).await?.response.event_id;
        self.bob.hears("read this").await;
        bobs.send_multiple_receipts(Receipts::new().public_read_receipt(sent.clone())).await?;
        loop {
            let read = alices.load_user_receipt(ReceiptType::Read, ReceiptThread::Unthreaded, bob).await?;
            if read.is_some_and(|(event_id, _)| event_id == sent) {
                return Ok(());
            }
            sleep(LOOKS_EVERY).await;
        }
    }

    async fn whisper(&self) -> Outcome {
        let alices = self.alice.room_in(&self.room_id, RoomState::Joined).await;
        alices.enable_encryption().await?;
        let bobs = self.bob.room_in(&self.room_id, RoomState::Joined).await;
        self.bob.until(|_| bobs.encryption_state().is_encrypted().then_some(())).await;
        self.alice.says(&self.room_id, "a secret").await?;
        self.bob.hears("a secret").await;
        self.bob.says(&self.room_id, "another secret").await?;
        self.alice.hears("another secret").await;
        Ok(())
    }

    async fn one_looks_away(&self) -> Outcome {
        self.bob.service.stop().await;
        for body in ["while", "you", "slept"] {
            self.alice.says(&self.room_id, body).await?;
        }
        self.bob.service.start().await;
        self.bob.hears("slept").await;
        Ok(())
    }

    async fn one_leaves(&self) -> Outcome {
        self.alice.room_in(&self.room_id, RoomState::Joined).await.leave().await?;
        self.alice.room_in(&self.room_id, RoomState::Left).await;
        let room = self.bob.room_in(&self.room_id, RoomState::Joined).await;
        self.bob.until(|_| (room.active_members_count() == 1).then_some(())).await;
        self.alice.service.stop().await;
        self.bob.service.stop().await;
        Ok(())
    }
}

pub async fn look(url: &str) -> Option<()> {
    let view = step("two meet who look through windows", two_meet(url)).await?;
    step("they talk", view.talk()).await?;
    step("the list knows its length", view.lists()).await?;
    step("they see each other type and read", view.see_each_other_type_and_read()).await?;
    step("they whisper, with keys on a connection of their own", view.whisper()).await?;
    step("one looks away and misses nothing", view.one_looks_away()).await?;
    step("one leaves, and both see it", view.one_leaves()).await
}
