// Whose devices and identities people see, sign, and see go, through matrix-js-sdk and its Rust crypto.
//
//   node encryption.mjs URL

import { CryptoEvent, VerificationPhase, VerificationRequestEvent, VerifierEvent } from 'matrix-js-sdk/lib/crypto-api/index.js';
import { assert, bodies, joins, logIn, password, register, start, take, untilAsked } from './people.mjs';

let alice, bob, tablet, roomId;

/** A device that holds keys, in memory only. */
const encrypts = async (username, options) => {
  const client = await logIn(username, options);
  await client.initRustCrypto({ useIndexedDB: false });
  await start(client);
  return client;
};

const devicesSeen = async (client, owner) => {
  const devices = await client.getCrypto().getUserDeviceInfo([owner.getUserId()]);
  return [...(devices.get(owner.getUserId())?.keys() ?? [])];
};
const sees = (client, owner) =>
  untilAsked(client, async () => (await devicesSeen(client, owner)).includes(owner.getDeviceId()));
const isSigned = (client, owner) =>
  untilAsked(client, async () => {
    const status = await client.getCrypto().getDeviceVerificationStatus(owner.getUserId(), owner.getDeviceId());
    return status?.signedByOwner;
  });

/** Asks first, then proves with the password who asks. */
const proven = (client) => async (request) => {
  const challenge = await request(null).then(() => null, (error) => error.data);
  if (!challenge) return;
  assert(challenge.flows?.some(({ stages }) => stages.includes('m.login.password')), JSON.stringify(challenge));
  const identifier = { type: 'm.id.user', user: client.getUserId() };
  await request({ type: 'm.login.password', identifier, password, session: challenge.session });
};
/** A further device takes its user's identity from secret storage. */
const unlocks = async (client) => {
  await client.getCrypto().userHasCrossSigningKeys(client.getUserId(), true);
  await client.getCrypto().bootstrapCrossSigning({});
};
/** The current backup, as the server has it: the client asks once and remembers. */
const backup = (client) => client.http.authedRequest('GET', '/room_keys/version');
const identity = (client, owner) =>
  client.getCrypto().getUserCrossSigningKeys(owner.getUserId()).then((keys) => JSON.stringify(keys?.master_key?.keys));

const reads = (client, body) => untilAsked(client, () => bodies(client.getRoom(roomId)).includes(body));

/** Once a verification has come so far. */
const phase = (request, wanted) =>
  new Promise((resolve) => {
    const ask = () => request.phase === wanted && resolve();
    request.on(VerificationRequestEvent.Change, ask);
    ask();
  });

/** Alice asks, the other accepts, both are shown the same and say so; each has verified the other then. */
const compareEmoji = async (other, asks) => {
  const asked = new Promise((resolve) => other.once(CryptoEvent.VerificationRequestReceived, resolve));
  const hers = await asks();
  const his = await asked;
  await his.accept();
  await phase(hers, VerificationPhase.Ready);
  const verifiers = [await hers.startVerification('m.sas.v1')];
  await phase(his, VerificationPhase.Started);
  verifiers.push(his.verifier);
  const shown = verifiers.map((verifier) => new Promise((resolve) => verifier.once(VerifierEvent.ShowSas, resolve)));
  const done = verifiers.map((verifier) => verifier.verify());
  const both = await Promise.all(shown);
  const [emoji, same] = both.map(({ sas }) => JSON.stringify(sas.emoji));
  assert(emoji && emoji === same, `${emoji} and ${same}`);
  await Promise.all(both.map((callbacks) => callbacks.confirm()));
  await Promise.all(done);
  for (const [client, verified] of [[alice, other], [other, alice]]) {
    const status = () => client.getCrypto().getUserVerificationStatus(verified.getUserId());
    await untilAsked(client, async () => (await status()).isCrossSigningVerified());
  }
};

/** Alice and somebody are in a new room. */
const meets = async (other) => {
  const encryption = { type: 'm.room.encryption', state_key: '', content: { algorithm: 'm.megolm.v1.aes-sha2' } };
  const room = { preset: 'private_chat', invite: [other.getUserId()], initial_state: [encryption] };
  ({ room_id: roomId } = await alice.createRoom(room));
  await joins(other, roomId);
  for (const client of [alice, other]) await untilAsked(client, () => client.getCrypto().isEncryptionEnabledInRoom(roomId));
};

/** What opens everybody's secret storage; it comes to be in memory only, as if it were typed in. */
let recovery;
const secrets = {
  cryptoCallbacks: { getSecretStorageKey: async ({ keys }) => [Object.keys(keys)[0], recovery.privateKey] },
};

