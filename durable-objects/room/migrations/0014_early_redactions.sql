-- All of the redactions that came before their event: each is judged when it comes.
CREATE TABLE redaction_ahead (event_id TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (event_id, position)) WITHOUT ROWID;
INSERT INTO redaction_ahead (event_id, position) SELECT event_id, position FROM early_redaction;
DROP TABLE early_redaction;
