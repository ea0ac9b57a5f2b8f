-- Places of the log before which history is missing, or was: the event at `position` came without what is before it. What
-- was found of that since stands from `place` on; the numbers from `floor` on are kept free for the rest. The state at
-- `floor` is the one before the earliest event found.
CREATE TABLE edge (position INTEGER PRIMARY KEY, floor INTEGER NOT NULL, place INTEGER NOT NULL);
INSERT INTO edge (position, floor, place)
SELECT DISTINCT position, max(position - 1048576,
 coalesce((SELECT max(position) + 1 FROM event WHERE event.position < gap.position AND event.position >= 1099511627776),
          1099511627776)), position FROM gap;
