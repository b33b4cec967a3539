-- A train job's opening units: small products with its checkpoint, one for the first lease of each session, settled by
-- algebra. They belong to no round: nothing is merged from them, and the job's counters of units leave them out.
ALTER TABLE units ADD COLUMN opening BIGINT NOT NULL DEFAULT 0;

-- Whether a session has had a lease.
CREATE INDEX leases_session ON leases (session_id);
-- What a key was leased lately.
CREATE INDEX leases_key ON leases (key_id, issued_ms);
-- Those of a round.
CREATE INDEX units_opening_round ON units (job_id, round) WHERE opening = 1;
-- Free ones, counted by the driver.
CREATE INDEX units_opening_free ON units (job_id) WHERE opening = 1 AND state = 'open' AND slots_free > 0;
