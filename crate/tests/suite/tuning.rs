//! The tuner on a real device: it measures and chooses, keeps its markers in order, and lets no wrong kernel win. Used by
//! the GPU programs alone.
#![allow(dead_code)]

use std::cell::RefCell;
use std::sync::Arc;

use manyhands::control::{Control, Pace, PaceFuture};
use manyhands::engine::{Engine, EngineError, GpuOptions, init_parameters};
use manyhands::plan::Sharing;
use manyhands::tuner::sharing::Sharings;
use manyhands::tuner::{AdapterClass, Budget, Kept, Measured, Task, Tuner, tasks, variant_named};
use manyhands_protocol::work::{TrainWork, Work};
use manyhands_shaders::KERNELS;
use manyhands_shaders::compare::relative_distance;
use manyhands_shaders::matmul::Variant;

/// Time enough for any machine.
const LONG_MS: f64 = 1e6;

struct Clock;

impl Pace for Clock {
    fn now_ms(&self) -> f64 {
        super::now_ms()
    }

    fn breathe(&self) -> PaceFuture {
        Box::pin(std::future::ready(()))
    }
}

/// In wasm only a worker's own pace has a clock.
pub fn clock() -> Control {
    Control::with_pace(Clock)
}

fn work() -> (TrainWork, Vec<Task>) {
    let work = super::work(super::model(&[64]), 32, 6);
    let tasks = tasks(&Work::Train(work.clone())).unwrap();
    (work, tasks)
}

#[cfg_attr(target_arch = "wasm32", allow(clippy::arc_with_non_send_sync))]
fn shared(engine: Engine) -> Arc<Engine> {
    Arc::new(engine)
}

fn fresh(engine: &Engine) -> Tuner {
    Tuner::new(engine.tuned_adapter().expect("a GPU").class, "", "")
}

/// Kernels whose WGSL an engine compiles in place of the true one.
pub async fn replaced(name: &'static str, change: impl Fn(&str) -> String) -> Engine {
    let kernel = KERNELS.iter().find(|kernel| kernel.name == name).unwrap();
    let wgsl = change(kernel.wgsl);
    assert_ne!(wgsl, kernel.wgsl);
    Engine::gpu_with(GpuOptions { replaced_kernel: Some((name, wgsl)), ..Default::default() }).await.unwrap()
}

/// A session measures each variant of each product once, and what it chose computes the same unit. A later session with
/// the notes measures nothing.
pub async fn measures_once_and_chooses(engine: Engine, name: &str) {
    let engine = shared(engine);
    let (work, tasks) = work();
    let (parameters, shard, control) = (init_parameters(&work.model, 1), super::shard(320, 784), clock());
    let before = engine.train(&work, &parameters, &shard, &control).await.unwrap();
    let (mut tuner, kept) = (fresh(&engine), RefCell::new(Vec::new()));
    tuner.measure(&engine, &tasks, &control, &Budget::of(LONG_MS), async |k| kept.borrow_mut().push(k)).await.unwrap();
    let mut tries = 0;
    for task in &tasks {
        let usual = engine.usual_variant(task);
        for variant in fresh(&engine).untried(task, usual) {
            tries += 1;
            match tuner.notes.get(&task.against(usual), variant) {
                Some(Measured::Share(share)) => assert!(share > 0, "{} {variant:?}", task.name()),
                other => panic!("{} {variant:?}: {other:?}", task.name()),
            }
        }
        assert!(tuner.untried(task, usual).is_empty());
        super::println(&format!("{name}: {} runs on {:?}, else on {usual:?}", task.name(), tuner.winner(task, usual)));
    }
    assert!(tries > 0, "nothing to try");
    let kept = kept.into_inner();
    assert_eq!(kept.len(), 3 * tries);
    for steps in kept.chunks(3) {
        let [Kept::Marked(set), Kept::Unmarked(unset), Kept::Notes(_)] = steps else { panic!("{steps:?}") };
        assert!(!set.is_empty() && unset.is_empty(), "{steps:?}");
    }
    tuner.settle(&engine, &tasks, async |_| ()).await.unwrap();
    for task in &tasks {
        let usual = engine.usual_variant(task);
        let expected = tuner.winner(task, usual).unwrap_or(usual);
        assert_eq!(engine.chosen_variant(task), Some(expected), "{}", task.name());
    }
    let after = engine.train(&work, &parameters, &shard, &control).await.unwrap();
    let distance = relative_distance(&after.delta, &before.delta).expect("updates");
    assert!(distance < 1e-5, "{distance}");

    let mut later = Tuner::new(engine.tuned_adapter().unwrap().class, "", &tuner.notes.text());
    let again = async |k| panic!("tried again: {k:?}");
    later.measure(&engine, &tasks, &control, &Budget::of(LONG_MS), again).await.unwrap();
    assert_eq!(later.notes, tuner.notes);
}

