// Serves the Worker's bundle in Miniflare, bound as wrangler.toml says, until it is killed.
//
//   node worker_server.mjs '{"bundle": FOLDER OF wrangler.toml, "port": N, "state": FOLDER, "vars": {NAME: VALUE},
//     "postgres": URL OF A DATABASE FOR THE BINDING HYPERDRIVE, OR null}'
//
// Prints {"port": N} once it listens.

import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';

const { bundle, port, state, vars, postgres } = JSON.parse(process.argv[2]);

// No dashboard, no traces, nothing from the network: only the Worker.
process.env.X_LOCAL_OBSERVABILITY = 'false';
process.env.X_LOCAL_EXPLORER = 'false';
process.env.CLOUDFLARE_CF_FETCH_ENABLED = 'false';
process.env.WRANGLER_SEND_METRICS = 'false';

const load = createRequire(join(resolve(bundle), 'package.json'));
const { unstable_getMiniflareWorkerOptions: workerOptionsOf } = load('wrangler');
const { Log, LogLevel, Miniflare, convertV4MiniflareOptions } = load('miniflare');

const MODULE_TYPES = { mjs: 'ESModule', js: 'ESModule', wasm: 'CompiledWasm' };

/** Every module beside the entry point, the entry point first. */
function modulesOf(entry) {
  const folder = dirname(entry);
  const paths = readdirSync(folder, { recursive: true }).map((name) => join(folder, name));
  const others = paths.filter((path) => path !== entry && path.split('.').pop() in MODULE_TYPES);
  return [entry, ...others].map((path) => ({ type: MODULE_TYPES[path.split('.').pop()], path }));
}

const { workerOptions, main } = workerOptionsOf(join(resolve(bundle), 'wrangler.toml'));
const entry = resolve(bundle, main);
const worker = {
  ...workerOptions,
  name: 'myelin',
  modulesRules: undefined,
  modulesRoot: dirname(entry),
  modules: modulesOf(entry),
  bindings: { ...workerOptions.bindings, ...vars },
  hyperdrives: postgres ? { HYPERDRIVE: postgres } : {},
};

const miniflare = new Miniflare(
  convertV4MiniflareOptions({
    workers: [worker],
    host: '127.0.0.1',
    port,
    cf: false,
    resourcePersistencePath: state,
    log: new Log(LogLevel.WARN),
  }),
);
await miniflare.ready;
console.log(JSON.stringify({ port }));
