//! Carrying to another server what its Destination has for it.
//!
//! A carrier takes work, reads from the rooms what goes out, and has the attempt stored before the first byte leaves;
//! what was sent and not acknowledged is sent again, exactly so.
//! Spec: "Transactions".

use actors::{
    destination::{
        Acknowledge, Attempt, Edus, GetEdus, Range, Refused, ReportFailure, StartAttempt, StopCarrying, TakeWork, Work,
    },
    room::{GetNewestOutgoing, GetOutgoing, NewestOutgoing, Outgoing},
};
use http::{Method, StatusCode};
use ruma_common::{OwnedServerName, ServerName};
use serde_json::value::{RawValue, to_raw_value};

use super::{AskError, Bounds, device_lists, edus};
use crate::{Context, Failure, shift::Shift};

/// Spec: «at most 50 PDUs».
const PDUS_MAX: u64 = 50;
/// Bytes of events in one transaction, after which no more are added.
const TRANSACTION_BYTES_MAX: usize = 1024 * 1024;
/// How long a server may take over one transaction, in milliseconds.
const TIMEOUT_MS: u64 = 60_000;
/// The largest answer to a transaction, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Carries to a server what there is for it. What goes wrong is logged, and tried again later by whoever comes next.
pub(crate) async fn carry(cx: &Context, server: &str) {
    let Ok(server) = OwnedServerName::try_from(server) else { return };
    let shift = Shift::begins(cx);
    let once = async || carry_once(cx, &server, shift.carrier).await;
    let stop = StopCarrying { carrier: shift.carrier.to_owned() };
    shift.works(once, async || cx.call(server.as_str(), &stop).await).await;
}

/// Answers whether there may be more.
async fn carry_once(cx: &Context, server: &ServerName, carrier: &str) -> Result<bool, Failure> {
    let carrier = carrier.to_owned();
    let work = match cx.call(server.as_str(), &TakeWork { carrier: carrier.clone() }).await {
        Err(Failure::Absent) => return Ok(false),
        work => work?,
    };
    let is_missed = matches!(work, Work::Missed(_));
    let (attempt, events, edus, edus_up_to) = match work {
        Work::Nothing => return Ok(false),
        Work::Repeat(attempt) => {
            let mut events = Vec::new();
            for range in &attempt.ranges {
                events.extend(outgoing(cx, server, range, PDUS_MAX).await?.events);
            }
            let edus = match attempt.edus_up_to {
                up_to @ Some(_) => cx.call(server.as_str(), &GetEdus { up_to }).await?,
                None => Edus::default(),
            };
            (attempt, events, edus.edus, edus.up_to)
        }
        Work::Passing { transaction_id, presences, edus } => {
            let attempt = Attempt { transaction_id, ranges: Vec::new(), edus_up_to: None };
            let mut edus = edus.into_iter().map(RawValue::from_string).collect::<Result<Vec<_>, _>>()?;
            if !presences.is_empty() {
                edus.push(edus::presence(&presences, cx.now_ms())?);
            }
            (attempt, Vec::new(), edus, None)
        }
        Work::Owed(owed) | Work::Missed(owed) => {
            let Filled { ranges, events, unread } = fill(cx, server, owed, is_missed).await;
            let mut edus = cx.call(server.as_str(), &GetEdus { up_to: None }).await?;
            if !edus.device_lists.is_empty() {
                for owed in std::mem::take(&mut edus.device_lists) {
                    device_lists::queue(cx, server, owed).await?;
                }
                edus = cx.call(server.as_str(), &GetEdus { up_to: None }).await?;
            }
            if let Some(failure) = unread.filter(|_| ranges.is_empty() && edus.edus.is_empty()) {
                return Err(failure);
            }
            let start = StartAttempt { carrier: carrier.clone(), ranges, edus_up_to: edus.up_to };
            let Some(attempt) = cx.call(server.as_str(), &start).await? else { return Ok(false) };
            (attempt, events, edus.edus, edus.up_to)
        }
    };
    // What moved in the rooms may have been nothing for others.
    let is_empty = events.is_empty() && edus.is_empty();
    let size = (events.len() as u64, edus.len() as u64);
    let sent = if is_empty { Ok(()) } else { send(cx, server, &attempt, [events, edus]).await };
    match sent {
        Ok(()) => {
            let transaction_id = attempt.transaction_id;
            cx.call(server.as_str(), &Acknowledge { carrier, transaction_id, edus_up_to, was_empty: is_empty }).await?;
            Ok(true)
        }
        Err(error) => {
            tracing::info!(%server, %error, "a server did not take what was sent");
            let (events, edus) = size;
            let what = Refused { transaction_id: attempt.transaction_id, events, edus };
            let refused = is_refused(&error).then(|| what.clone());
            let answered = is_answered(&error).then_some(what);
            cx.call(server.as_str(), &ReportFailure { carrier, refused, answered }).await?;
            Ok(false)
        }
    }
}

