//! Part one of the simulation, *scheduling, tax and standing*: the product's own decision rules (`rules::{challenge, lease,
//! settle, standing}`) with a clock and a generator of its own, over many volunteers that come, go and lie. It trains nothing:
//! which results agree, and which segments are what they should be, is taken from the verifier, which in the tests told each lie
//! from an honest update or segment and rejected no honest one.
//!
//! `simulate SEED VOLUNTEERS UNITS` prints a line of JSON for each kind of cheater and share of them, of jobs that ask for no
//! commitments and of jobs that do; the same arguments print the same lines.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::process::ExitCode;

use manyhands_protocol::limits;
use manyhands_protocol::rules::challenge::{CHALLENGE_RATE, Form, draw, is_selective};
use manyhands_protocol::rules::lease::{Candidate, may_lease};
use manyhands_protocol::rules::settle::{Step, Waiting, Waits, next_step};
use manyhands_protocol::rules::standing::{self, Course};
use serde_json::json;

const WAITS: Waits = Waits { replica_ms: limits::REPLICA_WAIT_MS, leased_ms: limits::REPLICA_LEASED_WAIT_MS };
/// A unit takes an average device so long; devices differ by a factor of four either way.
const UNIT_MS: f64 = 20_000.0;
/// One in so many units ends with its volunteer gone, and its lease lapsing.
const LEAVES_ONE_IN: u64 = 50;
/// One in so many units is a visit's last, and the next one is so long after.
const VISIT_UNITS: u64 = 20;
const AWAY_MS: f64 = 3_600_000.0;
/// Volunteers of one network.
const NETWORK_SIZE: usize = 4;
/// Segments that a unit commits to.
const SEGMENTS: u32 = 8;
/// What committing takes of a unit, by `cargo xtask bench commit`: the larger of the two bundled jobs that commit.
const COMMITTING: f64 = 0.014;
/// One in so many answers to a challenge does not come, as its volunteer has left: as often as in a unit, for the time that a
/// segment of it takes.
const UNANSWERED_ONE_IN: u64 = LEAVES_ONE_IN * SEGMENTS as u64;
/// Units that one ask looks through for a free part.
const LOOKED_AT: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// Lazy, noise, stale, sign-flipped or scaled: the verifier rejects each of them, so here they are one.
    Independent,
    /// Lies in one unit of ten.
    Backdoor,
    /// Every lie agrees with every other's.
    Colluding,
    /// Honest for fifty confirmed units, then lies.
    Sleeper,
    /// As independent, and comes back with a fresh key once caught.
    Sybil,
    /// Once trusted, so many of the segments of every unit are made up.
    Partly(u32),
    /// The same from the key's first unit on.
    PartlyNew(u32),
    /// Once trusted, all of them, and leaves whenever a lie is challenged.
    Silent,
}

const KINDS: [(Kind, &str); 9] = [
    (Kind::Independent, "lazy, noise, stale, sign-flip or scaled"),
    (Kind::Backdoor, "targeted backdoor"),
    (Kind::Colluding, "colluding group"),
    (Kind::Sleeper, "sleeper"),
    (Kind::Sybil, "sybil swarm"),
    (Kind::Partly(SEGMENTS / 2), "half of the steps fabricated"),
    (Kind::Partly(1), "one segment fabricated"),
    (Kind::PartlyNew(1), "one segment fabricated, by new keys too"),
    (Kind::Silent, "selective silence to challenges"),
];

/// splitmix64 (Steele et al., 2014).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform on 0 to 1, 1 excluded.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }
}

struct Volunteer {
    cheats: bool,
    slowness: f64,
    run: u64,
    quarantined_until_ms: u64,
    results: u64,
    caught: u64,
    results_when_caught: u64,
    asked: u64,
    unanswered: u64,
}

/// What a result is: right, or a lie that agrees with those of the same number.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    Right,
    Lie(u64),
}

#[derive(Default)]
struct Unit {
    /// Volunteers with a live lease.
    live: Vec<usize>,
    results: Vec<(usize, Answer)>,
    quorum: u32,
    ended: u32,
    first_result_ms: u64,
    course: Option<Course>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives(usize),
    Returns { volunteer: usize, unit: u64 },
    Lapses { volunteer: usize, unit: u64 },
    Looks(u64),
}

/// Counts of the second half of the units: by then keys have proved themselves.
#[derive(Default)]
struct Counts {
    settled: u64,
    wrong: u64,
    results: u64,
    refereed: u64,
    refereed_alone: u64,
    challenged: u64,
    unanswered: u64,
}

