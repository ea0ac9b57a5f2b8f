-- Users whose accounts were erased: for who came after the position, what they said is redacted.
CREATE TABLE erased (user_id TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