/// Whether the server would say the same of the same transaction again, or no transaction can be made of what is in it.
fn is_refused(error: &AskError) -> bool {
    match error {
        AskError::Refused { status, .. } => {
            matches!(*status, StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE)
        }
        AskError::Unwritable(_) => true,
        AskError::Denied | AskError::Unreachable(_) | AskError::TooLarge | AskError::Nonsense(_) => false,
    }
}

/// Whether the server is there, and does not take the transaction for a reason that may lie in what is in it, or may
/// pass.
fn is_answered(error: &AskError) -> bool {
    match error {
        // These are about us, or about whoever stands in front of the server.
        AskError::Refused { status, .. } => {
            let passes = [
                StatusCode::UNAUTHORIZED,
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::BAD_GATEWAY,
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT,
            ];
            !passes.contains(status) && !is_refused(error)
        }
        AskError::TooLarge | AskError::Nonsense(_) => true,
        AskError::Denied | AskError::Unreachable(_) | AskError::Unwritable(_) => false,
    }
}

/// What goes into one transaction.
#[derive(Default)]
struct Filled {
    ranges: Vec<Range>,
    events: Vec<Box<RawValue>>,
    /// Why a room could not be read: it is still owed, and keeps none of the others from the server.
    unread: Option<Failure>,
}

/// As much of what is owed as fits into one transaction. Of what was missed, the newest of each room, and the rest
/// never: the other server asks for it when it wants it.
async fn fill(cx: &Context, server: &ServerName, owed: Vec<Range>, is_missed: bool) -> Filled {
    let (mut filled, mut bytes) = (Filled::default(), 0_usize);
    let events_max = owed.iter().filter_map(|range| range.events_max).min().unwrap_or(PDUS_MAX).min(PDUS_MAX);
    for range in owed {
        let left = events_max.saturating_sub(filled.events.len() as u64);
        if left == 0 || bytes > TRANSACTION_BYTES_MAX {
            break;
        }
        let page = if is_missed {
            newest(cx, server, &range, events_max).await
        } else {
            let page = outgoing(cx, server, &range, left).await;
            page.map(|page| NewestOutgoing { after: range.after, events: page.events, up_to: page.up_to })
        };
        let page = match page {
            Ok(page) => page,
            Err(failure) => {
                let fault = failure.into_fault();
                tracing::error!(%server, room_id = %range.room_id, %fault, "a room cannot be read");
                filled.unread = Some(fault.into());
                continue;
            }
        };
        if page.events.len() as u64 > left {
            break;
        }
        bytes = bytes.saturating_add(page.events.iter().map(|event| event.get().len()).sum());
        filled.events.extend(page.events);
        filled.ranges.push(Range { after: page.after, up_to: page.up_to, events_max: None, ..range });
    }
    filled
}

async fn outgoing(cx: &Context, server: &ServerName, range: &Range, limit: u64) -> Result<Outgoing, Failure> {
    let call = GetOutgoing { server: server.to_owned(), after: range.after, up_to: range.up_to, limit };
    match cx.room(&range.room_id).call(&call).await {
        // What was lost with a room is nobody's any more.
        Err(Failure::Absent) => Ok(Outgoing { events: Vec::new(), up_to: range.up_to }),
        outgoing => outgoing,
    }
}

