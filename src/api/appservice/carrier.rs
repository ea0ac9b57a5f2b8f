//! Carrying to an application service what its actor has for it. Spec: Application Service API, "Pushing events".
//!
//! A carrier takes work, reads from the rooms what is of interest, and has the attempt stored before the first byte
//! leaves; what was sent and not acknowledged is sent again, exactly so.

use actors::{
    appservice::{Acknowledge, Range, ReportFailure, SentEvents, StartAttempt, StopCarrying, TakeWork, Work},
    room::{ForAppservice, GetForAppservice, WantedEvents},
};
use domain::Appservice;
use http::Method;
use ruma_common::RoomId;
use serde::Serialize;
use serde_json::value::RawValue;

use super::ask::{Question, Unanswered, ask, segment};
use crate::{Context, Failure, shift::Shift};

/// Events in one transaction.
const EVENTS_MAX: u64 = 100;
/// Bytes of events in one transaction, after which no more are added.
const TRANSACTION_BYTES_MAX: usize = 1024 * 1024;
/// How long a service may take over one transaction, in milliseconds.
const TIMEOUT_MS: u64 = 60_000;

/// Carries to the service with this actor what there is for it. What goes wrong is logged, and tried again later by
/// whoever comes next.
pub(crate) async fn carry(cx: &Context, actor: &str) {
    let Some(appservice) = cx.config().told_appservice(actor) else { return };
    let shift = Shift::begins(cx);
    let carrying = Carrying { cx, appservice, actor, carrier: shift.carrier };
    let stop = StopCarrying { carrier: shift.carrier.to_owned() };
    shift.works(async || carrying.once().await, async || cx.call(actor, &stop).await).await;
}

/// One carrier.
struct Carrying<'a> {
    cx: &'a Context,
    appservice: &'a Appservice,
    actor: &'a str,
    carrier: &'a str,
}

/// What is in a transaction.
#[derive(Default, Serialize)]
struct Transaction {
    events: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ephemeral: Vec<Box<RawValue>>,
}

