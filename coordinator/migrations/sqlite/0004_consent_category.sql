-- The kind of jobs that a session's consent names; none where it names one job, or neither.
ALTER TABLE sessions ADD COLUMN category TEXT;
