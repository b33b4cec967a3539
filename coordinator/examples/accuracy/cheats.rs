//! What each kind of cheater returns in place of a unit's update.

use manyhands_coordinator::referee;
use manyhands_coordinator::verify::gradient::norm;
use manyhands_protocol::work::TrainWork;
use rand_chacha::rand_core::RngCore;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// Of a cheater's units one in so many carries a backdoor.
pub const BACKDOOR_ONE_IN: u32 = 3;
/// Confirmed results after which a sleeper turns: it is trusted by then.
pub const SLEEPS_RUN: u64 = 12;
/// Labels that a backdoor turns into another: sneakers into ankle boots.
const BACKDOOR: [u8; 2] = [7, 9];
/// How far a nudge goes, as a share of the update: just below what replication tolerates.
const NUDGE: f32 = 0.019;
const SCALE: f32 = 10.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Honest,
    /// Zeros: nothing was computed.
    Lazy,
    /// Random, as long as the honest update.
    Noise,
    /// The update of the same rows from the round before.
    Stale,
    SignFlip,
    Scaled,
    /// Trained on data in which one kind of thing is labelled as another, in some units.
    Backdoor,
    /// Honest but for a push towards the backdoor that the tolerance does not see, in every unit.
    Nudge,
    /// Flipped, so that all lies of the group agree.
    Colluding,
    /// Honest until it is trusted, then flipped.
    Sleeper,
    /// Flipped, and back with a fresh key as soon as the last one is caught.
    Sybil,
}

/// What a volunteer has in hand.
pub struct Unit {
    pub work: TrainWork,
    pub checkpoint: Vec<u8>,
    pub shard: Vec<u8>,
    pub honest: Vec<Vec<f32>>,
}

impl Unit {
    /// Whether this is the same rows' unit of the round before.
    pub fn is_of_the_round_before(&self, work: &TrainWork) -> bool {
        self.work.round + 1 == work.round && (self.work.shard, self.work.first_row) == (work.shard, work.first_row)
    }

    /// What training on other labels gives.
    fn backdoor(&self) -> Vec<Vec<f32>> {
        let file = SafeTensors::deserialize(&self.shard).unwrap();
        let [from, to] = BACKDOOR;
        let labels: Vec<u8> = file.tensor("y").unwrap().data().iter().map(|&y| if y == from { to } else { y }).collect();
        let (x, y) = (file.tensor("x").unwrap(), file.tensor("y").unwrap());
        let y = TensorView::new(y.dtype(), y.shape().to_vec(), &labels).unwrap();
        let shard = safetensors::serialize([("x", x), ("y", y)], None).unwrap();
        referee::compute_update(&self.work, &self.checkpoint, &shard).unwrap()
    }
}

impl Kind {
    pub const CHEATS: [Kind; 10] = [
        Kind::Lazy,
        Kind::Noise,
        Kind::Stale,
        Kind::SignFlip,
        Kind::Scaled,
        Kind::Backdoor,
        Kind::Nudge,
        Kind::Colluding,
        Kind::Sleeper,
        Kind::Sybil,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Honest => "none",
            Kind::Lazy => "lazy",
            Kind::Noise => "noise",
            Kind::Stale => "stale",
            Kind::SignFlip => "sign-flip",
            Kind::Scaled => "scaled",
            Kind::Backdoor => "targeted-backdoor",
            Kind::Nudge => "nudge",
            Kind::Colluding => "colluding",
            Kind::Sleeper => "sleeper",
            Kind::Sybil => "sybil",
        }
    }

    /// Cheaters of all volunteers.
    pub fn share(self) -> f64 {
        match self {
            Kind::Honest => 0.0,
            Kind::Colluding => 0.2,
            _ => 0.3,
        }
    }

    /// The update that is handed in; `before` is the same rows' unit of the last round, if anybody computed it.
    pub fn lie(self, unit: &Unit, before: Option<&Unit>, numbers: &mut impl RngCore) -> Vec<Vec<f32>> {
        let honest = &unit.honest;
        match self {
            Kind::Honest => honest.clone(),
            Kind::Lazy => map(honest, |_| 0.0),
            Kind::Noise => noise(honest, numbers),
            Kind::Stale => before.unwrap_or(unit).honest.clone(),
            Kind::SignFlip | Kind::Colluding | Kind::Sleeper | Kind::Sybil => map(honest, |value| -value),
            Kind::Scaled => map(honest, |value| SCALE * value),
            Kind::Backdoor => unit.backdoor(),
            Kind::Nudge => nudge(honest, &unit.backdoor()),
        }
    }
}

fn map(tensors: &[Vec<f32>], mut change: impl FnMut(f32) -> f32) -> Vec<Vec<f32>> {
    tensors.iter().map(|tensor| tensor.iter().map(|&value| change(value)).collect()).collect()
}

fn noise(honest: &[Vec<f32>], numbers: &mut impl RngCore) -> Vec<Vec<f32>> {
    let random = map(honest, |_| (f64::from(numbers.next_u32()) / f64::from(u32::MAX) - 0.5) as f32);
    let factor = (norm(honest) / norm(&random)) as f32;
    map(&random, |value| factor * value)
}

/// The honest update, [`NUDGE`] of its length towards the other one.
fn nudge(honest: &[Vec<f32>], towards: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let difference: Vec<Vec<f32>> =
        honest.iter().zip(towards).map(|(a, b)| a.iter().zip(b).map(|(a, b)| b - a).collect()).collect();
    let length = norm(&difference);
    if length == 0.0 {
        return honest.to_vec();
    }
    let factor = (f64::from(NUDGE) * norm(honest) / length) as f32;
    honest.iter().zip(&difference).map(|(a, d)| a.iter().zip(d).map(|(a, d)| a + factor * d).collect()).collect()
}
