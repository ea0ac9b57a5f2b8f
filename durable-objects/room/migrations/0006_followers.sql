-- A room that wakes finds the few who want to be told, not everybody.
CREATE UNIQUE INDEX member_by_follower ON member (follower) WHERE follower IS NOT NULL;
