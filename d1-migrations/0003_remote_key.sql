-- The keys of other servers. `known` is the JSON of all keys that a server was ever known to have, each with the time
-- until which it was good. `document` is what it published last, as it was signed.
CREATE TABLE IF NOT EXISTS remote_key (
    server_name TEXT PRIMARY KEY,
    known TEXT NOT NULL,
    document TEXT NOT NULL,
    fetched_ms BIGINT NOT NULL
);
