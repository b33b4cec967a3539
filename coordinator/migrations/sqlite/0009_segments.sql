-- Challenges that ask for the two ends of a segment, beside those that ask for a step. A table's checks cannot be changed, so
-- its rows move to another.
CREATE TABLE challenges_of_both (
    result_id BIGINT PRIMARY KEY NOT NULL REFERENCES results (id),
    -- Those of the result.
    unit_id BIGINT NOT NULL REFERENCES units (id),
    lease_id BIGINT NOT NULL UNIQUE REFERENCES leases (id),
    key_id BLOB NOT NULL REFERENCES keys (key_id),
    -- What is to be shown.
    form TEXT NOT NULL CHECK (form IN ('segment', 'step')),
    -- What is waited for, or how it ended: moot where the result got its verdict in another way.
    stage TEXT NOT NULL
        CHECK (stage IN ('ends', 'segment', 'trace', 'reveal', 'check', 'passed', 'caught', 'unanswered', 'moot')),
    -- The segment drawn, and of a step, from the commitment to the segment on, where in it.
    first_step BIGINT NOT NULL,
    steps BIGINT NOT NULL,
    step BIGINT,
    -- The signed answers as received; `reveal` names the file that was shown, in either form.
    segment BLOB,
    trace BLOB,
    reveal BLOB,
    asked_ms BIGINT NOT NULL,
    -- When this stage was asked for, and until when it is waited for.
    stage_ms BIGINT NOT NULL,
    deadline_ms BIGINT NOT NULL,
    closed_ms BIGINT,
    -- Operations that the check took; of challenges before this version it is not known.
    check_flop BIGINT NOT NULL DEFAULT 0,
    CHECK ((stage IN ('passed', 'caught', 'unanswered', 'moot')) = (closed_ms IS NOT NULL)),
    CHECK ((form = 'segment') <= (step IS NULL AND segment IS NULL AND trace IS NULL)),
    CHECK ((form = 'segment') <= (stage NOT IN ('segment', 'trace', 'reveal'))),
    CHECK ((stage = 'ends') <= (form = 'segment' AND reveal IS NULL)),
    CHECK ((stage = 'segment') <= (step IS NULL AND segment IS NULL)),
    CHECK ((form = 'step' AND stage IN ('trace', 'reveal', 'check', 'passed')) <= (step IS NOT NULL AND segment IS NOT NULL)),
    CHECK ((form = 'step' AND stage IN ('reveal', 'check', 'passed')) <= (trace IS NOT NULL)),
    CHECK ((stage IN ('check', 'passed')) <= (reveal IS NOT NULL))
);
INSERT INTO challenges_of_both
    SELECT result_id, unit_id, lease_id, key_id, 'step', stage, first_step, steps, step, segment, trace, reveal, asked_ms, stage_ms,
        deadline_ms, closed_ms, 0
    FROM challenges;
DROP TABLE challenges;
ALTER TABLE challenges_of_both RENAME TO challenges;
CREATE INDEX challenges_open ON challenges (deadline_ms) WHERE closed_ms IS NULL;
CREATE INDEX challenges_open_unit ON challenges (unit_id) WHERE closed_ms IS NULL;
CREATE INDEX challenges_key ON challenges (key_id, stage);
