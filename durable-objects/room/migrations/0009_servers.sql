-- Other servers with members in the room: how many are joined, since which position, and until which one they were. A
-- server follows the room from the one to the other.
CREATE TABLE server (
    name TEXT PRIMARY KEY,
    joined INTEGER NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER
) WITHOUT ROWID;
INSERT INTO server (name, joined, since)
SELECT substr(user_id, instr(user_id, ':') + 1), count(*), min(position) FROM member
WHERE membership = 'join' AND follower IS NULL GROUP BY 1;
