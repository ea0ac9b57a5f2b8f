// What people do with their accounts, through matrix-js-sdk: devices, passwords, refreshed tokens, guests, farewells.
//
//   node account.mjs URL

import { assert, logIn, password, refused, register, start, stranger, take, until } from './people.mjs';

let username, alice;
const proof = (secret, session) => ({
  type: 'm.login.password',
  identifier: { type: 'm.id.user', user: alice.getUserId() },
  password: secret,
  session,
});

/** Asks first, then proves who asks. */
const interactively = async (secret, request) => {
  const challenge = await request(undefined).then(() => null, (error) => error.data);
  assert(challenge?.flows?.some(({ stages }) => stages.includes('m.login.password')), JSON.stringify(challenge));
  return request(proof(secret, challenge.session));
};

const steps = {
  async 'a name is free until it is taken'() {
    const name = `free-${Date.now()}`;
    assert(await stranger().isUsernameAvailable(name), 'not free');
    username = await register('alice');
    assert(!(await stranger().isUsernameAvailable(username)), 'still free');
  },
  async 'devices are listed, named and removed'() {
    alice = await logIn(username);
    const others = [await logIn(username), await logIn(username)];
    await alice.setDeviceDetails(others[0].getDeviceId(), { display_name: 'Tablet' });
    const { devices } = await alice.getDevices();
    const names = devices.map(({ device_id, display_name }) => [device_id, display_name]);
    assert(devices.length === 3 && names.some(([id, name]) => id === others[0].getDeviceId() && name === 'Tablet'), JSON.stringify(names));
    const ids = others.map((other) => other.getDeviceId());
    await interactively(password, (auth) => alice.deleteMultipleDevices(ids, auth));
    assert((await refused(others[0].whoami())) === 'M_UNKNOWN_TOKEN', 'still in');
    assert((await alice.getDevices()).devices.length === 1, 'still listed');
  },
  async 'a token is refreshed'() {
    const request = { type: 'm.login.password', identifier: { type: 'm.id.user', user: username }, password, refresh_token: true };
    const login = await stranger().loginRequest(request);
    assert(login.refresh_token && login.expires_in_ms > 0, JSON.stringify(login));
    const client = stranger();
    client.setAccessToken(login.access_token);
    const refreshed = await client.refreshToken(login.refresh_token);
    client.setAccessToken(refreshed.access_token);
    assert((await client.whoami()).user_id === alice.getUserId(), 'somebody else');
    await client.logout();
  },
  async 'the password changes'() {
    await start(alice);
    const other = await logIn(username);
    await interactively(password, (auth) => alice.setPassword(auth, 'another one', true));
    assert((await refused(other.whoami())) === 'M_UNKNOWN_TOKEN', 'still in');
    assert((await refused(logIn(username))) === 'M_FORBIDDEN', 'the old one still does');
    await until(alice, () => true);
  },
  async 'a display name changes'() {
    await alice.setDisplayName('Alice in Interop');
    assert((await alice.getProfileInfo(alice.getUserId())).displayname === 'Alice in Interop', 'not so');
  },
  async 'who leaves for good is gone'() {
    await interactively('another one', (auth) => alice.deactivateAccount(auth, true));
    alice.stopClient();
    const login = stranger().loginRequest({ type: 'm.login.password', identifier: { type: 'm.id.user', user: username }, password: 'another one' });
    assert((await refused(login)).startsWith('M_'), 'logged in');
    assert(!(await stranger().isUsernameAvailable(username)), 'the name is free');
  },
};

await take(steps);
