//! How rooms, people and words are found: spaces, previews, the directories, searches.

use matrix_sdk::{
    Room, RoomState,
    ruma::{
        OwnedRoomId, UInt,
        api::client::{
            directory::get_public_rooms_filtered::v3::Request as PublicRooms,
            room::{
                Visibility,
                create_room::v3::{CreationContent, Request as CreateRoom, RoomPreset},
            },
            search::search_events::v3::{Categories, Criteria, OrderBy, Request as SearchEvents},
            space::{SpaceHierarchyRoomsChunk, get_hierarchy::v1::Request as Hierarchy},
        },
        directory::Filter,
        events::{
            AnyStateEventContent, room::message::OriginalSyncRoomMessageEvent, space::child::SpaceChildEventContent,
        },
        room::RoomType,
        serde::Raw,
    },
};

use crate::people::{Outcome, Person, assert_that, step};

/// More than a page of results.
const SPOKEN: usize = 25;

/// What the steps build up: a space with a room for all and one for few.
struct House {
    alice: Person,
    bob: Person,
    space: OwnedRoomId,
    garden: OwnedRoomId,
    kitchen: OwnedRoomId,
}

async fn creates(person: &Person, name: &str, preset: RoomPreset) -> Outcome<Room> {
    let mut request = CreateRoom::new();
    request.name = Some(name.to_owned());
    request.topic = Some(format!("All about {name}"));
    if preset == RoomPreset::PublicChat {
        request.visibility = Visibility::Public;
    }
    request.preset = Some(preset);
    if name == "House" {
        let mut content = CreationContent::new();
        content.room_type = Some(RoomType::Space);
        request.creation_content = Some(Raw::new(&content)?);
    }
    let room_id = person.client.create_room(request).await?.room_id().to_owned();
    person.room_in(&room_id, RoomState::Joined).await
}

async fn a_space_is_made_with_two_rooms(url: &str) -> Outcome<House> {
    let (alice, bob) = (Person::arrives(url, "alice").await?, Person::arrives(url, "bob").await?);
    let space = creates(&alice, "House", RoomPreset::PublicChat).await?;
    let garden = creates(&alice, "Garden", RoomPreset::PublicChat).await?;
    let kitchen = creates(&alice, "Kitchen", RoomPreset::PrivateChat).await?;
    for (room, suggested) in [(&garden, true), (&kitchen, false)] {
        let mut child = SpaceChildEventContent::new(vec![alice.id()?.server_name().to_owned()]);
        child.suggested = suggested;
        space.send_state_event_for_key(room.room_id(), child).await?;
    }
    let [space, garden, kitchen] = [space, garden, kitchen].map(|room| room.room_id().to_owned());
    alice.until(|me| me.client.joined_space_rooms().iter().any(|room| room.room_id() == space).then_some(())).await?;
    Ok(House { alice, bob, space, garden, kitchen })
}

/// The rooms under a space, asked for one by one.
async fn hierarchy(person: &Person, request: &Hierarchy) -> Outcome<Vec<SpaceHierarchyRoomsChunk>> {
    let (mut rooms, mut request) = (Vec::new(), request.clone());
    request.limit = Some(UInt::from(1_u32));
    loop {
        let page = person.client.send(request.clone()).await?;
        assert_that(page.rooms.len() <= 1, "more than were asked for")?;
        rooms.extend(page.rooms);
        if page.next_batch.is_none() {
            return Ok(rooms);
        }
        request.from = page.next_batch;
    }
}

fn names(rooms: &[SpaceHierarchyRoomsChunk]) -> Vec<&str> {
    rooms.iter().map(|room| room.summary.name.as_deref().unwrap_or_default()).collect()
}

/// How many messages are said to be found, and of all pages where each is and what it says, the latest first.
async fn search(person: &Person, term: &str) -> Outcome<(Option<UInt>, Vec<(OwnedRoomId, String)>)> {
    let mut categories = Categories::new();
    let mut criteria = Criteria::new(term.to_owned());
    criteria.order_by = Some(OrderBy::Recent);
    categories.room_events = Some(criteria);
    let (mut request, mut found) = (SearchEvents::new(categories), Vec::new());
    loop {
        let events = person.client.send(request.clone()).await?.search_categories.room_events;
        for result in events.results {
            let event = result.result.ok_or("a result without its event")?;
            let room_id = event.get_field("room_id")?.ok_or("an event without its room")?;
            let message: OriginalSyncRoomMessageEvent = event.deserialize_as_unchecked()?;
            found.push((room_id, message.content.body().to_owned()));
        }
        if events.next_batch.is_none() {
            return Ok((events.count, found));
        }
        request.next_batch = events.next_batch;
    }
}

impl House {
    async fn a_room_is_told_in_a_few_words_before_one_joins(&self) -> Outcome {
        let via = vec![self.alice.id()?.server_name().to_owned()];
        let preview = self.bob.client.get_room_preview((&*self.garden).into(), via.clone()).await?;
        let told = (preview.name.as_deref(), preview.topic.as_deref(), preview.num_joined_members);
        assert_that(told == (Some("Garden"), Some("All about Garden"), 1), &format!("told {told:?}"))?;
        let space = self.bob.client.get_room_preview((&*self.space).into(), via.clone()).await?;
        assert_that(space.room_type == Some(RoomType::Space), &format!("it is a {:?}", space.room_type))?;
        let secret = self.bob.client.get_room_preview((&*self.kitchen).into(), via).await;
        assert_that(secret.is_err(), "the private room is told, too")
    }

