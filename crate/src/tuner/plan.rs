//! Which products a unit has, which variants are left to try for them, and which wins. Pure.

use manyhands_protocol::work::{Dtype, Work};
use manyhands_shaders::matmul::{Epilogue, Shape, Transposed, Variant};

use super::notes::{Measured, Notes};
use super::{AdapterClass, is_offered};
use crate::engine::EngineError;
use crate::plan::{Op, TrainPlan};

/// A variant wins by at least this much, in thousandths of the usual one's time: less is noise.
pub(super) const WIN_SHARE_MAX: u32 = 970;

/// A product of a unit, with the epilogues that follow it.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub shape: Shape,
    pub transposed: Transposed,
    /// How A and B are stored.
    pub dtype: Dtype,
    pub epilogues: Vec<Epilogue>,
}

impl Task {
    /// `A · B` and nothing more, as units of products have it.
    pub fn plain(shape: Shape, dtype: Dtype) -> Task {
        Task { shape, transposed: Transposed::default(), dtype, epilogues: vec![Epilogue::None] }
    }

    /// Whether a variant computes the product: operands in f16 may be widened for it, none are rounded.
    pub fn may_run(&self, variant: Variant) -> bool {
        variant.takes(self.shape, self.transposed) && (self.dtype == Dtype::F16 || !variant.reads_f16())
    }

    /// The product's name: extents, then `n` or `t` for A and for B, and the operands' type where it is not f32.
    pub fn name(&self) -> String {
        let Shape { m, k, n } = self.shape;
        let letter = |transposed| if transposed { 't' } else { 'n' };
        let dtype = if self.dtype == Dtype::F16 { " f16" } else { "" };
        format!("{m}x{k}x{n} {}{}{dtype}", letter(self.transposed.a), letter(self.transposed.b))
    }

    /// The name in notes, where times are shares of the usual variant's.
    pub fn against(&self, usual: Variant) -> String {
        format!("{} {}", self.name(), usual.name())
    }
}

/// The different products of a unit, those first that take the most operations.
pub fn tasks(work: &Work) -> Result<Vec<Task>, EngineError> {
    let ops = match work {
        Work::Matmul(w) => {
            return Ok(vec![Task::plain(Shape { m: w.m, k: w.k, n: w.n }, w.dtype)]);
        }
        Work::Train(w) => TrainPlan::compile(w)?.program.ops,
    };
    let mut found: Vec<(u64, Task)> = Vec::new();
    for op in &ops {
        let Op::Matmul(product) = op else { continue };
        let known = found.iter_mut().find(|(_, t)| t.shape == product.shape && t.transposed == product.transposed);
        match known {
            Some((flop, task)) => {
                *flop = flop.saturating_add(op.flop());
                if !task.epilogues.contains(&product.epilogue) {
                    task.epilogues.push(product.epilogue);
                }
            }
            None => {
                let (shape, transposed, epilogues) = (product.shape, product.transposed, vec![product.epilogue]);
                found.push((op.flop(), Task { shape, transposed, dtype: Dtype::F32, epilogues }));
            }
        }
    }
    found.sort_by_key(|(flop, _)| std::cmp::Reverse(*flop));
    Ok(found.into_iter().map(|(_, task)| task).collect())
}

/// What is known of one adapter, under one browser and one text of the kernels.
#[derive(Debug, Clone)]
pub struct Tuner {
    class: AdapterClass,
    pub notes: Notes,
    /// Variants whose try did not come back: their markers.
    lost: Vec<Variant>,
}

impl Tuner {
    /// `markers` are the names of kernels whose try did not come back.
    pub fn new(class: AdapterClass, markers: &str, notes: &str) -> Tuner {
        Tuner { class, notes: Notes::parse(notes), lost: markers.lines().filter_map(super::variant_named).collect() }
    }

    /// The markers that are set.
    pub fn markers(&self) -> String {
        self.lost.iter().map(|variant| format!("{}\n", variant.name())).collect()
    }