/// Where the usual variant is slow, another one wins.
pub async fn the_faster_one_wins(engine: Engine) {
    let (_, tasks) = work();
    let usual_variant = engine.usual_variant(&tasks[0]);
    let usual = usual_variant.kernel();
    let engine = shared(replaced(usual.name, slow).await);
    let mut tuner = fresh(&engine);
    tuner.measure(&engine, &tasks[..1], &clock(), &Budget::of(LONG_MS), async |_| ()).await.unwrap();
    let winner = tuner.winner(&tasks[0], usual_variant).expect("a winner").name();
    assert_ne!(winner, usual.name);
    tuner.settle(&engine, &tasks[..1], async |_| ()).await.unwrap();
    assert_eq!(engine.chosen_variant(&tasks[0]).map(Variant::name), Some(winner));
}

/// A kernel that reads A for a long time before it begins.
fn slow(wgsl: &str) -> String {
    let part = if wgsl.contains("a: array<vec") { ".x" } else { "" };
    let wait = format!("for (var i = 0u; i < 40000u; i++) {{ if (a[i % 97u]{part} > 2.0) {{ return; }} }}");
    at_main(wgsl, &wait)
}

/// A winner of earlier notes runs, a variant that would win does not where it is wrong, and a refused one neither.
pub async fn no_wrong_kernel_wins() {
    let (_, tasks) = work();
    let control = clock();
    let first = |engine: &Engine| {
        let usual = engine.usual_variant(&tasks[0]);
        let other = fresh(engine).untried(&tasks[0], usual).into_iter().next().expect("another variant");
        (usual, other)
    };
    let honest = Engine::gpu_with(GpuOptions::default()).await.unwrap();
    let (usual, other) = first(&honest);
    let notes = format!("{} {} 100\n", tasks[0].against(usual), other.name());
    let class = honest.tuned_adapter().unwrap().class;
    let honest = shared(honest);
    let kept = RefCell::new(Vec::new());
    Tuner::new(class, "", &notes).settle(&honest, &tasks[..1], async |k| kept.borrow_mut().push(k)).await.unwrap();
    assert_eq!(honest.chosen_variant(&tasks[0]), Some(other), "by the notes");
    let marker = format!("{}\n", other.name());
    assert_eq!(kept.into_inner(), [Kept::Marked(marker.clone()), Kept::Unmarked(String::new())], "a test is a try");
    // One that the device does not survive is not tested again.
    let (fragile, kept) = (shared(Engine::gpu_with(GpuOptions::default()).await.unwrap()), RefCell::new(Vec::new()));
    let losing = async |k| {
        kept.borrow_mut().push(k);
        if let Engine::Gpu(gpu) = &*fragile {
            gpu.destroy();
        }
    };
    let got = Tuner::new(class, "", &notes).settle(&fragile, &tasks[..1], losing).await;
    assert!(matches!(got, Err(EngineError::DeviceLost(_))), "{got:?}");
    assert_eq!(kept.into_inner(), [Kept::Marked(marker.clone())]);
    let untouched = async |k| panic!("tested again: {k:?}");
    let next = shared(Engine::gpu_with(GpuOptions::default()).await.unwrap());
    Tuner::new(class, &marker, &notes).settle(&next, &tasks[..1], untouched).await.unwrap();
    assert_eq!(next.chosen_variant(&tasks[0]), Some(usual));

    let changes: [&dyn Fn(&str) -> String; 2] = [&empty, &|_| "nonsense".to_owned()];
    for change in changes {
        let engine = shared(replaced(other.kernel().name, change).await);
        let mut tuner = fresh(&engine);
        tuner.measure(&engine, &tasks, &control, &Budget::of(LONG_MS), async |_| ()).await.unwrap();
        assert_eq!(tuner.notes.get(&tasks[0].against(usual), other), Some(Measured::Wrong));
        assert!(tasks.iter().all(|task| tuner.winner(task, engine.usual_variant(task)) != Some(other)), "{}", tuner.notes.text());
        tuner.settle(&engine, &tasks, async |_| ()).await.unwrap();
        assert_eq!(engine.chosen_variant(&tasks[0]), Some(tuner.winner(&tasks[0], usual).unwrap_or(usual)));
        // Not by old notes either: the kernel is tested before it runs.
        let mut tuner = Tuner::new(class, "", &notes);
        tuner.settle(&engine, &tasks[..1], async |_| ()).await.unwrap();
        assert_eq!(engine.chosen_variant(&tasks[0]), Some(usual));
    }
}

