use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

use domain::Refusal;
use platform::{Fault, Sql, Tx};
use ruma_common::{DeviceId, OwnedRoomId};
use serde_json::value::RawValue;

use super::{
    DeviceRoom, LearnFacts, PlannedSliding, ROOMS_AT_A_TIME, RoomConfig, RoomsHeard, Scope, SlidingList, SlidingPlan,
    SlidingPlanned, WantedMessages,
    connection::{UNNOTED, View},
    lists::{Account, Candidate, Listed, candidates},
};
use crate::{
    Cx, Error,
    room::RequiredState,
    user::{
        PlannedTyping, User, authenticate,
        ignored::ignored_users,
        moves::Moves,
        push_rules, store,
        store::rooms::KnownRoom,
        sync_token::{SyncToken, mark},
        verify,
    },
};

/// A room that a list or a subscription names.
#[derive(Default)]
struct Relevant {
    /// The places among [`Planning::configs`] of what names it. A window may have very many rooms, and few of them are
    /// planned: what is wanted of a room is put together for those only.
    named_by: Vec<usize>,
    is_subscribed: bool,
}

impl Scope {
    /// Whether something is wanted of this room.
    fn has(&self, room_id: &str, relevant: &Relevant, lists: &[SlidingList]) -> bool {
        let of_list = |list: &SlidingList| {
            let names = self.lists.as_ref();
            names.is_none_or(|names| names.iter().any(|name| name == "*" || *name == list.name))
        };
        let in_list = relevant.named_by.iter().filter_map(|place| lists.get(*place)).any(of_list);
        let named = |rooms: &Vec<String>| rooms.iter().any(|room| room == "*" || room == room_id);
        in_list || relevant.is_subscribed && self.rooms.as_ref().is_none_or(named)
    }
}

/// A plan that is being made.
struct Planning<'a> {
    user: &'a User,
    sql: &'a dyn Sql,
    cx: &'a Cx<'a>,
    call: &'a SlidingPlan,
    view: Option<View<'a>>,
    /// Where others type than was seen.
    typing_moved: BTreeSet<u64>,
    /// What the lists want of their rooms, in their order, and behind it what the subscriptions want.
    configs: Vec<&'a RoomConfig>,
    states: Vec<RequiredState>,
    /// Where among the states is what several of the configs want together.
    joined: HashMap<Vec<usize>, usize>,
    rooms: Vec<PlannedSliding>,
    asked: Vec<u64>,
    data_rooms: Vec<u64>,
    /// Whether there is account data of a room in sight that this connection was not sent.
    owes_data: bool,
}

