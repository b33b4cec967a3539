//! How the calls of a training step that are no products share their work fastest on this device, by measuring whole steps:
//! convolutions, attention and norms have kernels for several ways. A way is tried like a variant of a product: marked before,
//! its kernels tested against the references first, and none that is wrong or did not come back is tried again.

use std::sync::Arc;

use manyhands_protocol::work::TrainWork;
use manyhands_shaders::matmul::Variant;

use super::plan::WIN_SHARE_MAX;
use super::session::{Budget, Kept, sliced};
use super::shares::Shares;
use super::step;
use crate::beside::beside;
use crate::control::Control;
use crate::engine::{Engine, EngineError};
use crate::plan::Sharing;

/// The share of a way whose kernels are wrong or refused.
const WRONG: u32 = u32::MAX;

/// What is known of one adapter's ways.
#[derive(Debug, Clone, Default)]
pub struct Sharings {
    /// Of the usual way's time.
    pub shares: Shares,
    /// Ways whose try did not come back: their markers.
    lost: Vec<Sharing>,
}

impl Sharings {
    /// `markers` are the names of ways whose try did not come back.
    pub fn new(markers: &str, notes: &str) -> Sharings {
        let named = |name: &str| Sharing::ALL.into_iter().find(|sharing| sharing.name() == name);
        Sharings { shares: Shares::parse(notes), lost: markers.lines().filter_map(named).collect() }
    }

    /// The markers that are set.
    pub fn markers(&self) -> String {
        self.lost.iter().map(|sharing| format!("{}\n", sharing.name())).collect()
    }

    /// Measures what is untried for this work, and settles the fastest way for it for the rest of the session. A winner of an
    /// earlier session passes its known-answer tests first, as a try. An error is the engine's: its device is gone, or the
    /// computation was stopped; the marker of a try that did not come back stays.
    pub async fn settle(
        &mut self,
        engine: &Arc<Engine>,
        work: &TrainWork,
        control: &Control,
        budget: &Budget,
        mut keep: impl AsyncFnMut(Kept),
    ) -> Result<(), EngineError> {
        let name = step::name(work)?;
        let ways = ways(engine, work)?;
        let Some(&usual) = ways.first() else { return Ok(()) };
        engine.choose_sharing(usual);
        match self.measure(engine, work, &ways, control, budget, &mut keep).await {
            // The unit will say so itself; what is not finite is of made-up examples.
            Err(
                EngineError::TooLarge { .. }
                | EngineError::BufferTooLarge { .. }
                | EngineError::OutOfMemory(_)
                | EngineError::NotFinite(_),
            ) => {}
            measured => measured?,
        }
        let mut settled = usual;
        if let Some(winner) = self.winner(&name, &ways) {
            let tested = {
                let (engine, work) = (engine.clone(), work.clone());
                beside(move || async move { engine.self_test_training(&work).await })
            };
            match self.attempt(engine, [winner, usual], tested, &mut keep).await? {
                Some(()) => settled = winner,
                None => self.note(&of(winner, usual, &name), WRONG, &mut keep).await,
            }
        }
        engine.settle_sharing(&name, settled);
        Ok(())
    }

    async fn measure(
        &mut self,
        engine: &Arc<Engine>,
        work: &TrainWork,
        ways: &[Sharing],
        control: &Control,
        budget: &Budget,
        keep: &mut impl AsyncFnMut(Kept),
    ) -> Result<(), EngineError> {
        let (name, usual) = (step::name(work)?, ways[0]);
        let untried: Vec<Sharing> = self.may_run(ways).filter(|&way| self.shares.get(&of(way, usual, &name)).is_none()).collect();
        if untried.is_empty() || !budget.has_room() {
            return Ok(());
        }
        let Some(least_ms) = step::least_ms(control) else { return Ok(()) };
        let occupied = {
            let (engine, work, clock) = (engine.clone(), work.clone(), control.clone());
            beside(move || async move { step::occupied(&engine, &work, &clock, least_ms).await })
        };
        let Some((examples, usual_ms)) = sliced(control, budget, occupied).await? else { return Ok(()) };
        let part = step::part_of(work, examples);
        let timed = || {
            let (engine, part, clock) = (engine.clone(), part.clone(), control.clone());
            let timed = beside(move || async move { step::ms(&engine, &part, &clock, [0.0, least_ms]).await });
            async { Ok(sliced(control, budget, timed).await?.unwrap_or(f64::INFINITY)) }
        };
        for way in untried {
            if control.is_stopped() {
                return Err(EngineError::Stopped);
            }
            if !budget.has_room() {
                return Ok(());
            }
            let name = of(way, usual, &name);
            let Some(mut share) = self.attempt(engine, [way, usual], timed(), keep).await?.map(|ms| ms / usual_ms) else {
                self.note(&name, WRONG, keep).await;
                continue;
            };
            // What held the usual way up for a moment is not held against it.
            if share * 1e3 <= f64::from(WIN_SHARE_MAX) {
                let usual_ms = timed().await?;
                let again = self.attempt(engine, [way, usual], timed(), keep).await?;
                share = again.map_or(f64::INFINITY, |ms| share.max(ms / usual_ms));
            }
            // None is wrong for being slow.
            self.note(&name, (share * 1e3).clamp(1.0, f64::from(WRONG - 1)) as u32, keep).await;
        }
        Ok(())
    }

