-- What users uploaded. Until it has its content, sha256 is NULL and it is there until expires_ms, afterwards that is
-- NULL. accessed_ms is a day old at most. `authenticated` is 0 for what was uploaded while everyone was served, and 1 for
-- what only users are. What somebody quarantined is hidden from everyone, what is protected nobody can quarantine.
CREATE TABLE IF NOT EXISTS media (
    server_name TEXT NOT NULL,
    media_id TEXT NOT NULL,
    uploader TEXT,
    sha256 TEXT,
    size BIGINT NOT NULL,
    content_type TEXT NOT NULL,
    upload_name TEXT,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT,
    accessed_ms BIGINT NOT NULL,
    authenticated BIGINT NOT NULL,
    quarantined_by TEXT,
    protected BIGINT NOT NULL,
    PRIMARY KEY (server_name, media_id)
);
CREATE INDEX IF NOT EXISTS media_of_content ON media (sha256);
CREATE INDEX IF NOT EXISTS media_of_uploader ON media (uploader, created_ms);
CREATE INDEX IF NOT EXISTS media_unused ON media (uploader, expires_ms) WHERE sha256 IS NULL;
CREATE INDEX IF NOT EXISTS media_by_access ON media (accessed_ms) WHERE sha256 IS NOT NULL;

-- What the media consist of, once for all with the same content, and the file it lies in.
CREATE TABLE IF NOT EXISTS media_content (
    sha256 TEXT PRIMARY KEY,
    size BIGINT NOT NULL,
    file TEXT NOT NULL
);

-- What became of each attempt to make a thumbnail of some content: it was made and lies in a file, the content serves
-- as its own, or there can be none.
CREATE TABLE IF NOT EXISTS media_thumbnail (
    sha256 TEXT NOT NULL,
    name TEXT NOT NULL,
    outcome TEXT NOT NULL,
    content_type TEXT,
    size BIGINT,
    file TEXT,
    PRIMARY KEY (sha256, name)
);

-- Files that may lie in the store and belong to nothing: those being written, which nobody else touches until then, and
-- those to be deleted. Every file of the store is in this table or belongs to something.
CREATE TABLE IF NOT EXISTS media_stray (
    file TEXT PRIMARY KEY,
    written_until_ms BIGINT NOT NULL
);
