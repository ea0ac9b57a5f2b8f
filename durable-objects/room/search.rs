//! Finding events by what they say.
//!
//! The first search of a room has its words indexed, the newest events first and a part of them at a time: what is not
//! indexed yet is not found. The index grows with the searches, and by itself once somebody has searched.
//! Spec: "Server Side Search".

use std::collections::HashMap;

use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedDeviceId, OwnedEventId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{
    EventFilter, Room,
    store::{
        self,
        graph::LOG_START,
        log::Logged,
        search::{Indexed, Matching, Place},
    },
    viewer::Viewer,
};
use crate::{Call, Cx, Error, schedule};

/// The schedule's name for another part of the index.
pub(super) const DUE: &str = "search";
/// How long the index rests before its next part, in milliseconds: the room has other things to do.
const NEXT_PART_MS: u64 = 200;
/// Events indexed in one transaction.
const PART_EVENTS: u64 = if cfg!(test) { 20 } else { 1_000 };
/// The most matches in one reply.
const HITS_MAX: u64 = 100;
/// The most matches looked at for one reply.
const SCAN_MAX: u64 = 1_000;
/// The most words that are looked for.
const WORDS_MAX: usize = 32;

/// Looks for events that have all of some words in them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Search {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    pub words: Vec<String>,
    /// Where to look; nothing: everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<SearchKey>,
    pub order: SearchOrder,
    /// Where the reply before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Reached>,
    pub limit: u64,
    #[serde(default)]
    pub filter: EventFilter,
    /// Whether events are wanted of this sender alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<OwnedUserId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SearchKey {
    #[serde(rename = "content.body")]
    Body,
    #[serde(rename = "content.name")]
    Name,
    #[serde(rename = "content.topic")]
    Topic,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchOrder {
    #[default]
    Rank,
    Recent,
}

/// A place among matches in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reached {
    /// Of the match there; nothing in the order of time.
    #[serde(default)]
    pub score: u64,
    pub position: u64,
    /// Whether what stands there itself is still wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inclusive: bool,
}

/// What was found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Found {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hits: Vec<Hit>,
    /// About how many events match altogether.
    #[serde(default)]
    pub count: u64,
    /// How far the matches were looked through, if there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<Reached>,
    /// Whether a part of the room is not indexed yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
}

/// An event that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    pub event_id: OwnedEventId,
    pub sender: OwnedUserId,
    pub position: u64,
    /// How well it matches, in billionths.
    pub score: u64,
}

impl Call for Search {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "search";
    type Reply = Found;
}

impl Room {
    pub(super) fn search(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: Search) -> Result<Found, Error> {
        let viewer = Viewer::load(&**tx, call.user.clone(), call.device.clone())?.ignoring(call.ignored.clone());
        // «The search will not include rooms that are end to end encrypted.»
        let is_encrypted = store::state::current(&**tx, "m.room.encryption", "")?.is_some();
        let Some(expression) = expression(&call) else { return Ok(Found::default()) };
        if is_encrypted || viewer.sight().is_err() {
            return Ok(Found::default());
        }
        let unfinished = self.index_a_part(tx)?;
        if unfinished {
            schedule::at(tx, cx, DUE, cx.now_ms.saturating_add(NEXT_PART_MS))?;
        }
        let matching = Matching { expression: &expression, visible: &viewer.legible()? };
        Ok(Found { unfinished, ..found(&**tx, &call, &matching)? })
    }

    /// The index goes on by itself.
    pub(super) fn index_on(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        if self.index_a_part(tx)? {
            schedule::at(tx, cx, DUE, cx.now_ms.saturating_add(NEXT_PART_MS))?;
        }
        Ok(())
    }

    /// Indexes what came since, or else a part of what was before. Answers whether there is more.
    fn index_a_part(&self, tx: &Tx<'_>) -> Result<bool, Error> {
        let head = self.head(&**tx)?;
        let mut indexed = match store::search::indexed(&**tx)? {
            Some(indexed) => indexed,
            None => {
                store::search::lay_out(tx)?;
                Indexed { after: head, up_to: head }
            }
        };
        let before = indexed;
        if let Some((end, is_full)) = store::search::end_of_first(&**tx, indexed.up_to, head, PART_EVENTS)? {
            indexed.up_to = end;
            store::search::add(tx, (before.up_to, end), indexed)?;
            return Ok(is_full || indexed.after >= LOG_START);
        }
        if indexed.after < LOG_START {
            return Ok(false);
        }
        // What stands beside the log has no place in the index: it may get one in the log.
        let part = store::search::start_of_last(&**tx, indexed.after, PART_EVENTS)?;
        let start = part.filter(|(_, is_full)| *is_full).map_or(LOG_START, |(start, _)| start);
        indexed.after = start.saturating_sub(1);
        store::search::add(tx, (indexed.after, before.after), indexed)?;
        Ok(indexed.after >= LOG_START)
    }
}

