-- What administrators keep the account from: everything, or most of what others notice.
ALTER TABLE account ADD COLUMN locked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN suspended INTEGER NOT NULL DEFAULT 0;
