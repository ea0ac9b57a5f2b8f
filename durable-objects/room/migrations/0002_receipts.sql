-- Who read how far. A receipt takes a position of the log when it moves: its row is the newest one of its user, type and
-- thread; `thread` is '' for an unthreaded receipt. `read` is the position of the event it points at.
CREATE TABLE receipt (
    user_id TEXT NOT NULL,
    type TEXT NOT NULL,
    thread TEXT NOT NULL,
    event_id TEXT NOT NULL,
    read INTEGER NOT NULL,
    ts_ms INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (user_id, type, thread)
) WITHOUT ROWID;
CREATE UNIQUE INDEX receipt_position ON receipt (position);
