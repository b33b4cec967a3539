//! The cheater that passes: honest in all but a push of every gradient that stays within its tolerance, with an update that
//! is consistent with it. What that gains is bounded by the room that the check reports, and small.

use super::*;

/// Pushes every gradient by a share of itself plus a share of its norm along one direction, and takes the step that follows.
fn pushed(honest: &Revealed, share: f32) -> Revealed {
    let mut pushed = honest.clone();
    let InnerOptimizer::Sgd { learning_rate, momentum, .. } = honest.work.optimizer else { unreachable!("SGD") };
    for tensor in honest.tensors() {
        if let Tensor::Trace(Traced { what: What::Gradient { parameter }, .. }) = tensor {
            let gradient = pushed.tensor(tensor);
            let norm = gradient.iter().map(|g| g * g).sum::<f32>().sqrt() / (gradient.len() as f32).sqrt();
            gradient.iter_mut().filter(|g| **g != 0.0).for_each(|g| *g += share * norm);
            let gradient = gradient.clone();
            let of = |kind| State { parameter: Some(parameter), kind };
            let (velocity, values) = (of(StateKind::Velocity), of(StateKind::Parameter));
            let before = [velocity, values].map(|state| pushed.tensor(Tensor::Before(state)).clone());
            let v: Vec<f32> = before[0].iter().zip(&gradient).map(|(v, g)| momentum * v + g).collect();
            *pushed.tensor(Tensor::After(values)) = before[1].iter().zip(&v).map(|(p, v)| p - learning_rate * v).collect();
            *pushed.tensor(Tensor::After(velocity)) = v;
        }
    }
    pushed
}

/// The largest push that passes, to a hundredth.
fn largest_push(honest: &Revealed) -> f32 {
    let (mut passes, mut fails) = (0.0f32, 1.0f32);
    while fails - passes > 0.01 * fails {
        let middle = if passes == 0.0 { fails / 8.0 } else { (passes + fails) / 2.0 };
        match pushed(honest, middle).check() {
            Ok(_) => passes = middle,
            Err(_) if middle < 1e-12 => break,
            Err(_) => fails = middle,
        }
    }
    passes
}

#[test]
fn a_push_within_the_bounds_gains_little() {
    for (model, batch) in [(mlp(), 6), (cnn(), 3), (gpt(), 3), (wide(), 96)] {
        let honest = Revealed::honest(&work(model, batch, SGD, 1), 1, 3);
        let report = honest.check().unwrap();
        let gradients = |of: &Tensor| matches!(of, Tensor::Trace(Traced { what: What::Gradient { .. }, .. }));
        let room: Room = report.rooms.iter().filter(|(of, _)| gradients(of)).map(|(_, room)| *room).sum();
        let push = largest_push(&honest);
        println!("{} layers: a push of {push:.1e} passes, room {:.1e}", honest.work.model.layers.len(), room.share());
        assert!(push > 0.0, "the cheater that passes");
        assert!(f64::from(push) <= room.share(), "more passes than the room says");
        assert!(room.share() < 0.05, "{}", room.share());
        assert!(pushed(&honest, 0.05).check().is_err());
    }
}
