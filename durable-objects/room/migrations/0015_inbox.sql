-- Events of other servers that cannot be judged before something else was fetched, in the order in which they came.
CREATE TABLE inbox (
    number INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    origin TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    json TEXT NOT NULL
);
