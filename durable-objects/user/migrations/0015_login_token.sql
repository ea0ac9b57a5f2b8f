-- Tokens for one login each: a few at most, and not for long.
CREATE TABLE login_token (hash TEXT PRIMARY KEY, expires_ms INTEGER NOT NULL) WITHOUT ROWID;
