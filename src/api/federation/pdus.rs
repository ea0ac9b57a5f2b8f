//! Events that other servers give us: read, and checked as far as that needs no room.
//! Spec: Server-Server API, "Checks performed on receipt of a PDU", steps 1 to 3.

use std::collections::{BTreeMap, BTreeSet};

use actors::room::{CheckedEvent, HELD_AT_ONCE_MAX, HoldEvents, RECEIVED_AT_ONCE_MAX, ReceiveEvents, Received};
use domain::{
    Pdu, Refusal, RoomVersion,
    event::{self, NESTING_MAX, PDU_BYTES_MAX},
    federation::server_keys::Signed,
    policy_server,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use platform::{
    Fault,
    planted::{self, Planted},
};
use ruma_common::{CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedServerName, RoomId};
use ruma_events::TimelineEventType;
use ruma_signatures::PublicKeyMap;
use serde_json::value::RawValue;

use super::{NeededKey, ServerKeys};
use crate::{Context, Failure};

/// The longest text of an event that is read, in bytes: written otherwise than canonical JSON it is longer than that,
/// and what it holds unsigned, which may be another event, does not count.
const TEXT_BYTES_MAX: usize = 4 * PDU_BYTES_MAX;
/// Keys of one server that an event's signatures are checked with.
pub(super) const KEYS_OF_SERVER_MAX: usize = 8;
/// The most events that are checked at once, and their bytes.
const CHECKED_AT_ONCE_MAX: usize = 2_000;
const CHECKED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of events in one call to a room.
const CALL_BYTES_MAX: usize = 1024 * 1024;

/// An event of which nothing is known but that it is one by its form.
pub(crate) struct ReadPdu {
    pub event_id: OwnedEventId,
    /// Whether it is old enough that it may name any number of events.
    is_old: bool,
    object: CanonicalJsonObject,
    signers: BTreeSet<OwnedServerName>,
    signed: Signed,
}

impl ReadPdu {
    /// Reads an event; what is wrong with it otherwise.
    pub(crate) fn read(json: &RawValue, version: &RoomVersion) -> Result<Self, String> {
        if json.get().len() > TEXT_BYTES_MAX {
            return Err("it is too large".to_owned());
        }
        let object = event::read(json.get()).map_err(|error| format!("it is no canonical JSON: {error}"))?;
        if event::is_nested_too_deep(&object) {
            return Err(format!("it is nested deeper than {NESTING_MAX} levels"));
        }
        let event_id = event::id_of(&object, version).map_err(|error| error.to_string())?;
        let signers = event::required_signers(&object, version).map_err(|error| error.to_string())?;
        let at_ms = match object.get("origin_server_ts") {
            Some(CanonicalJsonValue::Integer(at_ms)) => u64::try_from(i64::from(*at_ms)).unwrap_or_default(),
            _ => return Err("it has no time".to_owned()),
        };
        let signed = if version.looks_at_key_validity() { Signed::Event { at_ms } } else { Signed::EventOfAnyTime };
        Ok(Self { event_id, is_old: false, object, signers, signed })
    }

    /// The id of what may be no event for all that.
    pub(super) fn id_of(json: &RawValue, version: &RoomVersion) -> Option<OwnedEventId> {
        event::id_of(&event::read(json.get()).ok()?, version).ok()
    }

    /// The keys with which a server says that it signed the event, as far as they are looked for.
    fn key_ids<'a>(&'a self, server: &OwnedServerName) -> impl Iterator<Item = &'a str> {
        let of_server = match self.object.get("signatures") {
            Some(CanonicalJsonValue::Object(signatures)) => signatures.get(server.as_str()),
            _ => None,
        };
        let of_server = match of_server {
            Some(CanonicalJsonValue::Object(of_server)) => Some(of_server),
            _ => None,
        };
        let key_ids = of_server.into_iter().flat_map(|of_server| of_server.keys()).map(String::as_str);
        // Anybody who passes an event on can add what they like; a policy server's key is published in the room.
        let is_of_server = |key_id: &&str| key_id.starts_with("ed25519:") && *key_id != policy_server::KEY_ID;
        key_ids.filter(is_of_server).take(KEYS_OF_SERVER_MAX)
    }

    pub(super) fn needed_keys(&self) -> Vec<NeededKey> {
        let of = |server: &OwnedServerName| {
            let needed =
                |key_id: &str| NeededKey { server: server.clone(), key_id: key_id.to_owned(), signed: self.signed };
            self.key_ids(server).map(needed).collect::<Vec<_>>()
        };
        self.signers.iter().flat_map(of).collect()
    }

    fn public_keys(&self, keys: &ServerKeys) -> PublicKeyMap {
        let mut map = PublicKeyMap::new();
        for server in &self.signers {
            let set = self.key_ids(server).filter_map(|key_id| {
                keys.key_for(server, key_id, self.signed).map(|key| (key_id.to_owned(), key.clone()))
            });
            map.insert(server.to_string(), set.collect());
        }
        map
    }

    /// Whether the keys that it is signed with are not known, of one who has to sign it: another time they may be.
    fn lacks_keys(&self, keys: &ServerKeys) -> bool {
        let is_known = |server: &OwnedServerName, key_id: &str| keys.key_for(server, key_id, self.signed).is_some();
        let lacks = |server: &OwnedServerName| {
            let mut key_ids = self.key_ids(server).peekable();
            key_ids.peek().is_some() && !key_ids.any(|key_id| is_known(server, key_id))
        };
        !planted::is(Planted::SkippedSignature) && self.signers.iter().any(lacks)
    }

    fn check(mut self, version: &RoomVersion, keys: &ServerKeys) -> Result<Pdu, String> {
        if planted::is(Planted::SkippedSignature) {
            self.object.remove("unsigned");
            let json = CanonicalJsonValue::Object(self.object).to_string();
            return Pdu::from_stored(self.event_id, json, false).map_err(|error| error.to_string());
        }
        let public_keys = self.public_keys(keys);
        let check = if self.is_old { event::check_old } else { event::check };
        let checked = check(self.object, version, &public_keys).map_err(|error| error.to_string())?;
        Ok(checked.pdu)
    }
}

