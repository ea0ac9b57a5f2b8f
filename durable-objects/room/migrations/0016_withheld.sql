-- 1: a redaction that redacted nothing, yet or for good. Clients are not told of it. The index has a row for each of these.
ALTER TABLE event ADD COLUMN withheld INTEGER;
CREATE INDEX event_withheld ON event (position) WHERE withheld IS NOT NULL;
