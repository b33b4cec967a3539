-- The public log. Statements wait in the queue, put there by the transactions that they tell of, until the sequencer signs
-- them and gives them their places.
CREATE TABLE log_queue (
    -- Never used again, so that a batch that was appended is not taken for another.
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    content_type TEXT NOT NULL,
    payload BLOB NOT NULL,
    -- Of a result that was accepted or retracted: its lease, and 1 or -1.
    lease_id BIGINT REFERENCES leases (id),
    accepted BIGINT NOT NULL
);

CREATE TABLE log_entries (
    -- Counts from 0 without gaps.
    entry_index INTEGER PRIMARY KEY NOT NULL,
    -- The signed statement.
    entry BLOB NOT NULL,
    lease_id BIGINT REFERENCES leases (id),
    accepted BIGINT NOT NULL
);
CREATE INDEX log_queue_by_lease ON log_queue (lease_id) WHERE lease_id IS NOT NULL;
CREATE INDEX log_entries_by_lease ON log_entries (lease_id) WHERE lease_id IS NOT NULL;

-- The tree's tiles, derived from the entries: at most 256 hashes each, one after the other.
CREATE TABLE log_tiles (
    level BIGINT NOT NULL,
    number BIGINT NOT NULL,
    hashes BLOB NOT NULL,
    PRIMARY KEY (level, number)
);

-- The newest checkpoint, one row.
CREATE TABLE log_head (
    id BIGINT PRIMARY KEY NOT NULL CHECK (id = 1),
    size BIGINT NOT NULL,
    -- Signed note.
    note TEXT NOT NULL
);

-- What the volunteer told of how it computed, as received: not in the log, whose statements name its hash. None of results
-- from before there was one.
ALTER TABLE results ADD COLUMN details BLOB;
-- With this, and the consent, its statement in the log can be found. Overwritten with zeros when the consent is withdrawn: rows
-- of one length that only ever come at the end are changed in place, so that no copy is left in the file.
CREATE TABLE consent_salts (
    session_id INTEGER PRIMARY KEY NOT NULL REFERENCES sessions (id),
    salt BLOB NOT NULL CHECK (length(salt) = 32)
);
