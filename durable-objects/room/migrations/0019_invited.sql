-- Whether somebody of a server is invited is asked by servers that are not in the room, of all members: the index has entries
-- only for users of other servers, while they are invited.
CREATE INDEX member_invited ON member (user_id) WHERE membership = 'invite' AND follower IS NULL;
