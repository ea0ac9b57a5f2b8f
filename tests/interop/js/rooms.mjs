// What people do in rooms besides talking, through matrix-js-sdk: read, type, tag, mute, redact, knock, publish,
// upgrade.
//
//   node rooms.mjs URL

import { EventType, JoinRule, MsgType, NotificationCountType, ReceiptType, Visibility } from 'matrix-js-sdk';
import { assert, bodies, heard, joins, logIn, refused, register, start, take, until } from './people.mjs';

let alice, bob, roomId;
const mine = (client) => client.getRoom(roomId);
const last = (client) => mine(client).getLiveTimeline().getEvents().at(-1);
const unread = (client) => mine(client).getRoomUnreadNotificationCount(NotificationCountType.Total);
const highlights = (client) => mine(client).getRoomUnreadNotificationCount(NotificationCountType.Highlight);

const steps = {
  async 'two meet in a room'() {
    [alice, bob] = await Promise.all([await register('alice'), await register('bob')].map(logIn));
    await Promise.all([start(alice), start(bob, { lazyLoadMembers: true, threadSupport: true })]);
    ({ room_id: roomId } = await alice.createRoom({ name: 'Rooms', preset: 'private_chat', invite: [bob.getUserId()] }));
    await joins(bob, roomId);
    await until(alice, () => mine(alice)?.getJoinedMemberCount() === 2);
  },
  async 'messages count as unread until they are read'() {
    await alice.sendTextMessage(roomId, 'one');
    await alice.sendTextMessage(roomId, 'two');
    await heard(bob, roomId, 'two');
    await until(bob, () => unread(bob) === 2);
    const event = last(bob);
    await bob.sendReadReceipt(event);
    await until(bob, () => unread(bob) === 0);
    await until(alice, () => mine(alice).getEventReadUpTo(bob.getUserId(), true) === event.getId());
  },
  async 'a mention is a highlight'() {
    const content = { msgtype: MsgType.Text, body: 'look', 'm.mentions': { user_ids: [bob.getUserId()] } };
    await alice.sendMessage(roomId, content);
    await until(bob, () => highlights(bob) === 1 && unread(bob) === 1);
  },
  async 'a private receipt is nobody else\'s business'() {
    const event = last(bob);
    const before = mine(alice).getEventReadUpTo(bob.getUserId(), true);
    await bob.sendReadReceipt(event, ReceiptType.ReadPrivate);
    await until(bob, () => unread(bob) === 0 && highlights(bob) === 0);
    await alice.sendTextMessage(roomId, 'a marker');
    await heard(alice, roomId, 'a marker');
    assert(mine(alice).getEventReadUpTo(bob.getUserId(), true) === before, 'it was told');
  },
  async 'the fully read marker follows'() {
    await heard(bob, roomId, 'a marker');
    const event = last(bob);
    await bob.setRoomReadMarkers(roomId, event.getId(), event);
    await until(bob, () => mine(bob).getAccountData('m.fully_read')?.getContent().event_id === event.getId());
    await until(bob, () => unread(bob) === 0);
  },
  async 'a thread has counts of its own'() {
    const { event_id: root } = await alice.sendTextMessage(roomId, 'root');
    await heard(bob, roomId, 'root');
    await bob.sendReadReceipt(last(bob));
    const relation = { rel_type: 'm.thread', event_id: root, is_falling_back: true, 'm.in_reply_to': { event_id: root } };
    await alice.sendMessage(roomId, { msgtype: MsgType.Text, body: 'in the thread', 'm.relates_to': relation });
    // The client asks for these counts only of servers that claim all of v1.4: here they are asked for by hand.
    const filter = JSON.stringify({ room: { rooms: [roomId], timeline: { unread_thread_notifications: true } } });
    const { rooms } = await bob.http.authedRequest('GET', '/sync', { filter });
    const room = rooms.join[roomId];
    assert(room.unread_thread_notifications[root]?.notification_count === 1, JSON.stringify(room.unread_thread_notifications));
    assert(room.unread_notifications.notification_count === 0, 'counted twice');
  },
  async 'typing is seen, and seen to stop'() {
    const types = () => mine(alice).getMember(bob.getUserId()).typing;
    await bob.sendTyping(roomId, true, 20_000);
    await until(alice, () => types());
    await bob.sendTyping(roomId, false, 0);
    await until(alice, () => !types());
  },
  async 'a tag and other account data arrive on the own devices'() {
    await bob.setRoomTag(roomId, 'm.favourite', { order: 0.5 });
    await until(bob, () => mine(bob).tags['m.favourite']?.order === 0.5);
    await bob.deleteRoomTag(roomId, 'm.favourite');
    await until(bob, () => !mine(bob).tags['m.favourite']);
    await bob.setAccountData('org.example.colour', { colour: 'blue' });
    assert(bob.getAccountData('org.example.colour').getContent().colour === 'blue', 'no colour');
  },
  async 'a muted room does not count'() {
    await bob.setRoomMutePushRule('global', roomId, true);
    await bob.sendReadReceipt(last(bob), ReceiptType.Read, true);
    await until(bob, () => unread(bob) === 0);
    await alice.sendTextMessage(roomId, 'not heard');
    await heard(bob, roomId, 'not heard');
    assert(unread(bob) === 0, `${unread(bob)} unread`);
    await bob.deletePushRule('global', 'room', roomId);
  },
  async 'what is redacted is gone'() {
    const { event_id: id } = await alice.sendTextMessage(roomId, 'regretted');
    await heard(bob, roomId, 'regretted');
    await alice.redactEvent(roomId, id, undefined, { reason: 'spoke too soon' });
    await until(bob, () => mine(bob).findEventById(id)?.isRedacted());
    const fetched = await bob.fetchRoomEvent(roomId, id);
    assert(!fetched.content.body && fetched.unsigned.redacted_because.content.reason === 'spoke too soon', JSON.stringify(fetched));
  },
  async 'an event is found by its time and shown in its context'() {
    const event = last(bob);
    const found = await bob.timestampToEvent(roomId, event.getTs(), 'f');
    assert(found.event_id === event.getId(), `${found.event_id}, not ${event.getId()}`);
    const timeline = await bob.getEventTimeline(mine(bob).getUnfilteredTimelineSet(), event.getId());
    assert(timeline.getEvents().some((shown) => shown.getId() === event.getId()), 'not in its context');
  },
  async 'presence is seen'() {
    await bob.setPresence({ presence: 'unavailable', status_msg: 'at lunch' });
    await until(alice, () => alice.getUser(bob.getUserId())?.presenceStatusMsg === 'at lunch');
  },
  async 'an alias leads to the room, and the directory lists it'() {
    const [, server] = alice.getUserId().split(/:(.*)/);
    const alias = `#rooms-${Date.now()}:${server}`;
    await alice.createAlias(alias, roomId);
    assert((await bob.getRoomIdForAlias(alias)).room_id === roomId, 'another room');
    await alice.sendStateEvent(roomId, EventType.RoomCanonicalAlias, { alias }, '');
    await until(bob, () => mine(bob).getCanonicalAlias() === alias);
    await alice.setRoomDirectoryVisibility(roomId, Visibility.Public);
    const listed = async () => (await bob.publicRooms({ filter: { generic_search_term: alias.slice(1, 18) } })).chunk;
    let chunk = await listed();
    for (const end = Date.now() + 20_000; !chunk.length && Date.now() < end; chunk = await listed());
    assert(chunk[0]?.room_id === roomId && chunk[0].num_joined_members === 2, JSON.stringify(chunk));
  },
  async 'who knocks is let in'() {
    const carol = await logIn(await register('carol'));
    await start(carol);
    await alice.sendStateEvent(roomId, EventType.RoomJoinRules, { join_rule: JoinRule.Knock }, '');
    await carol.knockRoom(roomId, { reason: 'please' });
    await until(carol, () => mine(carol)?.getMyMembership() === 'knock');
    await until(alice, () => mine(alice).getMember(carol.getUserId())?.membership === 'knock');
    await alice.invite(roomId, carol.getUserId());
    await until(carol, () => mine(carol).getMyMembership() === 'invite');
    await joins(carol, roomId);
    await carol.leave(roomId);
    await carol.forget(roomId);
    assert((await refused(carol.getStateEvent(roomId, EventType.RoomName, ''))) === 'M_FORBIDDEN', 'still readable');
    carol.stopClient();
  },
  async 'an upgraded room leads to its successor'() {
    const { replacement_room: successor } = await alice.upgradeRoom(roomId, '11');
    await until(bob, () => mine(bob).currentState.getStateEvents(EventType.RoomTombstone, '')?.getContent().replacement_room === successor);
    await alice.invite(successor, bob.getUserId());
    await joins(bob, successor);
    const room = bob.getRoom(successor);
    assert(room.name === 'Rooms' && room.findPredecessor()?.roomId === roomId, `${room.name} after ${room.findPredecessor()?.roomId}`);
    await bob.sendTextMessage(successor, 'moved');
    await heard(alice, successor, 'moved');
    assert(bodies(room).includes('moved'), 'no echo');
  },
};

await take(steps);