/// An event as it goes to another server.
pub(super) fn raw(pdu: &Pdu) -> Result<Box<RawValue>, Failure> {
    Ok(RawValue::from_string(pdu.json().to_owned())?)
}

/// Events of one room, as far as they pass.
#[derive(Default)]
pub(super) struct SortedPdus {
    pub good: Vec<Pdu>,
    /// Those whose servers' keys are not to be had now: a notary did not answer.
    pub unchecked: Vec<Box<RawValue>>,
}

/// Text as a segment of a path.
pub(super) fn encoded(part: &str) -> String {
    utf8_percent_encode(part, NON_ALPHANUMERIC).to_string()
}

/// The path of an endpoint that names a room, and last an event or a user.
pub(super) fn path_in_room(endpoint: &str, room_id: &RoomId, last: &str) -> String {
    format!("/_matrix/federation/{endpoint}/{}/{}", encoded(room_id.as_str()), encoded(last))
}

impl Context {
    /// Checks events: their form, their signatures and their hashes. What does not pass is left out, but for the
    /// reason.
    ///
    /// # Errors
    /// A fault of ours.
    pub(crate) async fn check_pdus(
        &self,
        version: &RoomVersion,
        pdus: Vec<ReadPdu>,
    ) -> Result<Vec<(OwnedEventId, Result<Pdu, String>)>, Failure> {
        let keys = self.server_keys(pdus.iter().flat_map(ReadPdu::needed_keys)).await?;
        let check = |pdu: ReadPdu| (pdu.event_id.clone(), pdu.check(version, &keys));
        Ok(pdus.into_iter().map(check).collect())
    }

    /// As [`Context::check_pdus`], in the order of these events; `None` where the keys of one that has to sign are not
    /// to be had.
    ///
    /// # Errors
    /// A fault of ours.
    pub(super) async fn check_pdus_if_possible(
        &self,
        version: &RoomVersion,
        pdus: Vec<ReadPdu>,
    ) -> Result<Vec<(OwnedEventId, Option<Result<Pdu, String>>)>, Failure> {
        let keys = self.server_keys(pdus.iter().flat_map(ReadPdu::needed_keys)).await?;
        let check = |pdu: ReadPdu| {
            let event_id = pdu.event_id.clone();
            (event_id, (!pdu.lacks_keys(&keys)).then(|| pdu.check(version, &keys)))
        };
        Ok(pdus.into_iter().map(check).collect())
    }

