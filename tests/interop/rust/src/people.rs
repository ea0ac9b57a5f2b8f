//! People who use matrix-sdk with its own sync loop, and the steps they take.

use std::{
    error::Error,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use matrix_sdk::{
    Client, LoopCtrl, Room, RoomState, ThreadingSupport,
    config::SyncSettings,
    ruma::{
        OwnedEventId, OwnedRoomId, OwnedUserId, UserId,
        api::client::{
            account::register::v3::Request as Register,
            filter::FilterDefinition,
            room::create_room::v3::{Request as CreateRoom, RoomPreset},
            sync::sync_events::v3::Filter,
            uiaa::{AuthData, Dummy},
        },
        events::room::message::{OriginalSyncRoomMessageEvent, RoomMessageEventContent},
    },
};
use tokio::{sync::watch, time::timeout};

pub const PASSWORD: &str = "correct horse battery staple";
const STEP_TAKES_MAX: Duration = Duration::from_secs(30);

pub type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Somebody whose client syncs in the background.
pub struct Person {
    pub client: Client,
    heard: Arc<Mutex<Vec<String>>>,
    synced: watch::Receiver<u64>,
}

pub async fn registers(url: &str, name: &str) -> Outcome<OwnedUserId> {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let username = format!("{name}-rust-{now_ms}");
    let mut account = Register::new();
    account.username = Some(username);
    account.password = Some(PASSWORD.to_owned());
    account.auth = Some(AuthData::Dummy(Dummy::new()));
    account.inhibit_login = true;
    Ok(Client::builder().homeserver_url(url).build().await?.send(account).await?.user_id)
}

/// What a client asks of its syncs that shows threads: that what is unread is counted in each for itself.
pub fn threads_apart() -> Filter {
    let mut filter = FilterDefinition::default();
    filter.room.timeline.unread_thread_notifications = true;
    Filter::FilterDefinition(filter)
}

impl Person {
    pub async fn arrives(url: &str, name: &str) -> Outcome<Self> {
        Self::signs_in(url, &registers(url, name).await?).await
    }

    /// Somebody whose client shows threads, and remembers the events of rooms.
    pub async fn arrives_with_threads(url: &str, name: &str) -> Outcome<Self> {
        let user_id = registers(url, name).await?;
        let threads = ThreadingSupport::Enabled { with_subscriptions: false };
        let client = Client::builder().homeserver_url(url).with_threading_support(threads).build().await?;
        client.event_cache().subscribe()?;
        Self::syncs_with(client, &user_id, SyncSettings::default().filter(threads_apart())).await
    }

    /// Somebody on one more device, who syncs from now on.
    pub async fn signs_in(url: &str, user_id: &UserId) -> Outcome<Self> {
        let client = Client::builder().homeserver_url(url).build().await?;
        Self::syncs_with(client, user_id, SyncSettings::default()).await
    }

    async fn syncs_with(client: Client, user_id: &UserId, settings: SyncSettings) -> Outcome<Self> {
        client.matrix_auth().login_username(user_id, PASSWORD).initial_device_display_name("interop").await?;
        let heard = ears(&client);
        let (answered, synced) = watch::channel(0);
        let loop_client = client.clone();
        tokio::spawn(async move {
            let answered = &answered;
            loop_client
                .sync_with_callback(settings.timeout(Duration::from_secs(10)), |_| async move {
                    answered.send_modify(|count| *count += 1);
                    LoopCtrl::Continue
                })
                .await
        });
        Ok(Self { client, heard, synced })
    }

    /// Makes a private room, which the guests join.
    pub async fn gathers(&self, guests: &[&Self]) -> Outcome<OwnedRoomId> {
        let mut request = CreateRoom::new();
        request.preset = Some(RoomPreset::PrivateChat);
        request.invite = guests.iter().map(|guest| Ok(guest.id()?.to_owned())).collect::<Outcome<_>>()?;
        let room_id = self.client.create_room(request).await?.room_id().to_owned();
        for guest in guests {
            guest.room_in(&room_id, RoomState::Invited).await?.join().await?;
            guest.room_in(&room_id, RoomState::Joined).await?;
        }
        self.room_in(&room_id, RoomState::Joined).await?;
        Ok(room_id)
    }

    pub async fn says(&self, room_id: &OwnedRoomId, body: &str) -> Outcome<OwnedEventId> {
        let room = self.room_in(room_id, RoomState::Joined).await?;
        Ok(room.send(RoomMessageEventContent::text_plain(body)).await?.response.event_id)
    }

    pub fn id(&self) -> Outcome<&UserId> {
        Ok(self.client.user_id().ok_or("nobody")?)
    }

    /// Counts the syncs that were answered.
    pub fn syncs(&self) -> watch::Receiver<u64> {
        self.synced.clone()
    }

    /// Waits until `found` answers something, asked now and after each sync.
    pub async fn until<T>(&self, found: impl Fn(&Self) -> Option<T>) -> Outcome<T> {
        let mut synced = self.synced.clone();
        loop {
            synced.mark_unchanged();
            if let Some(answer) = found(self) {
                return Ok(answer);
            }
            synced.changed().await?;
        }
    }

    /// The same for what a store answers asynchronously.
    pub async fn until_asked<T>(&self, found: impl AsyncFn() -> Outcome<Option<T>>) -> Outcome<T> {
        let mut synced = self.synced.clone();
        loop {
            synced.mark_unchanged();
            if let Some(answer) = found().await? {
                return Ok(answer);
            }
            synced.changed().await?;
        }
    }

    pub fn has_heard(&self, body: &str) -> bool {
        self.heard.lock().is_ok_and(|heard| heard.iter().any(|heard| heard == body))
    }

    pub async fn hears(&self, body: &str) -> Outcome {
        self.until(|me| me.has_heard(body).then_some(())).await
    }

    pub async fn room_in(&self, room_id: &OwnedRoomId, state: RoomState) -> Outcome<Room> {
        self.until(|me| me.client.get_room(room_id).filter(|room| room.state() == state)).await
    }
}

/// The bodies of the messages that a client is told of, as they come.
pub fn ears(client: &Client) -> Arc<Mutex<Vec<String>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = heard.clone();
    client.add_event_handler(move |event: OriginalSyncRoomMessageEvent| {
        let ears = ears.clone();
        async move {
            if let Ok(mut heard) = ears.lock() {
                heard.push(event.content.body().to_owned());
            }
        }
    });
    heard
}

pub fn assert_that(holds: bool, otherwise: &str) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

pub async fn step<T>(name: &str, work: impl Future<Output = Outcome<T>>) -> Option<T> {
    match timeout(STEP_TAKES_MAX, work).await.unwrap_or_else(|_| Err("it never happened".into())) {
        Ok(value) => {
            println!("ok {name}");
            Some(value)
        }
        Err(error) => {
            println!("FAILED {name}: {error:?}");
            None
        }
    }
}
