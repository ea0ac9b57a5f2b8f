-- The version that a room elsewhere has to which the user is invited, or on which they knock, as the server said it that told
-- of that. Nothing where an earlier release heard of it.
ALTER TABLE room ADD COLUMN asked_version TEXT;