    /// Sets the marker of a variant about to be tried.
    pub fn mark(&mut self, variant: Variant) {
        if !self.lost.contains(&variant) {
            self.lost.push(variant);
        }
    }

    /// Takes the marker away of a variant whose try came back.
    pub fn unmark(&mut self, variant: Variant) {
        self.lost.retain(|lost| *lost != variant);
    }

    /// Variants of a product to try against its usual one, those first that read its operands as they are stored.
    pub fn untried(&self, task: &Task, usual: Variant) -> Vec<Variant> {
        let name = task.against(usual);
        let mut untried: Vec<Variant> = Variant::ALL
            .into_iter()
            .filter(|&v| v != usual && is_offered(v, self.class) && task.may_run(v))
            .filter(|v| !self.lost.contains(v) && !self.notes.is_wrong(*v) && self.notes.get(&name, *v).is_none())
            .collect();
        untried.sort_by_key(|variant| !variant.reads_f16());
        untried
    }

    /// The variant that beat the usual one, if any did.
    pub fn winner(&self, task: &Task, usual: Variant) -> Option<Variant> {
        let name = task.against(usual);
        let share = |variant| match self.notes.get(&name, variant) {
            Some(Measured::Share(share)) if share <= WIN_SHARE_MAX => Some(share),
            _ => None,
        };
        // The notes may be older than a marker, or written by others.
        let may =
            |v: &Variant| is_offered(*v, self.class) && task.may_run(*v) && !self.lost.contains(v) && !self.notes.is_wrong(*v);
        let best = Variant::ALL.into_iter().filter(may).filter_map(|v| share(v).map(|share| (share, v)));
        best.min_by_key(|(share, _)| *share).map(|(_, v)| v)
    }
}

#[cfg(test)]
mod tests {
    use manyhands_protocol::ids::BlobHash;
    use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
    use manyhands_protocol::work::{InnerOptimizer, TrainWork};

    use super::*;

    fn task(m: u32, k: u32, n: u32) -> Task {
        Task::plain(Shape { m, k, n }, Dtype::F32)
    }

    #[test]
    fn a_training_step_has_each_product_once() {
        let nothing = BlobHash([0; 32]);
        let model = Model {
            input: Input { shape: vec![784], dtype: InputType::U8, scale: 1.0, offset: 0.0 },
            layers: vec![Layer::Dense { outputs: 128 }, Layer::Relu, Layer::Dense { outputs: 10 }],
            loss: Loss::SoftmaxCrossEntropy,
        };
        let optimizer = InnerOptimizer::Sgd { learning_rate: 0.05, momentum: 0.9, clip_norm: 0.0 };
        let work = TrainWork {
            model,
            checkpoint: nothing,
            shard: nothing,
            round: 0,
            first_row: 0,
            batch: 32,
            inner_steps: 2,
            optimizer,
        };
        let tasks = tasks(&Work::Train(work)).unwrap();
        let names: Vec<_> = tasks.iter().map(Task::name).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        assert_eq!(names[..2].iter().filter(|n| n.contains("784")).count(), 2, "the largest first: {names:?}");
        let forward = tasks.iter().find(|t| t.name() == "32x784x128 nn").unwrap();
        assert_eq!(forward.epilogues, [Epilogue::BiasRelu]);
        assert!(tasks.iter().any(|t| t.transposed.a) && tasks.iter().any(|t| t.transposed.b));
    }

