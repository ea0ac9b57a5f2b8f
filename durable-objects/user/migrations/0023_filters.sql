-- When a filter was last kept, in milliseconds since the Unix epoch: of too many the oldest goes.
ALTER TABLE filter ADD COLUMN kept_ms INTEGER NOT NULL DEFAULT 0;
