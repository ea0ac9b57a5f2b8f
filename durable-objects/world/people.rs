//! What people do in rooms.

use domain::{
    Identity, Pdu, RoomVersion,
    event::{self, Draft, Place},
    power::{self, NewRoom, Preset},
};
use platform::{ActorKind, Address, Sql};
use ruma_common::{EventId, OwnedEventId, OwnedRoomId, RoomId, UserId};
use ruma_events::TimelineEventType;
use serde_json::value::to_raw_value;

use super::World;
use crate::{CallError, room};

impl World {
    /// A new room with its first events, as the request tier founds it.
    pub(crate) fn creates_room(&self, creator: &UserId, version: &str, preset: Preset) -> OwnedRoomId {
        self.creates_room_with(creator, version, preset, None)
    }

    /// The same, with this in the create event.
    pub(crate) fn creates_room_with(
        &self,
        creator: &UserId,
        version: &str,
        preset: Preset,
        creation_content: Option<&serde_json::Value>,
    ) -> OwnedRoomId {
        let version = RoomVersion::parse(version).unwrap();
        let mut new = NewRoom::new(creator.to_owned(), preset);
        new.creation_content = creation_content.map(|content| to_raw_value(content).unwrap());
        let number = self.rooms.replace(self.rooms.get() + 1);
        let room_id = RoomId::parse(format!("!room{number}:{}", creator.server_name())).unwrap();
        let place = Place {
            room_id: (!version.room_id_is_create_event()).then_some(&*room_id),
            prev_events: &[],
            auth_events: &[],
            depth: 1,
            origin_server_ts: self.now_ms() + number,
        };
        let draft = power::create_draft(&new, &version).unwrap();
        let settings = self.settings.borrow().clone();
        let create = event::build(&draft, &place, &version, &settings.identity, [number as u8; 18]).unwrap();
        let events = power::initial_events(&new, &version).unwrap().into_iter().map(|draft| room::NewEvent {
            event_type: draft.event_type,
            state_key: draft.state_key.unwrap(),
            content: draft.content,
        });
        let call = room::Create {
            call_id: format!("create {number}"),
            version: version.as_str().to_owned(),
            creator: creator.to_owned(),
            create_event: room::FirstEvent { event_id: create.event_id().to_owned(), json: create.json().to_owned() },
            events: events.collect(),
            published: false,
        };
        self.call(create.room_id().as_str(), &call).unwrap();
        create.room_id().to_owned()
    }

    /// Sends an event into a room, once.
    pub(crate) fn sends(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        event_type: &str,
        state_key: Option<&str>,
        content: &serde_json::Value,
    ) -> Result<OwnedEventId, CallError> {
        let call = room::SendEvent {
            sender: sender.to_owned(),
            device: "PHONE".into(),
            transaction_id: None,
            call_id: Some(self.dice.roll(1 << 50).to_string()),
            event_type: event_type.into(),
            content: to_raw_value(content).unwrap(),
            state_key: state_key.map(str::to_owned),
            member_of: Vec::new(),
            at_ms: None,
            administrator: false,
        };
        self.call(room_id.as_str(), &call)
    }

    /// Redacts an event, once.
    pub(crate) fn redacts(&self, sender: &UserId, room_id: &RoomId, event_id: &EventId) -> Result<(), CallError> {
        let call = room::RedactEvent {
            sender: sender.to_owned(),
            device: "PHONE".into(),
            transaction_id: self.dice.roll(1 << 50).to_string().into(),
            event_id: event_id.to_owned(),
            reason: None,
            administrator: false,
            own_only: false,
        };
        self.call(room_id.as_str(), &call).map(drop)
    }

    /// Changes a membership, once.
    pub(crate) fn changes(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &UserId,
        action: room::MembershipAction,
    ) -> Result<(), CallError> {
        let call = room::ChangeMembership::new(
            self.dice.roll(1 << 50).to_string(),
            sender.to_owned(),
            target.to_owned(),
            action,
        );
        self.call(room_id.as_str(), &call)
    }

    /// A user of another server joins a room of ours with the help of this one.
    pub(crate) fn joins_from_elsewhere(&self, room_id: &RoomId, user: &UserId) {
        self.comes_from_elsewhere(room_id, user, room::MembershipAction::Join);
    }

    /// A user of another server joins a room of ours, or knocks there.
    pub(crate) fn comes_from_elsewhere(&self, room_id: &RoomId, user: &UserId, action: room::MembershipAction) {
        #[derive(serde::Deserialize)]
        struct Content {
            content: Box<serde_json::value::RawValue>,
        }
        let call = room::PrepareMembership { user: user.to_owned(), action, member_of: vec![] };
        let prepared = self.call(room_id.as_str(), &call).unwrap();
        let version = RoomVersion::parse(&prepared.room_version).unwrap();
        let server = user.server_name().to_owned();
        let identity = Identity::new(server.clone(), "a", [3; 32]).unwrap();
        let content: Content = serde_json::from_str(prepared.event.get()).unwrap();
        let pdu = event::complete(&prepared.event, &content.content, &version, &identity, 1, [0; 18]).unwrap();
        let event = room::CheckedEvent::of(&pdu);
        self.call(room_id.as_str(), &room::AdmitMembership { server, event }).unwrap();
    }

