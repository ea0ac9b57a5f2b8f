-- Where a page of history ends is asked of each edge, and there may be many gaps.
CREATE INDEX gap_by_position ON gap (position);
