-- What the server is to be told besides events, in order. One that others replace (who types, say) has a key; it loses that
-- when it is on its way, so that what is sent stays what was sent.
CREATE TABLE edu (
    position INTEGER PRIMARY KEY,
    key TEXT UNIQUE,
    json TEXT NOT NULL
);
