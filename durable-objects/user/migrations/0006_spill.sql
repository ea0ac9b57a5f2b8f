-- Exceptions that were too many for a sync token: a few rows for each device, no longer one ring for all. What is dropped
-- costs a device that comes with such a token its rooms anew.
DROP TABLE spill;
CREATE TABLE spill (row INTEGER PRIMARY KEY, device TEXT NOT NULL, rooms TEXT NOT NULL);
