//! Pure decisions: who gets a unit, when a unit is settled, how far a key is trusted, what a challenge draws. Time and counts come in as arguments, so that a
//! simulation can run the product's own rules.

pub mod challenge;
pub mod lease;
pub mod merge;
pub mod settle;
pub mod standing;