    /// What comes of a try while the engine works this way, before it goes back to the usual one; none where the way is wrong.
    async fn attempt<T>(
        &mut self,
        engine: &Engine,
        [way, usual]: [Sharing; 2],
        attempt: impl Future<Output = Result<T, EngineError>>,
        keep: &mut impl AsyncFnMut(Kept),
    ) -> Result<Option<T>, EngineError> {
        self.lost.push(way);
        keep(Kept::Marked(self.markers())).await;
        engine.choose_sharing(way);
        let outcome = attempt.await;
        engine.choose_sharing(usual);
        if matches!(outcome, Err(EngineError::DeviceLost(_))) {
            return outcome.map(Some);
        }
        self.lost.retain(|lost| *lost != way);
        keep(Kept::Unmarked(self.markers())).await;
        match outcome {
            Err(EngineError::SelfTest { .. } | EngineError::Validation(_)) => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    async fn note(&mut self, name: &str, share: u32, keep: &mut impl AsyncFnMut(Kept)) {
        self.shares.add(name, share);
        keep(Kept::Notes(self.shares.text())).await;
    }

    /// The ways other than the usual one that did no harm so far: none that is wrong for one work is trusted with another.
    fn may_run(&self, ways: &[Sharing]) -> impl Iterator<Item = Sharing> {
        let is_wrong = |way: Sharing| self.shares.any(|name, share| share == WRONG && name.starts_with(way.name()));
        ways.iter().copied().skip(1).filter(move |&way| !self.lost.contains(&way) && !is_wrong(way))
    }

    /// The way that beat the usual one, if any did.
    fn winner(&self, name: &str, ways: &[Sharing]) -> Option<Sharing> {
        let share = |way| self.shares.get(&of(way, *ways.first()?, name)).filter(|&share| share <= WIN_SHARE_MAX);
        self.may_run(ways).filter_map(|way| Some((share(way)?, way))).min_by_key(|(share, _)| *share).map(|(_, way)| way)
    }
}

/// The name in notes, where times are shares of the usual way's.
fn of(way: Sharing, usual: Sharing, work: &str) -> String {
    format!("{} against {}: {work}", way.name(), usual.name())
}

/// The ways on which different kernels run this work, the usual one first; none where the device has no choice.
fn ways(engine: &Engine, work: &TrainWork) -> Result<Vec<Sharing>, EngineError> {
    let ops = step::whole_calls(work)?;
    let mut ways: Vec<(Sharing, Vec<&str>)> = Vec::new();
    for way in engine.offered_sharings() {
        let kernels: Vec<_> = ops.iter().map(|op| op.call(way, |_| Variant::Naive).kernel.name).collect();
        if !ways.iter().any(|(_, others)| *others == kernels) {
            ways.push((way, kernels));
        }
    }
    Ok(ways.into_iter().map(|(way, _)| way).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: &str = "step of 16 calls, 9 operations";
    const WAYS: [Sharing; 3] = [Sharing::Workgroups, Sharing::Nothing, Sharing::Quads];

    #[test]
    fn the_fastest_way_wins_and_none_that_is_wrong_or_lost() {
        let [usual, nothing, quads] = WAYS;
        let known = |markers: &str, shares: [u32; 2]| {
            let line = |way, share| format!("{} {share}\n", of(way, usual, WORK));
            Sharings::new(markers, &(line(nothing, shares[0]) + &line(quads, shares[1])))
        };
        let check = |markers: &str, shares: [u32; 2], winner: Option<Sharing>| {
            assert_eq!(known(markers, shares).winner(WORK, &WAYS), winner, "{markers:?} {shares:?}");
        };
        check("", [900, 800], Some(quads));
        check("", [700, 800], Some(nothing));
        check("", [WIN_SHARE_MAX + 1, 1000], None);
        check("quads\n", [900, 800], Some(nothing));
        check("nonsense\nquads", [1200, 800], None);
        check("", [900, WRONG], Some(nothing));
        assert_eq!(known("", [900, 800]).winner("step of another", &WAYS), None);
        assert_eq!(known("", [900, WRONG]).may_run(&WAYS).collect::<Vec<_>>(), [nothing], "wrong for one, wrong for all");
        assert_eq!(known("", [900, 800]).winner(WORK, &WAYS[1..]), None, "measured against another");
        assert_eq!(known("quads\n", [1, 1]).markers(), "quads\n");
        assert_eq!(Sharings::default().winner(WORK, &WAYS[..1]), None);
    }
}
