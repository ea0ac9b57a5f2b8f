//! Answers that a room gives in pages: the first is there before the answer begins, so that a refusal is one; the
//! others are asked for while it is sent.

use actors::{
    Call,
    room::{GetState, StatePage},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use platform::{ActorKind, Fault};
use ruma_common::OwnedRoomId;
use serde_json::value::RawValue;

use crate::{Body, Context, Failure};

/// What a page holds, as JSON with commas between, and the call for the next one.
pub(in crate::client) struct Page<C> {
    pub items: String,
    pub next: Option<C>,
}

/// How the reply to a call becomes a page.
pub(in crate::client) type Turn<C> = fn(C, <C as Call>::Reply) -> Result<Page<C>, Failure>;

/// The answer that begins with `open` and the first page, and ends with `close`.
pub(super) fn in_pages<C: Call>(
    cx: &Context,
    room_id: OwnedRoomId,
    open: &str,
    first: Page<C>,
    turn: Turn<C>,
    close: &'static str,
) -> Body {
    let begun = [open, &first.items].concat();
    let Some(next) = first.next else { return Body::Whole((begun + close).into()) };
    let rest = Rest {
        cx: cx.clone(),
        room_id,
        next: Some(next),
        has_items: !first.items.is_empty(),
        turn,
        end: Some((String::new(), close)),
    };
    Body::pieces(stream::iter([Ok(begun.into())]).chain(rest.pieces()))
}

/// Pages that are yet to be sent.
pub(in crate::client) struct Rest<C: Call> {
    pub cx: Context,
    pub room_id: OwnedRoomId,
    pub next: Option<C>,
    /// Whether something stands there already, so that a comma has to follow it.
    pub has_items: bool,
    pub turn: Turn<C>,
    /// What comes behind the pages: more items, and what closes them.
    pub end: Option<(String, &'static str)>,
}

impl<C: Call> Rest<C> {
    /// The pages, each asked for when its turn comes.
    pub(in crate::client) fn pieces(self) -> impl Stream<Item = Result<Bytes, Fault>> {
        const { assert!(C::ACTOR as u8 == ActorKind::Room as u8, "only rooms answer in pages") };
        stream::unfold(self, Self::piece)
    }

    async fn piece(mut self) -> Option<(Result<Bytes, Fault>, Self)> {
        let Some(call) = self.next.take() else {
            let (items, close) = self.end.take()?;
            return Some((Ok((self.separated(items) + close).into()), self));
        };
        let page = match self.cx.call(self.room_id.as_str(), &call).await {
            Ok(reply) => (self.turn)(call, reply),
            Err(failure) => Err(failure),
        };
        match page {
            Ok(page) => {
                self.next = page.next;
                Some((Ok(self.separated(page.items).into()), self))
            }
            Err(failure) => {
                // The answer ends here, unfinished.
                self.end = None;
                Some((Err(fault(failure)), self))
            }
        }
    }

    /// Items with a comma before, if any went before them.
    fn separated(&mut self, items: String) -> String {
        if items.is_empty() {
            return items;
        }
        if std::mem::replace(&mut self.has_items, true) { format!(",{items}") } else { items }
    }
}

/// The first page was given: whatever keeps the room from giving another one now is ours to explain.
fn fault(failure: Failure) -> Fault {
    match failure {
        Failure::Fault(fault) => fault,
        Failure::Refused(refusal) => Fault::new(format!("a room refused the rest of an answer: {refusal}")),
        Failure::Absent | Failure::Challenge(_) => Fault::new("a room was gone before the rest of an answer"),
    }
}

/// A page of state.
pub(in crate::client) fn of_state(call: GetState, page: StatePage) -> Result<Page<GetState>, Failure> {
    let items = joined(&page.events);
    let next = page.next.map(|after| GetState { at: Some(page.at), after: Some(after), ..call });
    Ok(Page { items, next })
}

/// JSON values with commas between, without looking into them again.
pub(in crate::client) fn joined(values: &[Box<RawValue>]) -> String {
    let length: usize = values.iter().map(|value| value.get().len().saturating_add(1)).sum();
    let mut json = String::with_capacity(length);
    for value in values {
        if !json.is_empty() {
            json.push(',');
        }
        json.push_str(value.get());
    }
    json
}
