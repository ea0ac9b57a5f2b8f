-- The user's own presence as others were told last: a JSON object; null until the first time.
ALTER TABLE account ADD COLUMN presence TEXT;