/// All of the words, in FTS5's syntax; `None` if there are none.
fn expression(call: &Search) -> Option<String> {
    let words = call.words.iter().filter(|word| word.contains(char::is_alphanumeric)).take(WORDS_MAX);
    let words: Vec<String> = words.map(|word| format!("\"{}\"", word.replace(['"', '\0'], " "))).collect();
    if words.is_empty() {
        return None;
    }
    let words = words.join(" ");
    let column = |key: &SearchKey| match key {
        SearchKey::Body => "body",
        SearchKey::Name => "name",
        SearchKey::Topic => "topic",
    };
    let columns: Vec<&str> = call.keys.iter().map(column).collect();
    Some(if columns.is_empty() { words } else { format!("{{{}}} : ({words})", columns.join(" ")) })
}

/// The first matches that the viewer wants.
fn found(sql: &dyn Sql, call: &Search, matching: &Matching<'_>) -> Result<Found, Error> {
    let limit = call.limit.clamp(1, HITS_MAX);
    let wanted = |event: &Logged| {
        call.filter.allows(event) && call.sender.as_ref().is_none_or(|sender| event.pdu.sender() == sender)
    };
    let start = Reached { score: u64::MAX >> 11, position: u64::MAX >> 11, inclusive: true };
    let mut place = call.after.unwrap_or(start);
    let (mut hits, mut scanned) = (Vec::new(), 0_u64);
    loop {
        let from = Place { score: place.score, position: place.position.saturating_sub(u64::from(!place.inclusive)) };
        let batch_max = limit.saturating_add(1);
        let batch = match call.order {
            SearchOrder::Recent => store::search::newest(sql, matching, from, batch_max)?,
            SearchOrder::Rank => store::search::best(sql, matching, from, batch_max)?,
        };
        let is_last = (batch.len() as u64) < batch_max;
        scanned = scanned.saturating_add(batch.len() as u64);
        let mut positions: Vec<u64> = batch.iter().map(|place| place.position).collect();
        positions.sort_unstable();
        let mut found = HashMap::new();
        for event in store::log::each(&positions, |slice| store::log::at(sql, slice)) {
            let event = event?;
            if wanted(&event) {
                found.insert(event.position, (event.pdu.event_id().to_owned(), event.pdu.sender().to_owned()));
            }
        }
        for Place { score, position } in batch {
            if hits.len() as u64 == limit {
                return Ok(Found {
                    hits,
                    count: store::search::count(sql, matching)?,
                    reached: Some(place),
                    ..Found::default()
                });
            }
            place = Reached { score, position, inclusive: false };
            if let Some((event_id, sender)) = found.remove(&position) {
                hits.push(Hit { event_id, sender, position, score });
            }
        }
        if is_last || scanned >= SCAN_MAX {
            let reached = (!is_last).then_some(place);
            let count = match (call.after, reached) {
                (None, None) => hits.len() as u64,
                _ => store::search::count(sql, matching)?,
            };
            return Ok(Found { hits, count, reached, unfinished: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, slice::from_ref};

    use domain::power::Preset;
    use platform::{ActorKind, Address, Sql};
    use ruma_common::{OwnedEventId, OwnedRoomId, OwnedUserId, user_id};
    use serde_json::{Value, json};

    use super::{Found, PART_EVENTS, Search, SearchKey, SearchOrder};
    use crate::{
        room::{EventFilter, MembershipAction},
        world::{MemorySql, World},
    };

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    fn bob() -> OwnedUserId {
        user_id!("@bob:myelin.test").to_owned()
    }

    struct Story {
        world: Rc<World>,
        room_id: OwnedRoomId,
    }

    impl Story {
        fn begin() -> Self {
            let world = World::new(1);
            let room_id = world.creates_room(&alice(), "12", Preset::PublicChat);
            Self { world, room_id }
        }

        fn sql(&self) -> Rc<MemorySql> {
            self.world.sql(&Address::new(ActorKind::Room, self.room_id.as_str()))
        }

        fn sends(&self, user: &OwnedUserId, event_type: &str, key: Option<&str>, content: &Value) -> OwnedEventId {
            self.world.sends(user, &self.room_id, event_type, key, content).unwrap()
        }

        fn says(&self, text: &str) -> OwnedEventId {
            self.sends(&alice(), "m.room.message", None, &json!({ "body": text }))
        }

        fn asks(&self, term: &str) -> Search {
            Search {
                user: alice(),
                device: "PHONE".into(),
                ignored: Vec::new(),
                words: term.split_whitespace().map(str::to_owned).collect(),
                keys: Vec::new(),
                order: SearchOrder::Recent,
                after: None,
                limit: 10,
                filter: EventFilter::default(),
                sender: None,
            }
        }

        fn found(&self, call: &Search) -> Found {
            loop {
                let found = self.world.call(self.room_id.as_str(), call).unwrap();
                if !found.unfinished {
                    return found;
                }
            }
        }

        fn finds(&self, term: &str) -> Vec<OwnedEventId> {
            ids(&self.found(&self.asks(term)))
        }

        /// Everything that is found, in pages.
        fn pages(&self, call: &Search) -> Vec<OwnedEventId> {
            let mut call: Search = serde_json::from_value(serde_json::to_value(call).unwrap()).unwrap();
            let mut all = Vec::new();
            loop {
                let found = self.found(&call);
                all.extend(ids(&found));
                call.after = found.reached;
                if call.after.is_none() {
                    return all;
                }
            }
        }

        fn redacts(&self, event_id: &OwnedEventId) {
            self.world.redacts(&alice(), &self.room_id, event_id).unwrap();
        }

        /// Whether a word stands anywhere in the room's database.
        fn is_kept(&self, word: &str) -> bool {
            let sql = self.sql();
            let blocks = sql.query("SELECT block FROM word_data", &[]).unwrap();
            let events = sql.query("SELECT json FROM event", &[]).unwrap();
            let holds = |bytes: Vec<u8>| bytes.windows(word.len()).any(|window| window == word.as_bytes());
            blocks.into_iter().any(|mut row| holds(row.blob(0).unwrap()))
                || events.into_iter().any(|mut row| row.text(0).unwrap().contains(word))
        }
    }

    fn ids(found: &Found) -> Vec<OwnedEventId> {
        found.hits.iter().map(|hit| hit.event_id.clone()).collect()
    }

    #[test]
    fn words_are_found_where_they_are_looked_for() {
        let story = Story::begin();
        let one = story.says("The quick brown fox, isn't it?");
        let two = story.says("a QUICK red hare");
        let name = story.sends(&alice(), "m.room.name", Some(""), &json!({ "name": "quick talk" }));
        let parts = json!([{ "body": "<b>slow</b>", "mimetype": "text/html" }, { "body": "plainly quick" }, 5]);
        let topic = json!({ "topic": "of foxes", "m.topic": { "m.text": parts } });
        let topic = story.sends(&alice(), "m.room.topic", Some(""), &topic);
        story.sends(&alice(), "org.test", None, &json!({ "body": "quick" }));
        story.sends(&alice(), "m.room.message", None, &json!({ "body": ["quick"] }));
        assert_eq!(story.finds("quick"), [&topic, &name, &two, &one].map(Clone::clone));
        assert_eq!(story.finds("quick fox"), from_ref(&one));
        assert_eq!(story.finds("fox QUICK"), from_ref(&one), "in any order and case");
        assert_eq!(story.finds("isn't"), from_ref(&one));
        assert_eq!(story.finds("slow"), [] as [OwnedEventId; 0]);
        assert_eq!(story.finds("foxes plainly"), from_ref(&topic));
        for nothing in ["", "!!", "\"", "qui", "quick OR slow", "body:quick", "quick*slow", "NOT quick"] {
            assert_eq!(story.finds(nothing), [] as [OwnedEventId; 0], "{nothing}");
        }
        assert_eq!(story.finds("quick !!").len(), 4, "what is no word is not looked for");
        let by = |keys: &[SearchKey]| ids(&story.found(&Search { keys: keys.to_vec(), ..story.asks("quick") }));
        assert_eq!(by(&[SearchKey::Body]), [&two, &one].map(Clone::clone));
        assert_eq!(by(&[SearchKey::Name, SearchKey::Topic]), [topic, name]);
    }

    #[test]
    fn what_was_redacted_is_gone_from_the_index_too() {
        let story = Story::begin();
        let secret = story.says("the word is xylophone");
        let kept = story.says("the word is glockenspiel");
        assert_eq!(story.finds("xylophone"), from_ref(&secret));
        assert!(story.is_kept("xylophone"));
        story.redacts(&secret);
        assert!(!story.is_kept("xylophone") && story.is_kept("glockenspiel"));
        assert_eq!(story.finds("xylophone"), [] as [OwnedEventId; 0]);
        assert_eq!(story.finds("word"), [kept]);
        // What was redacted before it could be indexed never is.
        let other = story.says("marimba");
        story.redacts(&other);
        assert_eq!(story.finds("marimba"), [] as [OwnedEventId; 0]);
        assert!(!story.is_kept("marimba"));
        story.sql().query("INSERT INTO word (word) VALUES ('integrity-check')", &[]).unwrap();
    }

    #[test]
    fn every_page_goes_on_where_the_one_before_ended() {
        let story = Story::begin();
        let all: Vec<OwnedEventId> =
            (0..25).map(|number| story.says(["apple", "apple pear", "apple apple"][number % 3])).collect();
        let newest_first: Vec<_> = all.iter().rev().cloned().collect();
        for limit in [1, 3, 24, 25, 26] {
            assert_eq!(story.pages(&Search { limit, ..story.asks("apple") }), newest_first, "{limit}");
            let ranked = story.pages(&Search { limit, order: SearchOrder::Rank, ..story.asks("apple") });
            let mut sorted = ranked.clone();
            sorted.sort_by_key(|id| all.iter().position(|other| other == id));
            assert_eq!(sorted, all, "by {limit}, each once");
            assert_eq!(ranked[..8], [23, 20, 17, 14, 11, 8, 5, 2].map(|index| all[index].clone()), "the best first");
        }
        assert_eq!(story.found(&Search { limit: 3, ..story.asks("apple") }).count, 25);
    }

    #[test]
    fn only_what_is_wanted_is_found() {
        let story = Story::begin();
        story.world.changes(&bob(), &story.room_id, &bob(), MembershipAction::Join).unwrap();
        for _ in 0..30 {
            story.says("noise and music");
        }
        let his = story.sends(&bob(), "m.room.message", None, &json!({ "body": "music" }));
        for _ in 0..30 {
            story.says("noise and music");
        }
        let senders = Some(vec![bob().to_string()]);
        let filter = EventFilter { senders, ..EventFilter::default() };
        let found = story.found(&Search { filter, limit: 2, ..story.asks("music") });
        assert_eq!((ids(&found), found.count, found.reached), (vec![his.clone()], 1, None));
        assert_eq!(ids(&story.found(&Search { sender: Some(bob()), ..story.asks("music") })), [his]);
        let ignoring = Search { ignored: vec![bob()], limit: 100, ..story.asks("music") };
        assert_eq!(story.found(&ignoring).hits.len(), 60);
    }

    #[test]
    fn nobody_finds_what_they_may_not_see() {
        let story = Story::begin();
        let before = story.says("apple");
        let setting = json!({ "history_visibility": "joined" });
        story.sends(&alice(), "m.room.history_visibility", Some(""), &setting);
        story.says("apple");
        story.world.changes(&bob(), &story.room_id, &bob(), MembershipAction::Join).unwrap();
        let during = story.says("apple");
        story.world.changes(&bob(), &story.room_id, &bob(), MembershipAction::Leave).unwrap();
        story.says("apple");
        let found = |user| story.found(&Search { user, ..story.asks("apple") });
        assert_eq!((found(alice()).hits.len(), found(alice()).count), (4, 4));
        assert_eq!((ids(&found(bob())), found(bob()).count), (vec![during, before], 2));
        let stranger = found(user_id!("@stranger:myelin.test").to_owned());
        assert_eq!((stranger.hits.len(), stranger.count), (0, 0));
        story.sends(&alice(), "m.room.encryption", Some(""), &json!({ "algorithm": "m.megolm.v1.aes-sha2" }));
        assert_eq!(found(alice()).hits.len(), 0, "an encrypted room is not searched");
    }

    #[test]
    fn the_index_grows_from_the_end_and_by_itself() {
        let story = Story::begin();
        let costs = |story: &Story| {
            let room = Address::new(ActorKind::Room, story.room_id.as_str());
            let before = story.world.rows_of(&room);
            story.says("cheap");
            story.world.rows_of(&room) - before
        };
        let unsearched = costs(&story);
        let oldest = story.says("apple of old");
        for _ in 0..PART_EVENTS * 3 {
            story.says("pear");
        }
        let newest = story.says("apple anew");
        let first = story.world.call(story.room_id.as_str(), &story.asks("apple")).unwrap();
        assert_eq!((ids(&first), first.unfinished), (vec![newest.clone()], true));
        for _ in 0..10 {
            story.world.passes(1_000);
        }
        let later = story.world.call(story.room_id.as_str(), &story.asks("apple")).unwrap();
        assert_eq!((ids(&later), later.unfinished), (vec![newest.clone(), oldest.clone()], false));
        // It keeps no row for each event, and none is written by who says something.
        let rows =
            story.sql().query("SELECT count(*) FROM word_data", &[]).unwrap().pop().unwrap().unsigned(0).unwrap();
        assert!(rows < PART_EVENTS, "{rows} rows");
        assert_eq!([costs(&story), costs(&story), costs(&story)], [unsearched; 3]);
        let last = story.says("apple at last");
        assert_eq!(story.finds("apple"), [last, newest, oldest]);
        let before = story.world.rows_written();
        story.finds("apple");
        assert_eq!(story.world.rows_written(), before, "nothing new, nothing written");
    }
}