/// A kernel that is fast because it ends at once.
fn empty(wgsl: &str) -> String {
    at_main(wgsl, "if (params.m > 0u) { return; }")
}

/// A kernel that begins with these statements.
pub fn at_main(wgsl: &str, statements: &str) -> String {
    let main = wgsl.find("fn main(").expect("an entry point");
    let body = main + wgsl[main..].find(") {").expect("its body") + 3;
    format!("{} {statements} {}", &wgsl[..body], &wgsl[body..])
}

/// A session's time ends the measuring; Stop does at once, and what a lost device was trying stays marked.
pub async fn ends_in_time(engine: Engine) {
    let engine = shared(engine);
    let (_, tasks) = work();
    let mut tuner = fresh(&engine);
    let never = async |k| panic!("tried: {k:?}");
    tuner.measure(&engine, &tasks, &clock(), &Budget::of(0.0), never).await.unwrap();

    let control = clock();
    let stop = control.clone();
    let kept = RefCell::new(Vec::new());
    let stopping = async |k| {
        kept.borrow_mut().push(k);
        stop.stop();
    };
    let got = tuner.measure(&engine, &tasks, &control, &Budget::of(LONG_MS), stopping).await;
    assert_eq!(got, Err(EngineError::Stopped));
    assert_eq!(kept.borrow().len(), 3, "the try under way ended: {kept:?}");
    assert!(tuner.markers().is_empty());

    let kept = RefCell::new(Vec::new());
    let losing = async |k| {
        kept.borrow_mut().push(k);
        if let Engine::Gpu(gpu) = &*engine {
            gpu.destroy();
        }
    };
    let got = fresh(&engine).measure(&engine, &tasks, &clock(), &Budget::of(LONG_MS), losing).await;
    assert!(matches!(got, Err(EngineError::DeviceLost(_))), "{got:?}");
    let kept = kept.into_inner();
    let [Kept::Marked(marked)] = kept.as_slice() else { panic!("{kept:?}") };
    let survivor = Tuner::new(AdapterClass::Device, marked, "");
    let lost = variant_named(marked.trim_end()).expect("one marker");
    assert!(tasks.iter().any(|task| fresh(&engine).untried(task, Variant::Naive).contains(&lost)));
    assert!(tasks.iter().all(|task| !survivor.untried(task, Variant::Naive).contains(&lost)));
}

/// A unit whose attention shares its work as the device does, or by itself.
fn text_work() -> TrainWork {
    TrainWork { optimizer: super::models::SGD, ..super::work(super::models::text(16, 2), 8, 2) }
}

/// A session measures each way to share a step's work once and settles one of them; a later one with its notes measures nothing.
pub async fn sharing_is_measured_once(engine: Engine, name: &str) {
    let engine = shared(engine);
    let (work, control, budget) = (text_work(), clock(), Budget::of(LONG_MS));
    let ways = engine.offered_sharings();
    let [usual, other] = ways.as_slice() else { panic!("{ways:?}") };
    let (mut sharings, kept) = (Sharings::default(), RefCell::new(Vec::new()));
    sharings.settle(&engine, &work, &control, &budget, async |k| kept.borrow_mut().push(k)).await.unwrap();
    super::println(&format!("{name}, {usual:?} as usual: {}", sharings.shares.text()));
    assert_eq!(sharings.shares.text().lines().count(), 1);
    let kept = kept.into_inner();
    let [Kept::Marked(set), Kept::Unmarked(unset), ..] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!((set.as_str(), unset.as_str()), (format!("{}\n", other.name()).as_str(), ""));

    let mut later = Sharings::new("", &sharings.shares.text());
    let noted = async |k| assert!(!matches!(k, Kept::Notes(_)), "measured again: {k:?}");
    later.settle(&engine, &work, &control, &budget, noted).await.unwrap();
    assert_eq!(later.shares, sharings.shares);
}

