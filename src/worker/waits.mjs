// Waiting on the runtime's events, as promises that always settle: one left pending would hold its waiter's
// memory for as long as the isolate lives.

/**
 * The first message on a socket that an object may have parked: an ArrayBuffer. Without one, the code that the
 * socket was closed with, or undefined.
 */
export class FirstMessage {
  constructor(socket) {
    this.socket = socket;
    this.promise = new Promise((resolve) => { this.settle = resolve; });
    socket.binaryType = 'arraybuffer';
    socket.addEventListener('message', (event) => this.settle(event.data));
    socket.addEventListener('close', (event) => this.settle(event.code));
    socket.addEventListener('error', () => this.settle(undefined));
    // Listeners first: what arrived before accept() is delivered by it.
    socket.accept();
  }

  end() {
    this.settle(undefined);
    try { this.socket.close(1000); } catch { /* it was closed already */ }
  }
}

/** The client's leaving before it was answered. */
export class Leaving {
  constructor(request) {
    this.signal = request.signal;
    this.promise = new Promise((resolve) => { this.settle = resolve; });
    if (this.signal.aborted) this.settle(undefined);
    this.signal.addEventListener('abort', this.settle);
  }

  end() {
    this.signal.removeEventListener('abort', this.settle);
    this.settle(undefined);
  }
}

/** The answer that hands one end of a socket to the caller. */
export function upgraded(socket) {
  return new Response(null, { status: 101, webSocket: socket });
}

/** The socket of an answered upgrade. */
export function socketOf(response) {
  return response.webSocket ?? undefined;
}