struct World {
    kind: Kind,
    /// Whether units ask for commitments, and results are challenged.
    commits: bool,
    numbers: Numbers,
    now_ms: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    volunteers: Vec<Volunteer>,
    units: HashMap<u64, Unit>,
    /// Units that may have a free part.
    wanting: VecDeque<u64>,
    units_count: u64,
    settled_all: u64,
    units_max: u64,
    counts: Counts,
    honest_caught: u64,
}

impl World {
    fn new(seed: u64, kind: Kind, commits: bool, share: f64, volunteers_count: usize, units_max: u64) -> World {
        let mut numbers = Numbers(seed);
        let volunteers = (0..volunteers_count)
            .map(|_| Volunteer {
                cheats: numbers.unit() < share,
                slowness: (2.0 * numbers.unit() - 1.0).exp2() * (2.0 * numbers.unit() - 1.0).exp2(),
                run: 0,
                quarantined_until_ms: 0,
                results: 0,
                caught: 0,
                results_when_caught: 0,
                asked: 0,
                unanswered: 0,
            })
            .collect();
        World {
            kind,
            commits,
            numbers,
            now_ms: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            volunteers,
            units: HashMap::new(),
            wanting: VecDeque::new(),
            units_count: 0,
            settled_all: 0,
            units_max,
            counts: Counts::default(),
            honest_caught: 0,
        }
    }