async fn newest(cx: &Context, server: &ServerName, range: &Range, limit: u64) -> Result<NewestOutgoing, Failure> {
    let Range { after, up_to, .. } = *range;
    let call = GetNewestOutgoing { server: server.to_owned(), after, up_to, limit };
    match cx.room(&range.room_id).call(&call).await {
        Err(Failure::Absent) => Ok(NewestOutgoing { after, events: Vec::new(), up_to }),
        newest => newest,
    }
}

async fn send(
    cx: &Context,
    server: &ServerName,
    attempt: &Attempt,
    [pdus, edus]: [Vec<Box<RawValue>>; 2],
) -> Result<(), AskError> {
    #[derive(serde::Serialize)]
    struct Transaction<'a> {
        origin: &'a ServerName,
        origin_server_ts: u64,
        pdus: Vec<Box<RawValue>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        edus: Vec<Box<RawValue>>,
    }
    let content = Transaction { origin: cx.server_name(), origin_server_ts: cx.now_ms(), pdus, edus };
    let content = to_raw_value(&content).map_err(|error| AskError::Unwritable(error.to_string()))?;
    let path = format!("/_matrix/federation/v1/send/{}", attempt.transaction_id);
    let bounds = Bounds { response_bytes_max: ANSWER_BYTES_MAX, timeout_ms: TIMEOUT_MS };
    cx.ask_raw(server, Method::PUT, &path, Some(content), bounds).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use actors::destination::{QueueEdu, RoomMoved};
    use domain::federation::server_keys::own_document;
    use http::{HeaderMap, StatusCode};
    use ruma_common::{OwnedRoomId, room_id};
    use serde_json::{Value, json, value::RawValue};

    use super::{
        super::{room_tests::joins, tests::identity},
        AskError, carry, is_answered, is_refused,
    };
    use crate::testing::{TestServer, block_on};

    const THERE: &str = "b.test:1";

    #[test]
    fn what_a_server_says_of_a_transaction_is_told_apart() {
        let refused = |status: u16| AskError::Refused {
            status: StatusCode::from_u16(status).unwrap(),
            errcode: "M_UNKNOWN".to_owned(),
            message: String::new(),
            body: serde_json::Map::new(),
        };
        for (error, expected) in [
            (refused(400), (true, false)),
            (refused(413), (true, false)),
            (AskError::Unwritable(String::new()), (true, false)),
            (refused(403), (false, true)),
            (refused(404), (false, true)),
            (refused(500), (false, true)),
            (AskError::Nonsense(String::new()), (false, true)),
            (AskError::TooLarge, (false, true)),
            (refused(401), (false, false)),
            (refused(429), (false, false)),
            (refused(502), (false, false)),
            (refused(503), (false, false)),
            (AskError::Unreachable(String::new()), (false, false)),
            (AskError::Denied, (false, false)),
        ] {
            assert_eq!((is_refused(&error), is_answered(&error)), expected, "{error:?}");
        }
    }

    /// Queues EDUs, one of them with this in it, and carries until all others have arrived. Answers how many
    /// transactions did.
    fn arrive_without(poison: &str, answer: impl Fn(&str) -> StatusCode + 'static) -> usize {
        let server = TestServer::new(&[]);
        let arrived = Rc::new(RefCell::new(Vec::new()));
        let taken = arrived.clone();
        server.others_answer(move |request| {
            let body = std::str::from_utf8(&request.body).unwrap();
            let status = answer(body);
            if status != StatusCode::OK {
                let no = r#"{"errcode":"M_UNKNOWN","error":"no"}"#;
                return Ok((status, HeaderMap::new(), no.into()));
            }
            let transaction: Value = serde_json::from_str(body).unwrap();
            let edus = transaction["edus"].as_array().cloned().unwrap_or_default();
            taken.borrow_mut().push(edus.iter().map(|edu| edu["content"]["name"].to_string()).collect::<Vec<_>>());
            Ok((StatusCode::OK, HeaderMap::new(), r#"{"pdus":{}}"#.into()))
        });
        let names = ["1", "2", "3", "4", "5"];
        for name in names {
            let x = if name == "3" { poison } else { "1" };
            let edu = format!(r#"{{"edu_type":"m.x","content":{{"name":{name},"x":{x}}}}}"#);
            let call = QueueEdu { key: name.to_owned(), edu: RawValue::from_string(edu).unwrap() };
            block_on(server.context().call(THERE, &call)).unwrap();
        }
        for _ in 0..40 {
            block_on(carry(&server.context(), THERE));
            server.pass_ms(8 * 3_600_000);
        }
        let arrived = arrived.borrow();
        assert_eq!(arrived.concat(), ["1", "2", "4", "5"]);
        arrived.len()
    }

    /// Once it is queued, nobody stops it on its way any more.
    #[test]
    fn what_cannot_be_signed_keeps_nothing_else_from_a_server() {
        let deep = format!("{}{}", "[".repeat(126), "]".repeat(126));
        for poison in ["1.5", "9007199254740993", &deep] {
            assert!(arrive_without(poison, |_| StatusCode::OK) <= 4);
        }
    }

    #[test]
    fn what_a_server_fails_at_every_time_keeps_nothing_else_from_it() {
        for status in [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND] {
            let fails = move |body: &str| if body.contains("poison") { status } else { StatusCode::OK };
            arrive_without(r#""poison""#, fails);
        }
    }

    /// Two rooms with somebody of that server, and one of which nothing is here.
    #[test]
    fn a_room_that_cannot_be_read_keeps_no_other_from_a_server() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("TRUSTED_KEY_SERVERS", "")]);
        let (alice, arrived) = (server.register("alice"), Rc::new(RefCell::new(Vec::new())));
        let taken = arrived.clone();
        server.others_answer(move |request| {
            if request.path_and_query == "/_matrix/key/v2/server" {
                let keys = own_document(&identity(THERE, "1", 1), 1_700_000_000_000);
                return Ok((StatusCode::OK, HeaderMap::new(), keys.into()));
            }
            let transaction: Value = serde_json::from_slice(&request.body).unwrap();
            let pdus = transaction["pdus"].as_array().cloned().unwrap_or_default();
            taken.borrow_mut().extend(pdus.iter().map(|pdu| pdu["content"]["body"].as_str().unwrap_or("").to_owned()));
            Ok((StatusCode::OK, HeaderMap::new(), r#"{"pdus":{}}"#.into()))
        });
        let says = |body: &str| {
            let create = json!({ "preset": "public_chat" });
            let (_, created) = server.post("/_matrix/client/v3/createRoom", &alice, &create);
            let room_id = OwnedRoomId::try_from(created["room_id"].as_str().unwrap()).unwrap();
            joins(&server, &identity(THERE, "1", 1), room_id.as_str());
            let path = format!("/_matrix/client/v3/rooms/{room_id}/send/m.room.message/t");
            assert_eq!(server.put(&path, &alice, &json!({ "msgtype": "m.text", "body": body })).0, StatusCode::OK);
            room_id
        };
        let broken = says("in the broken one");
        let lost = RoomMoved { room_id: room_id!("!nothing:localhost").to_owned(), since: 0, to: 100, left: false };
        block_on(server.context().call(THERE, &lost)).unwrap();
        says("in the whole one");
        server.breaks(broken.as_str());
        for _ in 0..3 {
            block_on(carry(&server.context(), THERE));
            server.pass_ms(8 * 3_600_000);
        }
        assert!(arrived.borrow().contains(&"in the whole one".to_owned()), "{:?}", arrived.borrow());
        server.breaks("");
        block_on(carry(&server.context(), THERE));
        assert!(arrived.borrow().contains(&"in the broken one".to_owned()), "{:?}", arrived.borrow());
    }
}
