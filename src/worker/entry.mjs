// What the runtime loads: the Worker and its four classes of Durable Object.
//
// The work is done in wasm. What is done here is what must survive it: when the wasm instance traps, nothing
// it had begun will ever settle, so every call in flight fails at once, and the next call finds a new instance.

import { DurableObject, WorkerEntrypoint } from 'cloudflare:workers';
import { answer, carry, Shell, Streamed, tend, __worker_init_state as instanceState } from './index.js';

const ALARM_RETRY_MS = 30_000;

/** What is in flight, each by what rejects it. */
const inFlight = new Set();
let instance = instanceState().instanceId;

/**
 * The wasm instance of now. Asking replaces one that trapped, and fails everything that was in flight in it.
 */
function currentInstance() {
  const now = instanceState().instanceId;
  if (now !== instance) {
    instance = now;
    const lost = [...inFlight];
    inFlight.clear();
    for (const reject of lost) reject(new Error('the wasm instance was lost'));
  }
  return now;
}

// A trap surfaces here when it happened in a task that the instance had queued for itself.
addEventListener('error', currentInstance);
addEventListener('unhandledrejection', currentInstance);

/** A promise of the instance, or a failure once the instance is lost. */
function unlessLost(promise) {
  return new Promise((resolve, reject) => {
    inFlight.add(reject);
    promise.then(resolve, reject).finally(() => inFlight.delete(reject));
  });
}

/** Runs one call; each call has its own promise, because the runtime lets no request await another's. */
function guarded(call) {
  currentInstance();
  try {
    return unlessLost(call());
  } catch (error) {
    currentInstance();
    return Promise.reject(error);
  }
}

function failed(error, status, body) {
  console.error(JSON.stringify({ level: 'ERROR', target: 'entry', message: String(error) }));
  return new Response(body, { status, headers: { 'content-type': 'application/json' } });
}

/**
 * Keeps an object awake for work that outlives its call. It must not know the object itself: the instance keeps this
 * for as long as the shell lives, and the shell lives as long as the object.
 */
function keeperOf(ctx) {
  return (work) => ctx.waitUntil(unlessLost(work).catch((error) => failed(error, 503, null)));
}

/** Has the request tier carry what an actor has for others: it is done after this, and not in the object. */
function carrierOf(ctx) {
  return (actor) => ctx.waitUntil(ctx.exports.Carrier.carry(actor).catch((error) => failed(error, 503, null)));
}

/**
 * Has the runtime go on with work for a client that has left, until what it holds is dropped: a memory that several
 * requests share would else keep what was lost with one of them.
 */
function seenThrough(ctx, work) {
  ctx.waitUntil(work.then(() => {}, () => {}));
  return work;
}

/** A body made piece by piece, as fast as the client takes it. Once nobody does, the work that makes it is dropped. */
function bodyOf(streamed, ctx, leaving) {
  let wanted = true;
  const end = () => {
    if (!wanted) return;
    wanted = false;
    leaving.removeEventListener('abort', end);
    try { streamed.free(); } catch { /* its instance is gone */ }
  };
  leaving.addEventListener('abort', end);
  return new ReadableStream({
    async pull(controller) {
      if (!wanted) throw new Error('the client has left');
      try {
        const piece = await seenThrough(ctx, guarded(() => streamed.next()));
        if (piece) return controller.enqueue(piece);
        controller.close();
        end();
      } catch (error) {
        end();
        throw error;
      }
    },
    cancel: end,
  });
}

function objectClass(kind) {
  return class extends DurableObject {
    #shell;
    #instance;

    /** The actor's shell in the instance of now: one made before a trap is of no use. */
    shell() {
      const now = currentInstance();
      if (this.#instance !== now) {
        this.#shell = new Shell(kind, this.ctx, this.env, keeperOf(this.ctx), carrierOf(this.ctx));
        this.#instance = now;
      }
      return this.#shell;
    }

    async fetch(request) {
      // Here and not in wasm: the runtime stops everything at once, and code stopped half way through the
      // instance's task queue would leave the queue stuck for every other object of the isolate.
      if (this.env.TEST_HOOKS === 'on' && new URL(request.url).pathname === '/evict') this.ctx.abort('evicted by a test');
      try {
        return await guarded(() => this.shell().fetch(request));
      } catch (error) {
        return failed(error, 503, String(error));
      }
    }

    async alarm() {
      try {
        await guarded(() => this.shell().alarm());
      } catch (error) {
        failed(error, 503, null);
        await this.ctx.storage.setAlarm(Date.now() + ALARM_RETRY_MS);
      }
    }

    // A parked caller says nothing; when it leaves, its close is answered and nothing else is done: an object
    // is woken for it.
    webSocketMessage() {}

    webSocketClose(socket, code) {
      // 1005 and 1006 are never sent: they stand for a close without a code.
      try { socket.close(code === 1005 || code === 1006 ? 1000 : code); } catch { /* closed on both sides */ }
    }

    webSocketError() {}
  };
}

export const Room = objectClass('room');
export const User = objectClass('user');
export const Destination = objectClass('destination');
export const Appservice = objectClass('appservice');

/** Reached by objects of this deployment alone. */
export class Carrier extends WorkerEntrypoint {
  async carry(actor) {
    this.ctx.waitUntil(guarded(() => carry(actor, this.env)).catch((error) => failed(error, 503, null)));
  }
}

export default class extends WorkerEntrypoint {
  async scheduled() {
    try {
      await guarded(() => tend(this.env));
    } catch (error) {
      failed(error, 500, null);
    }
  }

  async fetch(request) {
    try {
      const answered = await seenThrough(this.ctx, guarded(() => answer(request, this.env)));
      if (!(answered instanceof Streamed)) return answered;
      const body = bodyOf(answered, this.ctx, request.signal);
      return new Response(body, { status: answered.status, headers: answered.headers });
    } catch (error) {
      return failed(error, 500, '{"errcode":"M_UNKNOWN","error":"Internal server error"}');
    }
  }
}
