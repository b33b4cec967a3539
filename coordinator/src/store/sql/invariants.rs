//! What must always hold, as statements that find what does not. Run by tests after every fault.

use manyhands_protocol::manifest::Submission;
use sqlx::Row;

use super::{Connection, dialect, standings};
use crate::store::Result;

/// Each finds the ids of rows that break the rule.
const RULES: &[(&str, &str)] = &[
    (
        "a key's totals are those of its results",
        "SELECT k.key_id AS id FROM keys k WHERE
            k.accepted <> (SELECT COUNT(*) FROM results r WHERE r.key_id = k.key_id AND r.verdict = 'accepted')
            OR k.rejected <> (SELECT COUNT(*) FROM results r WHERE r.key_id = k.key_id AND r.verdict = 'rejected')
            OR k.pending <> (SELECT COUNT(*) FROM results r WHERE r.key_id = k.key_id AND r.verdict = 'pending')
            OR k.credit_flop <> (SELECT COALESCE(SUM(r.credit_flop), 0) FROM results r WHERE r.key_id = k.key_id)",
    ),
    (
        "a job's counters are those of its units and results",
        "SELECT j.id FROM jobs j WHERE
            j.units_total <> (SELECT COUNT(*) FROM units u WHERE u.job_id = j.id AND u.opening = 0)
            OR j.units_settled <> (SELECT COUNT(*) FROM units u WHERE u.job_id = j.id AND u.state = 'settled' AND u.opening = 0)
            OR j.units_refereed <> (SELECT COUNT(*) FROM units u WHERE u.job_id = j.id AND u.settled_by = 'referee')
            OR j.results_accepted <>
                (SELECT COUNT(*) FROM results r JOIN units u ON u.id = r.unit_id WHERE u.job_id = j.id AND r.verdict = 'accepted')
            OR j.results_rejected <>
                (SELECT COUNT(*) FROM results r JOIN units u ON u.id = r.unit_id WHERE u.job_id = j.id AND r.verdict = 'rejected')",
    ),
    (
        "a unit's counts and free slots are those of its results and leases",
        "SELECT u.id FROM units u WHERE
            u.results_count <> (SELECT COUNT(*) FROM results r WHERE r.unit_id = u.id AND r.verdict <> 'rejected')
            OR u.leases_ended <> (SELECT COUNT(*) FROM leases l WHERE l.unit_id = u.id AND l.state IN ('lapsed', 'given_back'))
            OR (u.state = 'open' AND u.slots_free <> (SELECT CASE WHEN u.quorum > c.n THEN u.quorum - c.n ELSE 0 END FROM
                (SELECT u.results_count + (SELECT COUNT(*) FROM leases l WHERE l.unit_id = u.id AND l.state = 'live')
                    + (SELECT COUNT(*) FROM challenges h WHERE h.unit_id = u.id AND h.closed_ms IS NULL) AS n) c))",
    ),
    (
        "a verdict has its credit: an accepted result its unit's, any other none",
        "SELECT r.id FROM results r JOIN units u ON u.id = r.unit_id
         WHERE r.credit_flop <> CASE WHEN r.verdict = 'accepted' THEN u.flop ELSE 0 END
            OR (r.verdict = 'pending') <> (r.judged_ms IS NULL)",
    ),
    (
        "a key that was replaced has no session, no key takes the place of two, and chains count up",
        "SELECT r.old_key AS id FROM rotations r LEFT JOIN rotations p ON p.new_key = r.old_key
         WHERE r.old_key = r.new_key OR r.depth <> COALESCE(p.depth, 0) + 1
            OR EXISTS (SELECT 1 FROM sessions s WHERE s.key_id = r.old_key AND s.withdrawn_ms IS NULL)",
    ),
    (
        "the log, with what waits for it, says of every result whether it is accepted",
        "SELECT r.id FROM results r WHERE r.details IS NOT NULL AND CASE WHEN r.verdict = 'accepted' THEN 1 ELSE 0 END <>
            (SELECT COALESCE(SUM(e.accepted), 0) FROM log_entries e WHERE e.lease_id = r.lease_id)
            + (SELECT COALESCE(SUM(q.accepted), 0) FROM log_queue q WHERE q.lease_id = r.lease_id)",
    ),
    (
        "only settled units have accepted results",
        "SELECT r.id FROM results r JOIN units u ON u.id = r.unit_id WHERE r.verdict = 'accepted' AND u.state <> 'settled'",
    ),
    (
        "what a unit was settled with is public, and an accepted result's output unless the referee made it",
        "SELECT u.id FROM units u JOIN blobs b ON b.hash = u.canonical WHERE u.state = 'settled' AND (b.public = 0
            OR (u.settled_by <> 'referee' AND NOT EXISTS
                (SELECT 1 FROM results r WHERE r.unit_id = u.id AND r.verdict = 'accepted' AND r.output = u.canonical)))",
    ),
    (
        "a unit settled by a quorum has that many accepted results, or one whose step was shown",
        "SELECT u.id FROM units u WHERE u.settled_by = 'quorum'
            AND NOT EXISTS (SELECT 1 FROM challenges c JOIN results r ON r.id = c.result_id
                WHERE c.unit_id = u.id AND c.stage = 'passed' AND r.verdict = 'accepted' AND r.output = u.canonical)
            AND (SELECT COUNT(*) FROM results r WHERE r.unit_id = u.id AND r.verdict = 'accepted') < u.quorum",
    ),
    (
        "a unit is to have one result or its quorum's, one alone if its key is trusted, and weighs less only then",
        "SELECT u.id FROM units u WHERE u.quorum < 1 OR u.quorum > u.min_quorum OR (u.course = 'alone' AND u.settled_by <> 'quorum')
            OR (u.min_quorum = 1 AND u.course IS NOT NULL) OR (u.weight_permille < 1000 AND u.course <> 'alone')
            OR (u.course = 'alone' AND u.quorum <> 1)
            OR (u.settled_by = 'quorum' AND u.quorum = 1 AND COALESCE(u.course, '') <> 'alone'
                AND NOT EXISTS (SELECT 1 FROM challenges c WHERE c.unit_id = u.id AND c.stage = 'passed'))
            OR (u.settled_by = 'quorum' AND u.min_quorum = 1)",
    ),
    (
        "what a job took is what its units, results and referee took",
        "SELECT j.id FROM jobs j WHERE
            j.settled_flop <> (SELECT COALESCE(SUM(u.flop), 0) FROM units u WHERE u.job_id = j.id AND u.state = 'settled')
            OR j.referee_flop <> (SELECT COALESCE(SUM(u.flop), 0) FROM units u WHERE u.job_id = j.id AND u.settled_by = 'referee')
            OR j.judged_flop <> (SELECT COALESCE(SUM(u.flop), 0) FROM results r JOIN units u ON u.id = r.unit_id
                WHERE u.job_id = j.id AND r.verdict <> 'pending')
            OR j.check_flop <> (SELECT COALESCE(SUM(u.check_flop), 0) FROM results r JOIN units u ON u.id = r.unit_id
                WHERE u.job_id = j.id AND r.verdict <> 'pending')
                + (SELECT COALESCE(SUM(c.check_flop), 0) FROM challenges c JOIN units u ON u.id = c.unit_id WHERE u.job_id = j.id)",
    ),
    (
        "a key in quarantine has no live lease",
        "SELECT l.id FROM leases l JOIN keys k ON k.key_id = l.key_id
         WHERE l.state = 'live' AND k.quarantined_until_ms > l.issued_ms",
    ),
    (
        "every verdict has its place in their order",
        "SELECT id FROM results WHERE (verdict = 'pending') <> (judged_order IS NULL)",
    ),
    (
        "a key with confirmed gradient results since its last rejected one has a run",
        "SELECT r.id FROM results r JOIN units u ON u.id = r.unit_id
         WHERE r.verdict = 'accepted' AND u.min_quorum > 1 AND COALESCE(u.course, '') <> 'alone'
            AND NOT EXISTS (SELECT 1 FROM standings s WHERE s.key_id = r.key_id AND s.backend = r.backend)",
    ),
    (
        "a challenge is of its result's key, lease and unit, and the result's verdict is what it came to",
        "SELECT c.result_id AS id FROM challenges c JOIN results r ON r.id = c.result_id
         WHERE c.unit_id <> r.unit_id OR c.lease_id <> r.lease_id OR c.key_id <> r.key_id
            OR (c.closed_ms IS NULL AND r.verdict <> 'pending')
            OR (c.stage IN ('caught', 'unanswered') AND r.verdict <> 'rejected')
            OR (c.step IS NOT NULL AND (c.step < c.first_step OR c.step >= c.first_step + c.steps))",
    ),
    (
        "a result ends its lease, was given by the lease's key for the lease's unit, and its output was uploaded under it",
        "SELECT r.id FROM results r JOIN leases l ON l.id = r.lease_id WHERE l.state <> 'done' OR l.key_id <> r.key_id
            OR l.unit_id <> r.unit_id
            OR NOT EXISTS (SELECT 1 FROM uploads p WHERE p.lease_id = r.lease_id AND p.hash = r.output)",
    ),
    (
        "a lease that is done has a result, every lease a manifest, and its unit's job",
        "SELECT l.id FROM leases l JOIN units u ON u.id = l.unit_id WHERE l.manifest_hash IS NULL OR l.job_id <> u.job_id
            OR (l.state = 'done' AND NOT EXISTS (SELECT 1 FROM results r WHERE r.lease_id = l.id))",
    ),
    (
        "a lease's uploads keep to its allowance",
        "SELECT l.id FROM leases l WHERE
            (SELECT COALESCE(SUM(p.bytes), 0) FROM uploads p WHERE p.lease_id = l.id) > l.upload_bytes_max",
    ),
    (
        "an upload counts as unaccepted while its bytes are stored and not public, and is of its lease's key",
        "SELECT p.lease_id AS id FROM uploads p JOIN blobs b ON b.hash = p.hash JOIN leases l ON l.id = p.lease_id
         WHERE p.key_id <> l.key_id OR (p.unaccepted = 1 AND NOT (b.public = 0 AND b.stored = 1))
            OR (p.unaccepted = 0 AND b.public = 0 AND b.stored = 1 AND (l.state = 'live'
                OR EXISTS (SELECT 1 FROM results r WHERE r.output = p.hash AND r.lease_id = l.id AND r.verdict = 'pending')))",
    ),
    (
        "bytes that something names are stored",
        "SELECT b.hash AS id FROM blobs b WHERE b.stored = 0 AND (b.public = 1 OR b.kept = 1
            OR EXISTS (SELECT 1 FROM results r WHERE r.output = b.hash AND r.verdict = 'pending'))",
    ),
    (
        "a train job's rounds have no gaps, end at the job's round, and all but the last are settled",
        "SELECT j.id FROM jobs j WHERE j.kind = 'train' AND (
            (SELECT COUNT(*) FROM rounds r WHERE r.job_id = j.id) <> j.round + 1
            OR (SELECT MAX(r.round) FROM rounds r WHERE r.job_id = j.id) <> j.round
            OR EXISTS (SELECT 1 FROM units u WHERE u.job_id = j.id AND u.state = 'open' AND u.opening = 0 AND u.round <> j.round)
            OR EXISTS (SELECT 1 FROM units u WHERE u.job_id = j.id AND u.round > j.round))",
    ),
    (
        "opening units are of train jobs, and settled by algebra",
        "SELECT u.id FROM units u JOIN jobs j ON j.id = u.job_id WHERE u.opening = 1
            AND (j.kind <> 'train' OR u.min_quorum <> 1 OR u.settled_by <> 'algebra')",
    ),
    (
        "a finished job has no open unit but opening ones",
        "SELECT j.id FROM jobs j WHERE j.state = 'finished' AND j.units_settled <> j.units_total",
    ),
    (
        "contributors are the keys with an accepted result",
        "SELECT j.id FROM jobs j WHERE (SELECT COUNT(*) FROM contributors c WHERE c.job_id = j.id) <>
            (SELECT COUNT(DISTINCT r.key_id) FROM results r JOIN units u ON u.id = r.unit_id
             WHERE u.job_id = j.id AND r.verdict = 'accepted')",
    ),
];

