-- Copies of other servers' media are media without an uploader. They are not kept as long as that of our users.
DROP INDEX IF EXISTS media_by_access;
CREATE INDEX IF NOT EXISTS media_of_ours_by_access ON media (accessed_ms)
    WHERE sha256 IS NOT NULL AND uploader IS NOT NULL;
CREATE INDEX IF NOT EXISTS media_of_others_by_access ON media (accessed_ms) WHERE sha256 IS NOT NULL AND uploader IS NULL;
