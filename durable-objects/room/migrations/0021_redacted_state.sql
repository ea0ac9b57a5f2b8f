-- Who has state that was redacted since is told so.
CREATE INDEX event_redacted_state ON event (redacted_by) WHERE redacted_by IS NOT NULL AND state_key IS NOT NULL;
