-- What all migrations together make of an empty actor. A new one is laid out with this in their place; they say what
-- stands for what, and a test compares the two.

CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE event (
    position INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    state_key TEXT,
    sender TEXT NOT NULL,
    json TEXT NOT NULL,
    txn TEXT,
    redacted_by INTEGER,
    base INTEGER,
    snapshot INTEGER,
    verdict INTEGER,
    parent TEXT AS (
        CASE WHEN json_type(json, '$.content."m.relates_to".rel_type') = 'text'
            AND json_type(json, '$.content."m.relates_to".event_id') = 'text'
        THEN json_extract(json, '$.content."m.relates_to".event_id') END
    ) VIRTUAL,
    rel_type TEXT AS (
        CASE json_type(json, '$.content."m.relates_to".rel_type') WHEN 'text'
        THEN json_extract(json, '$.content."m.relates_to".rel_type') END
    ) VIRTUAL,
    withheld INTEGER,
    generation INTEGER
);
CREATE INDEX event_child ON event (parent, rel_type, position, sender, type) WHERE parent IS NOT NULL;
CREATE INDEX event_in_thread ON event (position, parent, sender) WHERE rel_type = 'm.thread';
CREATE INDEX event_withheld ON event (position) WHERE withheld IS NOT NULL;
CREATE INDEX event_redacted_state ON event (redacted_by) WHERE redacted_by IS NOT NULL AND state_key IS NOT NULL;

CREATE TABLE state (
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (type, state_key)
) WITHOUT ROWID;

CREATE TABLE state_change (
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    position INTEGER NOT NULL,
    before INTEGER,
    after INTEGER,
    PRIMARY KEY (type, state_key, position)
) WITHOUT ROWID;
CREATE INDEX state_change_position ON state_change (position);

CREATE TABLE member (
    user_id TEXT PRIMARY KEY,
    membership TEXT NOT NULL,
    position INTEGER NOT NULL,
    follower INTEGER,
    forgotten INTEGER,
    guest INTEGER
) WITHOUT ROWID;
CREATE UNIQUE INDEX member_by_follower ON member (follower) WHERE follower IS NOT NULL;
CREATE INDEX member_invited ON member (user_id) WHERE membership = 'invite' AND follower IS NULL;

CREATE TABLE receipt (
    user_id TEXT NOT NULL,
    type TEXT NOT NULL,
    thread TEXT NOT NULL,
    event_id TEXT NOT NULL,
    read INTEGER NOT NULL,
    ts_ms INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (user_id, type, thread)
) WITHOUT ROWID;
CREATE UNIQUE INDEX receipt_position ON receipt (position);

CREATE TABLE device_list (
    user_id TEXT PRIMARY KEY,
    changed_ms INTEGER NOT NULL,
    position INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX device_list_position ON device_list (position);

CREATE TABLE snapshot (id INTEGER PRIMARY KEY, changes TEXT NOT NULL);

CREATE TABLE gap (event_id TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX gap_by_position ON gap (position);

CREATE TABLE server (
    name TEXT PRIMARY KEY,
    joined INTEGER NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER,
    is_known INTEGER NOT NULL DEFAULT 1
) WITHOUT ROWID;

CREATE TABLE edge (position INTEGER PRIMARY KEY, floor INTEGER NOT NULL, place INTEGER NOT NULL);

CREATE TABLE stage (number INTEGER PRIMARY KEY, event_id TEXT NOT NULL, is_state INTEGER NOT NULL, json TEXT NOT NULL);

CREATE TABLE erased (user_id TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE redaction_ahead (
    event_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (event_id, position)
) WITHOUT ROWID;

CREATE TABLE inbox (
    number INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    origin TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    json TEXT NOT NULL
);

CREATE TABLE beside (server TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE auth_use (event_id TEXT PRIMARY KEY, uses INTEGER NOT NULL) WITHOUT ROWID;