impl User {
    pub(in crate::user) fn sliding_plan(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: SlidingPlan,
    ) -> Result<SlidingPlanned, Error> {
        let device = authenticate(sql, cx, &call.token_hash)?;
        self.takes_over(&device, &call.conn_id, &call.request, call.goes_on)?;
        verify::see(sql, cx, &device, call.ip.clone())?;
        self.planned_at_ms.set(Some(cx.now_ms));
        self.slid_at_ms.set(Some(cx.now_ms));
        if let Some(asked) = &call.presence {
            self.with_own_presence(sql, cx, |own| {
                own.hears(&device, asked.set, asked.asked_at_ms, asked.timeout_ms);
                Ok(())
            })?;
            self.presence_planned(sql, cx, &device, Some(true))?;
        }
        let has_messages = match &call.extensions.to_device {
            Some(wanted) => self.has_messages(sql, cx, &device, wanted)?,
            None => false,
        };
        let connection = call.pos.as_ref().map(|pos| self.connection(sql, &device, &call.conn_id, pos)).transpose()?;
        let view = connection.as_ref().and_then(|(connection, answer)| connection.view(*answer));
        let rooms = self.room_list(sql)?;
        let seen = view.map(|view| view.point.typing.clone()).unwrap_or_default();
        let typing_moved = self.typing.borrow().moved(&seen, cx.now_ms).into_iter().collect();
        let mut planning = Planning {
            user: self,
            sql,
            cx,
            call: &call,
            view,
            typing_moved,
            configs: call.lists.iter().map(|list| &list.config).chain(call.subscriptions.values()).collect(),
            states: Vec::new(),
            joined: HashMap::new(),
            rooms: Vec::new(),
            asked: Vec::new(),
            data_rooms: Vec::new(),
            owes_data: false,
        };
        let extensions = &call.extensions;
        let heard = connection.as_ref().map_or(0, |(connection, _)| connection.heard(cx.now_ms));
        let mut planned = self.with_moves(sql, |moves| {
            if let Some(View { point, .. }) = view {
                let is_lost =
                    point.own > moves.head || extensions.e2ee && !moves.remembers(point.devices_since().moves);
                if is_lost {
                    return Err(Refusal::UnknownPos.into());
                }
            }
            let (counts, unknown) = planning.rooms_in_sight(&rooms, moves)?;
            planning.rooms_left(&rooms)?;
            let (device_rooms, device_rooms_later) = planning.device_rooms(&rooms, moves);
            let has_own = view.is_some_and(|View { point, .. }| {
                let is_new = |seen: u64| moves.own_head > seen.max(call.passed.position);
                extensions.account_data.is_some() && is_new(point.own)
                    || extensions.e2ee && is_new(point.devices_since().own)
            });
            let quiet = view.is_some()
                && !has_messages
                && !has_own
                && !planning.owes_data
                && planning.rooms.is_empty()
                && planning.asked.is_empty()
                && device_rooms.is_empty();
            // Also where there is nothing to tell: rooms may have been read further than their moves told, and whoever
            // waits for news waits for moves.
            moves.planned = moves.head;
            Ok(SlidingPlanned {
                position: moves.head,
                quiet,
                counts,
                unknown,
                unheard: planning.unheard(&rooms, heard),
                device_rooms,
                device_rooms_later,
                wait_since: self.waits_since(cx, moves.head),
                device,
                rooms: std::mem::take(&mut planning.rooms),
                states: std::mem::take(&mut planning.states),
                asked: std::mem::take(&mut planning.asked),
                data_rooms: std::mem::take(&mut planning.data_rooms),
                push_rules: None,
                ignored: Vec::new(),
                keys: None,
            })
        })?;
        if !planned.rooms.is_empty() {
            planned.push_rules = push_rules::changes(sql)?;
            planned.ignored = ignored_users(sql, cx)?;
        }
        if extensions.e2ee {
            planned.keys = Some(store::keys::counts(sql, &planned.device)?);
        }
        Ok(planned)
    }

    /// A sync token for who waits for anything that is not known here now.
    fn waits_since(&self, cx: &Cx<'_>, head: u64) -> String {
        let typing = self.typing.borrow().seen(cx.now_ms);
        let token = SyncToken {
            moves: head,
            own: head,
            user: Some(mark(cx.id)),
            presence: None,
            spilled: None,
            rooms: BTreeMap::new(),
            typing_until: self.typing.borrow().until_ms(&typing, cx.now_ms),
            typing,
            to_device: None,
            keys: Some(Default::default()),
        };
        token.to_string()
    }

    /// Drops the messages that the device says it has, and answers whether there are more.
    fn has_messages(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        device: &DeviceId,
        wanted: &WantedMessages,
    ) -> Result<bool, Error> {
        let had = self.had_messages(sql, wanted)?;
        if had > 0 && store::to_device::has_up_to(sql, device, had)? {
            *cx.user.received.borrow_mut() = Some((device.to_owned(), had));
        }
        Ok(!store::to_device::after(sql, device, had, 1)?.is_empty())
    }

    /// Up to where the device has its messages. A token from beyond the stream is of a stream that was lost, and what
    /// is none says nothing.
    pub(super) fn had_messages(&self, sql: &dyn Sql, wanted: &WantedMessages) -> Result<u64, Error> {
        let had = wanted.since.as_deref().and_then(|since| since.strip_prefix('d')?.parse().ok()).unwrap_or(0);
        let head = self.with_moves(sql, |moves| Ok(moves.head))?;
        Ok(if had <= head { had } else { 0 })
    }

