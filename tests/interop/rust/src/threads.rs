//! What is said about what was said: edits, reactions, threads and their list.

use matrix_sdk::{
    Client, Room, RoomState,
    config::SyncSettings,
    deserialized_responses::TimelineEvent,
    room::{
        IncludeRelations, ListThreadsOptions, RelationsOptions,
        edit::EditedContent,
        reply::{EnforceThread, Reply},
    },
    ruma::{
        EventId, OwnedEventId, OwnedRoomId, UInt,
        api::client::{
            receipt::create_receipt::v3::ReceiptType, sync::sync_events::v3::Request as Sync,
            threads::get_threads::v1::IncludeThreads,
        },
        events::{
            TimelineEventType,
            reaction::ReactionEventContent,
            receipt::{ReceiptThread, ReceiptType as StoredReceiptType},
            relation::{Annotation, RelationType},
            room::message::{
                AddMentions, OriginalSyncRoomMessageEvent, Relation, ReplyWithinThread,
                RoomMessageEventContentWithoutRelation,
            },
        },
    },
};

use crate::people::{Outcome, PASSWORD, Person, assert_that, step, threads_apart};

/// More than is said in any thread.
const THREAD_MAX: u16 = 20;

/// What the steps build up.
struct Talk {
    alice: Person,
    bob: Person,
    room_id: OwnedRoomId,
}

async fn two_meet_whose_clients_show_threads(url: &str) -> Outcome<Talk> {
    let alice = Person::arrives_with_threads(url, "alice").await?;
    let bob = Person::arrives_with_threads(url, "bob").await?;
    let room_id = alice.gathers(&[&bob]).await?;
    Ok(Talk { alice, bob, room_id })
}

fn message(event: &TimelineEvent) -> Outcome<OriginalSyncRoomMessageEvent> {
    Ok(event.raw().deserialize_as_unchecked()?)
}

/// That an event is what was sent, and comes with the edit to these words.
fn is_edited(event: &TimelineEvent, sent: &str, edited: &str) -> Outcome {
    let message = message(event)?;
    let edit = message.unsigned.relations.replace.as_deref().ok_or("no edit comes with it")?;
    let Some(Relation::Replacement(replacement)) = &edit.content.relates_to else {
        return Err("what comes with it is no edit".into());
    };
    let is = (message.content.body(), replacement.new_content.msgtype.body());
    assert_that(is == (sent, edited), &format!("it is {is:?}"))
}

/// Everything that is related to an event in this way, the latest first, asked for one by one.
async fn related(room: &Room, event_id: &EventId, how: IncludeRelations) -> Outcome<Vec<TimelineEvent>> {
    let limit = Some(UInt::from(1_u32));
    let mut options = RelationsOptions { include_relations: how, limit, ..RelationsOptions::default() };
    let mut events = Vec::new();
    loop {
        let page = room.relations(event_id.to_owned(), options.clone()).await?;
        assert_that(page.chunk.len() <= 1, "more than were asked for")?;
        events.extend(page.chunk);
        let Some(next) = page.next_batch_token else { return Ok(events) };
        options.from = Some(next);
    }
}

/// The roots of threads and how many answers they have, the latest first, asked for one by one.
async fn threads(room: &Room, which: &IncludeThreads) -> Outcome<Vec<(OwnedEventId, u32)>> {
    let (mut roots, mut from) = (Vec::new(), None);
    loop {
        let limit = Some(UInt::from(1_u32));
        let page = room.list_threads(ListThreadsOptions { include_threads: which.clone(), from, limit }).await?;
        assert_that(page.chunk.len() <= 1, "more than were asked for")?;
        for root in page.chunk {
            let summary = root.thread_summary.summary().ok_or("a root without its thread")?;
            roots.push((root.event_id().ok_or("no id")?, summary.num_replies));
        }
        if page.prev_batch_token.is_none() {
            return Ok(roots);
        }
        from = page.prev_batch_token;
    }
}

