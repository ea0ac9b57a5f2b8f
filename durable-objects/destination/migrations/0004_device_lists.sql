-- Local users whose devices changed: when, by their own clocks, up to which change the server was told, and the numbers of
-- what it was told last in the streams of the user's own.
CREATE TABLE device_list (
  user_id TEXT PRIMARY KEY,
  changed_ms INTEGER NOT NULL,
  told_ms INTEGER NOT NULL,
  devices INTEGER,
  identity INTEGER
) WITHOUT ROWID;
