//! How closely a training unit is committed to, what a challenge asks to be shown, and which steps it draws. Random numbers
//! come in as arguments.

/// Most segments between committed states.
const SEGMENTS_MAX: u32 = 8;
/// What committing may take of a unit's time.
pub const COMMIT_SHARE: f64 = 0.02;
/// Share of the results that commit to their training states which has to be challenged for challenges to take the place of
/// repetitions ([`super::standing::relieves`]): half of the steps fabricated are found within 100 units with probability 0.99, by challenges alone (docs/verification.md).
pub const CHALLENGE_RATE: f64 = 0.091;
/// SHA-256 by a processor's own instructions, copies included.
const HASH_BYTES_PER_SECOND: f64 = 1e9;
/// Training on one core's SIMD, which is what most volunteers have.
const TRAIN_FLOP_PER_SECOND: f64 = 20e9;

/// Challenges that a key may leave unanswered, whatever share of all they are.
const UNANSWERED_FREE: u64 = 2;
/// One in so many challenges may stay unanswered.
const UNANSWERED_EVERY: u64 = 4;

/// What a challenge asks to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The states that a segment begins and ends with; the coordinator computes what is between.
    Segment,
    /// One step of a segment, every tensor of it; the coordinator checks each.
    Step,
}

impl Form {
    /// The name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Form::Segment => "segment",
            Form::Step => "step",
        }
    }

    /// The form with this name.
    pub fn parse(name: &str) -> Option<Form> {
        [Form::Segment, Form::Step].into_iter().find(|form| form.name() == name)
    }
}

/// What of a unit is small enough to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fits {
    pub ends: bool,
    pub step: bool,
}

/// How a unit with a committed state after each `every` of its steps is challenged; none where that would find nothing for less
/// than computing it. A segment is computed whole, so that nothing can be made up within it: one step of several leaves
/// whoever made up all of them most chances. Where every state is committed to, one step binds as much as a segment, and its
/// check leaves less room. Steps of longer segments only where the operator wants them.
pub fn form(every: u32, inner_steps: u32, fits: Fits, steps_wanted: bool) -> Option<Form> {
    if fits.step && (every == 1 || steps_wanted) {
        Some(Form::Step)
    } else {
        (fits.ends && every < inner_steps).then_some(Form::Segment)
    }
}

/// The share of a unit's time that committing to one state takes, an estimate; not a number where neither takes any.
pub fn commit_share(state_bytes: u64, unit_flop: u64) -> f64 {
    let unit_seconds = unit_flop as f64 / TRAIN_FLOP_PER_SECOND;
    state_bytes as f64 / HASH_BYTES_PER_SECOND / unit_seconds
}

/// Steps between two committed states: as many states as take [`COMMIT_SHARE`] of the unit's time, at least the last one
/// and at most one every eighth of the unit.
pub fn states_every(state_bytes: u64, unit_flop: u64, inner_steps: u32) -> u32 {
    // Saturates where a state takes no time.
    let segments = (COMMIT_SHARE / commit_share(state_bytes, unit_flop)) as u32;
    inner_steps.div_ceil(segments.clamp(1, SEGMENTS_MAX))
}

/// Committed states of a unit, the first and the last among them.
pub fn states_count(inner_steps: u32, every: u32) -> usize {
    inner_steps.div_ceil(every) as usize + 1
}

/// Steps before committed state `index`.
pub fn step_of_state(inner_steps: u32, every: u32, index: usize) -> u32 {
    (index as u64 * u64::from(every)).min(u64::from(inner_steps)) as u32
}

/// The segment that holds a step: the index of the committed state that it begins with, its first step and how many it has.
pub fn segment_of(inner_steps: u32, every: u32, step: u32) -> (usize, u32, u32) {
    let first = step - step % every;
    ((step / every) as usize, first, every.min(inner_steps - first))
}

/// A number below `count`, drawn by 64 random bits: none is likelier than another by more than `count` in 2⁶⁴.
pub fn draw(random: u64, count: u32) -> u32 {
    ((u128::from(random) * u128::from(count)) >> 64) as u32
}

/// Whether a key leaves more challenges unanswered than closing tabs explains.
pub fn is_selective(asked: u64, unanswered: u64) -> bool {
    unanswered > UNANSWERED_FREE && unanswered * UNANSWERED_EVERY > asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_models_commit_to_their_end_and_large_ones_every_eighth() {
        // The demo's figures: 814 kB of state, 31 steps of 19.5 Mflop; 2 % are 0.6 ms, a state takes 0.8.
        assert_eq!(states_every(814_160, 605_000_000, 31), 31);
        assert!((commit_share(814_160, 605_000_000) - 0.0269).abs() < 1e-4, "more than it may take");
        // Four times as many rows in a batch.
        assert_eq!(states_every(814_160, 2_420_000_000, 31), 16);
        assert_eq!(states_every(10_000_000, 1 << 40, 32), 4);
        assert_eq!(states_every(10_000_000, 1 << 40, 33), 5);
        assert_eq!(states_every(1, u64::MAX, 3), 1);
        assert_eq!(states_every(u64::MAX, 0, 1), 1);
        assert_eq!(states_every(0, 0, 7), 7, "not a number of segments");
    }

    #[test]
    fn one_step_is_shown_where_nothing_is_between_or_the_operator_says_so() {
        let [both, ends, step, neither] =
            [[true, true], [true, false], [false, true], [false, false]].map(|[ends, step]| Fits { ends, step });
        assert_eq!(form(4, 31, both, false), Some(Form::Segment));
        assert_eq!(form(4, 31, both, true), Some(Form::Step));
        assert_eq!(form(13, 100, ends, true), Some(Form::Segment), "its step cannot be shown");
        assert_eq!((form(1, 8, both, false), form(1, 8, ends, false)), (Some(Form::Step), Some(Form::Segment)));
        assert_eq!(form(31, 31, both, false), None, "the one segment is the unit, which an audit computes as well");
        assert_eq!((form(31, 31, step, true), form(4, 31, step, false)), (Some(Form::Step), None));
        assert!([1, 4, 31].iter().all(|&every| form(every, 31, neither, true).is_none()));
        for form in [Form::Segment, Form::Step] {
            assert_eq!(Form::parse(form.name()), Some(form));
        }
    }

    #[test]
    fn segments_cover_the_unit() {
        for inner_steps in 1..40 {
            for every in 1..=inner_steps {
                let count = states_count(inner_steps, every);
                assert_eq!(step_of_state(inner_steps, every, 0), 0);
                assert_eq!(step_of_state(inner_steps, every, count - 1), inner_steps);
                for step in 0..inner_steps {
                    let (index, first, steps) = segment_of(inner_steps, every, step);
                    assert!((first..first + steps).contains(&step));
                    assert_eq!(step_of_state(inner_steps, every, index), first);
                    assert_eq!(step_of_state(inner_steps, every, index + 1), first + steps);
                }
            }
        }
    }

    #[test]
    fn draws_cover_their_range_evenly() {
        assert_eq!((draw(0, 7), draw(u64::MAX, 7), draw(1 << 63, 8)), (0, 6, 4));
        let mut counts = [0; 5];
        (0..1000u64).for_each(|i| counts[draw(i * (u64::MAX / 1000), 5) as usize] += 1);
        assert!(counts.iter().all(|count| (199..=201).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_tab_may_close_but_not_whenever_it_is_asked() {
        assert!(!is_selective(2, 2));
        assert!(is_selective(3, 3) && is_selective(11, 3));
        assert!(!is_selective(12, 3) && !is_selective(100, 25) && is_selective(100, 26));
    }
}
