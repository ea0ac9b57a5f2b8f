-- The position of the redaction that took effect on an event.
ALTER TABLE event ADD COLUMN redacted_by INTEGER;
