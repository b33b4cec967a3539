//! Lanes: how many units a visit has in hand at once. The first computes on the visit's own engine; each further one has a
//! thread or worker of its own, which computes and nothing else: session, leases, data and signing stay with the visit.

use std::cell::Cell;

use super::error::VolunteerError;
use super::host::{Host, HostError};
use super::task::{Computed, Task};
use crate::control::Control;

/// Most units that one visit computes at once.
pub const LANES_MAX: usize = 8;

/// Where the units of a further lane are computed, one at a time. Dropping it ends what it computes.
#[allow(async_fn_in_trait)]
pub trait Aside {
    /// Computes a unit; `control` holds it, and hears how far it is. After an error, or where the future was dropped
    /// before its end, it must not be used again.
    async fn compute(&mut self, task: Task, control: &Control) -> Result<Computed, VolunteerError>;
}

/// Of a platform with one lane.
impl Aside for std::convert::Infallible {
    async fn compute(&mut self, _task: Task, _control: &Control) -> Result<Computed, VolunteerError> {
        match *self {}
    }
}

/// Natively a further lane is one more thread.
#[cfg(not(target_arch = "wasm32"))]
pub struct Thread;

#[cfg(not(target_arch = "wasm32"))]
impl Aside for Thread {
    async fn compute(&mut self, task: Task, control: &Control) -> Result<Computed, VolunteerError> {
        let steered = control.clone();
        crate::beside::beside(move || async move { Ok(task.compute(&crate::Engine::cpu(), &steered).await) }).await?
    }
}

/// One lane of a visit.
pub(super) struct Lane<A> {
    is_first: bool,
    aside: Cell<Option<A>>,
}

impl<A> Lane<A> {
    pub fn first() -> Self {
        Self { is_first: true, aside: Cell::new(None) }
    }

    pub fn further() -> Self {
        Self { is_first: false, aside: Cell::new(None) }
    }

    pub fn is_first(&self) -> bool {
        self.is_first
    }

    /// Makes sure that a further lane has where to compute, before a unit is leased for it.
    pub async fn open<H: Host<Aside = A>>(&self, host: &H) -> Result<(), HostError> {
        if !self.is_first {
            let aside = match self.aside.take() {
                Some(aside) => aside,
                None => host.open_aside().await?,
            };
            self.aside.set(Some(aside));
        }
        Ok(())
    }

    /// Lends it for one unit; what is not given back by [`Lane::put`] is opened anew.
    pub fn take(&self) -> Option<A> {
        self.aside.take()
    }

    pub fn put(&self, aside: A) {
        self.aside.set(Some(aside));
    }
}
