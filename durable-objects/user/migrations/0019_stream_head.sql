-- The newest position of the user's stream, where the row that bore it is gone.
ALTER TABLE account ADD COLUMN stream_head INTEGER;
