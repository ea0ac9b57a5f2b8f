-- When and from where a device was seen last; when its token ends, and the hash of what refreshes it.
ALTER TABLE device ADD COLUMN last_seen_ms INTEGER;
ALTER TABLE device ADD COLUMN last_seen_ip TEXT;
ALTER TABLE device ADD COLUMN expires_ms INTEGER;
ALTER TABLE device ADD COLUMN refresh_hash TEXT;
