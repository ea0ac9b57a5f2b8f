-- Content of which media are deleted: filled and emptied again in one transaction, so nobody else ever sees a row.
CREATE TABLE IF NOT EXISTS media_leaving (sha256 TEXT PRIMARY KEY);
-- What users uploaded, without what nobody did: else SQLite looks for copies here, and goes through all of them, instead of
-- where they are in the order of their last access.
DROP INDEX IF EXISTS media_of_uploader;
CREATE INDEX IF NOT EXISTS media_of_user ON media (uploader, created_ms) WHERE uploader IS NOT NULL;
