-- How many messages there were for the device up to this one, and their bytes, so that what is waiting is known from the
-- first and the last.
ALTER TABLE to_device ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
ALTER TABLE to_device ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE to_device SET number = counted.number, bytes = counted.bytes FROM (
    SELECT device_id, position, row_number() OVER before AS number,
        sum(length(CAST(content AS BLOB)) + length(CAST(type AS BLOB))) OVER before AS bytes
    FROM to_device WINDOW before AS (PARTITION BY device_id ORDER BY position)
) AS counted WHERE counted.device_id = to_device.device_id AND counted.position = to_device.position;

-- The call that made a backup: repeated, it makes no other.
ALTER TABLE backup ADD COLUMN call_id TEXT;
-- The call that a one-time key was given to, and the key, for who repeats it.
ALTER TABLE one_time_key ADD COLUMN claim TEXT;
ALTER TABLE one_time_key ADD COLUMN claimed TEXT;
