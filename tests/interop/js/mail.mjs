// Addresses of mail and what they are good for, through matrix-js-sdk.
//
//   node mail.mjs URL
//
// Besides the steps, prints «mails ADDRESS», and reads the link in the next message to that address.

import { createInterface } from 'node:readline';
import { MsgType } from 'matrix-js-sdk';
import { assert, logIn, password, refused, register, stranger, take } from './people.mjs';

const secret = 'a-client-secret';
const email = `alice-${Date.now()}@example.test`;
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
let username, alice;

/** The link that the next message to an address has. */
const linkTo = async (address) => {
  process.stdout.write(`mails ${address}\n`);
  const { done, value } = await answers.next();
  assert(!done, 'no mail came');
  return value;
};

/** Does what a person does with a message: opens the link, and presses the button. */
const confirms = async (address) => {
  const link = await linkTo(address);
  const page = await fetch(link);
  assert(page.ok && (await page.text()).includes('<form'), `${link}: ${page.status}`);
  const confirmed = await fetch(link, { method: 'POST' });
  assert(confirmed.ok, `${link}: ${confirmed.status}`);
};

const proof = ({ sid }) => ({ sid, client_secret: secret });

const steps = {
  async 'who registers proves an address'() {
    username = `mailed-js-${Date.now()}`;
    const client = stranger();
    const asked = await client.requestRegisterEmailToken(email, secret, 1);
    const request = (auth) => client.registerRequest({ username, password, inhibit_login: true, auth });
    const challenge = await request(undefined).then(() => null, (error) => error.data);
    const flow = challenge?.flows?.find(({ stages }) => stages.includes('m.login.email.identity'));
    assert(flow, JSON.stringify(challenge));
    const proves = () => request({
      type: 'm.login.email.identity', session: challenge.session, threepid_creds: proof(asked), threepidCreds: proof(asked),
    });
    assert((await refused(proves())) === 'M_UNAUTHORIZED', 'nobody confirmed it');
    await confirms(email);
    let stage = await proves().then(() => null, (error) => error.data);
    for (const type of flow.stages.filter((type) => type !== 'm.login.email.identity')) {
      stage = await request({ type, session: stage.session }).then(() => null, (error) => error.data);
    }
    assert(!stage, JSON.stringify(stage));
  },
  async 'the address logs them in'() {
    const identifier = { type: 'm.id.thirdparty', medium: 'email', address: email };
    const login = await stranger().loginRequest({ type: 'm.login.password', identifier, password });
    alice = await logIn(username);
    assert(login.user_id === alice.getUserId(), login.user_id);
    const { threepids } = await alice.getThreePids();
    assert(threepids.length === 1 && threepids[0].address === email, JSON.stringify(threepids));
  },
  async 'mail tells what is unread'() {
    const bob = await logIn(await register('bob'));
    const { room_id: room } = await bob.createRoom({ preset: 'public_chat', name: 'Tea House' });
    await alice.joinRoom(room);
    await alice.setPusher({
      kind: 'email', app_id: 'm.email', pushkey: email, app_display_name: 'Email Notifications', device_display_name: email,
      lang: 'en', data: { brand: 'Interop' },
    });
    await bob.sendMessage(room, { msgtype: MsgType.Text, body: 'is there any tea left' });
    assert((await linkTo(email)).startsWith('http'), 'the message has no link');
  },
  async 'a forgotten password is replaced'() {
    const client = stranger();
    const asked = await client.requestPasswordEmailToken(email, secret, 1);
    await confirms(email);
    await client.setPassword({ type: 'm.login.email.identity', threepid_creds: proof(asked), threepidCreds: proof(asked) }, 'a new one');
    assert((await refused(logIn(username))) === 'M_FORBIDDEN', 'the old one still does');
    const identifier = { type: 'm.id.user', user: username };
    await stranger().loginRequest({ type: 'm.login.password', identifier, password: 'a new one' });
  },
  async 'nobody resets what is nobody\'s'() {
    assert((await refused(stranger().requestPasswordEmailToken(`no-${email}`, secret, 1))) === 'M_THREEPID_NOT_FOUND', 'mail went out');
  },
};

await take(steps);
