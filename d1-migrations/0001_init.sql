-- What must be found across actors. One file for D1, SQLite and PostgreSQL: TEXT and BIGINT only, no statement
-- has a semicolon inside, every statement may run twice, and every migration only adds. Times are milliseconds since the
-- Unix epoch.

-- The server's own secrets, made once. The purpose "signing" holds the Ed25519 key, "name" the server's name.
CREATE TABLE IF NOT EXISTS server_key (
    purpose TEXT PRIMARY KEY,
    content TEXT NOT NULL
);

-- Every local user and every room, written before the actor is founded: an actor that exists is listed here.
CREATE TABLE IF NOT EXISTS account (
    user_id TEXT PRIMARY KEY,
    created_ms BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS room (
    room_id TEXT PRIMARY KEY,
    created_ms BIGINT NOT NULL
);

-- A token lets its holder register, uses_allowed times or without end, until it expires or for ever.
CREATE TABLE IF NOT EXISTS registration_token (
    token TEXT PRIMARY KEY,
    uses_allowed BIGINT,
    uses BIGINT NOT NULL,
    expires_ms BIGINT
);

-- Stages completed in a session of user-interactive authentication that needs more of them.
CREATE TABLE IF NOT EXISTS auth_stage (
    session TEXT NOT NULL,
    stage TEXT NOT NULL,
    proof TEXT,
    request TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    PRIMARY KEY (session, stage)
);

-- What may be used only once, until it expires anyway.
CREATE TABLE IF NOT EXISTS used_nonce (
    nonce TEXT PRIMARY KEY,
    expires_ms BIGINT NOT NULL
);
