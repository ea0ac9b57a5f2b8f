-- Keys and devices of the server's users, as they are as long as nobody says otherwise: JSON, the oldest first. Of a user
-- who was in a room of ours (room_id) at a position of its log (since); stream_id is that of the update that was applied
-- last, and null where the server did not say.
CREATE TABLE device_list_cache (
  position INTEGER PRIMARY KEY,
  user_id TEXT NOT NULL UNIQUE,
  room_id TEXT NOT NULL,
  since INTEGER NOT NULL,
  stream_id INTEGER,
  keys TEXT NOT NULL
);