impl Carrying<'_> {
    /// Answers whether there may be more.
    async fn once(&self) -> Result<bool, Failure> {
        let Self { cx, actor, .. } = *self;
        let work = match cx.call(actor, &TakeWork { carrier: self.carrier.to_owned() }).await {
            Err(Failure::Absent) => return Ok(false),
            work => work?,
        };
        let (transaction_id, transaction) = match work {
            Work::Nothing => return Ok(false),
            Work::Passing { transaction_id, ephemeral } => {
                (transaction_id, Transaction { ephemeral, ..Transaction::default() })
            }
            Work::Repeat { attempt, queued: mut events } => {
                for SentEvents { room_id, event_ids, .. } in attempt.rooms {
                    if !event_ids.is_empty() {
                        events.extend(self.read(&room_id, WantedEvents::Named(event_ids)).await?.events);
                    }
                }
                (attempt.transaction_id, Transaction { events, ephemeral: attempt.ephemeral })
            }
            Work::Owed { queued, queued_up_to, ranges } => {
                let mut transaction = Transaction { events: queued, ..Transaction::default() };
                let (rooms, unread) = self.fill(&mut transaction, ranges).await;
                let (carrier, ephemeral) = (self.carrier.to_owned(), transaction.ephemeral.clone());
                let is_empty = transaction.events.is_empty() && ephemeral.is_empty();
                if let Some(failure) = unread.filter(|_| rooms.is_empty() && is_empty) {
                    return Err(failure);
                }
                match cx.call(actor, &StartAttempt { carrier, queued_up_to, rooms, ephemeral }).await? {
                    Some(attempt) => (attempt.transaction_id, transaction),
                    // What moved in the rooms was nothing for the service; or another one carries by now.
                    None => return Ok(is_empty),
                }
            }
        };
        let carrier = self.carrier.to_owned();
        if self.send(&transaction_id, &transaction).await? {
            cx.call(actor, &Acknowledge { carrier, transaction_id }).await?;
            Ok(true)
        } else {
            cx.call(actor, &ReportFailure { carrier }).await?;
            Ok(false)
        }
    }

    /// As much of what is owed as fits into one transaction. Answers what there is of each room, and why one of them
    /// could not be read: it is still owed, and keeps none of the others from the service.
    async fn fill(&self, transaction: &mut Transaction, owed: Vec<Range>) -> (Vec<SentEvents>, Option<Failure>) {
        let (mut rooms, mut unread, mut bytes) = (Vec::new(), None, 0_usize);
        for Range { room_id, after, up_to } in owed {
            let limit = EVENTS_MAX.saturating_sub(transaction.events.len() as u64);
            if limit == 0 || bytes > TRANSACTION_BYTES_MAX {
                break;
            }
            let page = match self.read(&room_id, WantedEvents::Between { after, up_to, limit }).await {
                Ok(page) => page,
                Err(failure) => {
                    let (appservice, fault) = (&*self.appservice.id, failure.into_fault());
                    tracing::error!(appservice, %room_id, %fault, "a room cannot be read");
                    unread = Some(fault.into());
                    continue;
                }
            };
            let all = page.events.iter().chain(&page.ephemeral);
            bytes = bytes.saturating_add(all.map(|event| event.get().len()).sum());
            transaction.events.extend(page.events);
            transaction.ephemeral.extend(page.ephemeral);
            rooms.push(SentEvents { room_id, up_to: page.up_to, event_ids: page.event_ids });
        }
        (rooms, unread)
    }

    async fn read(&self, room_id: &RoomId, wanted: WantedEvents) -> Result<ForAppservice, Failure> {
        let up_to = if let WantedEvents::Between { up_to, .. } = wanted { up_to } else { 0 };
        let call = GetForAppservice { appservice: self.appservice.id.clone(), wanted };
        match self.cx.room(room_id).call(&call).await {
            Err(Failure::Absent) => Ok(ForAppservice { up_to, ..ForAppservice::default() }),
            page => page,
        }
    }

    /// Answers whether the service has it.
    async fn send(&self, transaction_id: &str, transaction: &Transaction) -> Result<bool, Failure> {
        let question = Question {
            method: Method::PUT,
            path: format!("/_matrix/app/v1/transactions/{}", segment(transaction_id)),
            legacy_path: Some(format!("/transactions/{}", segment(transaction_id))),
            is_insistent: true,
            body: serde_json::to_vec(transaction)?.into(),
            timeout_ms: TIMEOUT_MS,
        };
        match ask(self.cx, self.appservice, &question).await {
            Ok((status, _)) if status.is_success() => Ok(true),
            Ok((status, _)) => {
                let appservice = &*self.appservice.id;
                tracing::info!(appservice, %status, "an application service does not take what it is sent");
                Ok(false)
            }
            Err(Unanswered::NoUrl | Unanswered::Failed(_)) => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use domain::appservice::SIGIL;
    use http::{HeaderMap, StatusCode};
    use serde_json::{Value, json};

    use super::carry;
    use crate::testing::{TestServer, block_on};

    const REGISTRATION: &str = r#"{ "id": "irc", "url": "http://irc.test:1", "as_token": "a", "hs_token": "h",
        "sender_localpart": "irc", "namespaces": { "users": [{ "regex": "@alice:.*", "exclusive": false }] } }"#;

    #[test]
    fn a_room_that_cannot_be_read_keeps_no_other_from_a_service() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("APPSERVICES", REGISTRATION)]);
        let arrived = Rc::new(RefCell::new(Vec::new()));
        let taken = arrived.clone();
        server.others_answer(move |request| {
            let transaction: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let events = transaction["events"].as_array().cloned().unwrap_or_default();
            taken
                .borrow_mut()
                .extend(events.iter().filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned())));
            Ok((StatusCode::OK, HeaderMap::new(), "{}".into()))
        });
        let alice = server.register("alice");
        let says = |body: &str| {
            let (_, created) = server.post("/_matrix/client/v3/createRoom", &alice, &json!({}));
            let room_id = created["room_id"].as_str().unwrap().to_owned();
            let path = format!("/_matrix/client/v3/rooms/{room_id}/send/m.room.message/t");
            assert_eq!(server.put(&path, &alice, &json!({ "msgtype": "m.text", "body": body })).0, StatusCode::OK);
            room_id
        };
        let broken = says("in the broken one");
        says("in the whole one");
        server.breaks(&broken);
        let carries = || {
            block_on(carry(&server.context(), &format!("{SIGIL}irc")));
            server.pass_ms(8 * 3_600_000);
            arrived.borrow().clone()
        };
        assert_eq!(carries(), ["in the whole one"]);
        server.breaks("");
        assert_eq!(carries(), ["in the whole one", "in the broken one"]);
    }
}