    fn at(&mut self, time_ms: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time_ms, self.sequence, event)));
    }

    fn run(&mut self) {
        for volunteer in 0..self.volunteers.len() {
            let arrival = (self.numbers.unit() * AWAY_MS) as u64;
            self.at(arrival, Event::Arrives(volunteer));
        }
        while self.settled_all < self.units_max
            && let Some(Reverse((time_ms, _, event))) = self.events.pop()
        {
            self.now_ms = time_ms;
            match event {
                Event::Arrives(volunteer) => self.ask(volunteer),
                Event::Returns { volunteer, unit } => self.returns(volunteer, unit),
                Event::Lapses { volunteer, unit } => self.lapses(volunteer, unit),
                Event::Looks(unit) => self.look(unit),
            }
        }
    }

    fn ask(&mut self, volunteer: usize) {
        let until_ms = self.volunteers[volunteer].quarantined_until_ms;
        if until_ms > self.now_ms {
            return self.at(until_ms, Event::Arrives(volunteer));
        }
        let unit = self.free_unit(volunteer);
        let entry = self.units.entry(unit).or_default();
        if entry.live.is_empty() && entry.results.is_empty() {
            entry.quorum = if standing::replication(self.volunteers[volunteer].run) < 1.0 { 1 } else { 2 };
        }
        entry.live.push(volunteer);
        if entry.live.len() + entry.results.len() < entry.quorum as usize {
            self.wanting.push_back(unit);
        }
        if self.numbers.one_in(LEAVES_ONE_IN) {
            return self.at(self.now_ms + limits::LEASE_MS, Event::Lapses { volunteer, unit });
        }
        let took_ms = UNIT_MS * self.volunteers[volunteer].slowness;
        self.at(self.now_ms + took_ms as u64, Event::Returns { volunteer, unit });
    }

    /// A unit with a free part for this volunteer, or a new one.
    fn free_unit(&mut self, volunteer: usize) -> u64 {
        for _ in 0..self.wanting.len().min(LOOKED_AT) {
            let Some(unit) = self.wanting.pop_front() else { break };
            let Some(entry) = self.units.get(&unit) else { continue };
            let parts: Vec<usize> = entry.live.iter().copied().chain(entry.results.iter().map(|result| result.0)).collect();
            let candidate = Candidate {
                quorum: entry.quorum,
                results_count: entry.results.len() as u32,
                live_leases_count: entry.live.len() as u32,
                key_has_part: parts.contains(&volunteer),
                origin_has_part: parts.iter().any(|&part| part / NETWORK_SIZE == volunteer / NETWORK_SIZE),
                key_leases_ended_count: 0,
                settled: false,
            };
            if may_lease(candidate) {
                return unit;
            }
            if parts.len() < entry.quorum as usize {
                self.wanting.push_back(unit);
            }
        }
        self.units_count += 1;
        self.units_count
    }

    fn answer(&mut self, volunteer: usize) -> Answer {
        let (cheats, run) = (self.volunteers[volunteer].cheats, self.volunteers[volunteer].run);
        let lies = cheats
            && match self.kind {
                Kind::Independent | Kind::Colluding | Kind::Sybil | Kind::PartlyNew(_) => true,
                Kind::Partly(_) | Kind::Silent => run >= standing::RUN_TRUSTED,
                Kind::Backdoor => self.numbers.one_in(10),
                Kind::Sleeper => run >= 50,
            };
        match (lies, self.kind) {
            (false, _) => Answer::Right,
            (true, Kind::Colluding) => Answer::Lie(0),
            (true, _) => Answer::Lie(1 + volunteer as u64),
        }
    }

    fn returns(&mut self, volunteer: usize, unit: u64) {
        let answer = self.answer(volunteer);
        self.volunteers[volunteer].results += 1;
        let challenged = self.commits && self.numbers.unit() < CHALLENGE_RATE;
        let draw = self.numbers.unit();
        let (run, commits) = (self.volunteers[volunteer].run, self.commits);
        if let Some(entry) = self.units.get_mut(&unit) {
            entry.live.retain(|&other| other != volunteer);
        }
        let is_drawn = challenged;
        let challenged = is_drawn && self.units.get(&unit).is_some_and(|entry| entry.live.is_empty() && entry.results.is_empty());
        // Nothing is asked of a unit that a second key has begun: the referee looks.
        let draw = if is_drawn && !challenged { 0.0 } else { draw };
        let goes_on = !challenged || self.challenge(volunteer, unit, answer);
        if let Some(entry) = self.units.get_mut(&unit).filter(|_| goes_on) {
            entry.results.push((volunteer, answer));
            if entry.course.is_none() {
                let second_key = !entry.live.is_empty() || entry.results.len() > 1;
                let relieved = commits && standing::relieves(Some(Form::Segment), CHALLENGE_RATE);
                let course = standing::course(run, second_key, relieved, draw);
                (entry.course, entry.first_result_ms) = (Some(course), self.now_ms);
                entry.quorum = if course == Course::Alone { 1 } else { 2 };
            }
            if entry.course == Some(Course::Alone) {
                self.settle(unit, answer, false);
            } else {
                if entry.live.len() + entry.results.len() < 2 {
                    self.wanting.push_front(unit);
                }
                self.look(unit);
            }
        }
        let away_ms = if self.numbers.one_in(VISIT_UNITS) { (2.0 * self.numbers.unit() * AWAY_MS) as u64 } else { 0 };
        self.at(self.now_ms + away_ms, Event::Arrives(volunteer));
    }

    /// A segment is drawn. True if what was shown is right, and the unit goes its way; otherwise it goes to others.
    fn challenge(&mut self, volunteer: usize, unit: u64, answer: Answer) -> bool {
        let (lies, counted) = (answer != Answer::Right, self.counts_now());
        self.counts.challenged += u64::from(counted);
        let made_up = match self.kind {
            _ if !lies => 0,
            Kind::Partly(segments) | Kind::PartlyNew(segments) => segments,
            _ => SEGMENTS,
        };
        let is_gone = self.numbers.one_in(UNANSWERED_ONE_IN) || (lies && self.kind == Kind::Silent);
        let key = &mut self.volunteers[volunteer];
        key.asked += 1;
        let caught = match is_gone {
            true => {
                key.unanswered += 1;
                is_selective(key.asked, key.unanswered)
            }
            false => draw(self.numbers.next(), SEGMENTS) < made_up,
        };
        if !is_gone && !caught {
            return true;
        }
        self.counts.results += u64::from(counted);
        self.counts.unanswered += u64::from(counted && is_gone);
        self.reject(volunteer, caught);
        if let Some(entry) = self.units.get(&unit)
            && entry.live.len() + entry.results.len() < entry.quorum.max(1) as usize
        {
            self.wanting.push_front(unit);
        }
        false
    }

    /// Whether what happens now counts: in the second half of the units.
    fn counts_now(&self) -> bool {
        self.settled_all > self.units_max / 2
    }

    /// A result of the key is not believed; it may have been proved wrong.
    fn reject(&mut self, volunteer: usize, caught: bool) {
        let now_ms = self.now_ms;
        let key = &mut self.volunteers[volunteer];
        key.run = standing::next_run(key.run, false, true);
        if !caught {
            return;
        }
        if key.caught == 0 {
            key.results_when_caught = key.results;
        }
        key.caught += 1;
        // A fresh key has no quarantine.
        let fresh = key.cheats && self.kind == Kind::Sybil;
        key.quarantined_until_ms = if fresh { 0 } else { now_ms + standing::QUARANTINE_MS };
        self.honest_caught += u64::from(!key.cheats);
    }

    fn lapses(&mut self, volunteer: usize, unit: u64) {
        if let Some(entry) = self.units.get_mut(&unit) {
            entry.live.retain(|&other| other != volunteer);
            entry.ended += 1;
            self.wanting.push_front(unit);
            self.look(unit);
        }
        self.at(self.now_ms + AWAY_MS as u64, Event::Arrives(volunteer));
    }

    fn look(&mut self, unit: u64) {
        let Some(entry) = self.units.get(&unit) else { return };
        let waiting = Waiting {
            results_count: entry.results.len() as u32,
            first_result_ms: entry.first_result_ms,
            live_leases_count: entry.live.len() as u32,
            leases_ended_count: entry.ended,
            audit: entry.course == Some(Course::Audit),
        };
        match next_step(waiting, self.now_ms, WAITS) {
            Step::Wait { until_ms: u64::MAX } => {}
            Step::Wait { until_ms } => self.at(until_ms, Event::Looks(unit)),
            Step::Compare if entry.results[0].1 == entry.results[1].1 => {
                let answer = entry.results[0].1;
                self.settle(unit, answer, false);
            }
            Step::Compare | Step::Referee => self.settle(unit, Answer::Right, true),
        }
    }

    fn settle(&mut self, unit: u64, canonical: Answer, refereed: bool) {
        let Some(entry) = self.units.remove(&unit) else { return };
        self.settled_all += 1;
        if self.counts_now() {
            self.counts.settled += 1;
            self.counts.wrong += u64::from(canonical != Answer::Right);
            self.counts.results += entry.results.len() as u64;
            self.counts.refereed += u64::from(refereed);
            self.counts.refereed_alone += u64::from(refereed && entry.results.is_empty());
        }
        for (volunteer, answer) in entry.results {
            let (confirmed, rejected) = (answer == canonical && entry.course != Some(Course::Alone), answer != canonical);
            if rejected {
                self.reject(volunteer, true);
            } else {
                let key = &mut self.volunteers[volunteer];
                key.run = standing::next_run(key.run, confirmed, false);
            }
        }
    }

    fn report(&self, share: f64, name: &str) -> serde_json::Value {
        let counts = &self.counts;
        let settled = counts.settled as f64;
        let extra = (counts.results + counts.refereed).saturating_sub(counts.settled) as f64;
        let audits = (counts.refereed - counts.refereed_alone) as f64;
        let challenges = counts.challenged as f64 / f64::from(SEGMENTS);
        let committing = if self.commits { COMMITTING * counts.results as f64 } else { 0.0 };
        let active: Vec<_> = self.volunteers.iter().filter(|v| v.cheats && v.results > 0).collect();
        let caught: Vec<_> = active.iter().filter(|v| v.caught > 0).collect();
        let before: u64 = caught.iter().map(|v| v.results_when_caught).sum();
        let mean = |sum: u64, count: usize| if count == 0 { 0.0 } else { sum as f64 / count as f64 };
        json!({
            "part": "scheduling, tax, standing", "commits": self.commits, "kind": name, "cheaters": share, "units": counts.settled,
            "wrong_settled": counts.wrong as f64 / settled, "tax": (extra + challenges + committing) / settled,
            "replicas": (extra - audits).max(0.0) / settled, "referee": audits / settled, "challenges": challenges / settled,
            "committing": committing / settled, "unanswered": counts.unanswered, "cheaters_caught": mean(caught.len() as u64, active.len()),
            "results_until_caught": mean(before, caught.len()), "honest_caught": self.honest_caught,
        })
    }
}

fn main() -> ExitCode {
    let args: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let [seed, volunteers, units] = args.as_slice() else {
        eprintln!("usage: simulate SEED VOLUNTEERS UNITS");
        return ExitCode::FAILURE;
    };
    for commits in [false, true] {
        // Without segments there is no part of them, and no challenge to be silent to.
        let kinds =
            KINDS.into_iter().filter(|(kind, _)| commits || !matches!(kind, Kind::Partly(_) | Kind::PartlyNew(_) | Kind::Silent));
        for (kind, name) in kinds {
            for share in [0.0, 0.1, 0.2, 0.3, 0.4] {
                if share == 0.0 && kind != Kind::Independent {
                    continue;
                }
                let mut world = World::new(*seed, kind, commits, share, *volunteers as usize, *units);
                world.run();
                println!("{}", world.report(share, name));
            }
        }
    }
    ExitCode::SUCCESS
}
