-- Where a state event stands among those that it is judged by: a number larger than that of each event it names. Without
-- one it was here before these were kept, and is reckoned when it is asked for.
ALTER TABLE event ADD COLUMN generation INTEGER;

-- How many events of the log's state at a position ('auth_use' in meta), and of its auth chain, name an event as their
-- authorisation. Kept from the first fork on.
CREATE TABLE auth_use (event_id TEXT PRIMARY KEY, uses INTEGER NOT NULL) WITHOUT ROWID;
