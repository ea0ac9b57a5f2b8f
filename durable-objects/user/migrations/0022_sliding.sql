-- Connections of sliding sync, a few for each device. `number` stands in the connection's `pos`, `heads` is where it was after
-- the last two answers, a JSON object.
CREATE TABLE connection (
    device_id TEXT NOT NULL,
    conn_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    used_ms INTEGER NOT NULL,
    heads TEXT NOT NULL,
    PRIMARY KEY (device_id, conn_id)
) WITHOUT ROWID;
-- What a connection was sent of a room, JSON objects: since its answer `answer`, and before.
CREATE TABLE connection_room (
    connection INTEGER NOT NULL,
    room INTEGER NOT NULL,
    answer INTEGER NOT NULL,
    sent TEXT,
    before TEXT,
    PRIMARY KEY (connection, room)
) WITHOUT ROWID;
-- What lists of rooms are filtered by, as the room said it last: a JSON object; null until it did.
ALTER TABLE room ADD COLUMN facts TEXT;
