-- Of a room that others told of: the position of what it decided itself last. Nothing where an earlier release heard of
-- it.
ALTER TABLE room ADD COLUMN decided INTEGER;
