-- A room: the log, its state, its members.
-- Every index entry is a written row; a send costs the event and its id, a state event four more.

-- Small facts: 'version', 'silent' (which followers want no nudge, one bit each), 'call' (what founded the room), 'directory' (its entry there).
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- The log. A position is an arrival: max(last + 1, now in ms), never used twice.
-- `txn` is the sender's transaction: device, type and transaction id, or a call id.
CREATE TABLE event (
    position INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    state_key TEXT,
    sender TEXT NOT NULL,
    json TEXT NOT NULL,
    txn TEXT
);

-- The current state: the position of the event that made it.
CREATE TABLE state (
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (type, state_key)
) WITHOUT ROWID;

-- Every change of the current state. State at p is the current state minus the changes after p.
-- `before` and `after` are positions of events; `after` may differ from `position` when resolution changed the state.
CREATE TABLE state_change (
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    position INTEGER NOT NULL,
    before INTEGER,
    after INTEGER,
    PRIMARY KEY (type, state_key, position)
) WITHOUT ROWID;
CREATE INDEX state_change_position ON state_change (position);

-- Who is or was in the room. `follower` numbers the local users, for the bits of 'silent'.
CREATE TABLE member (
    user_id TEXT PRIMARY KEY,
    membership TEXT NOT NULL,
    position INTEGER NOT NULL,
    follower INTEGER
) WITHOUT ROWID;
