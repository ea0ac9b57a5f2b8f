-- How the server's users are, as far as it told and they are in a room of ours; status is JSON.
CREATE TABLE presence (
    user_id TEXT PRIMARY KEY,
    status TEXT NOT NULL
) WITHOUT ROWID;