    /// As [`Context::check_pdus`], of one event.
    ///
    /// # Errors
    /// A fault of ours.
    pub(crate) async fn check_pdu(&self, version: &RoomVersion, pdu: ReadPdu) -> Result<Result<Pdu, String>, Failure> {
        let (_, outcome) = self
            .check_pdus(version, vec![pdu])
            .await?
            .pop()
            .ok_or_else(|| Fault::new("an event was checked without outcome"))?;
        Ok(outcome)
    }

    /// As [`Context::check_pdus`], of events of one room: those that pass, and are of it.
    ///
    /// # Errors
    /// A fault of ours.
    pub(crate) async fn good_pdus(
        &self,
        room_id: &RoomId,
        version: &RoomVersion,
        pdus: &[Box<RawValue>],
    ) -> Result<Vec<Pdu>, Failure> {
        Ok(self.sorted_pdus(room_id, version, pdus, false).await?.good)
    }

    /// As [`Context::good_pdus`]; answers also those that cannot be checked now.
    ///
    /// # Errors
    /// A fault of ours.
    pub(super) async fn good_and_unchecked_pdus(
        &self,
        room_id: &RoomId,
        version: &RoomVersion,
        pdus: &[Box<RawValue>],
    ) -> Result<SortedPdus, Failure> {
        self.sorted_pdus(room_id, version, pdus, false).await
    }

    /// As [`Context::good_pdus`], of history. Spec: `/backfill`: «the response of backfill MUST NOT be validated on»
    /// how many events an event names.
    ///
    /// # Errors
    /// A fault of ours.
    pub(super) async fn old_pdus(
        &self,
        room_id: &RoomId,
        version: &RoomVersion,
        pdus: &[Box<RawValue>],
    ) -> Result<Vec<Pdu>, Failure> {
        Ok(self.sorted_pdus(room_id, version, pdus, true).await?.good)
    }

    async fn sorted_pdus(
        &self,
        room_id: &RoomId,
        version: &RoomVersion,
        pdus: &[Box<RawValue>],
        are_old: bool,
    ) -> Result<SortedPdus, Failure> {
        let mut sorted = SortedPdus::default();
        for slice in slices(pdus) {
            let read = slice.iter().filter_map(|json| match ReadPdu::read(json, version) {
                Ok(pdu) => Some((ReadPdu { is_old: are_old, ..pdu }, json)),
                Err(why) => {
                    tracing::debug!(%room_id, why, "an event is dropped");
                    None
                }
            });
            let read: Vec<_> = read.collect();
            let keys = self.server_keys(read.iter().flat_map(|(pdu, _)| pdu.needed_keys())).await?;
            for (pdu, json) in read {
                let event_id = pdu.event_id.clone();
                if keys.is_notary_silent && pdu.lacks_keys(&keys) {
                    tracing::debug!(%room_id, %event_id, "an event cannot be checked: its servers' keys are not known");
                    sorted.unchecked.push(json.clone());
                    continue;
                }
                match pdu.check(version, &keys) {
                    Ok(pdu) if pdu.room_id() == room_id => sorted.good.push(pdu),
                    Ok(_) => tracing::debug!(%room_id, %event_id, "an event of another room is dropped"),
                    Err(why) => tracing::debug!(%room_id, %event_id, why, "an event is dropped"),
                }
            }
        }
        Ok(sorted)
    }

    /// Has a room hold these events; those whose authorisation is not among them, nor held, are not.
    ///
    /// # Errors
    /// A fault of ours.
    pub(crate) async fn hold_pdus(&self, room_id: &RoomId, pdus: Vec<Pdu>) -> Result<(), Failure> {
        let events: Vec<CheckedEvent> = in_auth_order(pdus).iter().map(CheckedEvent::of).collect();
        let mut rest = &events[..];
        while !rest.is_empty() {
            let (events, after) = in_one_call(rest, HELD_AT_ONCE_MAX);
            self.room(room_id).call(&HoldEvents { events: events.to_vec() }).await?;
            rest = after;
        }
        Ok(())
    }

