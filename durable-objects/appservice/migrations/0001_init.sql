-- An application service: what it is owed.

-- Small facts: 'attempt' (what is on its way, or was and is not acknowledged), 'standing' (failures, and when to try again).
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- The rooms that it follows: what it has up to, and up to where there is something for it.
CREATE TABLE room (
    room_id TEXT PRIMARY KEY,
    sent INTEGER NOT NULL,
    owed INTEGER NOT NULL
) WITHOUT ROWID;

-- What it is told of rooms that are not here, in order: in client format.
CREATE TABLE event (
    event_id TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    json TEXT NOT NULL
) WITHOUT ROWID;