/// Waits until a thread, as its client keeps it, consists of these words; answers at once if nothing is to come.
async fn thread_becomes(room: &Room, root: &EventId, words: &[&str]) -> Outcome {
    let (cache, _alive) = room.event_cache().await?;
    loop {
        let (events, mut news) = cache.subscribe_to_thread(root.to_owned()).await?;
        let bodies: Vec<_> =
            events.iter().filter_map(|event| Some(message(event).ok()?.content.body().to_owned())).collect();
        if bodies == words {
            return Ok(());
        }
        news.recv().await?;
    }
}

/// Has the client ask for what it lacks of a thread. A page in which it knows everything it takes for none, and asks
/// again.
async fn pages_back(room: &Room, root: &EventId) -> Outcome {
    let (cache, _alive) = room.event_cache().await?;
    let pages = cache.thread_pagination(root.to_owned()).await?;
    while !pages.run_backwards_once(THREAD_MAX).await?.reached_start {}
    Ok(())
}

impl Talk {
    async fn room_of(&self, person: &Person) -> Outcome<Room> {
        person.room_in(&self.room_id, RoomState::Joined).await
    }

    fn listener(&self, speaker: &Person) -> &Person {
        if speaker.client.user_id() == self.alice.client.user_id() { &self.bob } else { &self.alice }
    }

    /// One says something, the other hears it.
    async fn says(&self, speaker: &Person, body: &str) -> Outcome<OwnedEventId> {
        let event_id = speaker.says(&self.room_id, body).await?;
        self.listener(speaker).hears(body).await?;
        Ok(event_id)
    }

    /// The same in the thread that this event is in, or begins.
    async fn answers(&self, speaker: &Person, event_id: &EventId, body: &str) -> Outcome<OwnedEventId> {
        let room = self.room_of(speaker).await?;
        let reply = Reply {
            event_id: event_id.to_owned(),
            enforce_thread: EnforceThread::Threaded(ReplyWithinThread::No),
            add_mentions: AddMentions::No,
        };
        let content = RoomMessageEventContentWithoutRelation::text_plain(body);
        let sent = room.send(room.make_reply_event(content, reply).await?).await?;
        self.listener(speaker).hears(body).await?;
        Ok(sent.response.event_id)
    }

    async fn an_edited_message_shows_its_new_words(&self) -> Outcome<OwnedEventId> {
        let event_id = self.says(&self.alice, "helo").await?;
        let (hers, his) = (self.room_of(&self.alice).await?, self.room_of(&self.bob).await?);
        for words in ["hallo", "hello"] {
            let content = RoomMessageEventContentWithoutRelation::text_plain(words);
            let edit = hers.make_edit_event(&event_id, EditedContent::RoomMessage(content)).await?;
            hers.send(edit).await?;
            self.bob.hears(&format!("* {words}")).await?;
            is_edited(&his.event(&event_id, None).await?, "helo", words)?;
        }
        let edits = related(&his, &event_id, IncludeRelations::RelationsOfType(RelationType::Replacement)).await?;
        assert_that(edits.len() == 2, &format!("{} edits", edits.len()))?;
        Ok(event_id)
    }

    async fn who_syncs_anew_gets_the_edit_with_the_message(&self, url: &str, event_id: &EventId) -> Outcome {
        let fresh = Client::builder().homeserver_url(url).build().await?;
        fresh.matrix_auth().login_username(self.bob.id()?, PASSWORD).await?;
        let synced = fresh.sync_once(SyncSettings::default()).await?;
        let timeline = &synced.rooms.joined.get(&self.room_id).ok_or("the room is not there")?.timeline;
        let event = timeline.events.iter().find(|event| event.event_id().as_deref() == Some(event_id));
        is_edited(event.ok_or("the message is not there")?, "helo", "hello")?;
        Ok(fresh.logout().await?)
    }

