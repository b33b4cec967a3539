-- Keys that took another key's place. Each has at most one successor and at most one predecessor, and none that has a successor
-- becomes one: so there are chains, and no cycles.
CREATE TABLE rotations (
    old_key BLOB PRIMARY KEY NOT NULL REFERENCES keys (key_id),
    new_key BLOB NOT NULL UNIQUE REFERENCES keys (key_id),
    -- This one's place in its chain, from 1.
    depth BIGINT NOT NULL,
    -- The signed statements as received.
    by_old BLOB NOT NULL,
    by_new BLOB NOT NULL,
    rotated_ms BIGINT NOT NULL
);
-- Sessions to end with a key.
CREATE INDEX sessions_open_key ON sessions (key_id) WHERE withdrawn_ms IS NULL;
