//! Answers that list events of a room: however many they are, they are sent as the room gives them.

use actors::room::GetHeldEvents;
use bytes::Bytes;
use futures_util::stream;
use platform::Fault;
use ruma_common::{OwnedEventId, OwnedRoomId, RoomId};

use crate::{Body, Context, Failure};

/// Events asked of a room at once.
const PAGE_EVENTS: usize = 500;

/// JSON with two lists of events in it, which a room holds: `texts` come before them, between and after.
pub(super) fn pages(
    cx: &Context,
    room_id: &RoomId,
    texts: [String; 3],
    [first, second]: [Vec<OwnedEventId>; 2],
) -> Body {
    let [start, between, end] = texts;
    let steps =
        [Step::Text(start), Step::Events(first, 0), Step::Text(between), Step::Events(second, 0), Step::Text(end)];
    let ahead = Ahead { cx: cx.clone(), room_id: room_id.to_owned(), steps: steps.into_iter().rev().collect() };
    Body::pieces(stream::try_unfold(
        ahead,
        |mut ahead| async move { Ok(ahead.piece().await?.map(|piece| (piece, ahead))) },
    ))
}

enum Step {
    Text(String),
    /// Those of these events from this index on.
    Events(Vec<OwnedEventId>, usize),
}

struct Ahead {
    cx: Context,
    room_id: OwnedRoomId,
    /// The next one last.
    steps: Vec<Step>,
}

impl Ahead {
    async fn piece(&mut self) -> Result<Option<Bytes>, Fault> {
        while let Some(step) = self.steps.pop() {
            match step {
                Step::Text(text) => return Ok(Some(text.into())),
                Step::Events(event_ids, from) => {
                    let page: Vec<OwnedEventId> = event_ids.iter().skip(from).take(PAGE_EVENTS).cloned().collect();
                    if page.is_empty() {
                        continue;
                    }
                    let events = self.cx.room(&self.room_id).call(&GetHeldEvents { event_ids: page }).await;
                    let events = events.map_err(Failure::into_fault)?;
                    let texts: Vec<&str> = events.iter().map(|event| event.get()).collect();
                    let piece = format!("{}{}", if from == 0 { "" } else { "," }, texts.join(","));
                    self.steps.push(Step::Events(event_ids, from.saturating_add(texts.len())));
                    return Ok(Some(piece.into()));
                }
            }
        }
        Ok(None)
    }
}
