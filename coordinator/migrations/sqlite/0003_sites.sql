-- Sites that embed the page.
CREATE TABLE sites (
    name TEXT PRIMARY KEY NOT NULL,
    -- Origins and categories, JSON arrays as in the protocol's `Site`.
    origins TEXT NOT NULL,
    categories TEXT NOT NULL,
    -- SHA-256 of the token that its owner reads totals with; none until one is asked for.
    token_hash BLOB
);

-- The site that a session's consent names; none on the coordinator's own page.
ALTER TABLE sessions ADD COLUMN site TEXT;
CREATE INDEX sessions_site ON sessions (site) WHERE site IS NOT NULL;

-- A job's category, out of its submission: what a site's owner chooses by.
ALTER TABLE jobs ADD COLUMN category TEXT NOT NULL DEFAULT '';
UPDATE jobs SET category = json_extract(submission, '$.manifest.category');
