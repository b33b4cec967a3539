//! When the tuner runs in a visit: after its first unit is handed in, before a unit with products that are new to the
//! device; and where its notes are kept. What it measures and chooses is the tuner's own business. Where the CPU path then
//! turns out to be faster than the device with what was chosen, the visit goes over to it.

use std::cell::RefCell;

use manyhands_protocol::work::Work;

use super::event::State;
use super::host::Host;
use super::run::Visit;
use crate::beside::beside;
use crate::control::Control;
use crate::engine::{EngineError, TunedAdapter};
use crate::tuner::slower::{self, Shares};
use crate::tuner::{Budget, Kept, Task, Tune, Tuner, sliced, tasks};

/// What a visit remembers of its measuring, whatever becomes of the device.
#[derive(Default)]
pub(super) struct Tuning {
    budget: Budget,
    /// Name and text of the markers as they were before the try under way, for a visit that ends in its middle.
    before: RefCell<Option<(String, String)>>,
    /// Markers of tries that lost their device, for a host that keeps nothing.
    lost: RefCell<String>,
}

/// Where notes are kept, and what they hold for.
struct Names {
    markers: String,
    notes: String,
    /// Of what the CPU path takes of the device's time.
    shares: String,
    /// First line of the notes. Notes under another one are of other kernels, another browser or another driver.
    stamp: String,
}

impl Names {
    fn of(adapter: &TunedAdapter, kernels_version: &str, environment: &str) -> Names {
        Names {
            // Whatever browser, driver or version of the kernel it was: what did not come back is not tried again.
            markers: format!("tried on {}", adapter.name),
            notes: format!("tuned on {}", adapter.name),
            shares: format!("the CPU path against {}", adapter.name),
            stamp: format!("{kernels_version} {environment} {}", adapter.driver).replace('\n', " "),
        }
    }

    /// What follows the stamp, where a text is under this one.
    fn stamped<'a>(&self, text: &'a str) -> &'a str {
        text.strip_prefix(&self.stamp).and_then(|rest| rest.strip_prefix('\n')).unwrap_or_default()
    }
}

impl<H: Host> Visit<'_, H> {
    /// Chooses a variant for each product of `work` that is new to this device, measuring what nobody has.
    pub async fn tune(&self, work: &Work, control: &Control) -> Result<(), EngineError> {
        if !self.tunes() {
            return Ok(());
        }
        let engine = self.engine();
        let Some(adapter) = engine.tuned_adapter() else { return Ok(()) };
        let mut tasks = tasks(work)?;
        tasks.retain(|task| engine.chosen_variant(task).is_none());
        if tasks.is_empty() {
            return Ok(());
        }
        let host = self.client.host;
        let names = Names::of(&adapter, &engine.kernels_version(), &host.environment());
        // Another tab that measures has markers set which say nothing yet, and would be measured along. What it finds out is
        // for the next unit.
        let Some(_lock) = host.lock_tuning().await else { return Ok(()) };
        let markers = host.load_tuning(&names.markers).await.unwrap_or_default() + &self.tuning.lost.borrow();
        let kept = host.load_tuning(&names.notes).await.unwrap_or_default();
        let mut tuner = Tuner::new(adapter.class, &markers, names.stamped(&kept));
        self.client.reporter.state(State::Tuning, "");
        let mut settled = self.settle(&mut tuner, &tasks, control, &names).await;
        if settled.is_ok() {
            settled = self.leave_if_slower(work, control, &names).await;
        }
        self.client.reporter.state(State::Working, "");
        settled
    }

    /// The first unit is computed by what is there: nobody waits for it.
    fn tunes(&self) -> bool {
        let settings = &self.client.settings;
        settings.tune == Tune::Auto && (settings.begun || self.submitted_count.get() > 0)
    }

    /// Measures and chooses, keeping what is found out as it comes.
    async fn settle(&self, tuner: &mut Tuner, tasks: &[Task], control: &Control, names: &Names) -> Result<(), EngineError> {
        let (host, tuning) = (self.client.host, &self.tuning);
        let before = tuner.markers();
        let mut keep = async |kept| match kept {
            Kept::Marked(text) => {
                tuning.before.replace(Some((names.markers.clone(), before.clone())));
                host.store_tuning(&names.markers, &text).await;
            }
            Kept::Unmarked(text) => {
                host.store_tuning(&names.markers, &text).await;
                tuning.before.take();
            }
            Kept::Notes(text) => host.store_tuning(&names.notes, &format!("{}\n{text}", names.stamp)).await,
        };
        let engine = self.engine();
        let mut settled = tuner.measure(&engine, tasks, control, &tuning.budget, &mut keep).await;
        if settled.is_ok() {
            settled = tuner.settle(&engine, tasks, keep).await;
        }
        if matches!(settled, Err(EngineError::DeviceLost(_))) {
            tuning.lost.replace(tuner.markers());
        }
        // What ended the try is known: only a visit that is dropped in its middle leaves this behind.
        tuning.before.take();
        settled
    }

    /// Goes over to the CPU path where that is faster at this work, by what was measured now or in an earlier visit.
    async fn leave_if_slower(&self, work: &Work, control: &Control, names: &Names) -> Result<(), EngineError> {
        // A product says little of the training that a visit is for.
        let Work::Train(work) = work else { return Ok(()) };
        if !self.may_leave_gpu() {
            return Ok(());
        }
        let (host, name) = (self.client.host, slower::name(work)?);
        let kept = host.load_tuning(&names.shares).await.unwrap_or_default();
        let mut shares = Shares::parse(names.stamped(&kept));
        let share = match shares.get(&name) {
            Some(share) => share,
            None => {
                let measured = sliced(control, &self.tuning.budget, {
                    let (engine, work, clock) = (self.engine(), work.clone(), control.clone());
                    beside(move || async move { slower::share(&engine, &work, &clock).await })
                });
                let share = match measured.await {
                    Ok(Some(share)) => share,
                    Ok(None) => return Ok(()),
                    // The unit will say so itself.
                    Err(EngineError::TooLarge { .. } | EngineError::BufferTooLarge { .. } | EngineError::OutOfMemory(_)) => {
                        return Ok(());
                    }
                    // Of made-up examples; the unit's own are another matter.
                    Err(EngineError::NotFinite(_)) => return Ok(()),
                    Err(error) => return Err(error),
                };
                shares.add(&name, share);
                host.store_tuning(&names.shares, &format!("{}\n{}", names.stamp, shares.text())).await;
                share
            }
        };
        if slower::is_left(share) { self.leave_gpu().await } else { Ok(()) }
    }

    /// Takes back the marker of a try that the visitor's Stop cut short: it says nothing against its variant.
    pub async fn forget_try(&self) {
        if let Some((name, text)) = self.tuning.before.take() {
            self.client.host.store_tuning(&name, &text).await;
        }
    }
}
