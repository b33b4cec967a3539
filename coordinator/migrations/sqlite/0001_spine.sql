-- The spine's tables. Ground truth is `jobs`, `units`, `leases`, `results`, `rounds`, `sessions` and `blobs`; the counters
-- in `jobs`, `keys` and `units` are derived from them in the same transaction, and `check_invariants` re-derives them.
-- Times are milliseconds since the Unix epoch, hashes and keys 32 bytes, booleans 0 or 1.

CREATE TABLE settings (
    name TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
);

CREATE TABLE blobs (
    hash BLOB PRIMARY KEY NOT NULL,
    bytes BIGINT NOT NULL,
    -- Served to anyone: inputs of approved jobs, checkpoints, accepted outputs.
    public BIGINT NOT NULL,
    -- Put by the operator or the coordinator itself: never deleted as unused.
    kept BIGINT NOT NULL,
    -- 0 after its bytes were deleted as unused; the row stays for what names it.
    stored BIGINT NOT NULL,
    created_ms BIGINT NOT NULL
);

-- What the driver scans for bytes to delete.
CREATE INDEX blobs_removable ON blobs (hash) WHERE public = 0 AND kept = 0 AND stored = 1;

CREATE TABLE keys (
    key_id BLOB PRIMARY KEY NOT NULL,
    first_seen_ms BIGINT NOT NULL,
    accepted BIGINT NOT NULL DEFAULT 0,
    rejected BIGINT NOT NULL DEFAULT 0,
    pending BIGINT NOT NULL DEFAULT 0,
    credit_flop BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE jobs (
    id INTEGER PRIMARY KEY NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('matmul', 'train')),
    state TEXT NOT NULL CHECK (state IN ('submitted', 'running', 'paused', 'cancelled', 'finished')),
    -- The operator approved it once: only then is there anything for others to see.
    approved BIGINT NOT NULL DEFAULT 0,
    -- Why the coordinator cancelled it; empty otherwise.
    reason TEXT NOT NULL DEFAULT '',
    -- The submission: manifest and inputs, JSON.
    submission TEXT NOT NULL,
    submitted_ms BIGINT NOT NULL,
    -- Rounds merged; the units of this round are the ones being computed. 0 for a matmul job.
    round BIGINT NOT NULL DEFAULT 0,
    units_total BIGINT NOT NULL DEFAULT 0,
    units_settled BIGINT NOT NULL DEFAULT 0,
    units_refereed BIGINT NOT NULL DEFAULT 0,
    results_accepted BIGINT NOT NULL DEFAULT 0,
    results_rejected BIGINT NOT NULL DEFAULT 0,
    -- Counts changes of what the job's view shows: the id of its events.
    version BIGINT NOT NULL DEFAULT 1
);
CREATE INDEX jobs_state ON jobs (state, id);

-- Keys with an accepted result for a job.
CREATE TABLE contributors (
    job_id BIGINT NOT NULL REFERENCES jobs (id),
    key_id BLOB NOT NULL REFERENCES keys (key_id),
    PRIMARY KEY (job_id, key_id)
);

-- Round r of a train job starts from its checkpoint; row 0 is the initial one, row r the one after r merged rounds.
CREATE TABLE rounds (
    job_id BIGINT NOT NULL REFERENCES jobs (id),
    round BIGINT NOT NULL,
    checkpoint BLOB NOT NULL REFERENCES blobs (hash),
    velocity BLOB NOT NULL REFERENCES blobs (hash),
    loss DOUBLE PRECISION NOT NULL,
    accuracy DOUBLE PRECISION NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (job_id, round)
);

