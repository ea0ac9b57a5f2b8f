use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

use platform::Tx;
use ruma_common::{DeviceId, OwnedRoomId};
use serde_json::value::RawValue;

use super::{
    AskedRoom, ReadSliding, SlidingClose, SlidingClosed, SlidingMessages, WantedMessages,
    connection::{Connection, Point, Sent, UNNOTED, View, pos},
    lists::{Account, Shown},
    plan::numbered,
};
use crate::{
    Cx, Error,
    user::{
        User, account_data, authenticate, own_device_lists::own_changed, store, store::rooms::KnownRoom, typing::see,
    },
};

/// What became of an answer's rooms, for what comes after it.
struct Closing<'a> {
    user: &'a User,
    tx: &'a Tx<'a>,
    cx: &'a Cx<'a>,
    call: &'a SlidingClose,
    /// All of the user's.
    rooms: &'a [KnownRoom],
    updates: BTreeMap<u64, Sent>,
}

impl User {
    pub(in crate::user) fn sliding_close(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        call: SlidingClose,
    ) -> Result<SlidingClosed, Error> {
        let device = authenticate(&**tx, cx, &call.token_hash)?;
        self.takes_over(&device, &call.conn_id, &call.request, true)?;
        for room in call.rooms.iter().filter(|room| room.left) {
            self.left_meanwhile(tx, cx, room.number, room.to)?;
        }
        let list = self.room_list(&**tx)?;
        let known = call.pos.as_ref().map(|pos| self.connection(&**tx, &device, &call.conn_id, pos)).transpose()?;
        let view = known.as_ref().and_then(|(connection, answer)| connection.view(*answer));
        let base = view.map(|view| view.point.clone());
        let mut closing = Closing { user: self, tx, cx, call: &call, rooms: &list, updates: BTreeMap::new() };
        let (own_head, head) = self.with_moves(&**tx, |moves| Ok((moves.own_head, moves.head)))?;
        let own = base.as_ref().map_or(0, |base| base.own);
        let mut closed = SlidingClosed {
            pos: None,
            asked: closing.asked()?,
            account_data: Vec::new(),
            room_account_data: BTreeMap::new(),
            to_device: call
                .extensions
                .to_device
                .as_ref()
                .map(|wanted| closing.messages(&device, wanted))
                .transpose()?,
            keys: None,
            device_lists: Vec::new(),
        };
        // A device that begins anew asks for everything by itself.
        if let Some(base) = base.as_ref().filter(|_| call.extensions.e2ee) {
            let own = base.devices_since().own;
            if own_head > own {
                closed.device_lists = own_changed(&**tx, cx, own)?;
            }
        }
        let keys = store::keys::counts(&**tx, &device)?;
        if call.extensions.e2ee {
            closed.keys = Some(keys.clone());
        }
        let mut connection = match &known {
            Some((connection, _)) => Connection::clone(connection),
            None => self.new_connection(tx, cx, &device, &call.conn_id)?,
        };
        for read in &call.rooms {
            closing.was_read(read, view, &mut connection)?;
        }
        let owed = closing.account_data(view, own, own_head, &mut closed)?;
        let is_news = call.news
            || owed
            || !closed.asked.is_empty()
            || !closed.account_data.is_empty()
            || !closed.room_account_data.is_empty()
            || !closed.device_lists.is_empty()
            || closed.to_device.as_ref().is_some_and(|messages| !messages.events.is_empty())
            || call.extensions.e2ee && base.as_ref().is_some_and(|base| base.keys != keys)
            || !call.device_rooms_left.is_empty();
        let point = closing.point(base.as_ref(), Point { own: head, keys, ..Point::default() })?;
        let (updates, this) = (std::mem::take(&mut closing.updates), (&*device, &*call.conn_id, cx.now_ms));
        match base {
            Some(base) if !is_news => {
                if call.keeps {
                    connection.keeps_up(tx, this, Point { answer: base.answer, ..point }, updates)?;
                    self.keep_connection(&device, &call.conn_id, Rc::new(connection));
                }
            }
            base => {
                let answer = connection.next_answer();
                connection.answers(tx, this, base, Point { answer, ..point }, updates)?;
                closed.pos = Some(pos(&connection, answer));
                self.keep_connection(&device, &call.conn_id, Rc::new(connection));
            }
        }
        Ok(closed)
    }
}

