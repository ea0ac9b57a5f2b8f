-- Backups of room keys. A version that was deleted keeps its row without the data, so that its number is never used again.
CREATE TABLE backup (
    version INTEGER PRIMARY KEY,
    etag INTEGER NOT NULL,
    count INTEGER NOT NULL,
    algorithm TEXT,
    auth_data TEXT
);
CREATE TABLE backup_key (
    version INTEGER NOT NULL,
    room_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    is_verified INTEGER NOT NULL,
    first_message_index INTEGER NOT NULL,
    forwarded_count INTEGER NOT NULL,
    session_data TEXT NOT NULL,
    PRIMARY KEY (version, room_id, session_id)
) WITHOUT ROWID;
