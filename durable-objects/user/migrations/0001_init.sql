-- What a user owns: who they are, their devices, their rooms.

-- Account: its one row has id 1, its profile is a JSON object.
CREATE TABLE account (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    created_ms INTEGER NOT NULL,
    founded_by TEXT NOT NULL,
    password_hash TEXT,
    admin INTEGER NOT NULL,
    deactivated_ms INTEGER,
    profile TEXT NOT NULL
);
-- A device and the hash of its one access token. Finding a token is what every request does, hence the index.
CREATE TABLE device (
    device_id TEXT PRIMARY KEY,
    token_hash TEXT NOT NULL,
    display_name TEXT,
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX device_by_token ON device (token_hash);
CREATE TABLE filter (id TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID;

-- The rooms of the user: projections of what the rooms decided. `effect` is the room's position of the membership, the
-- highest wins; `changed` is the user's own position at which the membership became what it is; `told` is kept when
-- the ring forgets the room's last move.
CREATE TABLE room (
    number INTEGER PRIMARY KEY,
    room_id TEXT NOT NULL UNIQUE,
    membership TEXT NOT NULL,
    effect INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    told INTEGER NOT NULL,
    stripped_state TEXT
);

-- The user's stream of moved rooms: a ring, overwritten, never deleted. At `position` it became known that the room has
-- news after its position `after`, up to `up_to`.
CREATE TABLE move (
    slot INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,
    room INTEGER NOT NULL,
    after INTEGER NOT NULL,
    up_to INTEGER NOT NULL
);

-- Exceptions that were too many for a sync token: a ring, too.
CREATE TABLE spill (slot INTEGER PRIMARY KEY, row INTEGER NOT NULL, rooms TEXT NOT NULL);
