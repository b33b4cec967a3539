//! A unit that turns rounding into a difference beyond the tolerance: who computed it honestly is not caught, and who lies in it is.

use manyhands_coordinator::verify::gradient::{compare, distance};
use manyhands_coordinator::{cut, merge, referee};
use manyhands_protocol::manifest::{Inputs, JobManifest, JobWork, Submission, parse_json};
use manyhands_protocol::problem::Code;
use manyhands_protocol::rules::settle::{ROUNDING_RUNS, tolerance};

use crate::client::{Leased, Volunteer};
use crate::world::{World, train_work, update_file};

/// The unit of the first round in which, some steps on, the background of all pictures lies on the edge of a ReLU.
const UNSTABLE: usize = 8;

/// The first round of the bundled convolutional net, on its own data, in ten units.
async fn bundled(world: &World) -> Submission {
    let read = |path: &str| std::fs::read(format!("{}/../demo/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut manifest: JobManifest = parse_json(&read("fashion-cnn/manifest.json")).unwrap();
    let JobWork::Train(recipe) = &mut manifest.work else { panic!("a training job") };
    (recipe.units_per_round, recipe.rounds_max, recipe.target_accuracy) = (10, 1, Some(1.0));
    let cut = cut::cut_train(recipe, &read("fashion-mlp/train.safetensors"), &read("fashion-mlp/test.safetensors")).unwrap();
    let mut shards = Vec::new();
    for shard in cut.shards {
        shards.push(world.put_input(shard).await);
    }
    let test = world.put_input(cut.test).await;
    Submission { manifest, inputs: Inputs::Train { shards, test } }
}

/// What a device gives that rounds otherwise than the referee: from a checkpoint that the referee does not try.
async fn rounded_otherwise(volunteer: &Volunteer, lease: &Leased, honest: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let work = train_work(lease);
    let (checkpoint, shard) = (volunteer.fetch(work.checkpoint).await, volunteer.fetch(work.shard).await);
    let checkpoint = merge::read_tensors(&work.model, &checkpoint).unwrap();
    for run in ROUNDING_RUNS..2 * ROUNDING_RUNS {
        let moved = merge::write_tensors(&work.model, &referee::neighbour(&checkpoint, run));
        let update = referee::compute_update(work, &moved, &shard).unwrap();
        if !compare(honest, &update, tolerance(&work.model)) {
            return update;
        }
    }
    panic!("the unit is stable");
}

#[tokio::test]
async fn rounding_is_no_lie_and_no_excuse() {
    let world = World::start_with(|config| config.draw = || Ok(0.0)).await;
    let job = world.create(&bundled(&world).await).await;
    let (volunteer, liar) = (world.join(1).await, world.join(2).await);
    let (ours, theirs) = (volunteer.lease(10).await.remove(UNSTABLE), liar.lease(10).await.remove(UNSTABLE + 1));
    let honest = volunteer.update(&ours).await;

    // Honest, and further from the referee than the tolerance.
    let update = rounded_otherwise(&volunteer, &ours, &honest).await;
    println!("rounded otherwise: {}", distance(&honest, &update));
    volunteer.submit(&ours, update_file(&ours, &update)).await;
    let view = world.follow(job, |view| view.units_settled == 1).await;
    assert_eq!((view.results_accepted, view.results_rejected, view.units_refereed), (1, 0, 1));

    // About as far in another one, and no execution of it.
    let honest = liar.update(&theirs).await;
    let mut lie = honest.clone();
    lie.iter_mut().flatten().step_by(25).for_each(|value| *value *= 1.3);
    println!("a lie: {}", distance(&honest, &lie));
    liar.submit(&theirs, update_file(&theirs, &lie)).await;
    world.follow(job, |view| view.results_rejected == 1).await;
    liar.try_lease(1, None).await.refused(Code::Quarantined);
    world.finish().await;
}
