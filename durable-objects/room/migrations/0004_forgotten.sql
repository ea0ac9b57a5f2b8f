-- The position of the membership with which a user forgot the room.
ALTER TABLE member ADD COLUMN forgotten INTEGER;
