-- What comes with joins from other servers, until it is judged. A number is the slot of the join, the event's depth and a
-- count.
CREATE TABLE stage (
    number INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL,
    is_state INTEGER NOT NULL,
    json TEXT NOT NULL
);
