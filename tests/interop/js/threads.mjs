// What is said about what was said, through matrix-js-sdk: edits, reactions, threads and their list.
//
//   node threads.mjs URL

import { Direction, EventType, MsgType, RelationType, ThreadEvent } from 'matrix-js-sdk';
import { assert, heard, joins, logIn, register, start, take, until } from './people.mjs';

let alice, bob, roomId, root;
const mine = (client) => client.getRoom(roomId);
const says = async (client, body, relation) => {
  const content = { msgtype: MsgType.Text, body, ...(relation && { 'm.relates_to': relation }) };
  return (await client.sendMessage(roomId, content)).event_id;
};
const inThread = (reply) => ({
  rel_type: RelationType.Thread, event_id: root, is_falling_back: true, 'm.in_reply_to': { event_id: reply },
});
/** Resolves once the thread, as its client knows it, is so. */
const becomes = (thread, so) => new Promise((resolve) => {
  const ask = () => {
    if (!so(thread)) return;
    thread.off(ThreadEvent.Update, ask);
    resolve();
  };
  thread.on(ThreadEvent.Update, ask);
  ask();
});
const ends = (thread, body) => becomes(thread, ({ replyToEvent }) => replyToEvent?.getContent().body === body);
/** Somebody whose client knows of the room from now on only. */
const newcomer = async () => {
  const carol = await logIn(await register('carol'));
  await alice.invite(roomId, carol.getUserId());
  await start(carol, { threadSupport: true });
  await joins(carol, roomId);
  return carol;
};

const steps = {
  async 'two meet, whose clients show threads'() {
    [alice, bob] = await Promise.all([await register('alice'), await register('bob')].map((name) => logIn(name)));
    await Promise.all([alice, bob].map((client) => start(client, { threadSupport: true })));
    ({ room_id: roomId } = await alice.createRoom({ name: 'Threads', preset: 'private_chat', invite: [bob.getUserId()] }));
    await joins(bob, roomId);
  },
  async 'an edited message shows its new words'() {
    const id = await says(alice, 'helo');
    await heard(bob, roomId, 'helo');
    const content = { msgtype: MsgType.Text, body: '* hello', 'm.new_content': { msgtype: MsgType.Text, body: 'hello' } };
    await alice.sendMessage(roomId, { ...content, 'm.relates_to': { rel_type: RelationType.Replace, event_id: id } });
    await until(bob, () => mine(bob).findEventById(id)?.getContent().body === 'hello');
    const fetched = await bob.fetchRoomEvent(roomId, id);
    const edit = fetched.unsigned['m.relations'][RelationType.Replace];
    assert(fetched.content.body === 'helo' && edit.content['m.new_content'].body === 'hello', JSON.stringify(fetched));
  },
  async 'reactions are seen, counted and listed'() {
    const id = await says(alice, 'who comes?');
    await heard(bob, roomId, 'who comes?');
    for (const client of [alice, bob]) {
      const relation = { rel_type: RelationType.Annotation, event_id: id, key: '👍' };
      await client.sendEvent(roomId, EventType.Reaction, { 'm.relates_to': relation });
    }
    const shown = () => mine(bob).relations.getChildEventsForEvent(id, RelationType.Annotation, EventType.Reaction);
    await until(bob, () => shown()?.getSortedAnnotationsByKey()?.[0]?.[1].size === 2);
    const { events } = await bob.relations(roomId, id, RelationType.Annotation, EventType.Reaction, { dir: Direction.Backward });
    assert(events.length === 2, `${events.length} reactions`);
  },
  async 'a thread grows beside the room'() {
    root = await says(alice, 'a root');
    await heard(bob, roomId, 'a root');
    const first = await says(bob, 'a first answer', inThread(root));
    await says(alice, 'a second answer', inThread(first));
    const thread = await until(bob, () => mine(bob).getThread(root)?.length === 2 && mine(bob).getThread(root));
    await ends(thread, 'a second answer');
    const answers = mine(bob).getLiveTimeline().getEvents().filter((event) => event.getContent().body?.endsWith('answer'));
    assert(answers.length === 0, 'answers are in the main timeline, too');
  },
  async 'who comes later reads the thread from its root'() {
    const carol = await newcomer();
    await mine(carol).createThreadsTimelineSets();
    await mine(carol).fetchRoomThreads();
    const [thread] = mine(carol).getThreads();
    assert(thread?.id === root && thread.length === 2, JSON.stringify(mine(carol).getThreads().map(({ id }) => id)));
    const read = ({ events }) => events.map((event) => event.getContent().body).join();
    await becomes(thread, () => read(thread) === 'a root,a first answer,a second answer');
    carol.stopClient();
    await carol.logout();
  },
  async 'a thread is read for itself'() {
    const [hers, his] = [alice, bob].map((client) => mine(client).getThread(root));
    const id = await says(alice, 'a third answer', inThread(root));
    await ends(his, 'a third answer');
    const before = mine(alice).getEventReadUpTo(bob.getUserId(), true);
    await bob.sendReadReceipt(his.replyToEvent);
    await until(alice, () => hers.getEventReadUpTo(bob.getUserId(), true) === id);
    assert(mine(alice).getEventReadUpTo(bob.getUserId(), true) === before, 'the room is read, too');
  },
};

await take(steps);
