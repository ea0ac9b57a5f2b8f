-- The room in which the server speaks to the user.
ALTER TABLE account ADD COLUMN notice_room TEXT;
