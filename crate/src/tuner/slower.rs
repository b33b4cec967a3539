//! Whether a device is slower than the CPU path at a unit's training, by measuring both: a step of few examples on the one, of as
//! many as occupy the other. It measures; what follows is the visit's business.

use manyhands_protocol::work::TrainWork;

use super::step;
use crate::control::Control;
use crate::engine::{Engine, EngineError};

/// A device is left where the CPU path takes at most this much of its time, in thousandths: two thirds. What is closer may
/// come out otherwise the next time, and a device leaves the processor to the visitor.
const CPU_SHARE_MAX: u32 = 667;

/// Whether a device of which the CPU path takes this share is left for it.
pub fn is_left(share: u32) -> bool {
    share <= CPU_SHARE_MAX
}

/// The CPU path's time as a share of the device's, in thousandths; none where the clock is too coarse to tell. Where the device
/// would be left both are measured twice and the larger share counts: what held the device up for a moment is not held against it.
pub async fn share(engine: &Engine, work: &TrainWork, clock: &Control) -> Result<Option<u32>, EngineError> {
    let Some(share) = measured(engine, work, clock).await? else { return Ok(None) };
    if !is_left(share) {
        return Ok(Some(share));
    }
    Ok(measured(engine, work, clock).await?.map(|again| again.max(share)))
}

async fn measured(engine: &Engine, work: &TrainWork, clock: &Control) -> Result<Option<u32>, EngineError> {
    let Some(least_ms) = step::least_ms(clock) else { return Ok(None) };
    let few = step::first_part(work)?;
    let cpu_ms = step::ms(&Engine::cpu(), &step::part_of(work, few), clock, [0.0, least_ms]).await?;
    let (Some(cpu_ms), Some((many, device_ms))) = (cpu_ms, step::occupied(engine, work, clock, least_ms).await?) else {
        return Ok(None);
    };
    let share = cpu_ms / f64::from(few) * f64::from(many) / device_ms;
    Ok(Some((share * 1e3).clamp(1.0, f64::from(u32::MAX)) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuner::step::tests::works;

    /// The references stand for a slow device: they take hundreds of times as long as the CPU path.
    #[test]
    fn a_slow_device_is_left_and_no_equal_one() {
        let clock = Control::new();
        for work in works() {
            let share = pollster::block_on(share(&Engine::reference(), &work, &clock)).unwrap().expect("a clock");
            assert!(is_left(share), "{share} of {}", step::name(&work).unwrap());
        }
        assert!(is_left(CPU_SHARE_MAX) && !is_left(CPU_SHARE_MAX + 1) && !is_left(1000));
    }
}
