//! The state of a large room, which its first reply has no room for: it is asked for while the answer is sent.

use std::collections::BTreeMap;

use actors::room::{DeltaReply, EventFilter, GetState, MoreState, Synced};
use ruma_common::{OwnedDeviceId, OwnedUserId, RoomId};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use super::answer::{StateName, Told};
use crate::{
    Context,
    client::rooms::pages::{Rest, joined, of_state},
};

/// Whose sync it is, and how it shows state.
pub(super) struct Reader {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    pub filter: EventFilter,
    pub format: actors::room::EventFormat,
}

impl Reader {
    /// Takes out of a reply what the room says; what it left out is put into its place when that is sent.
    pub(super) fn told(self, cx: &Context, room_id: &RoomId, reply: &mut DeltaReply) -> serde_json::Result<Told> {
        let room = std::mem::replace(&mut reply.room, to_raw_value(&())?);
        let Some(MoreState { at, after, since }) = reply.more_state.take() else { return Ok(Told::Whole(room)) };
        let (begin, last) = around_state(&room)?;
        let next = GetState {
            user: self.user,
            device: self.device,
            at: Some(at),
            after: Some(after),
            filter: self.filter,
            synced: Some(Synced { since, format: self.format }),
        };
        let rest = Rest {
            cx: cx.clone(),
            room_id: room_id.to_owned(),
            next: Some(next),
            has_items: false,
            turn: of_state,
            end: Some((last, "]}")),
        };
        Ok(Told::InPages(begin, Box::pin(rest.pieces())))
    }
}

/// The room's fields up to where its state begins, and the state that is there: more comes before it, for what is said
/// last counts.
fn around_state(room: &RawValue) -> serde_json::Result<(String, String)> {
    #[derive(Deserialize)]
    struct Events {
        events: Vec<Box<RawValue>>,
    }
    let mut room: BTreeMap<&str, Box<RawValue>> = serde_json::from_str(room.get())?;
    let (mut name, mut events) = (StateName::State.as_str(), Vec::new());
    for possible in StateName::ALL.map(StateName::as_str) {
        if let Some(state) = room.remove(possible) {
            events = serde_json::from_str::<Events>(state.get())?.events;
            name = possible;
        }
    }
    let mut begin = String::new();
    for (name, value) in &room {
        begin.extend(["\"", name, "\":", value.get(), ","]);
    }
    begin.extend(["\"", name, "\":{\"events\":["]);
    Ok((begin, joined(&events)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::{StateName, around_state};
    use crate::testing::TestServer;

    const EVENTS: usize = 40;
    /// More than a page and the events around it.
    const PIECE_BYTES_MAX: usize = 1_500_000;

    #[test]
    fn a_large_room_goes_out_in_pieces_or_the_answer_breaks_off() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let token = server.register("alice");
        let (_, room) = server.post("/_matrix/client/v3/createRoom", &token, &json!({}));
        let room_id = room["room_id"].as_str().unwrap().replace('!', "%21").replace(':', "%3A");
        for number in 0..EVENTS {
            let path = format!("/_matrix/client/v3/rooms/{room_id}/state/org.test.large/{number}");
            let (status, _) = server.put(&path, &token, &json!({ "large": "x".repeat(60_000) }));
            assert_eq!(status, 200);
        }
        let sync = "/_matrix/client/v3/sync?timeout=0";
        let pieces: Vec<_> = server.pieces(sync, &token).into_iter().map(Result::unwrap).collect();
        assert!(pieces.len() > 3, "{} pieces", pieces.len());
        assert!(pieces.iter().all(|piece| piece.len() < PIECE_BYTES_MAX));
        let answer: Value = serde_json::from_slice(&pieces.concat()).unwrap();
        let room = &answer["rooms"]["join"][room["room_id"].as_str().unwrap()];
        let large = |section: &str| {
            let events = room[section]["events"].as_array().unwrap();
            events.iter().filter(|event| event["type"] == "org.test.large").count()
        };
        assert_eq!(large("state") + large("timeline"), EVENTS);

        server.fails("state_page");
        let mut pieces = server.pieces(sync, &token);
        assert!(pieces.pop().unwrap().is_err());
        let told: Vec<_> = pieces.into_iter().map(Result::unwrap).collect();
        assert!(serde_json::from_slice::<Value>(&told.concat()).is_err(), "half an answer looks like none");
    }

    #[test]
    fn state_goes_where_state_is() {
        for name in StateName::ALL.map(StateName::as_str) {
            let room = json!({ "timeline": { "limited": true }, name: { "events": [3, 4] } });
            let (begin, last) = around_state(&to_raw_value(&room).unwrap()).unwrap();
            let expected = json!({ "timeline": { "limited": true }, name: { "events": [1, 2, 3, 4] } });
            let whole = format!("{{{begin}1,2,{last}]}}}}");
            assert_eq!(serde_json::from_str::<Value>(&whole).unwrap(), expected);
        }
    }
}
