// How rooms, people and words are found, through matrix-js-sdk: spaces, summaries, searches, the directory of users.
//
//   node finding.mjs URL

import { EventType, MsgType } from 'matrix-js-sdk';
import { RoomHierarchy } from 'matrix-js-sdk/lib/room-hierarchy.js';
import { assert, heard, joins, logIn, register, start, take, untilAsked } from './people.mjs';

const SPOKEN = 25;
let alice, bob, server, space, garden, kitchen;
const creates = async (name, options = {}) => (await alice.createRoom({ name, ...options })).room_id;
const contains = (parent, child, content = {}) =>
  alice.sendStateEvent(parent, EventType.SpaceChild, { via: [server], ...content }, child);

const steps = {
  async 'two meet in a room of a space'() {
    [alice, bob] = await Promise.all([await register('alice'), await register('bob')].map((name) => logIn(name)));
    await Promise.all([start(alice), start(bob)]);
    server = alice.getUserId().split(/:(.*)/)[1];
    space = await creates('House', { creation_content: { type: 'm.space' }, preset: 'public_chat' });
    garden = await creates('Garden', { preset: 'public_chat', topic: 'what grows' });
    kitchen = await creates('Kitchen', { preset: 'private_chat' });
    await contains(space, garden, { suggested: true });
    await contains(space, kitchen);
    await joins(bob, garden);
  },
  async 'a space shows the rooms one may see'() {
    for (const [client, expected] of [[alice, 'House,Garden,Kitchen'], [bob, 'House,Garden']]) {
      await client.joinRoom(space);
      const hierarchy = new RoomHierarchy(await untilAsked(client, () => client.getRoom(space)), 1);
      while (hierarchy.canLoadMore) await hierarchy.load();
      const names = hierarchy.rooms.map(({ name }) => name);
      assert(names.join() === expected, `${client.getUserId()} sees ${names.join()}`);
      assert(hierarchy.isSuggested(space, garden) && !hierarchy.isSuggested(space, kitchen), 'other suggestions');
    }
  },
  async 'a room is told in a few words before one joins'() {
    const summary = await bob.getRoomSummary(garden);
    assert(summary.name === 'Garden' && summary.topic === 'what grows' && summary.num_joined_members === 2, JSON.stringify(summary));
  },
  async 'words are found in all rooms, page by page'() {
    for (let number = 1; number <= SPOKEN; number++) {
      await alice.sendMessage(garden, { msgtype: MsgType.Text, body: `tomato ${number}` });
    }
    await alice.sendMessage(kitchen, { msgtype: MsgType.Text, body: 'tomato soup' });
    await heard(bob, garden, `tomato ${SPOKEN}`);
    const found = await bob.searchRoomEvents({ term: 'tomato' });
    while (found.next_batch) await bob.backPaginateRoomEventsSearch(found);
    const rooms = new Set(found.results.map(({ context }) => context.getEvent().getRoomId()));
    assert(found.count === SPOKEN && found.results.length === SPOKEN, `${found.results.length} of ${found.count}`);
    assert(rooms.size === 1 && rooms.has(garden), 'found where one is not');
    const [soup] = (await alice.searchRoomEvents({ term: 'soup' })).results;
    assert(soup.context.getEvent().getContent().body === 'tomato soup', 'no soup');
  },
  async 'people are found by name'() {
    await alice.setDisplayName('Alice of the Garden');
    const ask = async () => (await bob.searchUserDirectory({ term: 'of the garden' })).results;
    await untilAsked(bob, async () => (await ask()).some(({ user_id: id }) => id === alice.getUserId()));
  },
  async 'two see which rooms they share'() {
    const joined = await bob._unstable_getSharedRooms(alice.getUserId());
    assert([garden, space].every((room) => joined.includes(room)) && !joined.includes(kitchen), JSON.stringify(joined));
  },
};

await take(steps);
