-- Keys that others use to write to the user's devices, and to trust them.

-- Identity keys of devices (`device`, by device id; null once the device is gone), the user's cross-signing keys
-- (`cross_signing`, by usage) and the signatures the user made of others (`signature`, by user id). `changed` is the user's
-- own position at which it became so; it stands before the key, so that looking for what is new does not read what is not.
CREATE TABLE public_key (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    changed INTEGER NOT NULL,
    key TEXT,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;

-- One-time keys, in the order in which they are given out, and fallback keys, one for each algorithm. `uploaded` and
-- `given` are the user's own positions. A one-time key that was given out stays for a while, without the key: who repeats
-- an upload must not bring it back.
CREATE TABLE one_time_key (
    device_id TEXT NOT NULL,
    fallback INTEGER NOT NULL,
    algorithm TEXT NOT NULL,
    uploaded INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    given INTEGER,
    key TEXT,
    PRIMARY KEY (device_id, fallback, algorithm, uploaded, key_id)
) WITHOUT ROWID;

-- Changed devices or keys on their way to the rooms, as a changed profile is.
ALTER TABLE account ADD COLUMN device_list_changed_ms INTEGER;
ALTER TABLE account ADD COLUMN device_list_told_to INTEGER;
