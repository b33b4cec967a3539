//! The operator's calls: who may make them, and what a submission must be.

use manyhands_protocol::manifest::{Inputs, JobWork, Submission};
use manyhands_protocol::problem::Code;
use manyhands_protocol::view::{JobState, JobView, JobsView};
use manyhands_protocol::{BlobHash, limits};
use reqwest::{Method, header};

use crate::client::{Answer, Volunteer};
use crate::world::World;

#[tokio::test]
async fn only_the_operators_token_opens_the_operators_calls() {
    let world = World::start().await;
    let mut volunteer = world.join(1).await;
    let calls = [
        (Method::GET, "/jobs"),
        (Method::GET, "/jobs/1"),
        (Method::POST, "/jobs"),
        (Method::POST, "/jobs/1/approve"),
        (Method::POST, "/stop"),
        (Method::POST, "/resume"),
        (Method::GET, "/jobs/1/export"),
        (Method::PUT, "/blobs/00"),
    ];
    for token in [volunteer.token.clone(), "0".repeat(64), String::new()] {
        volunteer.token = token;
        for (method, path) in &calls {
            Answer::of(volunteer.call(method.clone(), &format!("/v1/admin{path}"))).await.refused(Code::NoAdmin);
        }
    }
    assert!(!volunteer.info().await.stopped);
    world.finish().await;
}

#[tokio::test]
async fn states_follow_the_operators_orders() {
    let world = World::start().await;
    let answer = world.try_create(&world.product().await).await;
    answer.is(201);
    let view: JobView = answer.json();
    assert_eq!((view.state, view.units_total), (JobState::Submitted, 4));
    let order = async |action: &str| world.order(&format!("/jobs/{}/{action}", view.id)).await;
    order("pause").await.refused(Code::WrongJobState);
    order("resume").await.refused(Code::WrongJobState);
    assert!(world.join(1).await.lease(1).await.is_empty(), "not approved");
    for (action, state) in [
        ("approve", JobState::Running),
        ("pause", JobState::Paused),
        ("resume", JobState::Running),
        ("cancel", JobState::Cancelled),
    ] {
        assert_eq!(order(action).await.json::<JobView>().state, state);
        order(action).await.refused(Code::WrongJobState);
    }
    order("approve").await.refused(Code::WrongJobState);
    order("explode").await.refused(Code::NotFound);
    world.order("/jobs/99/approve").await.refused(Code::UnknownJob);
    world.order("/jobs/x/approve").await.refused(Code::BadRequest);
    Answer::of(world.operator(Method::GET, "/jobs/99/export")).await.refused(Code::UnknownJob);
    let all: JobsView = Answer::of(world.operator(Method::GET, "/jobs")).await.json();
    assert_eq!(all.jobs.len(), 1);
    world.finish().await;
}

#[tokio::test]
async fn what_was_never_approved_stays_unknown_to_everyone_else() {
    let world = World::start().await;
    let id = world.try_create(&world.product().await).await.json::<JobView>().id;
    let mut volunteer = world.join(1).await;
    let hidden = async |volunteer: &mut Volunteer| {
        volunteer.get(&format!("/v1/jobs/{id}")).await.refused(Code::UnknownJob);
        volunteer.get(&format!("/v1/jobs/{id}/events")).await.refused(Code::UnknownJob);
        volunteer.try_lease(1, Some(id)).await.refused(Code::UnknownJob);
        let consent = manyhands_protocol::statement::Consent { job: Some(id), ..volunteer.consent().await };
        volunteer.try_open(&consent).await.refused(Code::UnknownJob);
    };
    hidden(&mut volunteer).await;
    world.order(&format!("/jobs/{id}/cancel")).await.is(200);
    hidden(&mut volunteer).await;
    assert_eq!(world.view(id).await.state, JobState::Cancelled);
    // An approved one stays known when it is cancelled.
    let known = world.product_job().await;
    world.order(&format!("/jobs/{known}/cancel")).await.is(200);
    volunteer.get(&format!("/v1/jobs/{known}")).await.is(200);
    world.finish().await;
}

