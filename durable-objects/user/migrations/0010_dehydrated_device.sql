-- What a dehydrated device is brought back from, as JSON. Nobody is logged in on it: the hash of its token is empty, as
-- no token's is, and the index on that lets a user have one such device only.
ALTER TABLE device ADD COLUMN dehydrated TEXT;
