-- How many bytes the keys of a backup have. Nobody counted those that are there: they are taken to be of the usual size.
ALTER TABLE backup ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE backup SET bytes = count * 600;
