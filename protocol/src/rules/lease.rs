//! Whether a key may lease a unit now.

use crate::limits;

/// What the store knows of a unit when a key asks for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Results of different keys that the unit is to have, by what is known of those at work on it.
    pub quorum: u32,
    /// Structurally valid results it has.
    pub results_count: u32,
    /// Leases on it that have not lapsed.
    pub live_leases_count: u32,
    /// The asking key has a live lease on it or has returned a result for it.
    pub key_has_part: bool,
    /// Another key with a part in it has the asking one's address prefix or site.
    pub origin_has_part: bool,
    /// Leases of the asking key on it that lapsed or were given back.
    pub key_leases_ended_count: u32,
    pub settled: bool,
}

/// A unit is offered while results and live leases together are fewer than the quorum, to each key once at a time, to
/// none that let it go again and again, and to none that comes from where another part of it comes from: two keys of one
/// person would confirm each other. Where nobody comes from elsewhere, the referee takes the other part.
pub fn may_lease(c: Candidate) -> bool {
    let wanted = !c.settled && c.results_count + c.live_leases_count < c.quorum;
    wanted && !c.key_has_part && !c.origin_has_part && c.key_leases_ended_count < limits::LEASES_ENDED_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_decides() {
        let free = Candidate {
            quorum: 2,
            results_count: 0,
            live_leases_count: 0,
            key_has_part: false,
            origin_has_part: false,
            key_leases_ended_count: 0,
            settled: false,
        };
        assert!(may_lease(free));
        assert!(may_lease(Candidate { results_count: 1, ..free }));
        assert!(may_lease(Candidate { live_leases_count: 1, ..free }));
        assert!(!may_lease(Candidate { results_count: 1, live_leases_count: 1, ..free }));
        assert!(!may_lease(Candidate { key_has_part: true, ..free }));
        assert!(!may_lease(Candidate { origin_has_part: true, ..free }));
        assert!(!may_lease(Candidate { quorum: 1, results_count: 1, ..free }));
        assert!(may_lease(Candidate { key_leases_ended_count: limits::LEASES_ENDED_MAX - 1, ..free }));
        assert!(!may_lease(Candidate { key_leases_ended_count: limits::LEASES_ENDED_MAX, ..free }));
        assert!(!may_lease(Candidate { settled: true, ..free }));
    }
}
