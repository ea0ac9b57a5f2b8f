-- A changed profile is on its way to the rooms: when it became what it is, and the number of the room up to which all know
-- it; no number once all do.
ALTER TABLE account ADD COLUMN profile_changed_ms INTEGER;
ALTER TABLE account ADD COLUMN profile_told_to INTEGER;