CREATE TABLE units (
    id INTEGER PRIMARY KEY NOT NULL,
    job_id BIGINT NOT NULL REFERENCES jobs (id),
    round BIGINT NOT NULL,
    -- Place in the round, or of the block in row-major order.
    position BIGINT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'settled')),
    -- CBOR of protocol's `Work`.
    work BLOB NOT NULL,
    -- 1: settled by algebra alone; 2: compared between keys.
    min_quorum BIGINT NOT NULL,
    -- Largest blob that the unit reads or returns.
    blob_bytes BIGINT NOT NULL,
    flop BIGINT NOT NULL,
    -- Results that were not rejected, and when the first of them came.
    results_count BIGINT NOT NULL DEFAULT 0,
    first_result_ms BIGINT,
    -- Leases that lapsed or were given back.
    leases_ended BIGINT NOT NULL DEFAULT 0,
    -- min_quorum less results_count less live leases, at least 0: leases that may still be given out.
    slots_free BIGINT NOT NULL,
    settled_ms BIGINT,
    settled_by TEXT CHECK (settled_by IN ('algebra', 'quorum', 'referee')),
    canonical BLOB REFERENCES blobs (hash),
    UNIQUE (job_id, round, position),
    CHECK ((state = 'settled') = (canonical IS NOT NULL AND settled_ms IS NOT NULL AND settled_by IS NOT NULL))
);
-- What a lease call scans: only units with a free slot, so that its cost does not grow with the queue.
CREATE INDEX units_leasable ON units (job_id, id) WHERE state = 'open' AND slots_free > 0;
CREATE INDEX units_open ON units (job_id, round) WHERE state = 'open';
-- What the driver scans: gradient units to compare or to referee.
CREATE INDEX units_waiting ON units (first_result_ms) WHERE state = 'open' AND min_quorum > 1 AND first_result_ms IS NOT NULL;
CREATE INDEX units_abandoned ON units (leases_ended) WHERE state = 'open' AND results_count = 0;

CREATE TABLE sessions (
    id INTEGER PRIMARY KEY NOT NULL,
    -- SHA-256 of the bearer token; the token itself is not kept.
    token_hash BLOB NOT NULL UNIQUE,
    key_id BLOB NOT NULL REFERENCES keys (key_id),
    nonce BLOB NOT NULL UNIQUE,
    -- The signed consent statement as received.
    consent BLOB NOT NULL,
    -- The one job agreed to, if the consent names one.
    job_id BIGINT REFERENCES jobs (id),
    opened_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    withdrawn_ms BIGINT
);

CREATE TABLE leases (
    id INTEGER PRIMARY KEY NOT NULL,
    unit_id BIGINT NOT NULL REFERENCES units (id),
    job_id BIGINT NOT NULL REFERENCES jobs (id),
    key_id BLOB NOT NULL REFERENCES keys (key_id),
    session_id BIGINT NOT NULL REFERENCES sessions (id),
    state TEXT NOT NULL CHECK (state IN ('live', 'lapsed', 'given_back', 'done')),
    issued_ms BIGINT NOT NULL,
    deadline_ms BIGINT NOT NULL,
    -- SHA-256 of the signed unit manifest; null only between the insert and the signature, inside one transaction.
    manifest_hash BLOB,
    upload_bytes_max BIGINT NOT NULL
);
CREATE INDEX leases_unit ON leases (unit_id, state);
CREATE INDEX leases_live_deadline ON leases (deadline_ms) WHERE state = 'live';
CREATE INDEX leases_live_key ON leases (key_id) WHERE state = 'live';
CREATE INDEX leases_live_job ON leases (job_id, key_id) WHERE state = 'live';
CREATE INDEX leases_live_session ON leases (session_id) WHERE state = 'live';

-- Blobs uploaded under a lease.
CREATE TABLE uploads (
    lease_id BIGINT NOT NULL REFERENCES leases (id),
    hash BLOB NOT NULL REFERENCES blobs (hash),
    -- The lease's key.
    key_id BLOB NOT NULL REFERENCES keys (key_id),
    bytes BIGINT NOT NULL,
    -- 1 while the blob is stored and not public: what the limits on unaccepted bytes add up.
    unaccepted BIGINT NOT NULL,
    PRIMARY KEY (lease_id, hash)
);
CREATE INDEX uploads_hash ON uploads (hash);
CREATE INDEX uploads_unaccepted ON uploads (key_id, bytes) WHERE unaccepted = 1;

CREATE TABLE results (
    id INTEGER PRIMARY KEY NOT NULL,
    unit_id BIGINT NOT NULL REFERENCES units (id),
    lease_id BIGINT NOT NULL UNIQUE REFERENCES leases (id),
    key_id BLOB NOT NULL REFERENCES keys (key_id),
    -- The signed result as received.
    statement BLOB NOT NULL,
    output BLOB NOT NULL REFERENCES blobs (hash),
    backend TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('pending', 'accepted', 'rejected')),
    reason TEXT NOT NULL DEFAULT '',
    received_ms BIGINT NOT NULL,
    judged_ms BIGINT,
    credit_flop BIGINT NOT NULL DEFAULT 0,
    -- One key counts once for a unit, however many leases it had.
    UNIQUE (unit_id, key_id)
);
CREATE INDEX results_pending ON results (unit_id) WHERE verdict = 'pending';
CREATE INDEX results_pending_output ON results (output) WHERE verdict = 'pending';
