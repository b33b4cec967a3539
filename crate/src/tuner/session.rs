//! One session's measuring: tries in slices while its time lasts, each marked before and unmarked after, and the choices
//! that follow.

use std::cell::Cell;
use std::sync::Arc;

use manyhands_shaders::matmul::Variant;

use super::bench::Bench;
use super::notes::Measured;
use super::plan::{Task, Tuner};
use crate::beside::beside;
use crate::control::Control;
use crate::engine::{Engine, EngineError};
use crate::governor::Slice;

/// What is to be kept before the next step, so that it outlives a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// All markers, with one more set than before.
    Marked(String),
    /// All markers, with that one taken away.
    Unmarked(String),
    Notes(String),
}

/// The time a visit has left, and the longest that a try has taken in it.
#[derive(Debug, Clone)]
pub struct Budget {
    left_ms: Cell<f64>,
    longest_ms: Cell<f64>,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::of(super::TUNING_MS_MAX)
    }
}

impl Budget {
    pub fn of(ms: f64) -> Budget {
        Budget { left_ms: Cell::new(ms), longest_ms: Cell::new(0.0) }
    }

    /// Whether another try fits, by what tries took so far.
    pub(super) fn has_room(&self) -> bool {
        self.left_ms.get() > self.longest_ms.get()
    }

    fn spend(&self, ms: f64) {
        self.left_ms.set(self.left_ms.get() - ms);
        self.longest_ms.set(self.longest_ms.get().max(ms));
    }
}

impl Tuner {
    /// Measures what is untried of these products. An error is the engine's: its device is gone, or the computation was
    /// stopped; the marker of a try that did not come back stays.
    pub async fn measure(
        &mut self,
        engine: &Arc<Engine>,
        tasks: &[Task],
        control: &Control,
        budget: &Budget,
        mut keep: impl AsyncFnMut(Kept),
    ) -> Result<(), EngineError> {
        for task in tasks {
            let usual = engine.usual_variant(task);
            let untried =
                self.untried(task, usual).into_iter().filter(|&variant| engine.offers_variant(variant)).collect::<Vec<_>>();
            if untried.is_empty() || !budget.has_room() {
                continue;
            }
            let opened = sliced(control, budget, {
                let (engine, task, clock) = (engine.clone(), task.clone(), control.clone());
                beside(move || async move { Bench::open(&engine, &task, usual, &clock).await })
            });
            let bench = match opened.await {
                Ok(Some(bench)) => Arc::new(bench),
                // No clock to choose by.
                Ok(None) => continue,
                // The unit will say so itself.
                Err(EngineError::TooLarge { .. } | EngineError::BufferTooLarge { .. } | EngineError::OutOfMemory(_)) => continue,
                Err(error) => return Err(error),
            };
            for variant in untried {
                if control.is_stopped() {
                    return Err(EngineError::Stopped);
                }
                // A try of the same variant may have failed for good meanwhile.
                if !budget.has_room() || self.notes.is_wrong(variant) {
                    continue;
                }
                self.mark(variant);
                keep(Kept::Marked(self.markers())).await;
                let attempt = sliced(control, budget, {
                    let (engine, bench, clock) = (engine.clone(), bench.clone(), control.clone());
                    beside(move || async move { bench.attempt(&engine, variant, &clock).await })
                });
                let outcome = attempt.await;
                if matches!(outcome, Err(EngineError::DeviceLost(_))) {
                    return outcome.map(drop);
                }
                self.unmark(variant);
                keep(Kept::Unmarked(self.markers())).await;
                match outcome {
                    Ok(share) => self.notes.add(&task.against(usual), variant, Measured::Share(share)),
                    Err(EngineError::SelfTest { .. } | EngineError::Validation(_)) => {
                        self.notes.add(&task.against(usual), variant, Measured::Wrong);
                    }
                    Err(EngineError::TooLarge { .. } | EngineError::BufferTooLarge { .. } | EngineError::OutOfMemory(_)) => {
                        continue;
                    }
                    Err(error) => return Err(error),
                }
                keep(Kept::Notes(self.notes.text())).await;
            }
        }
        Ok(())
    }

    /// Has the engine run each product on its winner, or on its usual variant where none is, for the rest of the session.
    /// A winner of an earlier session passes a known-answer test first, as a try: what it crashes then is not the next visit's.
    pub async fn settle(
        &mut self,
        engine: &Arc<Engine>,
        tasks: &[Task],
        mut keep: impl AsyncFnMut(Kept),
    ) -> Result<(), EngineError> {
        for task in tasks {
            let usual = engine.usual_variant(task);
            let mut choice = usual;
            if let Some(winner) = self.winner(task, usual).filter(|&winner| engine.offers_variant(winner)) {
                self.mark(winner);
                keep(Kept::Marked(self.markers())).await;
                let tested = self.tested(engine, task, winner).await;
                if matches!(tested, Err(EngineError::DeviceLost(_))) {
                    return tested;
                }
                self.unmark(winner);
                keep(Kept::Unmarked(self.markers())).await;
                match tested {
                    Ok(()) => choice = winner,
                    Err(EngineError::SelfTest { .. } | EngineError::Validation(_)) => {
                        self.notes.add(&task.against(usual), winner, Measured::Wrong);
                        keep(Kept::Notes(self.notes.text())).await;
                    }
                    Err(error) => return Err(error),
                }
            }
            engine.choose_variant(task, choice);
        }
        Ok(())
    }

    async fn tested(&self, engine: &Arc<Engine>, task: &Task, variant: Variant) -> Result<(), EngineError> {
        let (engine, task) = (engine.clone(), task.clone());
        beside(move || async move { engine.test_variant(&task, variant).await }).await
    }
}

/// One slice of the session's time. Between slices others run, a pause holds, and the duty limit idles.
pub(crate) async fn sliced<T>(
    control: &Control,
    budget: &Budget,
    slice: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    let start_ms = control.now_ms();
    let done = slice.await;
    let took_ms = control.now_ms() - start_ms;
    budget.spend(took_ms);
    // Neither how much was computed nor how fast is anybody's baseline.
    control.worked(Slice { flop: 0, ms: took_ms });
    // A stop does not take away what the slice found out.
    if done.is_ok() {
        let _ = control.between_slices().await;
    }
    done
}
