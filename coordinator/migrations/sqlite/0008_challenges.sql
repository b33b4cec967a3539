-- Results whose volunteer was asked to show a step, each at most once. Counts of a key's challenges are taken from here.
CREATE TABLE challenges (
    result_id BIGINT PRIMARY KEY NOT NULL REFERENCES results (id),
    -- Those of the result.
    unit_id BIGINT NOT NULL REFERENCES units (id),
    lease_id BIGINT NOT NULL UNIQUE REFERENCES leases (id),
    key_id BLOB NOT NULL REFERENCES keys (key_id),
    -- What is waited for, or how it ended: moot where the result got its verdict in another way.
    stage TEXT NOT NULL CHECK (stage IN ('segment', 'trace', 'reveal', 'check', 'passed', 'caught', 'unanswered', 'moot')),
    -- The segment drawn, and from its commitment on the step in it.
    first_step BIGINT NOT NULL,
    steps BIGINT NOT NULL,
    step BIGINT,
    -- The signed answers as received.
    segment BLOB,
    trace BLOB,
    reveal BLOB,
    asked_ms BIGINT NOT NULL,
    -- When this stage was asked for, and until when it is waited for.
    stage_ms BIGINT NOT NULL,
    deadline_ms BIGINT NOT NULL,
    closed_ms BIGINT,
    CHECK ((stage IN ('passed', 'caught', 'unanswered', 'moot')) = (closed_ms IS NOT NULL)),
    CHECK ((stage = 'segment') <= (step IS NULL AND segment IS NULL)),
    CHECK ((stage IN ('trace', 'reveal', 'check', 'passed')) <= (step IS NOT NULL AND segment IS NOT NULL)),
    CHECK ((stage IN ('reveal', 'check', 'passed')) <= (trace IS NOT NULL)),
    CHECK ((stage IN ('check', 'passed')) <= (reveal IS NOT NULL))
);
CREATE INDEX challenges_open ON challenges (deadline_ms) WHERE closed_ms IS NULL;
CREATE INDEX challenges_open_unit ON challenges (unit_id) WHERE closed_ms IS NULL;
CREATE INDEX challenges_key ON challenges (key_id, stage);
