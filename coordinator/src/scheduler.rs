//! What a job's units are: how inputs become blocks and rounds, what a unit may upload, what it is worth. Pure.
//!
//! Who gets a unit and when it is settled is decided in `manyhands_protocol::rules`.

use manyhands::engine::states::Layout;
use manyhands_protocol::BlobHash;
use manyhands_protocol::limits;
use manyhands_protocol::manifest::{Inputs, JobWork, Submission, TrainRecipe, panel_extent};
use manyhands_protocol::model::{InputType, Model, Parameter};
use manyhands_protocol::rules;
use manyhands_protocol::rules::challenge::{Fits, Form};
use manyhands_protocol::work::{MatmulWork, TrainWork, Work};

use crate::store::NewUnit;
use crate::verify::freivalds::ProductShape;
use crate::verify::input::panel_len;
use crate::verify::product;
use crate::verify::step::cost;

/// Different keys whose results a gradient unit is compared between.
const TRAIN_QUORUM: u32 = 2;
/// What a value takes in every output.
const F32_BYTES: u64 = 4;
/// Room for a tensor file's header beside its values.
const HEADER_BYTES: u64 = limits::SAFETENSORS_HEADER_BYTES_MAX as u64;

/// All units of a `matmul` job, blocks in row-major order; none for another kind.
pub fn product_units(submission: &Submission) -> Vec<NewUnit> {
    let (JobWork::Matmul(recipe), Inputs::Matmul { m, k, n, a_panels, b_panels }) =
        (&submission.manifest.work, &submission.inputs)
    else {
        return Vec::new();
    };
    let block = panel_extent(recipe.block, *k);
    let mut units = Vec::with_capacity(a_panels.len() * b_panels.len());
    for (i, &a) in a_panels.iter().enumerate() {
        for (j, &b) in b_panels.iter().enumerate() {
            let (m, n) = (panel_len(*m, block, i) as u32, panel_len(*n, block, j) as u32);
            units.push(unit(Work::Matmul(MatmulWork { a, b, m, k: *k as u32, n, dtype: recipe.dtype }), 1));
        }
    }
    units
}

/// The units of one round of a `train` job, all from `checkpoint`. Over the rounds they visit every shard in turn, and
/// each visit of a shard goes on where the last one stopped.
pub fn round_units(recipe: &TrainRecipe, shards: &[BlobHash], checkpoint: BlobHash, round: u32) -> Vec<NewUnit> {
    let rows_per_visit = u64::from(recipe.inner_steps) * u64::from(recipe.batch);
    (0..recipe.units_per_round)
        .map(|i| {
            let turn = u64::from(round) * u64::from(recipe.units_per_round) + u64::from(i);
            let (visits, shard) = (turn / shards.len() as u64, (turn % shards.len() as u64) as usize);
            // Rows of a shard are a multiple of the batch, and so is what a visit uses.
            let first_row = (visits % u64::from(recipe.rows_per_shard)) * rows_per_visit % u64::from(recipe.rows_per_shard);
            let work = TrainWork {
                model: recipe.model.clone(),
                checkpoint,
                shard: shards[shard],
                round,
                first_row: first_row as u32,
                batch: recipe.batch,
                inner_steps: recipe.inner_steps,
                optimizer: recipe.inner_optimizer.clone(),
            };
            let mut unit = unit(Work::Train(work), TRAIN_QUORUM);
            unit.blob_bytes = unit.blob_bytes.max(shard_bytes(&recipe.model, recipe.rows_per_shard));
            unit
        })
        .collect()
}

/// What a session of a train job leases first: one small product, settled by algebra.
pub fn opening_unit(work: MatmulWork) -> NewUnit {
    unit(Work::Matmul(work), 1)
}

fn unit(work: Work, min_quorum: u32) -> NewUnit {
    let inputs = match &work {
        Work::Matmul(w) => {
            let (m, k, n) = (u64::from(w.m), u64::from(w.k), u64::from(w.n));
            values_bytes((m * k).max(k * n), w.dtype.bytes())
        }
        Work::Train(_) => 0,
    };
    NewUnit {
        blob_bytes: inputs.max(upload_bytes_max(&work)),
        flop: flop(&work),
        check_flop: check_flop(&work),
        work,
        min_quorum,
    }
}

fn values_bytes(values: u64, each: u64) -> u64 {
    values.saturating_mul(each).saturating_add(HEADER_BYTES).min(limits::BLOB_BYTES_MAX)
}

