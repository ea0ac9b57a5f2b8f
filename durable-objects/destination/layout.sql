-- What all migrations together make of an empty actor. A new one is laid out with this in their place; they say what
-- stands for what, and a test compares the two.

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE room (room_id TEXT PRIMARY KEY, sent INTEGER NOT NULL, owed INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE edu (position INTEGER PRIMARY KEY, key TEXT UNIQUE, json TEXT NOT NULL);

CREATE TABLE presence (user_id TEXT PRIMARY KEY, status TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE device_list (
    user_id TEXT PRIMARY KEY,
    changed_ms INTEGER NOT NULL,
    told_ms INTEGER NOT NULL,
    devices INTEGER,
    identity INTEGER
) WITHOUT ROWID;
CREATE INDEX device_list_owed ON device_list (user_id) WHERE changed_ms > told_ms;

CREATE TABLE device_list_cache (
    position INTEGER PRIMARY KEY,
    user_id TEXT NOT NULL UNIQUE,
    room_id TEXT NOT NULL,
    since INTEGER NOT NULL,
    stream_id INTEGER,
    keys TEXT NOT NULL
);
