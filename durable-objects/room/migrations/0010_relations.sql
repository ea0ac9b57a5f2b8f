-- What an event relates to, and how, read from its content: redacted, it relates to nothing. Each index has a row for a
-- relating event, or for one in a thread, and none for any other.
ALTER TABLE event ADD COLUMN parent TEXT AS (
    CASE WHEN json_type(json, '$.content."m.relates_to".rel_type') = 'text'
        AND json_type(json, '$.content."m.relates_to".event_id') = 'text'
    THEN json_extract(json, '$.content."m.relates_to".event_id') END
) VIRTUAL;
ALTER TABLE event ADD COLUMN rel_type TEXT AS (
    CASE json_type(json, '$.content."m.relates_to".rel_type') WHEN 'text'
    THEN json_extract(json, '$.content."m.relates_to".rel_type') END
) VIRTUAL;
CREATE INDEX event_child ON event (parent, rel_type, position, sender, type) WHERE parent IS NOT NULL;
CREATE INDEX event_in_thread ON event (position, parent, sender) WHERE rel_type = 'm.thread';
