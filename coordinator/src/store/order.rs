//! What a write needs of the database, by which the stores tell writes that may run beside each other from those that may not. The
//! documentation of `sql/mod.rs` says why.

use manyhands_protocol::{KeyId, LeaseId, UnitId};

use super::Judgement;

/// What may be written beside a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Beside,
    Alone,
    Log,
}

impl Order {
    /// A key that is caught loses parts of many units.
    pub fn of(judgements: &[Judgement]) -> Order {
        if judgements.iter().any(|judgement| judgement.caught) { Order::Alone } else { Order::Beside }
    }
}

/// Rows to lock, before anything is read that they stand for.
#[derive(Debug, Clone, Copy)]
pub enum Lock {
    Key(KeyId),
    /// Of the key's row nothing is locked; its lease calls come one after the other.
    LeaseCalls(KeyId),
    Lease(LeaseId),
    LeaseAndUnit(LeaseId),
    /// With the keys of its results.
    Unit(UnitId),
    /// The same, of the unit that a result is for.
    UnitOfResult(i64),
}
