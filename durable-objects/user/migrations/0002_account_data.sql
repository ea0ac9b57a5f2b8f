-- Account data: of the account (`room_id` is '') or for a room. `position` is the user's own.
CREATE TABLE account_data (
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (room_id, type)
) WITHOUT ROWID;
