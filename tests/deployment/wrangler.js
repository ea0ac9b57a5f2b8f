// Stands for wrangler, and for the account that it deploys to, which is a file: a Worker's variables and secrets.

const { appendFileSync, existsSync, readFileSync, writeFileSync } = require('node:fs');

const args = process.argv.slice(2);
const { ACCOUNT, ASKED, REFUSES } = process.env;
const worker = existsSync(ACCOUNT) ? JSON.parse(readFileSync(ACCOUNT)) : null;
appendFileSync(ASKED, `${args.join(' ')}\n`);

function fails(why) {
  console.error(why);
  process.exit(1);
}

/** What is there, as JSON. */
function shows(value) {
  if (!worker) fails('This Worker does not exist on your account. [code: 10007]');
  console.log(JSON.stringify(value()));
}

const command = args.slice(0, 2).join(' ');
if (command === REFUSES) fails('refused');
if (command === 'deployments status') shows(() => ({ versions: [{ version_id: 'v1', percentage: 100 }] }));
if (command === 'secret list') shows(() => Object.keys(worker.secrets).map((name) => ({ name, type: 'secret_text' })));
if (command === 'versions view') {
  const variables = Object.entries(worker?.vars ?? {}).map(([name, text]) => ({ type: 'plain_text', name, text }));
  shows(() => ({ resources: { bindings: [{ type: 'd1', name: 'DB' }, ...variables] } }));
}
if (args[0] === 'deploy') {
  const { vars, secrets } = worker ?? { vars: {}, secrets: {} };
  for (const [place, arg] of args.entries()) {
    const next = args[place + 1];
    if (arg === '--var') vars[next.slice(0, next.indexOf(':'))] = next.slice(next.indexOf(':') + 1);
    if (arg === '--secrets-file') Object.assign(secrets, JSON.parse(readFileSync(next)));
  }
  writeFileSync(ACCOUNT, JSON.stringify({ vars, secrets }));
}