    pub(in crate::user) fn rooms_heard(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: RoomsHeard) -> Result<(), Error> {
        let device = authenticate(&**tx, cx, &call.token_hash)?;
        let (connection, _) = self.connection(&**tx, &device, &call.conn_id, &call.pos)?;
        self.with_moves(&**tx, |moves| {
            for (number, head) in &call.heads {
                moves.moved(tx, *number, *head, cx.now_ms, true)?;
            }
            Ok(())
        })?;
        let mut connection = (*connection).clone();
        connection.hears(tx, (&device, &call.conn_id, cx.now_ms), call.up_to)?;
        self.keep_connection(&device, &call.conn_id, Rc::new(connection));
        Ok(())
    }

    pub(in crate::user) fn learn_facts(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: LearnFacts) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        for (room_id, facts) in call.rooms.iter().take(ROOMS_AT_A_TIME) {
            store::rooms::keep_facts(tx, room_id.as_str(), facts)?;
        }
        self.room_list_changed();
        Ok(())
    }
}

impl Planning<'_> {
    /// Plans the rooms in windows and of subscriptions, the one with the last news first. Answers how many each list
    /// has, and the rooms of which filters have to know more.
    fn rooms_in_sight(
        &mut self,
        rooms: &[KnownRoom],
        moves: &Moves,
    ) -> Result<(BTreeMap<String, u64>, Vec<OwnedRoomId>), Error> {
        let mut account = Account::new(self.sql);
        let candidates = candidates(self.sql, self.cx, rooms, moves, self.view)?;
        let (mut counts, mut unknown) = (BTreeMap::new(), BTreeSet::new());
        let mut relevant: BTreeMap<usize, Relevant> = BTreeMap::new();
        for (index, list) in self.call.lists.iter().enumerate() {
            let listed = Listed::of(list, &candidates, &mut account)?;
            counts.insert(list.name.clone(), listed.rooms.len() as u64);
            unknown.extend(listed.unknown.iter().take(ROOMS_AT_A_TIME).copied());
            for place in listed.in_windows(list) {
                relevant.entry(place).or_default().named_by.push(index);
            }
        }
        let places: HashMap<&str, usize> =
            candidates.iter().enumerate().map(|(place, it)| (it.room.room_id.as_str(), place)).collect();
        for (index, room_id) in self.call.subscriptions.keys().enumerate() {
            if let Some(place) = places.get(room_id.as_str()) {
                let relevant = relevant.entry(*place).or_default();
                relevant.named_by.push(self.call.lists.len().saturating_add(index));
                relevant.is_subscribed = true;
            }
        }
        // What the client looks at goes first.
        let (first, later): (Vec<_>, Vec<_>) = relevant.into_iter().partition(|(_, it)| it.is_subscribed);
        for (place, relevant) in first.into_iter().chain(later) {
            if let Some(candidate) = candidates.get(place) {
                self.sights(candidate, relevant, moves, &mut account)?;
            }
        }
        let unknown = unknown.into_iter().take(ROOMS_AT_A_TIME).filter_map(|place| candidates.get(place));
        Ok((counts, unknown.filter_map(|it| it.room.room_id.as_str().try_into().ok()).collect()))
    }

    /// Whether so many rooms are planned that others wait for their turn.
    fn is_full(&self) -> bool {
        self.rooms.len().saturating_add(self.asked.len()) >= ROOMS_AT_A_TIME
    }

    fn sights(
        &mut self,
        candidate: &Candidate<'_>,
        relevant: Relevant,
        moves: &Moves,
        account: &mut Account<'_>,
    ) -> Result<(), Error> {
        let room = candidate.room;
        let sent = self.view.and_then(|view| view.sent(room.number));
        let same = sent.filter(|sent| sent.changed == room.changed && sent.membership == room.membership);
        if room.membership != "join" {
            if same.is_none() && !self.is_full() {
                self.asked.push(room.number);
            }
            return Ok(());
        }
        let lists = &self.call.lists;
        let wants =
            |scope: &Option<Scope>| scope.as_ref().is_some_and(|scope| scope.has(&room.room_id, &relevant, lists));
        let extensions = &self.call.extensions;
        let (receipts, typing) = (wants(&extensions.receipts), wants(&extensions.typing));
        if wants(&extensions.account_data) {
            self.data_rooms.push(room.number);
            self.owes_data |= same.is_some_and(|sent| !sent.data);
        }
        let from = same.map(|sent| sent.reached);
        let passed = self.call.passed.rooms.get(&room.number).copied().unwrap_or(0);
        let moved = from.is_none_or(|from| moves.told(room.number) > from.max(passed));
        let configs = || relevant.named_by.iter().filter_map(|place| self.configs.get(*place));
        let timeline_limit = configs().map(|config| config.timeline_limit).max().unwrap_or(0);
        let expanded = same.is_some_and(|sent| timeline_limit > sent.limit);
        // Of a state that is not noted nothing is known.
        let nothing = RequiredState::default();
        let known = same.map(|sent| self.view.and_then(|view| view.state(sent.state)).unwrap_or(&nothing));
        let known = known.filter(|known| !configs().all(|config| known.covers(&config.required)));
        // One for which there was no place would be sent again and again, if that was a reason to read the room.
        let lacks_state = known.is_some() && same.is_some_and(|sent| sent.state != UNNOTED);
        let receipts_new = receipts && same.is_some_and(|sent| !sent.receipts);
        let types = typing && self.typing_moved.contains(&room.number);
        let settles = from.is_none() || expanded || lacks_state || receipts_new;
        if !(moved || settles || types) || self.is_full() {
            return Ok(());
        }
        let Ok(room_id) = OwnedRoomId::try_from(room.room_id.as_str()) else { return Ok(()) };
        let is_dm = account.is_dm(&room.room_id)?;
        let names = relevant.named_by.iter().filter_map(|place| lists.get(*place));
        let names = names.map(|list| list.name.clone()).collect();
        let state = self.joined(relevant.named_by);
        self.rooms.push(PlannedSliding {
            number: room.number,
            room_id,
            changed: room.changed,
            from,
            told: moves.told(room.number),
            // What came since the last answer has just happened, whether or not the room was in sight.
            live_after: from.or(self.view.map(|view| view.point.moves)),
            timeline_limit,
            expanded,
            state,
            known: known.cloned(),
            receipts: receipts.then(|| if receipts_new { 0 } else { from.unwrap_or(0) }),
            typing: typing.then(|| self.typing_of(room.number)),
            gone: false,
            end: None,
            settles,
            is_dm: (is_dm || same.is_some_and(|sent| sent.is_dm)).then_some(is_dm),
            lists: names,
        });
        Ok(())
    }

    fn typing_of(&self, room: u64) -> PlannedTyping {
        let seen = self.view.and_then(|view| view.point.typing.get(&room).copied()).unwrap_or(0);
        PlannedTyping { seen, known: self.user.typing.borrow().version(room, self.cx.now_ms) }
    }

    /// What all of these want of the state together, by its place. Spec: "Combining room configs".
    fn joined(&mut self, configs: Vec<usize>) -> usize {
        if let Some(state) = self.joined.get(&configs) {
            return *state;
        }
        let mut required = RequiredState::default();
        for config in configs.iter().filter_map(|place| self.configs.get(*place)) {
            required.join(&config.required);
        }
        let state = self.state_of(required);
        self.joined.insert(configs, state);
        state
    }

    fn state_of(&mut self, required: RequiredState) -> usize {
        let known = self.states.iter().position(|state| *state == required);
        known.unwrap_or_else(|| {
            self.states.push(required);
            self.states.len().saturating_sub(1)
        })
    }

    /// Plans the rooms that the connection takes the user for a member of, or invited to, and that they are out of:
    /// it learns that wherever they stand.
    fn rooms_left(&mut self, rooms: &[KnownRoom]) -> Result<(), Error> {
        let Some(view) = self.view else { return Ok(()) };
        for (number, sent) in view.rooms() {
            let Some(room) = numbered(rooms, number).filter(|room| room.is_gone()) else { continue };
            if sent.changed == room.changed || self.is_full() {
                continue;
            }
            let Ok(room_id) = OwnedRoomId::try_from(room.room_id.as_str()) else { continue };
            let known = view.state(sent.state).cloned().unwrap_or_default();
            let end = store::rooms::stripped_state(self.sql, &room.room_id, &room.membership)?;
            let state = self.state_of(known);
            self.rooms.push(PlannedSliding {
                number,
                room_id,
                changed: room.changed,
                from: Some(sent.reached),
                told: 0,
                live_after: Some(sent.reached.max(1)),
                timeline_limit: sent.limit,
                expanded: false,
                state,
                known: None,
                receipts: None,
                typing: None,
                gone: true,
                end: end.map(RawValue::from_string).transpose()?,
                settles: true,
                is_dm: None,
                lists: Vec::new(),
            });
        }
        Ok(())
    }

    /// The next few rooms behind this number, which may be silent.
    fn unheard(&self, rooms: &[KnownRoom], heard: u64) -> Vec<DeviceRoom> {
        let joined = rooms.iter().filter(|room| room.number > heard && room.membership == "join");
        let named = joined.filter_map(|room| {
            let room_id = OwnedRoomId::try_from(room.room_id.as_str()).ok()?;
            Some(DeviceRoom { number: room.number, room_id, from: None })
        });
        named.take(ROOMS_AT_A_TIME).collect()
    }

    /// The rooms with news since this connection was told whose devices changed: those to be asked now, and later.
    fn device_rooms(&self, rooms: &[KnownRoom], moves: &Moves) -> (Vec<DeviceRoom>, Vec<DeviceRoom>) {
        let Some(View { point, .. }) = self.view.filter(|_| self.call.extensions.e2ee) else {
            return Default::default();
        };
        // Those that were asked for this request stand behind what it passed.
        let owed = if self.call.passed.position == 0 { point.devices.clone() } else { Vec::new() };
        let since = point.devices_since().moves.max(self.call.passed.position);
        let mut ask: Vec<DeviceRoom> = owed;
        for (number, after) in moves.since(since) {
            if ask.iter().any(|room| room.number == number) {
                continue;
            }
            let Some(room) = numbered(rooms, number).filter(|room| room.membership == "join" || room.is_gone()) else {
                continue;
            };
            let Ok(room_id) = OwnedRoomId::try_from(room.room_id.as_str()) else { continue };
            let ahead = point.ahead.get(&number).copied().unwrap_or(0);
            if ahead >= moves.told(number) {
                continue;
            }
            let is_new = room.membership == "join" && room.changed > since;
            ask.push(DeviceRoom { number, room_id, from: (!is_new).then_some(after.max(ahead)) });
        }
        let later = ask.split_off(ask.len().min(ROOMS_AT_A_TIME));
        (ask, later)
    }
}