const steps = {
  async 'two meet in an encrypted room'() {
    alice = await encrypts(await register('alice'));
    bob = await encrypts(await register('bob'));
    await meets(bob);
  },
  async 'devices publish their keys'() {
    await sees(alice, bob);
    await sees(bob, alice);
  },
  async 'a further device is seen'() {
    tablet = await encrypts(bob.getUserId());
    await sees(alice, tablet);
    await sees(bob, tablet);
  },
  async 'an identity is published'() {
    await bob.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: proven(bob) });
    for (const client of [alice, tablet]) await isSigned(client, bob);
  },
  async 'a user signs their other device'() {
    await bob.getCrypto().crossSignDevice(tablet.getDeviceId());
    await isSigned(alice, tablet);
  },
  async 'every device reads what is said'() {
    const all = [alice, bob, tablet];
    for (const speaker of all) {
      const body = `from ${speaker.getDeviceId()}`;
      const { event_id: id } = await speaker.sendTextMessage(roomId, body);
      for (const listener of all) await reads(listener, body);
      const { type } = await speaker.http.authedRequest('GET', `/rooms/${encodeURIComponent(roomId)}/event/${encodeURIComponent(id)}`);
      assert(type === 'm.room.encrypted', `sent as ${type}`);
    }
  },
  async 'two compare emoji'() {
    await alice.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: proven(alice) });
    await isSigned(bob, alice);
    await compareEmoji(bob, () => alice.getCrypto().requestDeviceVerification(bob.getUserId(), bob.getDeviceId()));
  },
  async 'a removed device is seen going'() {
    await proven(bob)((auth) => bob.deleteMultipleDevices([tablet.getDeviceId()], auth));
    tablet.stopClient();
    for (const client of [alice, bob]) await untilAsked(client, async () => (await devicesSeen(client, bob)).length === 1);
  },
  async 'new keys are a new identity'() {
    const before = await identity(alice, bob);
    await bob.getCrypto().bootstrapCrossSigning({ setupNewCrossSigning: true, authUploadDeviceSigningKeys: proven(bob) });
    await untilAsked(alice, async () => (await identity(alice, bob)) !== before);
    await isSigned(alice, bob);
  },
  async 'two compare emoji in their room'() {
    const carol = await encrypts(await register('carol'));
    await carol.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: proven(carol) });
    await meets(carol);
    await isSigned(alice, carol);
    await isSigned(carol, alice);
    await compareEmoji(carol, () => alice.getCrypto().requestVerificationDM(carol.getUserId(), roomId));
    carol.stopClient();
  },
  async 'a new device reads the past from the backup'() {
    const dora = await encrypts(await register('dora'), secrets);
    const crypto = dora.getCrypto();
    recovery = await crypto.createRecoveryKeyFromPassphrase();
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: proven(dora) });
    const created = { createSecretStorageKey: async () => recovery, setupNewSecretStorage: true, setupNewKeyBackup: true };
    await crypto.bootstrapSecretStorage(created);
    await meets(dora);
    await alice.sendTextMessage(roomId, 'kept for later');
    await reads(dora, 'kept for later');
    await untilAsked(dora, async () => (await backup(dora)).count > 0);
    dora.stopClient();
    const next = await encrypts(dora.getUserId(), secrets);
    await unlocks(next);
    await isSigned(next, next);
    await next.getCrypto().loadSessionBackupPrivateKeyFromSecretStorage();
    const { total, imported } = await next.getCrypto().restoreKeyBackup();
    assert(total > 0 && imported === total, `${imported} of ${total} keys`);
    await reads(next, 'kept for later');
    // Whoever replaces the backup keeps what they can read.
    const { version } = await backup(next);
    await next.getCrypto().resetKeyBackup();
    await untilAsked(next, async () => {
      const replaced = await backup(next);
      return replaced.version !== version && replaced.count >= imported;
    });
  },
  async 'a device that nobody is logged in on reads for the next one'() {
    const carol = await encrypts(await register('carol'), secrets);
    const crypto = carol.getCrypto();
    recovery = await crypto.createRecoveryKeyFromPassphrase();
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: proven(carol) });
    await crypto.bootstrapSecretStorage({ createSecretStorageKey: async () => recovery, setupNewSecretStorage: true });
    assert(await crypto.isDehydrationSupported(), 'dehydrated devices are not supported');
    await crypto.startDehydration();
    await meets(carol);
    await untilAsked(alice, async () => (await devicesSeen(alice, carol)).length === 2);
    await proven(carol)((auth) => carol.deleteMultipleDevices([carol.getDeviceId()], auth));
    carol.stopClient();
    await untilAsked(alice, async () => (await devicesSeen(alice, carol)).length === 1);
    await alice.sendTextMessage(roomId, 'while nobody was there');
    const next = await encrypts(carol.getUserId(), secrets);
    // In secret storage there is also what the device was dried with.
    await unlocks(next);
    await next.getCrypto().startDehydration();
    await reads(next, 'while nobody was there');
  },
};

await take(steps);
