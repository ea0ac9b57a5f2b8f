-- Rooms in the directories of other networks, which application services keep, as each room projects itself: the row with the
-- highest version wins. `networks` holds their ids, each between line breaks, and nothing once there are none. The rest is as in
-- `directory`.
CREATE TABLE IF NOT EXISTS network_directory (
    room_id TEXT PRIMARY KEY,
    version BIGINT NOT NULL,
    networks TEXT NOT NULL,
    members BIGINT NOT NULL,
    room_type TEXT NOT NULL,
    words TEXT NOT NULL,
    entry TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS network_directory_order ON network_directory (members, room_id) WHERE networks <> '';
