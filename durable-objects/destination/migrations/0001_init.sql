-- Another server: what we owe it.

-- Small facts: 'attempt' (what is on its way, or was and is not acknowledged), 'state' (failures, and when to try again).
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- The rooms we share: what it has up to, and up to where there is something for it.
CREATE TABLE room (
    room_id TEXT PRIMARY KEY,
    sent INTEGER NOT NULL,
    owed INTEGER NOT NULL
) WITHOUT ROWID;
