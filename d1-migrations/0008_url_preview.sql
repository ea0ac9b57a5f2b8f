-- What was found at URLs, by the digest of the URL. It holds until expires_ms and is kept for a while, for those who ask what
-- was there before. The image, if there is one, is media of this server that goes with it.
CREATE TABLE IF NOT EXISTS url_preview (
    url_sha256 TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    fetched_ms BIGINT NOT NULL,
    answer TEXT NOT NULL,
    image_media_id TEXT,
    PRIMARY KEY (url_sha256, expires_ms)
);
CREATE INDEX IF NOT EXISTS url_preview_by_age ON url_preview (fetched_ms);
