-- Messages to devices, until the device has them. `position` is the user's own.
CREATE TABLE to_device (
    device_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    sender TEXT NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (device_id, position)
) WITHOUT ROWID;
-- The last transactions of every device that wrote to the user (a JSON list, the last first), so that a repeated one
-- delivers nothing again; `position` is of the last message, and outlives it.
CREATE TABLE to_device_sender (
    sender TEXT NOT NULL,
    device_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    transactions TEXT NOT NULL,
    PRIMARY KEY (sender, device_id)
) WITHOUT ROWID;
