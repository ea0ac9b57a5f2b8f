//! Two people talk.

use matrix_sdk::{
    RoomState,
    room::MessagesOptions,
    ruma::{
        OwnedRoomId, UInt,
        api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset},
        events::room::message::RoomMessageEventContent,
    },
};

use crate::people::{Outcome, Person, assert_that, step};

/// What the steps build up.
struct Conversation {
    alice: Person,
    bob: Person,
    room_id: OwnedRoomId,
}

async fn accounts_are_made_and_logged_in(url: &str) -> Outcome<(Person, Person)> {
    let people = (Person::arrives(url, "alice").await?, Person::arrives(url, "bob").await?);
    let whoami = people.0.client.whoami().await?;
    assert_that(Some(&*whoami.user_id) == people.0.client.user_id(), "whoami names another")?;
    Ok(people)
}

async fn a_room_is_created((alice, bob): (Person, Person)) -> Outcome<Conversation> {
    let mut request = CreateRoom::new();
    request.name = Some("Interop".to_owned());
    request.preset = Some(RoomPreset::PrivateChat);
    let room_id = alice.client.create_room(request).await?.room_id().to_owned();
    alice.room_in(&room_id, RoomState::Joined).await?;
    Ok(Conversation { alice, bob, room_id })
}

impl Conversation {
    async fn an_invitation_arrives_and_is_accepted(&self) -> Outcome {
        let room = self.alice.room_in(&self.room_id, RoomState::Joined).await?;
        room.invite_user_by_id(self.bob.client.user_id().ok_or("nobody")?).await?;
        self.bob.room_in(&self.room_id, RoomState::Invited).await?.join().await?;
        let joined = self.bob.room_in(&self.room_id, RoomState::Joined).await?;
        self.bob.until(|_| joined.name().filter(|name| name == "Interop")).await?;
        self.alice.until(|_| (room.joined_members_count() == 2).then_some(())).await
    }

    async fn messages_go_both_ways(&self) -> Outcome {
        let pairs = [(&self.alice, &self.bob, "hello from alice"), (&self.bob, &self.alice, "hello from bob")];
        for (speaker, listener, body) in pairs {
            let room = speaker.room_in(&self.room_id, RoomState::Joined).await?;
            room.send(RoomMessageEventContent::text_plain(body)).await?;
            listener.hears(body).await?;
        }
        Ok(())
    }

    async fn the_past_is_paged_back_to_the_start(&self) -> Outcome {
        let room = self.alice.room_in(&self.room_id, RoomState::Joined).await?;
        for number in 1..=30 {
            room.send(RoomMessageEventContent::text_plain(format!("number {number}"))).await?;
        }
        self.bob.hears("number 30").await?;
        let room = self.bob.room_in(&self.room_id, RoomState::Joined).await?;
        let mut options = MessagesOptions::backward();
        options.limit = UInt::from(7_u32);
        let (mut numbers, mut last_kind) = (Vec::new(), None);
        loop {
            let page = room.messages(options).await?;
            for event in &page.chunk {
                last_kind = event.raw().get_field::<String>("type")?;
                let content =
                    event.raw().get_field::<matrix_sdk::ruma::serde::JsonObject>("content")?.unwrap_or_default();
                let body = content.get("body").and_then(|body| body.as_str()).unwrap_or_default();
                numbers.extend(body.strip_prefix("number ").map(str::to_owned));
            }
            let Some(end) = page.end else { break };
            options = MessagesOptions::backward().from(Some(end.as_str()));
            options.limit = UInt::from(7_u32);
        }
        numbers.reverse();
        let expected: Vec<_> = (1..=30).map(|number| number.to_string()).collect();
        assert_that(numbers == expected, &format!("read {numbers:?}"))?;
        assert_that(last_kind.as_deref() == Some("m.room.create"), &format!("it begins with {last_kind:?}"))
    }

    async fn a_leaver_is_seen_leaving(&self) -> Outcome {
        self.bob.room_in(&self.room_id, RoomState::Joined).await?.leave().await?;
        let room = self.alice.room_in(&self.room_id, RoomState::Joined).await?;
        self.alice.until(|_| (room.joined_members_count() == 1).then_some(())).await
    }

    async fn both_log_out(&self) -> Outcome {
        for person in [&self.alice, &self.bob] {
            person.client.logout().await?;
            assert_that(person.client.whoami().await.is_err(), "still in")?;
        }
        Ok(())
    }
}

/// Takes the steps one after the other; `None` when one failed.
pub async fn converse(url: &str) -> Option<()> {
    let people = step("accounts are made and logged in", accounts_are_made_and_logged_in(url)).await?;
    let talk = step("a room is created", a_room_is_created(people)).await?;
    step("an invitation arrives and is accepted", talk.an_invitation_arrives_and_is_accepted()).await?;
    step("messages go both ways", talk.messages_go_both_ways()).await?;
    step("the past is paged back to the start", talk.the_past_is_paged_back_to_the_start()).await?;
    step("a leaver is seen leaving", talk.a_leaver_is_seen_leaving()).await?;
    step("both log out", talk.both_log_out()).await
}
