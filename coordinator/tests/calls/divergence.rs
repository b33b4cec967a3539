//! Work that nobody can do: models and products that leave the finite numbers, and units that every key lets go.

use manyhands::tensors;
use manyhands_protocol::manifest::{Inputs, JobWork, OuterOptimizer, Submission, TrainRecipe};
use manyhands_protocol::model::Layer;
use manyhands_protocol::problem::Code;
use manyhands_protocol::view::JobState;
use manyhands_protocol::work::InnerOptimizer;
use manyhands_protocol::{JobId, limits};

use crate::client::Volunteer;
use crate::world::{World, update_file};

/// A train job whose recipe was changed.
async fn changed(world: &World, change: impl FnOnce(&mut TrainRecipe)) -> Submission {
    let mut submission = world.train(1.0).await;
    let JobWork::Train(recipe) = &mut submission.manifest.work else { unreachable!() };
    change(recipe);
    submission
}

/// The coordinator cancels the job and says why.
async fn is_cancelled(world: &World, job: JobId, why: &str) {
    let view = world.follow(job, |view| view.state == JobState::Cancelled).await;
    assert!(view.reason.contains(why), "{}", view.reason);
    // It stays so, and nothing is left to be done.
    world.order(&format!("/jobs/{job}/resume")).await.refused(Code::WrongJobState);
    assert!(world.join(99).await.lease(1).await.is_empty());
}

/// Takes a unit and gives it back, as a volunteer whose engine fails does.
async fn let_go(volunteer: &Volunteer) {
    let lease = volunteer.lease_one().await;
    volunteer.give_back(&lease).await.is(204);
}

#[tokio::test]
async fn inner_steps_that_diverge_cancel_the_job_whether_someone_lies_or_not() {
    for lied in [true, false] {
        let world = World::start().await;
        let diverges = |recipe: &mut TrainRecipe| {
            recipe.inner_optimizer = InnerOptimizer::Sgd { learning_rate: 1e30, momentum: 0.5, clip_norm: 0.0 };
        };
        let job = world.create(&changed(&world, diverges).await).await;
        let volunteer = world.join(1).await;
        if lied {
            let lease = volunteer.lease_one().await;
            let zeros: Vec<Vec<f32>> = [6 * 5, 5, 5 * 3, 3].map(|values| vec![0.0; values]).to_vec();
            volunteer.submit(&lease, update_file(&lease, &zeros)).await;
            world.clock.advance(limits::REPLICA_WAIT_MS);
        } else {
            for _ in 0..limits::LEASES_ENDED_MAX {
                let_go(&volunteer).await;
            }
        }
        is_cancelled(&world, job, "unit 1: ").await;
        world.finish().await;
    }
}

#[tokio::test]
async fn a_merged_model_whose_evaluation_is_not_finite_cancels_the_job() {
    let world = World::start().await;
    let diverges = |recipe: &mut TrainRecipe| {
        recipe.outer_optimizer = OuterOptimizer::Nesterov { learning_rate: 1e30, momentum: 0.5 };
    };
    let job = world.create(&changed(&world, diverges).await).await;
    let volunteer = world.join(1).await;
    for lease in volunteer.lease(16).await {
        let output = volunteer.update_bytes(&lease).await;
        volunteer.submit(&lease, output).await;
    }
    world.clock.advance(limits::REPLICA_WAIT_MS);
    is_cancelled(&world, job, "merging round 0: the result is not finite: logits").await;
    world.finish().await;
}

#[tokio::test]
async fn a_model_that_overflows_at_once_is_a_bad_manifest() {
    let world = World::start().await;
    let overflows = |recipe: &mut TrainRecipe| {
        recipe.model.input.scale = 1e36;
        recipe.model.layers[0] = Layer::Dense { outputs: 512 };
    };
    let submission = changed(&world, overflows).await;
    let problem = world.try_create(&submission).await.refused(Code::BadManifest);
    assert_eq!(problem.field.as_deref(), Some("work.model"));
    world.finish().await;
}

#[tokio::test]
async fn a_product_that_overflows_cancels_its_job() {
    let world = World::start().await;
    let mut submission = world.product().await;
    let Inputs::Matmul { a_panels, .. } = &mut submission.inputs else { unreachable!() };
    a_panels[0] = world.put_input(tensors::write_f32(&[("a", &[4, 7], &[f32::MAX; 28])])).await;
    let job = world.create(&submission).await;
    let volunteer = world.join(1).await;
    for _ in 0..limits::LEASES_ENDED_MAX {
        let_go(&volunteer).await;
    }
    is_cancelled(&world, job, "unit 1: the result is not finite: c").await;
    world.finish().await;
}

#[tokio::test]
async fn what_every_key_lets_go_the_coordinator_computes() {
    let world = World::start().await;
    let jobs = [world.product_job().await, world.train_job().await];
    let volunteer = world.join(1).await;
    for job in jobs {
        let held = volunteer.try_lease(1, Some(job)).await.cbor::<manyhands_protocol::wire::LeaseResponse>();
        let held = volunteer.open_manifest(held.manifests[0].0.clone());
        for at in 0..limits::LEASES_ENDED_MAX {
            if at == 0 {
                volunteer.give_back(&held).await.is(204);
                continue;
            }
            let again = volunteer.try_lease(1, Some(job)).await.cbor::<manyhands_protocol::wire::LeaseResponse>();
            let again = volunteer.open_manifest(again.manifests[0].0.clone());
            assert_eq!(again.manifest.unit, held.manifest.unit);
            volunteer.give_back(&again).await.is(204);
        }
        let view = world.follow(job, |view| view.units_settled == 1).await;
        assert_eq!((view.units_refereed, view.results_accepted, view.state), (1, 0, JobState::Running));
    }
    world.finish().await;
}
