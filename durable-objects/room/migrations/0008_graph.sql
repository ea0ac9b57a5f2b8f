-- Events that stand beside the log have numbers below 2^40, where no position is: those known only as part of a state or
-- of an auth chain, the refused ones, and the soft-failed ones.

-- The state before an event: the log's state at `base`, changed by what `snapshot` says. Without `base` it is the log's at
-- the position before the event's own; beside the log, it is not known.
ALTER TABLE event ADD COLUMN base INTEGER;
ALTER TABLE event ADD COLUMN snapshot INTEGER;
-- 1: refused by the rules of authorisation, 2: soft-failed.
ALTER TABLE event ADD COLUMN verdict INTEGER;

-- How a state differs from one of the log: a list of [type, state key, event id or null].
CREATE TABLE snapshot (id INTEGER PRIMARY KEY, changes TEXT NOT NULL);

-- Events that are before one of the log (at `position`) and are not held.
CREATE TABLE gap (event_id TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;

-- Redactions (at `position`) of events that are not held.
CREATE TABLE early_redaction (event_id TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
