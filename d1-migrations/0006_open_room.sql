-- Rooms that everybody may join or read, as each room projects itself: the row with the highest version wins. A room that
-- is no longer open keeps its row.
CREATE TABLE IF NOT EXISTS open_room (
    room_id TEXT PRIMARY KEY,
    version BIGINT NOT NULL,
    open BIGINT NOT NULL
);
