//! How far a key is trusted, and what that decides for a unit it returns. Per key and device class: a card that computes
//! right says nothing about another one.
//!
//! A key's run is how many of its gradient results in a row another execution confirmed; one that was rejected ends it.

use super::challenge::{CHALLENGE_RATE, Form};

/// Runs shorter than this are a new key's: each of its units goes to a second key.
pub const RUN_TRUSTED: u64 = 10;
/// Share of a trusted key's units that a second key repeats, however long its run.
pub const REPLICATION_FLOOR: f64 = 0.05;
/// Share of units that the referee repeats, of new keys and of trusted ones.
pub const AUDIT_NEW: f64 = 0.1;
pub const AUDIT_TRUSTED: f64 = 0.02;
/// The same of a trusted key's results whose segments may be challenged: challenges find what these leave.
pub const REPLICATION_CHALLENGED: f64 = 0.01;
pub const AUDIT_CHALLENGED: f64 = 0.01;
/// How long a key that was caught gets no work.
pub const QUARANTINE_MS: u64 = 24 * 3_600_000;

/// How a gradient unit is settled, decided when its first result is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// By this result alone: its key is trusted.
    Alone,
    /// By a second key's agreement.
    Replica,
    /// By the referee.
    Audit,
}

impl Course {
    /// The name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Course::Alone => "alone",
            Course::Replica => "replica",
            Course::Audit => "audit",
        }
    }

    /// The course with this name.
    pub fn parse(name: &str) -> Option<Course> {
        [Course::Alone, Course::Replica, Course::Audit].into_iter().find(|course| course.name() == name)
    }
}

/// Share of the units of a key with this run that a second key repeats (BOINC's adaptive replication: one in so many as
/// the key has had right), where no challenge looks at them.
pub fn replication(run: u64) -> f64 {
    if run < RUN_TRUSTED { 1.0 } else { (1.0 / run as f64).max(REPLICATION_FLOOR) }
}

/// Share of its units that the referee repeats, likewise.
pub fn audit(run: u64) -> f64 {
    if run < RUN_TRUSTED { AUDIT_NEW } else { AUDIT_TRUSTED }
}

/// Whether results are repeated less often because challenges of this form, at this rate, look at them: a segment shows
/// whatever is made up in it, and fewer than [`CHALLENGE_RATE`] do not find enough.
pub fn relieves(form: Option<Form>, rate: f64) -> bool {
    form == Some(Form::Segment) && rate >= CHALLENGE_RATE
}

/// The course of a unit whose first result is of a key with this run. `draw` is uniform on 0 to 1, 1 excluded, and drawn after
/// the result is stored: nobody can know it while it computes. A unit that a second key has begun waits for it. `challenged`
/// says that the result was one that challenges look at ([`relieves`]), and was not drawn.
pub fn course(run: u64, second_key: bool, challenged: bool, draw: f64) -> Course {
    let (audit, replication) = match challenged && run >= RUN_TRUSTED {
        true => (AUDIT_CHALLENGED, REPLICATION_CHALLENGED),
        false => (audit(run), replication(run)),
    };
    if draw < audit {
        Course::Audit
    } else if second_key || draw < audit + (1.0 - audit) * replication {
        Course::Replica
    } else {
        Course::Alone
    }
}

/// What an update that nobody confirmed weighs in a merge, in thousandths: `run / (run + 10)` of a confirmed one, rounded
/// down.
pub fn weight_permille(run: u64) -> u32 {
    (1000.0 * run as f64 / (run + RUN_TRUSTED) as f64) as u32
}

/// What a confirmed one weighs.
pub const WEIGHT_CONFIRMED_PERMILLE: u32 = 1000;

/// The run after a verdict.
pub fn next_run(run: u64, confirmed: bool, rejected: bool) -> u64 {
    match (rejected, confirmed) {
        (true, _) => 0,
        (false, true) => run + 1,
        (false, false) => run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_keys_are_always_repeated_and_no_key_never() {
        for run in 0..RUN_TRUSTED {
            assert_eq!(replication(run), 1.0);
            assert_eq!(course(run, false, false, 0.999_999), Course::Replica, "{run}");
            assert_eq!(course(run, false, false, AUDIT_NEW - 1e-9), Course::Audit, "{run}");
        }
        for run in [RUN_TRUSTED, 100, 10_000, u64::MAX / 2] {
            assert!(replication(run) >= REPLICATION_FLOOR && replication(run) <= 0.1);
            assert_eq!(course(run, false, false, 0.0), Course::Audit);
            assert_eq!(course(run, false, false, AUDIT_TRUSTED), Course::Replica);
            assert_eq!(course(run, false, false, 0.999_999), Course::Alone);
            assert_eq!(course(run, true, false, 0.999_999), Course::Replica, "a second key is at work on it");
        }
        assert!(replication(RUN_TRUSTED) > replication(RUN_TRUSTED + 1), "less as it proves itself");
    }

    #[test]
    fn one_failure_ends_a_run() {
        assert_eq!(next_run(99, false, true), 0);
        assert_eq!(next_run(99, true, true), 0);
        assert_eq!((next_run(9, true, false), next_run(9, false, false)), (10, 9), "unconfirmed results prove nothing");
    }

    #[test]
    fn weights_grow_with_the_run_and_stay_below_a_confirmed_one() {
        assert_eq!((weight_permille(0), weight_permille(10), weight_permille(30)), (0, 500, 750));
        let weights: Vec<u32> = (10..2000).map(weight_permille).collect();
        assert!(weights.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(weights.iter().all(|&weight| (500..WEIGHT_CONFIRMED_PERMILLE).contains(&weight)));
    }

    #[test]
    fn courses_have_names() {
        for course in [Course::Alone, Course::Replica, Course::Audit] {
            assert_eq!(Course::parse(course.name()), Some(course));
        }
    }

    /// Challenges relieve trusted keys alone, and only those that look at whole segments often enough.
    #[test]
    fn challenges_take_the_place_of_most_repetitions() {
        for run in 0..RUN_TRUSTED {
            assert_eq!(course(run, false, true, 0.999_999), Course::Replica, "{run}");
            assert_eq!(course(run, false, true, AUDIT_NEW - 1e-9), Course::Audit, "{run}");
        }
        let draws = 100_000;
        let count = |wanted| (0..draws).filter(|&i| course(10, false, true, f64::from(i) / f64::from(draws)) == wanted).count();
        assert_eq!((count(Course::Audit), count(Course::Replica)), (1_000, 990));
        assert_eq!(course(1000, true, true, 0.999_999), Course::Replica, "a second key is at work on it");
        assert!(relieves(Some(Form::Segment), CHALLENGE_RATE) && relieves(Some(Form::Segment), 1.0));
        assert!(!relieves(Some(Form::Segment), 0.99 * CHALLENGE_RATE) && !relieves(Some(Form::Segment), f64::NAN));
        assert!(!relieves(Some(Form::Step), 1.0) && !relieves(None, 1.0));
    }

    /// How often each course is drawn, against the shares: a long-trusted key is checked about 7 % of the time.
    #[test]
    fn draws_follow_the_shares() {
        let draws = 100_000;
        let count =
            |wanted| (0..draws).filter(|&i| course(1000, false, false, f64::from(i) / f64::from(draws)) == wanted).count();
        assert_eq!((count(Course::Audit), count(Course::Replica)), (2_000, 4_900));
    }
}