    async fn reactions_are_listed_until_they_are_redacted(&self) -> Outcome {
        let event_id = self.says(&self.alice, "who comes?").await?;
        let (hers, his) = (self.room_of(&self.alice).await?, self.room_of(&self.bob).await?);
        let reaction = || ReactionEventContent::new(Annotation::new(event_id.clone(), "👍".to_owned()));
        let first = hers.send(reaction()).await?.response.event_id;
        let second = his.send(reaction()).await?.response.event_id;
        assert_that(his.send(reaction()).await.is_err(), "the same reaction twice")?;
        self.alice_sees_reactions(&event_id, 2).await?;
        let listed = async || {
            let how =
                IncludeRelations::RelationsOfTypeAndEventType(RelationType::Annotation, TimelineEventType::Reaction);
            let events = related(&hers, &event_id, how).await?;
            Outcome::Ok(events.iter().filter_map(TimelineEvent::event_id).collect::<Vec<_>>())
        };
        assert_that(listed().await? == [second.clone(), first.clone()], "not both are listed")?;
        his.redact(&second, None, None).await?;
        assert_that(listed().await? == [first], "not only the other is left")
    }

    /// Waits until her client was told of so many reactions by its sync.
    async fn alice_sees_reactions(&self, event_id: &EventId, count: usize) -> Outcome {
        let (cache, _alive) = self.room_of(&self.alice).await?.event_cache().await?;
        let (_, mut news) = cache.subscribe().await?;
        let kind = Some(vec![RelationType::Annotation]);
        while cache.find_event_relations(event_id, kind.clone()).await?.len() < count {
            news.recv().await?;
        }
        Ok(())
    }

    async fn a_thread_grows_beside_the_room(&self) -> Outcome<OwnedEventId> {
        let root = self.says(&self.alice, "a root").await?;
        let first = self.answers(&self.bob, &root, "a first answer").await?;
        let second = self.answers(&self.alice, &first, "a second answer").await?;
        let his = self.room_of(&self.bob).await?;
        pages_back(&his, &root).await?;
        thread_becomes(&his, &root, &["a root", "a first answer", "a second answer"]).await?;
        let answers = related(&his, &root, IncludeRelations::RelationsOfType(RelationType::Thread)).await?;
        let answers: Vec<_> = answers.iter().filter_map(TimelineEvent::event_id).collect();
        assert_that(answers == [second.clone(), first], &format!("its answers are {answers:?}"))?;
        let event = his.event(&root, None).await?;
        let summary = event.thread_summary.summary().ok_or("no thread comes with its root")?;
        let is = (summary.num_replies, summary.latest_reply.as_deref());
        assert_that(is == (2, Some(&*second)), &format!("it has {is:?}"))?;
        let latest = event.bundled_latest_thread_event.as_deref().ok_or("no latest event")?;
        assert_that(message(latest)?.content.body() == "a second answer", "another latest event")?;
        let thread = message(&event)?.unsigned.relations.thread.ok_or("no thread")?;
        assert_that(thread.current_user_participated, "he has not answered")?;
        Ok(root)
    }

    async fn threads_are_listed_the_latest_first(&self, root: &EventId) -> Outcome {
        let alone = self.says(&self.alice, "a monologue").await?;
        self.answers(&self.alice, &alone, "which goes on").await?;
        let his = self.room_of(&self.bob).await?;
        let all = threads(&his, &IncludeThreads::All).await?;
        assert_that(all == [(alone, 1), (root.to_owned(), 2)], &format!("there are {all:?}"))?;
        let answered = threads(&his, &IncludeThreads::Participated).await?;
        assert_that(answered == [(root.to_owned(), 2)], &format!("he answered in {answered:?}"))
    }