    async fn a_room_is_found_in_the_directory(&self) -> Outcome {
        let mut request = PublicRooms::new();
        let mut filter = Filter::new();
        filter.generic_search_term = Some("about gard".to_owned());
        request.filter = filter;
        let rooms = self.bob.client.public_rooms_filtered(request).await?.chunk;
        assert_that(rooms.iter().any(|room| room.room_id == self.garden), "the room is not there")?;
        let others = rooms.iter().filter(|room| room.name.as_deref() != Some("Garden")).count();
        assert_that(others == 0, &format!("{others} that were not looked for"))
    }

    async fn a_space_shows_the_rooms_one_may_see(&self) -> Outcome {
        let bob = &self.bob;
        for room_id in [&self.space, &self.garden] {
            bob.client.join_room_by_id(room_id).await?;
            bob.room_in(room_id, RoomState::Joined).await?;
        }
        let request = Hierarchy::new(self.space.clone());
        let rooms = hierarchy(&self.alice, &request).await?;
        assert_that(names(&rooms) == ["House", "Garden", "Kitchen"], &format!("she sees {:?}", names(&rooms)))?;
        let rooms = hierarchy(bob, &request).await?;
        assert_that(names(&rooms) == ["House", "Garden"], &format!("he sees {:?}", names(&rooms)))?;
        assert_that(rooms[0].summary.room_type == Some(RoomType::Space), "no space")?;
        let children = rooms[0].children_state.iter().map(Raw::deserialize).collect::<Result<Vec<_>, _>>()?;
        let suggested: Vec<_> =
            children.iter().filter(|child| child.content.suggested).map(|child| &child.state_key).collect();
        assert_that(children.len() == 2 && suggested == [&self.garden], &format!("{suggested:?} are suggested"))?;

        let mut only_suggested = request.clone();
        only_suggested.suggested_only = true;
        let rooms = hierarchy(&self.alice, &only_suggested).await?;
        assert_that(names(&rooms) == ["House", "Garden"], &format!("{:?} are suggested", names(&rooms)))?;
        let mut alone = request;
        alone.max_depth = Some(UInt::from(0_u32));
        let rooms = hierarchy(&self.alice, &alone).await?;
        assert_that(names(&rooms) == ["House"], &format!("{:?} at depth 0", names(&rooms)))
    }

    async fn a_room_leaves_its_space(&self) -> Outcome {
        let space = self.alice.room_in(&self.space, RoomState::Joined).await?;
        let nothing: Raw<AnyStateEventContent> = Raw::from_json_string("{}".to_owned())?;
        space.send_state_event_raw("m.space.child", self.kitchen.as_str(), nothing).await?;
        let rooms = hierarchy(&self.alice, &Hierarchy::new(self.space.clone())).await?;
        assert_that(names(&rooms) == ["House", "Garden"], &format!("she sees {:?}", names(&rooms)))
    }

    async fn words_are_found_in_all_rooms_page_by_page(&self) -> Outcome {
        for number in 1..=SPOKEN {
            self.alice.says(&self.garden, &format!("tomato {number}")).await?;
        }
        self.alice.says(&self.kitchen, "tomato soup").await?;
        let (count, found) = search(&self.bob, "tomato").await?;
        let expected: Vec<_> =
            (1..=SPOKEN).rev().map(|number| (self.garden.clone(), format!("tomato {number}"))).collect();
        assert_that(count == Some(UInt::try_from(SPOKEN)?), &format!("{count:?} are found"))?;
        assert_that(found == expected, &format!("he finds {found:?}"))?;
        let (_, found) = search(&self.alice, "soup").await?;
        assert_that(found == [(self.kitchen.clone(), "tomato soup".to_owned())], &format!("she finds {found:?}"))
    }

    async fn people_are_found_by_name(&self) -> Outcome {
        let alice = self.alice.id()?;
        let name = format!("Alice of {}", self.garden);
        self.alice.client.account().set_display_name(Some(&name)).await?;
        self.bob
            .until_asked(async || {
                let found = self.bob.client.search_users(&name, 10).await?.results;
                Ok(found.into_iter().find(|user| user.user_id == alice && user.display_name.as_ref() == Some(&name)))
            })
            .await?;
        let nobody = self.bob.client.search_users("nobody is called like this", 10).await?.results;
        assert_that(nobody.is_empty(), &format!("{nobody:?}"))
    }
}

/// Takes the steps one after the other; `None` when one failed.
pub async fn find(url: &str) -> Option<()> {
    let house = step("a space is made with two rooms", a_space_is_made_with_two_rooms(url)).await?;
    step("a room is told in a few words before one joins", house.a_room_is_told_in_a_few_words_before_one_joins())
        .await?;
    step("a room is found in the directory", house.a_room_is_found_in_the_directory()).await?;
    step("a space shows the rooms one may see", house.a_space_shows_the_rooms_one_may_see()).await?;
    step("a room leaves its space", house.a_room_leaves_its_space()).await?;
    step("words are found in all rooms, page by page", house.words_are_found_in_all_rooms_page_by_page()).await?;
    step("people are found by name", house.people_are_found_by_name()).await
}
