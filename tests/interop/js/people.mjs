// People who use matrix-js-sdk with its own sync loop, and the steps they take.

import './stderr_console.mjs';
import { ClientEvent, EventType, MatrixEventEvent, createClient } from 'matrix-js-sdk';
import { CryptoEvent } from 'matrix-js-sdk/lib/crypto-api/index.js';

const baseUrl = process.argv[2];
export const password = 'correct horse battery staple';
const STEP_TAKES_MS_MAX = 30_000;

const print = (line) => process.stdout.write(`${line}\n`);

/** Resolves once `found` answers something, asked now and after each sync. */
export function until(client, found) {
  return new Promise((resolve) => {
    const ask = (state) => {
      const answer = found(state);
      if (!answer) return;
      client.off(ClientEvent.Sync, ask);
      resolve(answer);
    };
    client.on(ClientEvent.Sync, ask);
    ask();
  });
}

// After these, the answer to a question about keys may be another.
const KEYS_MOVED = [
  ClientEvent.Sync,
  CryptoEvent.DevicesUpdated,
  CryptoEvent.UserTrustStatusChanged,
  CryptoEvent.KeysChanged,
  CryptoEvent.KeyBackupSessionsRemaining,
  MatrixEventEvent.Decrypted,
];

/** The same for what is answered asynchronously; asked again when keys moved, too. */
export async function untilAsked(client, found) {
  for (;;) {
    let moved;
    const news = new Promise((resolve) => { moved = resolve; });
    for (const event of KEYS_MOVED) client.once(event, moved);
    const answer = await found();
    if (!answer) await news;
    for (const event of KEYS_MOVED) client.off(event, moved);
    if (answer) return answer;
  }
}

export async function register(name) {
  const username = `${name}-js-${Date.now()}`;
  const client = createClient({ baseUrl });
  await client.registerRequest({ username, password, inhibit_login: true, auth: { type: 'm.login.dummy' } });
  return username;
}

export async function logIn(user, options = {}) {
  const login = await createClient({ baseUrl }).loginRequest({
    type: 'm.login.password',
    identifier: { type: 'm.id.user', user },
    password,
  });
  return createClient({
    baseUrl,
    userId: login.user_id,
    deviceId: login.device_id,
    accessToken: login.access_token,
    timelineSupport: true,
    ...options,
  });
}

export async function start(client, options = {}) {
  const synced = until(client, (state) => state === 'PREPARED');
  await client.startClient({ initialSyncLimit: 5, ...options });
  await synced;
}

export const joins = async (client, roomId) => {
  const joined = until(client, () => client.getRoom(roomId)?.getMyMembership() === 'join');
  await client.joinRoom(roomId);
  await joined;
};

export const bodies = (room) =>
  room
    .getLiveTimeline()
    .getEvents()
    .filter((event) => event.getType() === EventType.RoomMessage)
    .map((event) => event.getContent().body);

export const heard = (client, roomId, body) =>
  until(client, () => {
    const room = client.getRoom(roomId);
    return room && bodies(room).includes(body) && room;
  });

/** Anybody's client, not logged in. */
export const stranger = () => createClient({ baseUrl });

/** The error code of a request that must fail. */
export const refused = (request) =>
  request.then(
    (answer) => { throw new Error(`not refused: ${JSON.stringify(answer)}`); },
    (error) => error.errcode ?? error.message,
  );

export function assert(holds, otherwise) {
  if (!holds) throw new Error(otherwise);
}

/** Takes the steps one after the other; the first that fails ends the conversation. */
export async function take(steps) {
  for (const [name, step] of Object.entries(steps)) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('it never happened')), STEP_TAKES_MS_MAX);
    });
    try {
      await Promise.race([step(), late]);
      print(`ok ${name}`);
    } catch (error) {
      print(`FAILED ${name}: ${error?.stack ?? error}`);
      process.exit(1);
    } finally {
      clearTimeout(timer);
    }
  }
  process.exit(0);
}
