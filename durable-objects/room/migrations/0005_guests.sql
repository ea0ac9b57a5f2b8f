-- Whether a member is a guest of ours: they stay only as long as guests may.
ALTER TABLE member ADD COLUMN guest INTEGER;