/// Most ids that one broken rule lists.
const IDS_COUNT_MAX: usize = 5;

pub async fn check(tx: &mut Connection) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let runs = standings::broken();
    for (rule, statement) in RULES.iter().copied().chain([("a run is the results that it counts", runs.as_str())]) {
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement)).fetch_all(&mut *tx).await?;
        if rows.is_empty() {
            continue;
        }
        let ids: Vec<String> = rows
            .iter()
            .take(IDS_COUNT_MAX)
            .map(|row| {
                row.try_get::<i64, _>("id").map(|id| id.to_string()).or_else(|_| row.try_get("id").map(hex::encode::<&[u8]>))
            })
            .collect::<Result<_, _>>()?;
        broken.push(format!("not so for {} rows ({}): {rule}", rows.len(), ids.join(", ")));
    }
    broken.extend(salts(tx).await?);
    broken.extend(categories(tx).await?);
    broken.extend(super::log::check(&mut *tx).await?);
    let lost = dialect::lost_references(tx).await?;
    if lost > 0 {
        broken.push(format!("{lost} rows refer to rows that do not exist"));
    }
    Ok(broken)
}

async fn salts(tx: &mut Connection) -> Result<Option<String>> {
    let rows = sqlx::query(
        "SELECT s.id FROM sessions s JOIN consent_salts c ON c.session_id = s.id
         WHERE (s.withdrawn_ms IS NOT NULL) <> (c.salt = $1)",
    )
    .bind([0_u8; 32].as_slice())
    .fetch_all(tx)
    .await?;
    Ok((!rows.is_empty()).then(|| format!("not so for {} sessions: only a consent that was withdrawn has no salt", rows.len())))
}

async fn categories(tx: &mut Connection) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for row in &sqlx::query("SELECT id, category, submission FROM jobs").fetch_all(tx).await? {
        let (id, category): (i64, &str) = (row.try_get("id")?, row.try_get("category")?);
        let told = serde_json::from_str::<Submission>(row.try_get("submission")?);
        if told.is_ok_and(|told| told.manifest.category.name() != category) {
            broken.push(format!("job {id} is of another category than its submission"));
        }
    }
    Ok(broken)
}
