-- What all migrations together make of an empty actor. A new one is laid out with this in their place; they say what
-- stands for what, and a test compares the two.

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE room (room_id TEXT PRIMARY KEY, sent INTEGER NOT NULL, owed INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE event (event_id TEXT PRIMARY KEY, position INTEGER NOT NULL, json TEXT NOT NULL) WITHOUT ROWID;