fn shard_bytes(model: &Model, rows: u32) -> u64 {
    let value_bytes = match model.input.dtype {
        InputType::U8 => 1,
        InputType::F32 => 4,
    };
    let example_bytes = u64::from(model.input_values().unwrap_or(u32::MAX)) * value_bytes + u64::from(model.labels_count());
    (u64::from(rows) * example_bytes).saturating_add(HEADER_BYTES).min(limits::BLOB_BYTES_MAX)
}

fn parameters_count(model: &Model) -> u64 {
    model.parameters().map_or(0, |parameters| parameters.iter().map(|p: &Parameter| p.values_count() as u64).sum())
}

/// Most bytes of outputs that a lease on this work may upload: its output tensors and a header.
pub fn upload_bytes_max(work: &Work) -> u64 {
    match work {
        Work::Matmul(w) => values_bytes(u64::from(w.m) * u64::from(w.n), F32_BYTES),
        Work::Train(w) => values_bytes(parameters_count(&w.model), F32_BYTES),
    }
}

/// The estimated share of a unit's time that committing to one training state takes; none of a product's.
pub fn commit_share(work: &Work) -> f64 {
    let Work::Train(train) = work else { return 0.0 };
    Layout::of(train).map_or(f64::INFINITY, |layout| rules::challenge::commit_share(layout.state_bytes(), flop(work)))
}

/// Steps between the training states that a result may commit to; none of a product.
pub fn states_every(work: &Work) -> Option<u32> {
    let Work::Train(train) = work else { return None };
    let layout = Layout::of(train).ok()?;
    Some(rules::challenge::states_every(layout.state_bytes(), flop(work), train.inner_steps))
}

/// How results of this work are challenged; none where what would be shown is too large. `steps_wanted` is the operator's.
pub fn challenge_form(work: &Work, steps_wanted: bool) -> Option<Form> {
    let Work::Train(train) = work else { return None };
    let layout = Layout::of(train).ok()?;
    let fits =
        |bytes, tensors_count| bytes + HEADER_BYTES <= limits::REVEAL_BYTES_MAX && tensors_count <= limits::TENSORS_PER_FILE_MAX;
    let ends = fits(layout.ends_bytes(), layout.ends_tensors_count());
    let step = fits(layout.step_bytes(), layout.step_tensors_count());
    rules::challenge::form(states_every(work)?, train.inner_steps, Fits { ends, step }, steps_wanted)
}

/// Most bytes of the file that a challenge of this form asks for.
pub fn shown_bytes(work: &Work, form: Form) -> u64 {
    let Work::Train(work) = work else { return 0 };
    let bytes = |layout: Layout| match form {
        Form::Segment => layout.ends_bytes(),
        Form::Step => layout.step_bytes(),
    };
    Layout::of(work).map_or(0, |layout| bytes(layout).saturating_add(HEADER_BYTES))
}

/// Floating-point operations of checking what a challenge of this form shows: the steps of a segment, or the check of one.
pub fn challenge_flop(work: &Work, form: Form, steps: u32) -> u64 {
    let Work::Train(train) = work else { return 0 };
    match form {
        Form::Segment => flop(work) / u64::from(train.inner_steps) * u64::from(steps),
        Form::Step => cost::cost(train).map_or(0, |cost| cost.check),
    }
}

/// Floating-point operations that a unit is worth: of its products alone, so that no kernel is worth more than another.
/// A training step takes the forward pass's once forward, and twice that backward.
pub fn flop(work: &Work) -> u64 {
    match work {
        Work::Matmul(w) => 2 * u64::from(w.m) * u64::from(w.k) * u64::from(w.n),
        Work::Train(w) => {
            let examples = u64::from(w.batch) * u64::from(w.inner_steps);
            w.model.forward_flop().saturating_mul(3).saturating_mul(examples)
        }
    }
}

/// Floating-point operations of checking one result, its comparison with another included: of a product by the cheaper of two
/// ways, of an update for three norms and two differences.
pub fn check_flop(work: &Work) -> u64 {
    match work {
        Work::Matmul(w) => product::check_flop(ProductShape { m: w.m as usize, k: w.k as usize, n: w.n as usize }),
        Work::Train(w) => 10 * parameters_count(&w.model),
    }
}

/// How many losses a result for this work reports.
pub fn losses_count(work: &Work) -> usize {
    match work {
        Work::Matmul(_) => 0,
        Work::Train(w) => w.inner_steps as usize,
    }
}

#[cfg(test)]
mod tests {
    use manyhands_protocol::manifest::{self, JobManifest};
    use manyhands_protocol::work::Dtype;

    use super::*;

