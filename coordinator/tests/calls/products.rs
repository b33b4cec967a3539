//! Results of products: checked at once, credited once, and every way to lie about one.

use manyhands_coordinator::keys::blob_hash;
use manyhands_protocol::manifest::{Inputs, Submission};
use manyhands_protocol::problem::Code;
use manyhands_protocol::statement::{Kernels, Output, ResultDetails, ResultStatement};
use manyhands_protocol::view::{JobState, KeyView};
use manyhands_protocol::wire::Verdict;
use manyhands_protocol::work;
use manyhands_protocol::{BlobHash, JobId, LeaseId, UnitId, cbor, cose, limits};
use reqwest::Method;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::client::{Answer, Leased, Volunteer, details};
use crate::world::{World, matmul_work, product_file};

async fn totals(volunteer: &Volunteer) -> manyhands_protocol::wire::Totals {
    volunteer.get(&format!("/v1/keys/{}", volunteer.id())).await.json::<KeyView>().totals
}

#[tokio::test]
async fn a_job_of_honest_products_finishes_and_is_exported() {
    let world = World::start().await;
    let job = world.product_job().await;
    let volunteer = world.join(1).await;
    let export = format!("/jobs/{job}/export");
    Answer::of(world.operator(Method::GET, &export)).await.refused(Code::NothingToExport);
    let mut blocks = Vec::new();
    for (lease, (top, left)) in volunteer.lease(16).await.iter().zip([(0, 0), (0, 4), (4, 0), (4, 4)]) {
        blocks.push((top, left, volunteer.product_values(lease).await));
        let answer = volunteer.submit(lease, volunteer.product_bytes(lease).await).await;
        let work = matmul_work(lease);
        let flop = u64::from(2 * work.m * work.k * work.n);
        assert_eq!((answer.verdict, answer.reason.as_str(), answer.credit_flop), (Verdict::Accepted, "", flop));
    }
    let totals = totals(&volunteer).await;
    assert_eq!((totals.accepted, totals.rejected, totals.pending, totals.credit_flop), (4, 0, 0, 2 * 5 * 7 * 6));
    let view = world.follow(job, |view| view.state == JobState::Finished).await;
    assert_eq!((view.units_total, view.units_settled, view.results_accepted, view.contributors), (4, 4, 4, 1));
    let exported = Answer::of(world.operator(Method::GET, &export)).await;
    exported.is(200);
    let c = manyhands::tensors::read_f32(&exported.body, &[("c", &[5, 6])]).unwrap();
    for (top, left, values) in blocks {
        let columns = if left == 0 { 4 } else { 2 };
        for (at, value) in values.iter().enumerate() {
            assert_eq!(c[0][(top + at / columns) * 6 + left + at % columns], *value, "entry {at} of the block at {top}, {left}");
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn the_same_statement_again_is_the_same_verdict_and_no_more_credit() {
    let world = World::start().await;
    world.product_job().await;
    let volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    let output = volunteer.product_bytes(&lease).await;
    let first = volunteer.submit(&lease, output.clone()).await;
    let statement = volunteer.statement(&lease, &output);
    let again: manyhands_protocol::wire::ResultResponse = volunteer.try_submit(&statement).await.cbor();
    assert_eq!(first, again);
    let different = ResultStatement { losses_micro: vec![1], ..statement };
    volunteer.try_submit(&different).await.refused(Code::ResultReplayed);
    assert_eq!(totals(&volunteer).await.credit_flop, first.credit_flop);
    volunteer.try_heartbeat(&lease).await.refused(Code::LeaseEnded);
    world.finish().await;
}

/// Submits `bytes` for a fresh unit; gives the first word of the reason of the rejection.
async fn rejected(world: &World, seed: u8, lie: impl AsyncFnOnce(&Volunteer, &Leased) -> Vec<u8>) -> String {
    let volunteer = world.join(seed).await;
    let lease = volunteer.lease_one().await;
    let bytes = lie(&volunteer, &lease).await;
    let hash = blob_hash(&bytes);
    let answer = volunteer.submit(&lease, bytes).await;
    assert_eq!((answer.verdict, answer.credit_flop), (Verdict::Rejected, 0), "{answer:?}");
    assert!(answer.reason.len() <= 2 * limits::TEXT_BYTES_MAX);
    let totals = totals(&volunteer).await;
    assert_eq!((totals.accepted, totals.rejected, totals.pending, totals.credit_flop), (0, 1, 0, 0));
    volunteer.get(&format!("/v1/blobs/{hash}")).await.refused(Code::UnknownBlob);
    answer.reason.split(':').next().unwrap().to_owned()
}

#[tokio::test]
async fn wrong_products_are_rejected_and_their_unit_goes_to_another_key() {
    let world = World::start().await;
    let job = world.product_job().await;
    let change = async |seed, f: &dyn Fn(&mut Vec<f32>)| {
        rejected(&world, seed, async |volunteer, lease| {
            let mut values = volunteer.product_values(lease).await;
            f(&mut values);
            product_file(lease, &values)
        })
        .await
    };
    assert_eq!(change(1, &|c| c[3] += 1.0).await, "wrong_tensor");
    assert_eq!(change(2, &|c| c.iter_mut().for_each(|v| *v = 0.0)).await, "wrong_tensor");
    assert_eq!(change(3, &|c| c.swap(0, 1)).await, "wrong_tensor");
    assert_eq!(change(4, &|c| c[0] = f32::NAN).await, "not_finite");
    assert_eq!(change(5, &|c| c[0] = f32::INFINITY).await, "not_finite");
    assert_eq!(change(6, &|c| c[0] = 1e30).await, "wrong_tensor");
    assert_eq!(world.view(job).await.results_rejected, 6);
    // Who returned a wrong product gets nothing for a day; who returned no numbers, anything but that unit.
    world.join(1).await.try_lease(1, None).await.refused(Code::Quarantined);
    let liar = world.join(4).await;
    let first = world.join(9).await.lease_one().await.manifest.unit;
    assert!(liar.lease(16).await.iter().all(|lease| lease.manifest.unit != first));
    world.finish().await;
}

/// Operands in f16 are taken at their exact values, subnormal ones too: the right product is accepted, and lies are not, among
/// them what a device gives that flushes such values to zero.
#[tokio::test]
async fn products_of_f16_are_checked_by_their_exact_values() {
    let world = World::start().await;
    let job = world.create(&world.product_of(work::Dtype::F16).await).await;
    let reject = async |seed, f: &dyn Fn(&mut Vec<f32>)| {
        rejected(&world, seed, async |volunteer, lease| {
            assert_eq!(matmul_work(lease).dtype, work::Dtype::F16);
            let mut values = volunteer.product_values(lease).await;
            f(&mut values);
            product_file(lease, &values)
        })
        .await
    };
    assert_eq!(reject(1, &|c| c[3] += 1.0).await, "wrong_tensor");
    assert_eq!(reject(2, &|c| c[0] = f32::NAN).await, "not_finite");
    let volunteer = world.join(9).await;
    for round in 0..2 {
        for lease in &volunteer.lease(2).await {
            let answer = volunteer.submit(lease, volunteer.product_bytes(lease).await).await;
            assert_eq!((answer.verdict, answer.reason.as_str()), (Verdict::Accepted, ""));
        }
        if round == 0 {
            // Now the blocks of the last row are left, which is subnormal throughout.
            assert_eq!(reject(3, &|c| c.fill(0.0)).await, "wrong_tensor");
        }
    }
    let view = world.follow(job, |view| view.state == JobState::Finished).await;
    assert_eq!((view.results_accepted, view.results_rejected), (4, 3));
    world.finish().await;
}

/// What is not of the job's element type, or not finite, is no job.
#[tokio::test]
async fn panels_of_another_type_make_no_job() {
    let world = World::start().await;
    let (f32s, f16s) = (world.product().await, world.product_of(work::Dtype::F16).await);
    let submit = async |of: &Submission, with: &Submission| {
        let submission = Submission { manifest: of.manifest.clone(), inputs: with.inputs.clone() };
        world.try_create(&submission).await.refused(Code::WrongTensor);
    };
    submit(&f32s, &f16s).await;
    submit(&f16s, &f32s).await;
    let infinite = [0x3C00u16; 27].into_iter().chain([0x7C00]).flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let view = TensorView::new(Dtype::F16, vec![4, 7], &infinite).unwrap();
    let panel = world.put_input(safetensors::serialize([("a", view)], None).unwrap()).await;
    let mut bad = f16s.clone();
    let Inputs::Matmul { a_panels, .. } = &mut bad.inputs else { unreachable!() };
    a_panels[0] = panel;
    world.try_create(&bad).await.refused(Code::NotFinite);
    world.finish().await;
}

#[tokio::test]
async fn malformed_outputs_are_rejected() {
    let world = World::start().await;
    world.product_job().await;
    let file = async |seed, f: &dyn Fn(&Leased, Vec<f32>) -> Vec<u8>| {
        rejected(&world, seed, async |volunteer, lease| f(lease, volunteer.product_values(lease).await)).await
    };
    let tensor = |name: &str, dtype, shape: Vec<usize>, bytes: &[u8]| {
        safetensors::serialize([(name, TensorView::new(dtype, shape, bytes).unwrap())], None).unwrap()
    };
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    assert_eq!(file(1, &|_, c| tensor("c", Dtype::F32, vec![c.len()], &bytes(&c))).await, "wrong_tensor");
    assert_eq!(file(2, &|_, c| tensor("c", Dtype::F32, vec![2, c.len() / 2], &bytes(&c))).await, "wrong_tensor");
    assert_eq!(file(3, &|_, c| tensor("d", Dtype::F32, vec![4, 4], &bytes(&c))).await, "wrong_tensor");
    assert_eq!(file(4, &|_, c| tensor("c", Dtype::I32, vec![4, 4], &bytes(&c))).await, "wrong_tensor");
    assert_eq!(file(5, &|_, c| tensor("c", Dtype::F64, vec![4, 2], &bytes(&c))).await, "wrong_tensor");
    assert_eq!(file(6, &|lease, c| product_file(lease, &c)[..50].to_vec()).await, "bad_tensor_file");
    assert_eq!(file(7, &|_, _| Vec::new()).await, "bad_tensor_file");
    // A header that says there are more values than bytes, and one that is longer than the file.
    let lie = br#"{"c":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]}}"#;
    let with_header = |length: u64| [&length.to_le_bytes()[..], lie, &[0; 32]].concat();
    assert_eq!(file(8, &|_, _| with_header(lie.len() as u64)).await, "bad_tensor_file");
    assert_eq!(file(9, &|_, _| with_header(u64::MAX)).await, "bad_tensor_file");
    world.finish().await;
}

#[tokio::test]
async fn statements_that_do_not_fit_their_lease() {
    let world = World::start().await;
    let job = world.product_job().await;
    let (volunteer, other) = (world.join(1).await, world.join(2).await);
    let lease = volunteer.lease_one().await;
    let second = volunteer.lease_one().await;
    let theirs = other.lease_one().await;
    let output = volunteer.product_bytes(&lease).await;
    let good = volunteer.statement(&lease, &output);
    let submit = async |change: &dyn Fn(&mut ResultStatement)| {
        let mut statement = good.clone();
        change(&mut statement);
        volunteer.try_submit(&statement).await
    };
    submit(&|_| ()).await.refused(Code::OutputMissing);
    volunteer.upload(&lease, output.clone()).await;
    submit(&|s| s.outputs[0].bytes += 1).await.refused(Code::OutputMissing);
    submit(&|s| s.outputs[0].hash = BlobHash([1; 32])).await.refused(Code::OutputMissing);
    submit(&|s| s.outputs[0].name = "d".to_owned()).await.refused(Code::BadRequest);
    submit(&|s| s.outputs.clear()).await.refused(Code::BadRequest);
    submit(&|s| s.outputs = vec![s.outputs[0].clone(); 2]).await.refused(Code::BadRequest);
    submit(&|s| s.losses_micro = vec![1]).await.refused(Code::BadRequest);
    submit(&|s| s.details = BlobHash([1; 32])).await.refused(Code::BadRequest);
    let long = || "x".repeat(limits::TEXT_BYTES_MAX + 1);
    let kernels = Some(Kernels { version: long(), products: Vec::new() });
    for details in [ResultDetails { adapter: long(), ..details() }, ResultDetails { kernels, ..details() }] {
        let statement = ResultStatement { details: blob_hash(&cbor::encode(&details)), ..good.clone() };
        let envelope = volunteer.sign(cose::Kind::Result, cbor::encode(&statement));
        volunteer.post_with(envelope, &details).await.refused(Code::BadRequest);
    }
    submit(&|s| s.version = 2).await.refused(Code::BadRequest);
    submit(&|s| s.lease = LeaseId(99)).await.refused(Code::UnknownLease);
    submit(&|s| s.unit = UnitId(99)).await.refused(Code::UnknownUnit);
    submit(&|s| s.job = JobId(99)).await.refused(Code::UnknownJob);
    submit(&|s| s.manifest = BlobHash([1; 32])).await.refused(Code::LeaseMismatch);
    submit(&|s| s.lease = theirs.manifest.lease).await.refused(Code::NotYourLease);
    // The right output of one unit under the lease of another.
    volunteer.upload(&second, output.clone()).await;
    submit(&|s| (s.lease, s.manifest) = (second.manifest.lease, blob_hash(&second.signed))).await.refused(Code::LeaseMismatch);
    volunteer.give_back(&second).await.is(204);
    volunteer.try_submit(&volunteer.statement(&second, &output)).await.refused(Code::LeaseEnded);
    assert_eq!(volunteer.submit(&lease, output).await.verdict, Verdict::Accepted);
    assert_eq!(world.view(job).await.results_rejected, 0);
    world.finish().await;
}

#[tokio::test]
async fn envelopes_that_are_not_this_keys_result() {
    let world = World::start().await;
    world.product_job().await;
    let (volunteer, other) = (world.join(1).await, world.join(2).await);
    let lease = volunteer.lease_one().await;
    let output = volunteer.product_bytes(&lease).await;
    volunteer.upload(&lease, output.clone()).await;
    let payload = cbor::encode(&volunteer.statement(&lease, &output));
    let good = volunteer.sign(cose::Kind::Result, payload.clone());
    for cut in [0, 1, good.len() / 3, good.len() - 1] {
        volunteer.post_result(good[..cut].to_vec()).await.refused(Code::BadCbor);
    }
    volunteer.post_result([good.as_slice(), &[0]].concat()).await.refused(Code::BadCbor);
    volunteer.post_result(volunteer.sign(cose::Kind::Result, [&payload[..], &[0]].concat())).await.refused(Code::BadCbor);
    volunteer.post_result(other.sign(cose::Kind::Result, payload.clone())).await.refused(Code::WrongKey);
    volunteer.post_result(volunteer.sign(cose::Kind::Consent, payload.clone())).await.refused(Code::WrongContentType);
    // Signed by another key under this key's name, or over other bytes.
    let unsigned = cose::prepare(cose::Kind::Result, volunteer.id(), payload.clone());
    let forged = ed25519_dalek::Signer::sign(&other.key, &unsigned.to_be_signed());
    volunteer.post_result(unsigned.finish(forged.to_bytes())).await.refused(Code::BadSignature);
    let mut changed = good.clone();
    let at = good.len() - 67;
    changed[at] ^= 1;
    let answer = volunteer.post_result(changed).await;
    answer.refused(Code::BadSignature);
    let at = good.windows(2).position(|pair| pair == [0x01, 0x27]).unwrap() + 1;
    let mut es256 = good.clone();
    es256[at] = 0x26;
    volunteer.post_result(es256).await.refused(Code::WrongAlgorithm);
    // Another key that replays the statement with its own session.
    other.post_result(good.clone()).await.refused(Code::WrongKey);
    volunteer.post_result(good).await.is(200);
    world.finish().await;
}

#[tokio::test]
async fn late_results_count_while_the_unit_is_open() {
    let world = World::start().await;
    world.product_job().await;
    let (slow, quick) = (world.join(1).await, world.join(2).await);
    let leases = slow.lease(2).await;
    let outputs = [slow.product_bytes(&leases[0]).await, slow.product_bytes(&leases[1]).await];
    for (lease, output) in leases.iter().zip(&outputs) {
        slow.upload(lease, output.clone()).await;
    }
    world.clock.advance(limits::LEASE_MS);
    world.app().idle().await;
    let hash = BlobHash([1; 32]);
    slow.try_upload(&leases[0], hash, vec![1]).await.refused(Code::LeaseEnded);
    // The first unit is leased again and settled by the other key, the second stays open.
    let again = quick.lease_one().await;
    assert_eq!(again.manifest.unit, leases[0].manifest.unit);
    assert_eq!(quick.submit(&again, outputs[0].clone()).await.verdict, Verdict::Accepted);
    slow.try_submit(&slow.statement(&leases[0], &outputs[0])).await.refused(Code::UnitSettled);
    let late = slow.statement(&leases[1], &outputs[1]);
    // The driver may have come upon it first, and is still checking.
    let verdict = loop {
        match slow.try_submit(&late).await.cbor::<manyhands_protocol::wire::ResultResponse>().verdict {
            Verdict::Pending => tokio::task::yield_now().await,
            verdict => break verdict,
        }
    };
    assert_eq!(verdict, Verdict::Accepted);
    assert_eq!((totals(&slow).await.accepted, totals(&quick).await.accepted), (1, 1));
    world.finish().await;
}

#[tokio::test]
async fn one_key_has_one_result_for_a_unit_however_many_leases() {
    let world = World::start().await;
    world.product_job().await;
    let volunteer = world.join(1).await;
    let first = volunteer.lease_one().await;
    let wrong = product_file(&first, &[1.0; 16]);
    volunteer.upload(&first, wrong.clone()).await;
    world.clock.advance(limits::LEASE_MS);
    world.app().idle().await;
    let second = volunteer.lease_one().await;
    assert_eq!(first.manifest.unit, second.manifest.unit);
    assert_eq!(volunteer.submit(&second, wrong.clone()).await.verdict, Verdict::Rejected);
    volunteer.try_submit(&volunteer.statement(&first, &wrong)).await.refused(Code::ResultReplayed);
    assert_eq!(totals(&volunteer).await.rejected, 1);
    world.finish().await;
}

#[tokio::test]
async fn results_of_cancelled_jobs_are_refused_and_of_paused_ones_taken() {
    let world = World::start().await;
    let job = world.product_job().await;
    let volunteer = world.join(1).await;
    let leases = volunteer.lease(2).await;
    world.order(&format!("/jobs/{job}/pause")).await.is(200);
    let output = volunteer.product_bytes(&leases[0]).await;
    assert_eq!(volunteer.submit(&leases[0], output).await.verdict, Verdict::Accepted);
    world.order(&format!("/jobs/{job}/cancel")).await.is(200);
    let output = volunteer.product_bytes(&leases[1]).await;
    let statement = volunteer.statement(&leases[1], &output);
    volunteer.upload(&leases[1], output).await;
    volunteer.try_submit(&statement).await.refused(Code::WrongJobState);
    world.finish().await;
}

#[tokio::test]
async fn an_output_is_named_by_what_it_is() {
    let world = World::start().await;
    world.product_job().await;
    let volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    // Not the hash of the bytes.
    let output = volunteer.product_bytes(&lease).await;
    volunteer.try_upload(&lease, BlobHash([1; 32]), output.clone()).await.refused(Code::HashMismatch);
    // Uploaded by another key under its own lease.
    let other = world.join(2).await;
    let theirs = other.lease_one().await;
    other.upload(&theirs, output.clone()).await;
    let mut statement = volunteer.statement(&lease, &output);
    volunteer.try_submit(&statement).await.refused(Code::OutputMissing);
    statement.outputs = vec![Output { bytes: 0, ..statement.outputs[0].clone() }];
    volunteer.try_submit(&statement).await.refused(Code::OutputMissing);
    world.finish().await;
}
