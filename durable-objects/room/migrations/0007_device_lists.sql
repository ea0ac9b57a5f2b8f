-- Members whose devices or keys changed: a place in the log, the newest one of each. `changed_ms` is when, by the user's own
-- clock.
CREATE TABLE device_list (
    user_id TEXT PRIMARY KEY,
    changed_ms INTEGER NOT NULL,
    position INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX device_list_position ON device_list (position);
