// How a sleeping client is woken, through matrix-js-sdk.
//
//   node push.mjs URL GATEWAY
//
// Besides the steps, prints «pushes EVENT» for each event of which the gateway must hear, and of no other, and waits
// for a line that says that it did: what is not pushed yet goes with its pusher.

import { createInterface } from 'node:readline';
import { MsgType } from 'matrix-js-sdk';
import { assert, heard, joins, logIn, register, start, take } from './people.mjs';

const gateway = process.argv[3];
let alice, bob, loud, muted;
const pusher = {
  kind: 'http', app_id: 'org.example.interop', pushkey: 'a-key', app_display_name: 'Interop', device_display_name: 'Phone',
  lang: 'en', data: { url: gateway, format: 'event_id_only' },
};
const says = async (room, body, more = {}) =>
  (await alice.sendMessage(room, { msgtype: MsgType.Text, body, ...more })).event_id;
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const pushes = async (eventId) => {
  process.stdout.write(`pushes ${eventId}\n`);
  const { done } = await answers.next();
  assert(!done, 'nobody says whether it was pushed');
};

const steps = {
  async 'a client says where it is woken'() {
    [alice, bob] = await Promise.all([await register('alice'), await register('bob')].map((name) => logIn(name)));
    await Promise.all([start(alice), start(bob)]);
    for (const number of [0, 1]) {
      const { room_id: id } = await alice.createRoom({ preset: 'private_chat', invite: [bob.getUserId()] });
      await joins(bob, id);
      [loud, muted] = number ? [loud, id] : [id];
    }
    // A rule holds for what is pushed from then on, whenever it was said.
    await bob.addPushRule('global', 'room', muted, { actions: [] });
    bob.stopClient();
    await bob.setPusher(pusher);
    const { pushers } = await bob.getPushers();
    assert(pushers.length === 1 && pushers[0].data.url === gateway, JSON.stringify(pushers));
  },
  async 'it is woken by a message'() {
    await pushes(await says(loud, 'wake up'));
  },
  async 'a muted room wakes it by mentions only'() {
    await says(muted, 'not heard');
    await pushes(await says(muted, 'bob!', { 'm.mentions': { user_ids: [bob.getUserId()] } }));
  },
  async 'what woke it is listed'() {
    const { notifications } = await bob.http.authedRequest('GET', '/notifications', { only: 'highlight' });
    assert(notifications.length === 1 && notifications[0].event.content.body === 'bob!', JSON.stringify(notifications));
  },
  async 'a client that asks for nothing is left alone'() {
    await bob.setPusher({ ...pusher, kind: null });
    assert((await bob.getPushers()).pushers.length === 0, 'still there');
    await says(loud, 'nobody is woken');
    await start(bob);
    await heard(bob, loud, 'nobody is woken');
  },
};

await take(steps);
