//! Answers that a room gives in pages: the first is there before the answer begins, so that a refusal is one; the others
//! are asked for while it is sent.

use actors::{
    Call,
    room::{GetState, StatePage},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use platform::{ActorKind, Fault};
use ruma_common::OwnedRoomId;
use serde_json::value::RawValue;

use crate::{Body, Context, Failure};

/// What a page holds, as JSON with commas between, and the call for the next one.
pub(super) struct Page<C> {
    pub items: String,
    pub next: Option<C>,
}

/// How the reply to a call becomes a page.
type Turn<C> = fn(C, <C as Call>::Reply) -> Result<Page<C>, Failure>;

/// The answer that begins with `open` and the first page, and ends with `close`.
pub(super) fn in_pages<C: Call>(
    cx: &Context,
    room_id: OwnedRoomId,
    open: &str,
    first: Page<C>,
    turn: Turn<C>,
    close: &'static str,
) -> Body {
    const { assert!(C::ACTOR as u8 == ActorKind::Room as u8, "only rooms answer in pages") };
    let begun = [open, &first.items].concat();
    if first.next.is_none() {
        return Body::Whole((begun + close).into());
    }
    let rest = Rest {
        cx: cx.clone(),
        room_id,
        next: first.next,
        has_items: !first.items.is_empty(),
        turn,
        close: Some(close),
    };
    Body::pieces(stream::iter([Ok(begun.into())]).chain(stream::unfold(rest, Rest::piece)))
}

/// What is yet to be sent.
struct Rest<C: Call> {
    cx: Context,
    room_id: OwnedRoomId,
    next: Option<C>,
    has_items: bool,
    turn: Turn<C>,
    close: Option<&'static str>,
}

impl<C: Call> Rest<C> {
    async fn piece(mut self) -> Option<(Result<Bytes, Fault>, Self)> {
        let Some(call) = self.next.take() else {
            let close = self.close.take()?;
            return Some((Ok(close.into()), self));
        };
        let page = match self.cx.call(self.room_id.as_str(), &call).await {
            Ok(reply) => (self.turn)(call, reply),
            Err(failure) => Err(failure),
        };
        let page = match page {
            Ok(page) => page,
            Err(failure) => {
                // The answer ends here, unfinished.
                self.close = None;
                return Some((Err(fault(failure)), self));
            }
        };
        let comma = if self.has_items && !page.items.is_empty() { "," } else { "" };
        self.has_items |= !page.items.is_empty();
        self.next = page.next;
        Some((Ok([comma, &page.items].concat().into()), self))
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
pub(super) fn of_state(call: GetState, page: StatePage) -> Result<Page<GetState>, Failure> {
    let items = joined(&page.events);
    let next = page.next.map(|after| GetState { at: Some(page.at), after: Some(after), ..call });
    Ok(Page { items, next })
}

/// JSON values with commas between, without looking into them again.
pub(super) fn joined(values: &[Box<RawValue>]) -> String {
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