/// A way that notes say is faster is settled, for this work alone, and computes the same unit; a result's kernels say which it
/// was, and who pins them works as it did.
pub async fn a_faster_sharing_is_settled(open: impl AsyncFn(GpuOptions) -> Engine) {
    let engine = shared(open(GpuOptions::default()).await);
    let (work, control) = (text_work(), clock());
    let (parameters, shard) = (init_parameters(&work.model, 1), super::models::examples(&work.model, 16));
    let as_usual = engine.train(&work, &parameters, &shard, &control).await.unwrap();
    let usual = engine.kernels(&Work::Train(work.clone())).unwrap().expect("kernels");
    let (notes, other) = faster(&engine, &work);

    let settle = async |engine: &Arc<Engine>, markers: &str, keep: &mut dyn FnMut(Kept)| {
        let mut sharings = Sharings::new(markers, &notes);
        // By the notes: no time to measure.
        let settled = sharings.settle(engine, &work, &control, &Budget::of(0.0), async |k| keep(k)).await;
        settled.map(|()| sharings)
    };
    settle(&engine, "", &mut |_| ()).await.unwrap();
    let kernels = engine.kernels(&Work::Train(work.clone())).unwrap().expect("kernels");
    assert_ne!(kernels.version, usual.version);
    let otherwise = engine.train(&work, &parameters, &shard, &control).await.unwrap();
    let distance = relative_distance(&otherwise.delta, &as_usual.delta).expect("updates");
    assert!(distance > 0.0 && distance < 1e-4, "other kernels, the same update: {distance}");
    // Another work is not this one's business.
    let images = TrainWork { batch: 4, ..super::work(super::models::images(), 4, 1) };
    Sharings::default().settle(&engine, &images, &control, &Budget::of(0.0), async |_| ()).await.unwrap();
    assert_eq!(engine.kernels_version(), usual.version);
    assert!(engine.share_as_settled(&manyhands::tuner::step::name(&work).unwrap()));
    assert_eq!(engine.kernels_version(), kernels.version);
    for pinned in [&usual, &kernels, &usual] {
        engine.pin(pinned).unwrap();
        let again = engine.train(&work, &parameters, &shard, &control).await.unwrap();
        assert!(again.delta == if *pinned == usual { &as_usual } else { &otherwise }.delta, "other bits");
    }

    // One that did not come back is not run.
    let next = shared(open(GpuOptions::default()).await);
    let marker = format!("{}\n", other.name());
    settle(&next, &marker, &mut |k| panic!("tried again: {k:?}")).await.unwrap();
    assert_eq!(next.kernels_version(), usual.version);
    // Nor one that loses the device, which leaves its marker.
    let (fragile, mut kept) = (shared(open(GpuOptions::default()).await), Vec::new());
    let losing = &mut |k| {
        kept.push(k);
        if let Engine::Gpu(gpu) = &*fragile {
            gpu.destroy();
        }
    };
    let got = settle(&fragile, "", losing).await;
    assert!(matches!(got, Err(EngineError::DeviceLost(_))), "{got:?}");
    assert_eq!(kept, [Kept::Marked(marker)]);
    // Nor one whose kernels are wrong, whatever the notes say, nor with another work from then on.
    let replaced_kernel = |name: &'static str| {
        let kernel = KERNELS.iter().find(|kernel| kernel.name == name).unwrap();
        Some((name, at_main(kernel.wgsl, "if (params.time > 0u) { return; }")))
    };
    let wrong = match other {
        Sharing::Nothing => "attention_forward",
        Sharing::Quads => "attention_forward_quad",
        Sharing::Workgroups => "attention_forward_parted",
    };
    let lying = shared(open(GpuOptions { replaced_kernel: replaced_kernel(wrong), ..GpuOptions::default() }).await);
    let sharings = settle(&lying, "", &mut |_| ()).await.unwrap();
    assert_eq!(lying.kernels_version(), usual.version);
    let notes = sharings.shares.text();
    let marked = format!("{}\n", other.name());
    let not_again = async |k| assert_ne!(k, Kept::Marked(marked.clone()), "tried with another work");
    Sharings::new("", &notes).settle(&lying, &images, &control, &Budget::of(LONG_MS), not_again).await.unwrap();
}

/// Notes in which another way than the usual one is the faster, and that way.
fn faster(engine: &Engine, work: &TrainWork) -> (String, Sharing) {
    let ways = engine.offered_sharings();
    let name = manyhands::tuner::step::name(work).unwrap();
    (format!("{} against {}: {name} 100\n", ways[1].name(), ways[0].name()), ways[1])
}
