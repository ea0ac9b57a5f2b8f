-- What other servers told of a room that is not here: when the last of it came, in milliseconds since the Unix epoch; the
-- invitation or the knock that stands, by its id; and the server through which the user knocked.
ALTER TABLE room ADD COLUMN heard_ms INTEGER;
ALTER TABLE room ADD COLUMN asked TEXT;
ALTER TABLE room ADD COLUMN resident TEXT;
