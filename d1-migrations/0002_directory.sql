-- A local alias and the room it points to. A creation that never ended may leave one that points to no room: whoever
-- asks for such an alias gets it.
CREATE TABLE IF NOT EXISTS alias (
    alias TEXT PRIMARY KEY,
    room_id TEXT NOT NULL,
    creator TEXT NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS alias_room ON alias (room_id);

-- The directory of published rooms, as each room projects itself: the row with the highest version wins. A room that is
-- no longer published keeps its row, with published = 0 and nothing else in it. `entry` is the JSON that clients get,
-- `words` where a search looks, `room_type` is '' for a room without one.
CREATE TABLE IF NOT EXISTS directory (
    room_id TEXT PRIMARY KEY,
    version BIGINT NOT NULL,
    published BIGINT NOT NULL,
    members BIGINT NOT NULL,
    room_type TEXT NOT NULL,
    words TEXT NOT NULL,
    entry TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS directory_order ON directory (published, members, room_id);

-- What users reported to the administrators: a room, an event in a room, or a user. The id is a digest of the rest, so
-- that a repeated request is one report.
CREATE TABLE IF NOT EXISTS report (
    report_id TEXT PRIMARY KEY,
    reporter TEXT NOT NULL,
    room_id TEXT,
    event_id TEXT,
    user_id TEXT,
    reason TEXT NOT NULL,
    received_ms BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS report_reporter ON report (reporter, received_ms);
