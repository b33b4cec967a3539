-- What a key has proved, what was decided for a unit, and what checking costs.

-- Gradient results of a key on one backend that another execution confirmed, in a row, since its last rejected result.
-- Derived; no row stands for none.
CREATE TABLE standings (
    key_id BLOB NOT NULL REFERENCES keys (key_id),
    backend TEXT NOT NULL,
    run BIGINT NOT NULL,
    PRIMARY KEY (key_id, backend)
);
-- Until then a key that was caught gets no work.
ALTER TABLE keys ADD COLUMN quarantined_until_ms BIGINT NOT NULL DEFAULT 0;

-- The order of verdicts, over all results; none while pending.
ALTER TABLE results ADD COLUMN judged_order BIGINT;
UPDATE results SET judged_order = ranked.place
    FROM (SELECT id, ROW_NUMBER() OVER (ORDER BY judged_ms, id) AS place FROM results WHERE verdict <> 'pending') ranked
    WHERE ranked.id = results.id;
CREATE UNIQUE INDEX results_judged ON results (judged_order);
CREATE INDEX results_key ON results (key_id, judged_order);

-- Results that the unit is to have by what is known of its keys: 1 to min_quorum. slots_free goes by it.
ALTER TABLE units ADD COLUMN quorum BIGINT NOT NULL DEFAULT 1;
UPDATE units SET quorum = min_quorum;
-- How a gradient unit is settled, drawn when its first result is stored; none before.
ALTER TABLE units ADD COLUMN course TEXT CHECK (course IN ('alone', 'replica', 'audit'));
UPDATE units SET course = 'replica' WHERE min_quorum > 1 AND results_count > 0;
-- What the driver scans: those whose only results were taken out.
CREATE INDEX units_audit ON units (id) WHERE state = 'open' AND results_count = 0 AND course = 'audit';
-- What its update weighs in the merge.
ALTER TABLE units ADD COLUMN weight_permille BIGINT NOT NULL DEFAULT 1000 CHECK (weight_permille BETWEEN 1 AND 1000);
-- Floating-point operations of checking one of its results.
ALTER TABLE units ADD COLUMN check_flop BIGINT NOT NULL DEFAULT 0;

INSERT INTO standings (key_id, backend, run)
    SELECT r.key_id, r.backend, COUNT(*) FROM results r JOIN units u ON u.id = r.unit_id
    WHERE r.verdict = 'accepted' AND u.min_quorum > 1 AND r.judged_order >
        (SELECT COALESCE(MAX(x.judged_order), 0) FROM results x WHERE x.key_id = r.key_id AND x.verdict = 'rejected')
    GROUP BY r.key_id, r.backend;

-- Standard error of the held-out loss; none of few examples. And how often the merge from this checkpoint was undone.
ALTER TABLE rounds ADD COLUMN loss_error DOUBLE PRECISION;
ALTER TABLE rounds ADD COLUMN rolled_back BIGINT NOT NULL DEFAULT 0;

-- Of all units: what settled ones are worth, what judged results took, what the referee computed, what checks took.
ALTER TABLE jobs ADD COLUMN settled_flop BIGINT NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN judged_flop BIGINT NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN referee_flop BIGINT NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN check_flop BIGINT NOT NULL DEFAULT 0;
UPDATE jobs SET
    settled_flop = (SELECT COALESCE(SUM(flop), 0) FROM units WHERE job_id = jobs.id AND state = 'settled'),
    judged_flop = (SELECT COALESCE(SUM(u.flop), 0) FROM results r JOIN units u ON u.id = r.unit_id
        WHERE u.job_id = jobs.id AND r.verdict <> 'pending'),
    referee_flop = (SELECT COALESCE(SUM(flop), 0) FROM units WHERE job_id = jobs.id AND settled_by = 'referee');

-- HMAC of the prefix of the address that the session was last seen at, under a key that is in memory alone.
ALTER TABLE sessions ADD COLUMN prefix BLOB;
