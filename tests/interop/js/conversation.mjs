// Two people talk through matrix-js-sdk and its own sync loop; no encryption.
//
//   node conversation.mjs URL
//
// Prints «ok NAME» or «FAILED NAME: why» for each step; a failed step ends the conversation.

import { EventType, MsgType } from 'matrix-js-sdk';
import { bodies, heard, logIn, register, start, take, until } from './people.mjs';

let alice, bob, roomId;

const steps = {
  async 'accounts are made and logged in'() {
    const names = [await register('alice'), await register('bob')];
    [alice, bob] = await Promise.all(names.map(logIn));
    const { user_id: whoami } = await alice.whoami();
    if (whoami !== alice.getUserId()) throw new Error(`whoami says ${whoami}`);
  },
  async 'both sync'() {
    await Promise.all([start(alice), start(bob)]);
  },
  async 'a room is created'() {
    ({ room_id: roomId } = await alice.createRoom({ name: 'Interop', topic: 'js', preset: 'private_chat' }));
    await until(alice, () => alice.getRoom(roomId)?.getMyMembership() === 'join');
  },
  async 'an invitation arrives and is accepted'() {
    const invited = until(bob, () => bob.getRoom(roomId)?.getMyMembership() === 'invite');
    await alice.invite(roomId, bob.getUserId());
    await invited;
    const joined = until(bob, () => bob.getRoom(roomId)?.getMyMembership() === 'join');
    await bob.joinRoom(roomId);
    await joined;
    await until(alice, () => alice.getRoom(roomId).getJoinedMemberCount() === 2);
  },
  async 'the room has its name'() {
    const room = bob.getRoom(roomId);
    if (room.name !== 'Interop') throw new Error(`it is called ${room.name}`);
  },
  async 'messages go both ways'() {
    await alice.sendTextMessage(roomId, 'hello from alice');
    await heard(bob, roomId, 'hello from alice');
    await bob.sendMessage(roomId, { msgtype: MsgType.Text, body: 'hello from bob' });
    await heard(alice, roomId, 'hello from bob');
  },
  async 'a local echo meets its event'() {
    const room = alice.getRoom(roomId);
    const { event_id: id } = await alice.sendTextMessage(roomId, 'echo');
    await heard(bob, roomId, 'echo');
    await until(alice, () => room.findEventById(id)?.status === null);
    const echoes = bodies(room).filter((body) => body === 'echo').length;
    if (echoes !== 1) throw new Error(`the message is there ${echoes} times`);
  },
  async 'a newcomer pages back to the start'() {
    for (let number = 1; number <= 30; number++) await alice.sendTextMessage(roomId, `number ${number}`);
    await heard(bob, roomId, 'number 30');
    const carol = await logIn(await register('carol'));
    await start(carol);
    await alice.invite(roomId, carol.getUserId());
    await carol.joinRoom(roomId);
    const room = await until(carol, () => {
      const joined = carol.getRoom(roomId);
      return joined?.getMyMembership() === 'join' && joined;
    });
    await until(carol, () => room.getLiveTimeline().getEvents().length > 0);
    while (room.oldState.paginationToken !== null) await carol.scrollback(room, 10);
    const shown = bodies(room).filter((body) => body.startsWith('number '));
    const expected = Array.from({ length: 30 }, (_, index) => `number ${index + 1}`);
    if (shown.join() !== expected.join()) throw new Error(`read ${shown.join()}`);
    const first = room.getLiveTimeline().getEvents()[0].getType();
    if (first !== EventType.RoomCreate) throw new Error(`it begins with ${first}`);
    carol.stopClient();
    await carol.logout();
  },
  async 'a leaver is seen leaving'() {
    await bob.leave(roomId);
    await until(alice, () =>
      alice.getRoom(roomId).getMember(bob.getUserId()).membership === 'leave');
  },
  async 'both log out'() {
    for (const client of [alice, bob]) {
      await client.logout(true);
      const refusal = await client.whoami().then(() => null, (error) => error);
      if (refusal?.errcode !== 'M_UNKNOWN_TOKEN') throw new Error(`still in: ${refusal}`);
    }
  },
};

await take(steps);