    #[test]
    fn each_variant_is_tried_once_and_the_fastest_wins() {
        let mut tuner = Tuner::new(AdapterClass::Fallback, "", "");
        let task = task(64, 128, 64);
        let others = |usual: Variant| {
            let offered = Variant::ALL.into_iter().filter(|&v| is_offered(v, AdapterClass::Fallback) && !v.reads_f16());
            offered.filter(|&v| v != usual).collect::<Vec<_>>()
        };
        for usual in [Variant::Blocked, Variant::BlockedVec4] {
            assert_eq!(tuner.untried(&task, usual), others(usual));
        }
        assert_eq!(tuner.winner(&task, Variant::Blocked), None);
        tuner.notes.add(&task.against(Variant::Blocked), Variant::BlockedVec4, Measured::Share(980));
        assert_eq!(tuner.winner(&task, Variant::Blocked), None, "within the noise");
        tuner.notes.add(&task.against(Variant::Blocked), Variant::BlockedVec4, Measured::Share(700));
        assert_eq!(tuner.winner(&task, Variant::Blocked), Some(Variant::BlockedVec4));
        assert!(!tuner.untried(&task, Variant::Blocked).contains(&Variant::BlockedVec4));
        assert_eq!(tuner.winner(&super::tests::task(64, 128, 68), Variant::Blocked), None, "another product");
        assert_eq!(tuner.winner(&task, Variant::Naive), None, "measured against another");
    }

    #[test]
    fn a_variant_that_was_wrong_or_lost_never_wins_and_is_not_tried() {
        let (first, second) = (task(64, 128, 64), task(64, 64, 64));
        let won = format!("{} matmul_blocked_vec4 500\n", first.against(Variant::Blocked));
        let wrong = format!("{won}{} matmul_blocked_vec4 wrong\n", second.against(Variant::Blocked));
        for tuner in
            [Tuner::new(AdapterClass::Device, "", &wrong), Tuner::new(AdapterClass::Device, "matmul_blocked_vec4\n", &won)]
        {
            assert_eq!(tuner.winner(&first, Variant::Blocked), None);
            for task in [&first, &second] {
                assert!(!tuner.untried(task, Variant::Blocked).contains(&Variant::BlockedVec4));
            }
        }
        let mut tuner = Tuner::new(AdapterClass::Device, "", &won);
        assert_eq!(tuner.winner(&first, Variant::Blocked), Some(Variant::BlockedVec4));
        tuner.mark(Variant::BlockedVec4);
        assert_eq!((tuner.winner(&first, Variant::Blocked), tuner.markers().as_str()), (None, "matmul_blocked_vec4\n"));
        tuner.unmark(Variant::BlockedVec4);
        assert_eq!((tuner.winner(&first, Variant::Blocked), tuner.markers().as_str()), (Some(Variant::BlockedVec4), ""));
    }

    /// Operands in f16 may be widened for any variant; those in f32 are rounded for none, whatever the notes say.
    #[test]
    fn only_operands_in_f16_are_read_so() {
        let shape = Shape { m: 64, k: 128, n: 64 };
        let (f32s, f16s) = (Task::plain(shape, Dtype::F32), Task::plain(shape, Dtype::F16));
        assert_eq!((f32s.name().as_str(), f16s.name().as_str()), ("64x128x64 nn", "64x128x64 nn f16"));
        let usual = Variant::BlockedVec4;
        let untried = |task: &Task| Tuner::new(AdapterClass::Device, "", "").untried(task, usual);
        assert!(untried(&f32s).iter().all(|variant| !variant.reads_f16()));
        let offered = Variant::ALL.into_iter().filter(|&v| v != usual && is_offered(v, AdapterClass::Device));
        let (f16, f32): (Vec<_>, Vec<_>) = offered.partition(|variant| variant.reads_f16());
        assert_eq!(untried(&f16s), [f16, f32].concat());
        let notes = format!("{0} matmul_tiled_f16 10\n{1} matmul_tiled_f16 10\n", f32s.against(usual), f16s.against(usual));
        let tuner = Tuner::new(AdapterClass::Device, "", &notes);
        assert_eq!((tuner.winner(&f32s, usual), tuner.winner(&f16s, usual)), (None, Some(Variant::TiledF16)));
    }

    /// Notes are read from where others may write: a product that the kernel does not take is not given to it.
    #[test]
    fn notes_cannot_choose_what_does_not_fit() {
        let odd = task(63, 127, 63);
        let notes = format!("{0} matmul_blocked_vec4 10\n{0} matmul_naive 10\n", odd.against(Variant::Blocked));
        assert_eq!(Tuner::new(AdapterClass::Device, "", &notes).winner(&odd, Variant::Blocked), None);
    }
}