    async fn who_comes_later_reads_the_thread_from_its_root(&self, url: &str, root: &EventId) -> Outcome {
        let carol = Person::arrives_with_threads(url, "carol").await?;
        self.room_of(&self.alice).await?.invite_user_by_id(carol.id()?).await?;
        carol.room_in(&self.room_id, RoomState::Invited).await?.join().await?;
        let room = self.room_of(&carol).await?;
        pages_back(&room, root).await?;
        thread_becomes(&room, root, &["a root", "a first answer", "a second answer"]).await?;
        // What is said from now on comes with her syncs.
        self.answers(&self.bob, root, "a late answer").await?;
        thread_becomes(&room, root, &["a root", "a first answer", "a second answer", "a late answer"]).await?;
        Ok(carol.client.logout().await?)
    }

    /// What Bob has not read in the room beside its threads, and in this one.
    async fn unread(&self, root: &EventId) -> Outcome<(u64, u64)> {
        let mut request = Sync::new();
        request.filter = Some(threads_apart());
        let mut rooms = self.bob.client.send(request).await?.rooms.join;
        let room = rooms.remove(&self.room_id).ok_or("the room is not there")?;
        let thread = room.unread_thread_notifications.get(root).and_then(|counts| counts.notification_count);
        let beside = room.unread_notifications.notification_count;
        Ok((beside.map_or(0, u64::from), thread.map_or(0, u64::from)))
    }

    async fn a_thread_is_read_for_itself(&self, root: &EventId) -> Outcome {
        let (hers, his) = (self.room_of(&self.alice).await?, self.room_of(&self.bob).await?);
        let count = || his.unread_notification_counts().notification_count;
        let last = self.says(&self.alice, "until here").await?;
        his.send_single_receipt(ReceiptType::Read, ReceiptThread::Unthreaded, last).await?;
        self.bob.until(|_| (count() == 0).then_some(())).await?;
        let third = self.answers(&self.alice, root, "a third answer").await?;
        let fourth = self.answers(&self.alice, &third, "a fourth answer").await?;
        let beside = self.says(&self.alice, "beside it").await?;
        self.bob.until(|_| (count() == 1).then_some(())).await?;
        let unread = self.unread(root).await?;
        assert_that(unread == (1, 2), &format!("{unread:?} are unread"))?;

        let thread = ReceiptThread::Thread(root.to_owned());
        his.send_single_receipt(ReceiptType::Read, thread.clone(), fourth.clone()).await?;
        let unread = self.unread(root).await?;
        assert_that(unread == (1, 0), &format!("{unread:?} are unread once the thread is read"))?;
        let bob = self.bob.id()?;
        self.alice
            .until_asked(async || {
                let receipt = hers.load_user_receipt(StoredReceiptType::Read, thread.clone(), bob).await?;
                Ok(receipt.filter(|(read, _)| *read == fourth))
            })
            .await?;
        his.send_single_receipt(ReceiptType::Read, ReceiptThread::Main, beside).await?;
        self.bob.until(|_| (count() == 0).then_some(())).await
    }
}

/// Takes the steps one after the other; `None` when one failed.
pub async fn discuss(url: &str) -> Option<()> {
    let talk = step("two meet whose clients show threads", two_meet_whose_clients_show_threads(url)).await?;
    let edited = step("an edited message shows its new words", talk.an_edited_message_shows_its_new_words()).await?;
    step(
        "who syncs anew gets the edit with the message",
        talk.who_syncs_anew_gets_the_edit_with_the_message(url, &edited),
    )
    .await?;
    step("reactions are listed until they are redacted", talk.reactions_are_listed_until_they_are_redacted()).await?;
    let root = step("a thread grows beside the room", talk.a_thread_grows_beside_the_room()).await?;
    step("threads are listed, the latest first", talk.threads_are_listed_the_latest_first(&root)).await?;
    step(
        "who comes later reads the thread from its root",
        talk.who_comes_later_reads_the_thread_from_its_root(url, &root),
    )
    .await?;
    step("a thread is read for itself", talk.a_thread_is_read_for_itself(&root)).await
}
