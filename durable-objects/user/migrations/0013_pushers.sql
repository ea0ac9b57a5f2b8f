-- Where the user's notifications are sent. `id` is also when the pusher came, in milliseconds since the Unix epoch: of no
-- room is it told what was before, as far as clocks agree. It is asked of each room once what is unread there, in their order; `asked_to` is the
-- number of the last one, null once all were asked.
CREATE TABLE pusher (
    id INTEGER PRIMARY KEY,
    device_id TEXT NOT NULL,
    app_id TEXT NOT NULL,
    pushkey TEXT NOT NULL,
    changed_ms INTEGER NOT NULL,
    pusher TEXT NOT NULL,
    asked_to INTEGER,
    failures INTEGER NOT NULL DEFAULT 0,
    not_before_ms INTEGER NOT NULL DEFAULT 0
);
-- How far a pusher was told of a room, and how far it is owed to be; what it was told is unread there. A room without a row
-- has told nothing since the pusher came. `invitation` is the event, for a room that the user is invited to.
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
