-- How many bytes are held beside the log of what users of other servers said, since this is counted.
CREATE TABLE beside (server TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