    fn recipe(units_per_round: u32, inner_steps: u32) -> TrainRecipe {
        let json = format!(
            r#"{{ "version": 1, "name": "t", "title": "t", "description": "t", "owner": "t", "category": "demo", "work": {{
            "kind": "train", "model": {{ "input": {{ "shape": [3], "dtype": "u8", "scale": 1.0, "offset": 0.0 }},
            "layers": [{{ "type": "dense", "outputs": 2 }}], "loss": "softmax_cross_entropy" }},
            "inner_steps": {inner_steps}, "batch": 4, "inner_optimizer": {{ "type": "sgd", "learning_rate": 0.1, "momentum": 0.0 }},
            "outer_optimizer": {{ "type": "nesterov", "learning_rate": 0.5, "momentum": 0.5 }}, "units_per_round": {units_per_round},
            "rounds_max": 9, "target_accuracy": 0.9, "rows_per_shard": 20, "seed": 1 }} }}"#
        );
        let manifest: JobManifest = manifest::parse_json(json.as_bytes()).unwrap();
        manifest.validate().unwrap();
        match manifest.work {
            JobWork::Train(recipe) => recipe,
            JobWork::Matmul(_) => unreachable!(),
        }
    }

    #[test]
    fn rounds_visit_every_shard_and_go_on_where_they_stopped() {
        let shards = [BlobHash([1; 32]), BlobHash([2; 32]), BlobHash([3; 32])];
        let visits = |round| {
            round_units(&recipe(2, 3), &shards, BlobHash([9; 32]), round)
                .into_iter()
                .map(|unit| match unit.work {
                    Work::Train(w) => {
                        assert_eq!(Work::Train(w.clone()).validate(), Ok(()));
                        (w.shard.0[0], w.first_row)
                    }
                    Work::Matmul(_) => unreachable!(),
                })
                .collect::<Vec<_>>()
        };
        let all: Vec<_> = (0..5).flat_map(visits).collect();
        assert_eq!(all, [(1, 0), (2, 0), (3, 0), (1, 12), (2, 12), (3, 12), (1, 4), (2, 4), (3, 4), (1, 16)]);
        // Far into a job nothing overflows.
        assert!(visits(limits::ROUNDS_MAX).iter().all(|(_, row)| *row < 20));
    }

    /// In f16 an input takes half the bytes, and the output as many as before.
    #[test]
    fn units_are_as_large_as_their_element_type_says() {
        let nothing = BlobHash([0; 32]);
        let unit = |[m, k, n]: [u32; 3], dtype| {
            opening_unit(MatmulWork { a: nothing, b: nothing, m, k, n, dtype }).blob_bytes - HEADER_BYTES
        };
        let deep = [64, 4096, 64];
        assert_eq!((unit(deep, Dtype::F32), unit(deep, Dtype::F16)), (4 * 64 * 4096, 2 * 64 * 4096));
        let flat = [64, 16, 64];
        assert_eq!((unit(flat, Dtype::F32), unit(flat, Dtype::F16)), (4 * 64 * 64, 4 * 64 * 64), "the output is larger");
    }

    #[test]
    fn blocks_cover_the_product_and_are_worth_it() {
        let submission = Submission {
            manifest: manifest::parse_json(
                br#"{ "version": 1, "name": "p", "title": "p", "description": "p", "owner": "p", "category": "demo",
                "work": { "kind": "matmul", "block": 4 } }"#,
            )
            .unwrap(),
            inputs: Inputs::Matmul {
                m: 10,
                k: 7,
                n: 5,
                a_panels: vec![BlobHash([1; 32]), BlobHash([2; 32]), BlobHash([3; 32])],
                b_panels: vec![BlobHash([4; 32]), BlobHash([5; 32])],
            },
        };
        submission.validate().unwrap();
        let units = product_units(&submission);
        let blocks: Vec<_> = units
            .iter()
            .map(|u| match &u.work {
                Work::Matmul(w) => (w.a.0[0], w.b.0[0], w.m, w.n),
                Work::Train(_) => unreachable!(),
            })
            .collect();
        assert_eq!(blocks, [(1, 4, 4, 4), (1, 5, 4, 1), (2, 4, 4, 4), (2, 5, 4, 1), (3, 4, 2, 4), (3, 5, 2, 1)]);
        assert_eq!(units.iter().map(|u| u.flop).sum::<u64>(), 2 * 10 * 7 * 5);
        assert!(units.iter().all(|u| u.min_quorum == 1 && u.blob_bytes >= upload_bytes_max(&u.work)));
    }
}