    /// Has a room receive these events in their order, in as few operations as it takes for that. Answers what became
    /// of each, or why it was refused.
    ///
    /// # Errors
    /// A fault of ours.
    pub(super) async fn receive_pdus(
        &self,
        room_id: &RoomId,
        events: &[CheckedEvent],
    ) -> Result<Vec<Result<Received, Refusal>>, Failure> {
        let (mut outcomes, mut at_once) = (Vec::with_capacity(events.len()), RECEIVED_AT_ONCE_MAX);
        while let Some(rest) = events.get(outcomes.len()..).filter(|rest| !rest.is_empty()) {
            let some = rest.get(..at_once).unwrap_or(rest);
            match self.receive_some(room_id, some).await {
                Ok(received) => outcomes.extend(received.into_iter().map(Ok)),
                Err(Failure::Refused(refusal)) if some.len() == 1 => outcomes.push(Err(refusal)),
                // One of them is refused, and all were undone.
                Err(Failure::Refused(_)) => at_once = 1,
                Err(failure) => return Err(failure),
            }
        }
        Ok(outcomes)
    }

    /// Has a room receive the first of these events, at least one of those that there are, in one operation.
    ///
    /// # Errors
    /// A fault of ours, and what one of them is refused for: then none was received.
    pub(super) async fn receive_some(
        &self,
        room_id: &RoomId,
        events: &[CheckedEvent],
    ) -> Result<Vec<Received>, Failure> {
        // The operation ends at a change of the state: what comes after it is not sent in vain. In canonical JSON the
        // name stands so, and where it is part of something else no more than a call is lost.
        let may_change_state = |event: &CheckedEvent| event.json.contains("\"state_key\":");
        let count = events.iter().take_while(|event| !may_change_state(event)).count().saturating_add(1);
        let (some, _) = in_one_call(events, count.min(RECEIVED_AT_ONCE_MAX));
        let received = self.room(room_id).call(&ReceiveEvents { events: some.to_vec() }).await?;
        if received.is_empty() && !some.is_empty() {
            return Err(Fault::new("a room received no event").into());
        }
        Ok(received)
    }
}

/// Those of these events that go into one call to a room, at least one, and the others.
fn in_one_call(events: &[CheckedEvent], max: usize) -> (&[CheckedEvent], &[CheckedEvent]) {
    let mut bytes = 0_usize;
    let fit = events.iter().take(max).take_while(|event| {
        bytes = bytes.saturating_add(event.json.len());
        bytes <= CALL_BYTES_MAX
    });
    events.split_at(fit.count().max(1).min(events.len()))
}

/// These events in slices that are checked at once: read, an event takes several times its bytes.
fn slices(mut pdus: &[Box<RawValue>]) -> impl Iterator<Item = &[Box<RawValue>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0_usize;
        let fit = pdus.iter().take_while(|pdu| {
            bytes = bytes.saturating_add(pdu.get().len());
            bytes <= CHECKED_BYTES_MAX
        });
        let count = fit.take(CHECKED_AT_ONCE_MAX).count().max(1);
        let (slice, rest) = pdus.split_at_checked(count)?;
        pdus = rest;
        Some(slice)
    })
}