/// Of the user's rooms, which are in the order of their numbers, the one with this number.
pub(super) fn numbered(rooms: &[KnownRoom], number: u64) -> Option<&KnownRoom> {
    rooms.binary_search_by_key(&number, |room| room.number).ok().and_then(|place| rooms.get(place))
}

impl User {
    /// The user's rooms, kept in memory: to sort them is to look at them all.
    pub(super) fn room_list(&self, sql: &dyn Sql) -> Result<Rc<Vec<KnownRoom>>, Fault> {
        if let Some(rooms) = &*self.rooms.borrow() {
            return Ok(rooms.clone());
        }
        let rooms = Rc::new(store::rooms::all(sql)?);
        Ok(self.rooms.borrow_mut().insert(rooms).clone())
    }

    /// It is read again.
    pub(in crate::user) fn room_list_changed(&self) {
        *self.rooms.borrow_mut() = None;
    }

    /// Keeps a room, new or changed, with its membership, the room's position of that and the user's own, and answers
    /// its number.
    pub(in crate::user) fn put_room(
        &self,
        tx: &Tx<'_>,
        room_id: &str,
        (membership, effect, changed): (&str, u64, u64),
        stripped_state: Option<String>,
    ) -> Result<u64, Fault> {
        self.room_list_changed();
        store::rooms::put(tx, room_id, membership, effect, changed, stripped_state)
    }
}