impl Closing<'_> {
    /// Where the connection is after this.
    fn point(&self, base: Option<&Point>, point: Point) -> Result<Point, Error> {
        let mut typing = base.map(|base| base.typing.clone()).unwrap_or_default();
        for room in &self.call.rooms {
            match room.typing {
                Some(read) => see(&mut typing, room.number, read.now),
                None => drop(typing.remove(&room.number)),
            }
        }
        typing.retain(|number, _| numbered(self.rooms, *number).is_some_and(|room| room.membership == "join"));
        let point = Point { moves: self.call.position, typing, ..point };
        // Who does not ask whose devices changed is told when they do.
        if let Some(base) = base.filter(|_| !self.call.extensions.e2ee) {
            let owes_devices = Some(base.devices_since());
            return Ok(Point { owes_devices, devices: base.devices.clone(), ahead: base.ahead.clone(), ..point });
        }
        let mut ahead = base.map(|base| base.ahead.clone()).unwrap_or_default();
        ahead.extend(&self.call.devices_read);
        if base.is_none() {
            // Who is in these rooms the device finds out by itself.
            ahead.extend(self.call.rooms.iter().map(|room| (room.number, room.to)));
        }
        self.user.with_moves(&**self.tx, |moves| {
            ahead.retain(|room, reached| *reached > moves.told_at(*room, self.call.position));
            Ok(())
        })?;
        Ok(Point { devices: self.call.device_rooms_left.clone(), ahead, ..point })
    }

    /// The device's messages after those it has.
    fn messages(&self, device: &DeviceId, wanted: &WantedMessages) -> Result<SlidingMessages, Error> {
        let had = self.user.had_messages(&**self.tx, wanted)?;
        let page = self.user.to_device_page(&**self.tx, device, had, wanted.limit.map(|limit| limit.max(1)))?;
        Ok(SlidingMessages { next_batch: format!("d{}", page.reached), events: page.messages })
    }

    /// Invitations and knocks that are told now.
    fn asked(&mut self) -> Result<Vec<AskedRoom>, Error> {
        let mut account = Account::new(&**self.tx);
        let mut asked = Vec::new();
        for number in &self.call.asked {
            let asks = |room: &&KnownRoom| matches!(room.membership.as_str(), "invite" | "knock");
            let Some(room) = numbered(self.rooms, *number).filter(asks) else { continue };
            let state = store::rooms::stripped_state(&**self.tx, &room.room_id, &room.membership)?;
            let state = state.unwrap_or_else(|| "[]".to_owned());
            let Ok(room_id) = OwnedRoomId::try_from(room.room_id.as_str()) else { continue };
            let is_dm = Shown::of(&state, self.cx.id).is_direct || account.is_dm(&room.room_id)?;
            asked.push(AskedRoom {
                room_id,
                membership: room.membership.clone(),
                bump_stamp: room.changed,
                state: RawValue::from_string(state)?,
                is_dm,
            });
            let sent = Sent {
                membership: room.membership.clone(),
                changed: room.changed,
                reached: 0,
                limit: 0,
                state: 0,
                receipts: false,
                data: false,
                is_dm,
            };
            self.updates.insert(*number, sent);
        }
        Ok(asked)
    }

    /// Notes what was sent of a room.
    fn was_read(
        &mut self,
        read: &ReadSliding,
        view: Option<View<'_>>,
        connection: &mut Connection,
    ) -> Result<(), Error> {
        if let Some(typing) = read.typing {
            self.user.typing.borrow_mut().was_read(read.number, typing, self.cx.now_ms);
        }
        let Some(room) = numbered(self.rooms, read.number) else { return Ok(()) };
        let before = view.and_then(|view| view.sent(read.number));
        let (membership, changed) = match read.gone {
            true if room.is_gone() => (room.membership.clone(), room.changed),
            true => ("leave".to_owned(), read.changed),
            false => ("join".to_owned(), read.changed),
        };
        let limit = match before {
            Some(before) if !read.afresh => before.limit.max(read.timeline_limit),
            _ => read.timeline_limit,
        };
        let state = match self.call.states.get(read.state) {
            Some(state) => connection.number_of(state, self.updates.values().map(|sent| sent.state))?,
            None => UNNOTED,
        };
        // Whoever joined anew is told all account data again.
        let data = before.is_some_and(|before| before.data && before.changed == changed);
        let is_dm = read.is_dm.unwrap_or(false);
        let (reached, receipts) = (read.to, read.receipts);
        let sent = Sent { membership, changed, reached, limit, state, receipts, data, is_dm };
        self.updates.insert(read.number, sent);
        if let Some(facts) = read.facts.as_ref().filter(|facts| room.facts.as_ref() != Some(facts)) {
            store::rooms::keep_facts(self.tx, &room.room_id, facts)?;
            self.user.room_list_changed();
        }
        Ok(())
    }

    /// The account data that is told now; answers whether anything is to be noted of it in any case.
    fn account_data(
        &mut self,
        view: Option<View<'_>>,
        own: u64,
        own_head: u64,
        closed: &mut SlidingClosed,
    ) -> Result<bool, Error> {
        if self.call.extensions.account_data.is_none() {
            return Ok(false);
        }
        let in_sight: BTreeSet<u64> = self.call.data_rooms.iter().copied().collect();
        let sent = |closing: &Self, number: &u64| {
            let updated = closing.updates.get(number).cloned();
            updated.or_else(|| view.and_then(|view| view.sent(*number)).cloned())
        };
        let mut whole = Vec::new();
        for number in &in_sight {
            let Some(mut sent) = sent(self, number).filter(|sent| sent.membership == "join" && !sent.data) else {
                continue;
            };
            whole.extend(numbered(self.rooms, *number).map(|room| room.room_id.as_str()));
            sent.data = true;
            self.updates.insert(*number, sent);
        }
        if view.is_some() && own_head <= own && whole.is_empty() {
            return Ok(false);
        }
        let (of_account, of_rooms) = account_data::entries(&**self.tx, self.cx, own, &whole)?;
        closed.account_data = of_account;
        let numbers: HashMap<&str, u64> = self.rooms.iter().map(|room| (room.room_id.as_str(), room.number)).collect();
        for (room_id, events) in of_rooms {
            let Some(number) = numbers.get(room_id.as_str()) else { continue };
            let Some(mut sent) = sent(self, number).filter(|sent| sent.membership == "join") else { continue };
            if in_sight.contains(number) {
                if let Ok(room_id) = OwnedRoomId::try_from(room_id) {
                    closed.room_account_data.insert(room_id, events);
                }
            } else if sent.data {
                // It is told when the room comes into sight again.
                sent.data = false;
                self.updates.insert(*number, sent);
            }
        }
        Ok(!whole.is_empty())
    }
}