#[tokio::test]
async fn submissions_name_the_field_at_fault() {
    let world = World::start().await;
    let good = world.train(0.9).await;
    let check = async |code: Code, field: &str, change: &dyn Fn(&mut Submission)| {
        let mut submission = good.clone();
        change(&mut submission);
        let problem = world.try_create(&submission).await.refused(code);
        assert_eq!(problem.field.as_deref(), Some(field), "{problem:?}");
    };
    let bad = Code::BadManifest;
    fn recipe(submission: &mut Submission) -> &mut manyhands_protocol::manifest::TrainRecipe {
        match &mut submission.manifest.work {
            JobWork::Train(recipe) => recipe,
            JobWork::Matmul(_) => unreachable!(),
        }
    }
    fn inputs(submission: &mut Submission) -> (&mut Vec<BlobHash>, &mut BlobHash) {
        match &mut submission.inputs {
            Inputs::Train { shards, test } => (shards, test),
            Inputs::Matmul { .. } => unreachable!(),
        }
    }
    check(bad, "name", &|s| s.manifest.name = "No Name".to_owned()).await;
    check(bad, "work.inner_steps", &|s| recipe(s).inner_steps = 0).await;
    check(bad, "work.units_per_round", &|s| recipe(s).units_per_round = u32::MAX).await;
    check(bad, "inputs.shards", &|s| inputs(s).0.clear()).await;
    check(Code::UnknownBlob, "inputs.shards[1]", &|s| inputs(s).0[1] = BlobHash([1; 32])).await;
    check(Code::UnknownBlob, "inputs.test", &|s| *inputs(s).1 = BlobHash([1; 32])).await;
    // The held-out set has another number of rows than a shard, and a panel is no shard at all.
    check(Code::WrongTensor, "inputs.shards[0]", &|s| inputs(s).0[0] = *inputs(&mut s.clone()).1).await;
    let panel = world.put_input(manyhands::tensors::write_f32(&[("a", &[1, 1], &[1.0])])).await;
    check(Code::WrongTensor, "inputs.test", &|s| *inputs(s).1 = panel).await;
    let junk = world.put_input(b"junk".to_vec()).await;
    check(Code::BadTensorFile, "inputs.test", &|s| *inputs(s).1 = junk).await;
    world.try_create(&good).await.is(201);
    world.finish().await;
}

#[tokio::test]
async fn absurd_models_and_bodies_are_refused() {
    let world = World::start().await;
    let good = serde_json::to_string(&world.train(0.9).await).unwrap();
    let post = async |body: String| {
        let request = world.operator(Method::POST, "/jobs").header(header::CONTENT_TYPE, "application/json");
        Answer::of(request.body(body)).await
    };
    let check = async |from: &str, to: &str, field: &str| {
        assert!(good.contains(from), "{from} is not in {good}");
        let problem = post(good.replacen(from, to, 1)).await.refused(Code::BadManifest);
        let named = problem.field.unwrap();
        assert!(named.contains(field), "{named} for {to}");
    };
    check("\"outputs\":5", "\"outputs\":0", "layers[0].outputs").await;
    check("\"outputs\":5", "\"outputs\":4294967295", "layers[0]").await;
    check("\"outputs\":5", "\"outputs\":16777216", "layers[0]").await;
    check("\"outputs\":5", "\"outputs\":-5", "work").await;
    check("\"shape\":[6]", "\"shape\":[0]", "input.shape").await;
    check("\"shape\":[6]", "\"shape\":[4294967295,4294967295]", "input.shape").await;
    check("\"rows_per_shard\":16", "\"rows_per_shard\":4294967292", "rows_per_shard").await;
    check("\"seed\"", "\"sede\"", "").await;
    check("\"version\":1", "\"version\":2", "version").await;
    post("{".to_owned()).await.refused(Code::BadJson);
    post(format!("{good}x")).await.refused(Code::BadJson);
    post(" ".repeat(limits::JSON_BODY_BYTES_MAX + 1)).await.refused(Code::BodyTooLarge);
    let untyped = Answer::of(world.operator(Method::POST, "/jobs").body(good.clone())).await;
    untyped.refused(Code::WrongContentType);
    // Nothing of all that was stored.
    let volunteer = Volunteer::new(&world.url(), 1).await;
    assert!(volunteer.get("/v1/jobs").await.json::<JobsView>().jobs.is_empty());
    world.finish().await;
}

#[tokio::test]
async fn panels_must_be_the_products() {
    let world = World::start().await;
    let good = world.product().await;
    type Change<'a> = &'a dyn Fn(&mut u64, &mut Vec<BlobHash>, &mut Vec<BlobHash>);
    let check = async |code: Code, field: &str, change: Change<'_>| {
        let mut submission = good.clone();
        match &mut submission.inputs {
            Inputs::Matmul { m, a_panels, b_panels, .. } => change(m, a_panels, b_panels),
            Inputs::Train { .. } => unreachable!(),
        }
        let problem = world.try_create(&submission).await.refused(code);
        assert_eq!(problem.field.as_deref(), Some(field), "{problem:?}");
    };
    check(Code::BadManifest, "inputs.a_panels", &|_, a, _| a.truncate(1)).await;
    check(Code::WrongTensor, "inputs.a_panels[0]", &|_, a, _| a.reverse()).await;
    check(Code::WrongTensor, "inputs.b_panels[0]", &|_, a, b| b[0] = a[0]).await;
    check(Code::WrongTensor, "inputs.a_panels[1]", &|m, _, _| *m = 6).await;
    check(Code::BadManifest, "inputs.m", &|m, _, _| *m = 0).await;
    world.finish().await;
}
