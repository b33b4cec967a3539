//! When the tuner runs in a visit: after its first unit is handed in, before a unit with products or steps that are new to the
//! device; and where its notes are kept. What it measures and chooses is the tuner's own business. Where the CPU path then
//! turns out to be faster than the device with what was chosen, the visit goes over to it.

use std::cell::RefCell;

use manyhands_protocol::work::{TrainWork, Work};

use super::event::State;
use super::host::Host;
use super::run::Visit;
use crate::beside::beside;
use crate::control::Control;
use crate::engine::{EngineError, TunedAdapter};
use crate::tuner::shares::Shares;
use crate::tuner::sharing::Sharings;
use crate::tuner::{Budget, Kept, Task, Tune, Tuner, sliced, slower, step, tasks};

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
    products: Kind,
    sharing: Kind,
    /// Of what the CPU path takes of the device's time.
    shares: String,
    /// First line of the notes. Notes under another one are of other kernels, another browser or another driver.
    stamp: String,
}

/// Where tries of one kind are kept.
struct Kind {
    markers: String,
    notes: String,
}

impl Names {
    fn of(adapter: &TunedAdapter, environment: &str) -> Names {
        Names {
            // Whatever browser, driver or version of the kernel it was: what did not come back is not tried again.
            products: Kind { markers: format!("tried on {}", adapter.name), notes: format!("tuned on {}", adapter.name) },
            sharing: Kind {
                markers: format!("tried to share on {}", adapter.name),
                notes: format!("shared on {}", adapter.name),
            },
            shares: format!("the CPU path against {}", adapter.name),
            stamp: format!("{} {environment} {}", adapter.kernels, adapter.driver).replace('\n', " "),
        }
    }

    /// What follows the stamp, where a text is under this one.
    fn stamped<'a>(&self, text: &'a str) -> &'a str {
        text.strip_prefix(&self.stamp).and_then(|rest| rest.strip_prefix('\n')).unwrap_or_default()
    }
}

impl<H: Host> Visit<'_, H> {
    /// Chooses a variant for each product of `work` that is new to this device, and how the rest of its calls share their work,
    /// measuring what nobody has.
    pub async fn tune(&self, work: &Work, control: &Control) -> Result<(), EngineError> {
        if !self.tunes() {
            return Ok(());
        }
        let engine = self.engine();
        let Some(adapter) = engine.tuned_adapter() else { return Ok(()) };
        let mut tasks = tasks(work)?;
        tasks.retain(|task| engine.chosen_variant(task).is_none());
        let mut train = if let Work::Train(train) = work { Some(train) } else { None };
        if let Some(work) = train
            && engine.share_as_settled(&step::name(work)?)
        {
            train = None;
        }
        if tasks.is_empty() && train.is_none() {
            return Ok(());
        }
        let names = Names::of(&adapter, &self.client.host.environment());
        // Another tab that measures has markers set which say nothing yet, and would be measured along. What it finds out is
        // for the next unit.
        let Some(_lock) = self.client.host.lock_tuning().await else { return Ok(()) };
        self.client.reporter.state(State::Tuning, "");
        let settled = self.settle(&adapter, &tasks, train, control, &names).await;
        self.client.reporter.state(State::Working, "");
        settled
    }

    /// The first unit is computed by what is there: nobody waits for it.
    fn tunes(&self) -> bool {
        let settings = &self.client.settings;
        settings.tune == Tune::Auto && (settings.begun || self.submitted_count.get() > 0)
    }

    /// Measures and chooses: how calls that are no products share their work first, which matters most where there are any.
    async fn settle(
        &self,
        adapter: &TunedAdapter,
        tasks: &[Task],
        train: Option<&TrainWork>,
        control: &Control,
        names: &Names,
    ) -> Result<(), EngineError> {
        if let Some(work) = train {
            self.settle_sharing(work, control, names).await?;
        }
        self.settle_products(adapter, tasks, control, names).await?;
        match train {
            Some(work) => self.leave_if_slower(work, control, names).await,
            // A product says little of the training that a visit is for.
            None => Ok(()),
        }
    }

    async fn settle_products(
        &self,
        adapter: &TunedAdapter,
        tasks: &[Task],
        control: &Control,
        names: &Names,
    ) -> Result<(), EngineError> {
        let [markers, notes] = self.kept(&names.products, names).await;
        let (engine, budget, mut tuner) = (self.engine(), &self.tuning.budget, Tuner::new(adapter.class, &markers, &notes));
        let before = tuner.markers();
        let mut keep = async |kept| self.keep(&names.products, names, &before, kept).await;
        let mut settled = tuner.measure(&engine, tasks, control, budget, &mut keep).await;
        if settled.is_ok() {
            settled = tuner.settle(&engine, tasks, keep).await;
        }
        self.tried(settled, &tuner.markers())
    }

    async fn settle_sharing(&self, work: &TrainWork, control: &Control, names: &Names) -> Result<(), EngineError> {
        let [markers, notes] = self.kept(&names.sharing, names).await;
        let mut sharings = Sharings::new(&markers, &notes);
        let before = sharings.markers();
        let keep = async |kept| self.keep(&names.sharing, names, &before, kept).await;
        let settled = sharings.settle(&self.engine(), work, control, &self.tuning.budget, keep).await;
        self.tried(settled, &sharings.markers())
    }

    /// Markers and notes of earlier tries.
    async fn kept(&self, of: &Kind, names: &Names) -> [String; 2] {
        let host = self.client.host;
        let markers = host.load_tuning(&of.markers).await.unwrap_or_default() + &self.tuning.lost.borrow();
        let notes = host.load_tuning(&of.notes).await.unwrap_or_default();
        [markers, names.stamped(&notes).to_owned()]
    }

    /// Keeps what is found out as it comes. `before` are the markers before the first try.
    async fn keep(&self, of: &Kind, names: &Names, before: &str, kept: Kept) {
        let (host, tuning) = (self.client.host, &self.tuning);
        match kept {
            Kept::Marked(text) => {
                tuning.before.replace(Some((of.markers.clone(), before.to_owned())));
                host.store_tuning(&of.markers, &text).await;
            }
            Kept::Unmarked(text) => {
                host.store_tuning(&of.markers, &text).await;
                tuning.before.take();
            }
            Kept::Notes(text) => host.store_tuning(&of.notes, &format!("{}\n{text}", names.stamp)).await,
        }
    }

    /// What is left to remember when tries have ended.
    fn tried(&self, settled: Result<(), EngineError>, markers: &str) -> Result<(), EngineError> {
        if matches!(settled, Err(EngineError::DeviceLost(_))) {
            self.tuning.lost.borrow_mut().push_str(markers);
        }
        // What ended the try is known: only a visit that is dropped in its middle leaves this behind.
        self.tuning.before.take();
        settled
    }

    /// Goes over to the CPU path where that is faster at this work, by what was measured now or in an earlier visit.
    async fn leave_if_slower(&self, work: &TrainWork, control: &Control, names: &Names) -> Result<(), EngineError> {
        if !self.may_leave_gpu() {
            return Ok(());
        }
        let (host, name) = (self.client.host, step::name(work)?);
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
