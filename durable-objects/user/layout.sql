-- What all migrations together make of an empty actor. A new one is laid out with this in their place; they say what
-- stands for what, and a test compares the two.

CREATE TABLE account (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    created_ms INTEGER NOT NULL,
    founded_by TEXT NOT NULL,
    password_hash TEXT,
    admin INTEGER NOT NULL,
    deactivated_ms INTEGER,
    profile TEXT NOT NULL,
    guest INTEGER NOT NULL DEFAULT 0,
    profile_changed_ms INTEGER,
    profile_told_to INTEGER,
    presence TEXT,
    device_list_changed_ms INTEGER,
    device_list_told_to INTEGER,
    locked INTEGER NOT NULL DEFAULT 0,
    suspended INTEGER NOT NULL DEFAULT 0,
    notice_room TEXT,
    stream_head INTEGER
);

CREATE TABLE device (
    device_id TEXT PRIMARY KEY,
    token_hash TEXT NOT NULL,
    display_name TEXT,
    created_ms INTEGER NOT NULL,
    last_seen_ms INTEGER,
    last_seen_ip TEXT,
    expires_ms INTEGER,
    refresh_hash TEXT,
    next_token_hash TEXT,
    next_expires_ms INTEGER,
    next_refresh_hash TEXT,
    dehydrated TEXT
) WITHOUT ROWID;
CREATE UNIQUE INDEX device_by_token ON device (token_hash);
CREATE UNIQUE INDEX device_by_next_token ON device (next_token_hash) WHERE next_token_hash IS NOT NULL;

CREATE TABLE filter (id TEXT PRIMARY KEY, content TEXT NOT NULL, kept_ms INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;

CREATE TABLE room (
    number INTEGER PRIMARY KEY,
    room_id TEXT NOT NULL UNIQUE,
    membership TEXT NOT NULL,
    effect INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    told INTEGER NOT NULL,
    stripped_state TEXT,
    heard_ms INTEGER,
    asked TEXT,
    resident TEXT,
    asked_version TEXT,
    decided INTEGER,
    facts TEXT
);

CREATE TABLE move (
    slot INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,
    room INTEGER NOT NULL,
    after INTEGER NOT NULL,
    up_to INTEGER NOT NULL
);

CREATE TABLE account_data (
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    position INTEGER NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (room_id, type)
) WITHOUT ROWID;

CREATE TABLE spill (row INTEGER PRIMARY KEY, device TEXT NOT NULL, rooms TEXT NOT NULL);

CREATE TABLE public_key (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    changed INTEGER NOT NULL,
    key TEXT,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE INDEX public_key_changed ON public_key (changed);

CREATE TABLE one_time_key (
    device_id TEXT NOT NULL,
    fallback INTEGER NOT NULL,
    algorithm TEXT NOT NULL,
    uploaded INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    given INTEGER,
    key TEXT,
    claim TEXT,
    claimed TEXT,
    PRIMARY KEY (device_id, fallback, algorithm, uploaded, key_id)
) WITHOUT ROWID;

CREATE TABLE to_device (
    device_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    sender TEXT NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    number INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (device_id, position)
) WITHOUT ROWID;

CREATE TABLE to_device_sender (
    sender TEXT NOT NULL,
    device_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    transactions TEXT NOT NULL,
    PRIMARY KEY (sender, device_id)
) WITHOUT ROWID;

CREATE TABLE backup (
    version INTEGER PRIMARY KEY,
    etag INTEGER NOT NULL,
    count INTEGER NOT NULL,
    algorithm TEXT,
    auth_data TEXT,
    call_id TEXT,
    bytes INTEGER NOT NULL DEFAULT 0
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

CREATE TABLE pusher (
    id INTEGER PRIMARY KEY,
    device_id TEXT NOT NULL,
    app_id TEXT NOT NULL,
    pushkey TEXT NOT NULL,
    changed_ms INTEGER NOT NULL,
    pusher TEXT NOT NULL,
    asked_to INTEGER,
    failures INTEGER NOT NULL DEFAULT 0,
    not_before_ms INTEGER NOT NULL DEFAULT 0,
    mail_asked_to INTEGER
);

CREATE TABLE pushed (
    pusher INTEGER NOT NULL,
    room INTEGER NOT NULL,
    owed INTEGER NOT NULL,
    told INTEGER NOT NULL,
    unread INTEGER NOT NULL,
    missed_calls INTEGER NOT NULL,
    invitation TEXT,
    PRIMARY KEY (pusher, room)
) WITHOUT ROWID;

CREATE TABLE login_token (hash TEXT PRIMARY KEY, expires_ms INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE connection (
    device_id TEXT NOT NULL,
    conn_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    used_ms INTEGER NOT NULL,
    heads TEXT NOT NULL,
    PRIMARY KEY (device_id, conn_id)
) WITHOUT ROWID;

CREATE TABLE connection_room (
    connection INTEGER NOT NULL,
    room INTEGER NOT NULL,
    answer INTEGER NOT NULL,
    sent TEXT,
    before TEXT,
    PRIMARY KEY (connection, room)
) WITHOUT ROWID;