/// Each event after those of these that it names as its authorisation. Events that name each other are left out: they
/// cannot be.
fn in_auth_order(pdus: Vec<Pdu>) -> Vec<Pdu> {
    let mut waiting: BTreeMap<OwnedEventId, usize> = BTreeMap::new();
    let mut children: BTreeMap<OwnedEventId, Vec<OwnedEventId>> = BTreeMap::new();
    let by_id: BTreeMap<OwnedEventId, Pdu> = pdus.into_iter().map(|pdu| (pdu.event_id().to_owned(), pdu)).collect();
    let mut ready: Vec<OwnedEventId> = Vec::new();
    for (event_id, pdu) in &by_id {
        let parents: BTreeSet<&OwnedEventId> = pdu.auth_events().iter().filter(|id| by_id.contains_key(*id)).collect();
        if parents.is_empty() {
            ready.push(event_id.clone());
        }
        waiting.insert(event_id.clone(), parents.len());
        for parent in parents {
            children.entry(parent.clone()).or_default().push(event_id.clone());
        }
    }
    // Since v12 nobody names the create event, and all depend on it.
    ready.sort_by_key(|event_id| {
        by_id.get(event_id).is_some_and(|pdu| *pdu.event_type() == TimelineEventType::RoomCreate)
    });
    let mut ordered = Vec::with_capacity(by_id.len());
    while let Some(event_id) = ready.pop() {
        for child in children.remove(&event_id).unwrap_or_default() {
            if let Some(count) = waiting.get_mut(&child) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    ready.push(child);
                }
            }
        }
        ordered.extend(by_id.get(&event_id).cloned());
    }
    ordered
}

#[cfg(test)]
mod tests {
    use domain::RoomVersion;
    use serde_json::{Map, Value, json, value::to_raw_value};

    use super::{CHECKED_BYTES_MAX, KEYS_OF_SERVER_MAX, ReadPdu, slices};

    #[test]
    fn many_events_are_checked_in_slices() {
        let events = |bytes: &[usize]| bytes.iter().map(|bytes| to_raw_value(&"x".repeat(*bytes)).unwrap()).collect();
        let lengths = |bytes: &[usize]| {
            let events: Vec<_> = events(bytes);
            slices(&events).map(<[_]>::len).collect::<Vec<_>>()
        };
        let half = CHECKED_BYTES_MAX / 2 - 10;
        assert!(lengths(&[]).is_empty());
        assert_eq!(lengths(&[half, half, half, CHECKED_BYTES_MAX, 5]), [2, 1, 1, 1]);
        assert_eq!(lengths(&[1; 4_500]), [2_000, 2_000, 500]);
    }

    /// One that nests deeper could be passed on to nobody: what it lies in then could not be signed.
    #[test]
    fn an_event_nests_as_deep_as_one_of_ours() {
        let read = |levels: usize, field: &str| {
            let nested = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            let event = format!(
                r#"{{"auth_events":[],"content":{{}},"depth":1,"hashes":{{"sha256":""}},"origin_server_ts":1,
                "prev_events":[],"room_id":"!r:b.test","sender":"@bob:b.test","type":"m.x","signatures":{{}},
                "{field}":{nested}}}"#
            );
            let event = serde_json::value::RawValue::from_string(event).unwrap();
            ReadPdu::read(&event, &RoomVersion::parse("11").unwrap()).map(drop)
        };
        for (levels, field, is_read) in
            [(100, "x", true), (101, "x", false), (126, "x", false), (1_000, "unsigned", true)]
        {
            assert_eq!(read(levels, field).is_ok(), is_read, "{levels} levels in {field}: {:?}", read(levels, field));
        }
    }

    #[test]
    fn an_event_has_few_keys_looked_for_however_many_it_names() {
        let junk = (0..1_000).map(|number| (format!("{number:04}"), json!("x")));
        let keys = (0..1_000).map(|number| (format!("ed25519:{number}"), json!("x")));
        let signatures: Map<String, Value> = junk.chain(keys).collect();
        let event = json!({
            "auth_events": [], "content": {}, "depth": 1, "hashes": { "sha256": "" }, "origin_server_ts": 1,
            "prev_events": [], "room_id": "!r:b.test", "sender": "@bob:b.test", "type": "m.x",
            "signatures": { "b.test": signatures, "c.test": { "ed25519:1": "x" } },
        });
        let event = to_raw_value(&event).unwrap();
        let read = ReadPdu::read(&event, &RoomVersion::parse("11").unwrap());
        let needed = read.unwrap_or_else(|why| panic!("{why}")).needed_keys();
        assert_eq!(needed.len(), KEYS_OF_SERVER_MAX);
        assert!(needed.iter().all(|needed| needed.server == "b.test" && needed.key_id.starts_with("ed25519:")));
    }
}
