// How a sleeping client is woken, through matrix-js-sdk.
//
//   node push.mjs URL GATEWAY
//
// Besides the steps, prints «pushes EVENT» for each event of which the gateway must hear, in their order.

import { MsgType } from 'matrix-js-sdk';
import { assert, heard, joins, logIn, register, start, take } from './people.mjs';

const gateway = process.argv[3];
let alice, bob, roomId;
const pusher = {
  kind: 'http', app_id: 'org.example.interop', pushkey: 'a-key', app_display_name: 'Interop', device_display_name: 'Phone',
  lang: 'en', data: { url: gateway, format: 'event_id_only' },
};
const says = async (body, more = {}) => (await alice.sendMessage(roomId, { msgtype: MsgType.Text, body, ...more })).event_id;
const pushes = (eventId) => process.stdout.write(`pushes ${eventId}\n`);

const steps = {
  async 'a client says where it is woken'() {
    [alice, bob] = await Promise.all([await register('alice'), await register('bob')].map((name) => logIn(name)));
    await Promise.all([start(alice), start(bob)]);
    ({ room_id: roomId } = await alice.createRoom({ preset: 'private_chat', invite: [bob.getUserId()] }));
    await joins(bob, roomId);
    bob.stopClient();
    await bob.setPusher(pusher);
    const { pushers } = await bob.getPushers();
    assert(pushers.length === 1 && pushers[0].data.url === gateway, JSON.stringify(pushers));
  },
  async 'it is woken by a message'() {
    pushes(await says('wake up'));
  },
  async 'a muted room wakes it by mentions only'() {
    await bob.addPushRule('global', 'room', roomId, { actions: [] });
    await says('not heard');
    pushes(await says('bob!', { 'm.mentions': { user_ids: [bob.getUserId()] } }));
  },
  async 'what woke it is listed'() {
    const { notifications } = await bob.http.authedRequest('GET', '/notifications', { only: 'highlight' });
    assert(notifications.length === 1 && notifications[0].event.content.body === 'bob!', JSON.stringify(notifications));
  },
  async 'a client that asks for nothing is left alone'() {
    await bob.setPusher({ ...pusher, kind: null });
    assert((await bob.getPushers()).pushers.length === 0, 'still there');
    await says('nobody is woken');
    await start(bob);
    await heard(bob, roomId, 'nobody is woken');
  },
};

await take(steps);
