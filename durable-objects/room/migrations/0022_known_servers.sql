-- Whether the Destination of a server is known to know that it is in the room since then (is_known): until it does, it is
-- told again, and what the server says of its users' devices finds no room.
ALTER TABLE server ADD COLUMN is_known INTEGER NOT NULL DEFAULT 1;
