#!/usr/bin/env python3
"""Checks what the compiler cannot: which way dependencies point, how migrations are numbered, how files look.

Run by scripts/check. Prints every fault with its place, and fails if there is one.
"""

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINES_MAX = 600
COLUMNS_MAX = 120
PATH_OF = {
    "domain": "src/domain",
    "platform": "src/platform",
    "actors": "durable-objects",
    "api": "src/api",
    "worker-host": "src/worker",
    "native": "src/native",
    "simulation": "src/simulation",
    "tests": "tests",
    "load": "scripts/load",
    "bundle": "scripts/bundle",
    "fuzzer": "scripts/fuzzer",
}
# domain, platform <- actors <- api <- worker-host, native, simulation: who may depend on which of ours. Tests and tools know
# a server by HTTP, or by its files, only.
MAY_USE = {
    "domain": set(),
    "platform": set(),
    "actors": {"domain", "platform"},
    "api": {"domain", "platform", "actors"},
    "worker-host": {"domain", "platform", "actors", "api"},
    "native": {"domain", "platform", "actors", "api"},
    "simulation": {"domain", "platform", "actors", "api"},
    "tests": set(),
    "load": set(),
    "bundle": set(),
    "fuzzer": set(),
}
# Tests may do what servers may not, such as panic.
LINTS_OF_THEIR_OWN = {"tests"}
# What belongs to one host stays in its adapter; some of it also talks to servers from outside.
ONLY_IN = {
    "worker": {"worker-host"},
    "wasm-bindgen": {"worker-host"},
    "wasm-bindgen-futures": {"worker-host"},
    "js-sys": {"worker-host"},
    "web-sys": {"worker-host"},
    "tokio": {"native", "worker-host", "tests", "load"},
    "rusqlite": {"platform", "native", "simulation"},
    "hyper": {"native", "worker-host", "load"},
    "hyper-util": {"native", "load"},
    "hickory-resolver": {"native"},
    "tokio-rustls": {"native", "worker-host", "tests"},
    "tokio-postgres": {"native", "worker-host", "tests"},
}
SKIPPED = {"target", "node_modules", "build", ".git", ".state", ".wrangler", "myelin-data", ".venv", "__pycache__"}
TEXT = {".rs", ".py", ".mjs", ".js", ".ts", ".sql", ".toml", ".sh", ".md", ".yml", ".yaml", ""}
# A row of a table has no other place to go on.
COMMENT = re.compile(r"\s*//(?!! \|)")
UNFINISHED = re.compile("TO" + "DO|FIX" + "ME|X" + "XX")

faults = []


def fault(path, what):
    faults.append(f"{path.relative_to(ROOT)}: {what}")


def files():
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and not SKIPPED.intersection(parts) and path.suffix in TEXT:
            yield path


def dependencies(manifest):
    """Names of the crates a manifest depends on, except for tests, with those for one target only."""
    tables = [manifest, *manifest.get("target", {}).values()]
    for table in tables:
        for kind in ("dependencies", "build-dependencies"):
            for name, given in table.get(kind, {}).items():
                yield given.get("package", name) if isinstance(given, dict) else name


def check_dependencies():
    for crate, folder in PATH_OF.items():
        path = ROOT / folder / "Cargo.toml"
        manifest = tomllib.loads(path.read_text())
        if manifest["package"]["name"] != crate:
            fault(path, f"should be the crate {crate}")
        if crate not in LINTS_OF_THEIR_OWN and manifest.get("lints") != {"workspace": True}:
            fault(path, "does not take the workspace's lints")
        for used in dependencies(manifest):
            if used in PATH_OF and used not in MAY_USE[crate]:
                fault(path, f"{crate} may not depend on {used}")
            if crate not in ONLY_IN.get(used, {crate}):
                fault(path, f"{used} belongs to {' and '.join(sorted(ONLY_IN[used]))}")


def check_migrations():
    folders = [*sorted(ROOT.glob("durable-objects/*/migrations")), ROOT / "d1-migrations"]
    for folder in folders:
        for number, path in enumerate(sorted(folder.glob("*.sql")), start=1):
            if not re.fullmatch(rf"{number:04}_[a-z0-9_]+\.sql", path.name):
                fault(path, f"should be number {number:04}: migrations are numbered without gaps")


def check_files():
    for path in files():
        text = path.read_text(errors="replace")
        lines = text.splitlines()
        if path.suffix in {".rs", ".py", ".mjs", ".js", ".sql"} and len(lines) > LINES_MAX:
            fault(path, f"{len(lines)} lines, {LINES_MAX} at most")
        for number, line in enumerate(lines, start=1):
            if UNFINISHED.search(line):
                fault(path, f"line {number} is unfinished: {line.strip()}")
            if path.suffix in {".rs", ".mjs", ".js"} and len(line) > COLUMNS_MAX and COMMENT.match(line):
                fault(path, f"line {number} is a comment of {len(line)} columns, {COLUMNS_MAX} at most")
            if line != line.rstrip() and path.suffix != ".md":
                fault(path, f"line {number} ends with white space")
        if text and not text.endswith("\n"):
            fault(path, "does not end with a line break")


check_dependencies()
check_migrations()
check_files()
for each in faults:
    print(each, file=sys.stderr)
sys.exit(1 if faults else 0)
