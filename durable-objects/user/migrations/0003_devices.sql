-- When and from where a device was seen last; when its access token ends, and the hash of the token that refreshes it.
ALTER TABLE device ADD COLUMN last_seen_ms INTEGER;
ALTER TABLE device ADD COLUMN last_seen_ip TEXT;
ALTER TABLE device ADD COLUMN expires_ms INTEGER;
ALTER TABLE device ADD COLUMN refresh_hash TEXT;
-- What a refresh gave out and nobody used yet; with the first use it takes the place of the above. The index has entries
-- only for devices that refresh.
ALTER TABLE device ADD COLUMN next_token_hash TEXT;
ALTER TABLE device ADD COLUMN next_expires_ms INTEGER;
ALTER TABLE device ADD COLUMN next_refresh_hash TEXT;
CREATE UNIQUE INDEX device_by_next_token ON device (next_token_hash) WHERE next_token_hash IS NOT NULL;
-- Whether the account is a guest's.
ALTER TABLE account ADD COLUMN guest INTEGER NOT NULL DEFAULT 0;