    /// The newest event of this type in a room's log, and with this state key.
    pub(crate) fn newest(&self, room_id: &RoomId, event_type: &str, state_key: &str) -> Pdu {
        let sql = self.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let statement = "SELECT event_id, json FROM event WHERE type = ?1 AND coalesce(state_key, '') = ?2
             AND position >= ?3 ORDER BY position DESC LIMIT 1";
        let bound = [event_type.into(), state_key.into(), room::LOG_START.into()];
        let mut row = sql.query(statement, &bound).unwrap().pop().unwrap();
        let event_id = OwnedEventId::try_from(row.text(0).unwrap()).unwrap();
        Pdu::from_stored(event_id, row.text(1).unwrap(), false).unwrap()
    }

    /// The position of the newest event in a room's log.
    pub(crate) fn head_of(&self, room_id: &RoomId) -> u64 {
        let sql = self.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        sql.query("SELECT max(position) FROM event", &[]).unwrap()[0].clone().unsigned(0).unwrap()
    }

    /// An event by a user of another server that knows nothing of the room which came after `prev`; it is not sent.
    pub(crate) fn says_elsewhere(&self, room_id: &RoomId, draft: &Draft, prev: &Pdu) -> room::CheckedEvent {
        let sql = self.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let mut version = sql.query("SELECT value FROM meta WHERE key = 'version'", &[]).unwrap();
        let version = RoomVersion::parse(&version[0].text(0).unwrap()).unwrap();
        let mut named =
            vec![("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", draft.sender.as_str())];
        let is_member = draft.event_type == TimelineEventType::RoomMember;
        if is_member && draft.content.get().contains(r#""membership":"join""#) {
            named.push(("m.room.join_rules", ""));
        }
        let reference = |pdu: &Pdu| event::reference(pdu, &version).unwrap();
        let place = Place {
            room_id: Some(room_id),
            prev_events: &[reference(prev)],
            auth_events: &named
                .into_iter()
                .map(|(event_type, key)| reference(&self.newest(room_id, event_type, key)))
                .collect::<Vec<_>>(),
            depth: prev.depth() + 1,
            origin_server_ts: self.now_ms(),
        };
        let identity = Identity::new(draft.sender.server_name().to_owned(), "a", [3; 32]).unwrap();
        let pdu = event::build(draft, &place, &version, &identity, [0; 18]).unwrap();
        room::CheckedEvent::of(&pdu)
    }

    /// Has many remote users in a room, as if each had joined; the events are of the right form, and nothing more.
    pub(crate) fn crowds(&self, room_id: &RoomId, members: u64) {
        let sql = self.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let room_id = room_id.as_str();
        for statement in [
            "INSERT INTO event (position, event_id, type, state_key, sender, json)
             WITH RECURSIVE crowd (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM crowd WHERE n < ?2)
             SELECT (SELECT max(position) FROM event) + n, printf('$crowd%d', n), 'm.room.member',
             printf('@user%d:crowd.test', n), printf('@user%d:crowd.test', n),
             printf('{\"auth_events\":[],\"content\":{\"avatar_url\":\"mxc://crowd.test/%d\",\"displayname\":\"User %d\",\"membership\":\"join\"},\"depth\":1,\"hashes\":{\"sha256\":\"%043d\"},\"origin_server_ts\":%d,\"prev_events\":[],\"room_id\":\"%s\",\"sender\":\"@user%d:crowd.test\",\"signatures\":{\"crowd.test\":{\"ed25519:1\":\"%086d\"}},\"state_key\":\"@user%d:crowd.test\",\"type\":\"m.room.member\"}',
             n, n, n, n, ?1, n, n, n) FROM crowd",
            "INSERT INTO state_change (type, state_key, position, before, after)
             SELECT type, state_key, position, NULL, position FROM event WHERE sender LIKE '@user%:crowd.test' AND ?1 <> ?2",
            "INSERT INTO state (type, state_key, position)
             SELECT type, state_key, position FROM event WHERE sender LIKE '@user%:crowd.test' AND ?1 <> ?2",
            "INSERT INTO member (user_id, membership, position)
             SELECT state_key, 'join', position FROM event WHERE sender LIKE '@user%:crowd.test' AND ?1 <> ?2",
        ] {
            sql.query(statement, &[room_id.into(), members.into()]).unwrap();
        }
        self.evict(&Address::new(ActorKind::Room, room_id));
    }
}
