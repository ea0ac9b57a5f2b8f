-- Account data: of the account (`room_id` is '') or for a room. `position` is the user's own, at which it became so; it
-- stands before the content, so that looking for what is new does not read what is not.
CREATE TABLE account_data (
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    position INTEGER NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (room_id, type)
) WITHOUT ROWID;
