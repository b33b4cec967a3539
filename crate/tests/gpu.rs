//! The GPU backend on whatever Vulkan adapter there is (lavapipe on a machine without a GPU). No adapter is a failure.
#![allow(clippy::unwrap_used)]
#![cfg(all(feature = "gpu", not(target_arch = "wasm32")))]

use manyhands::control::{Control, Pace, PaceFuture};
use manyhands::engine::{AdapterChoice, Engine, EngineError, GpuOptions, init_parameters, known};
use manyhands::plan::{CALL_FLOP_MAX, TrainPlan};
use manyhands::tensors::Shard;
use manyhands::tuner::{Bench, Task, tasks};
use manyhands_protocol::BlobHash;
use manyhands_protocol::model::{InputType, Layer};
use manyhands_protocol::statement::{Backend, Kernels};
use manyhands_protocol::work::{Dtype, MatmulWork, TrainWork, Work};
use manyhands_shaders::KERNELS;
use manyhands_shaders::compare::relative_distance;
use manyhands_shaders::matmul::{Epilogue, Matrices, Shape, Transposed, Variant};

mod suite;

fn open() -> Engine {
    pollster::block_on(Engine::gpu(AdapterChoice::Fastest)).expect("an adapter; on Debian: mesa-vulkan-drivers")
}

#[test]
fn gpu_agrees_with_the_reference() {
    let engine = open();
    let class = engine.device_class();
    assert_eq!(class.backend, Backend::NativeGpu);
    println!("adapter: {}", class.adapter);
    assert!(Variant::ALL.into_iter().all(|variant| engine.offers_variant(variant)), "a variant would go untested");
    pollster::block_on(suite::all(&engine, "native GPU"));
}

/// The kernels that a device without subgroups runs in the place of those that need them.
#[test]
fn a_device_without_subgroups_agrees_too() {
    let options = GpuOptions { without_subgroups: true, ..Default::default() };
    let engine = pollster::block_on(Engine::gpu_with(options)).unwrap();
    pollster::block_on(engine.self_test()).unwrap();
    pollster::block_on(suite::kernels(&engine));
}

/// The kernels that a device runs which is no program.
#[test]
fn what_devices_run_agrees_too() {
    let options = GpuOptions { as_device: true, ..Default::default() };
    let engine = pollster::block_on(Engine::gpu_with(options)).unwrap();
    pollster::block_on(engine.self_test()).unwrap();
    pollster::block_on(suite::kernels(&engine));
}

#[test]
fn gpu_and_cpu_agree_and_gpu_repeats_itself() {
    let gpu = open();
    let work = suite::work(suite::model(&[128]), 32, 40);
    let (parameters, shard, control) = (init_parameters(&work.model, 2), suite::shard(320, 784), Control::new());
    let train = |engine: &Engine| pollster::block_on(engine.train(&work, &parameters, &shard, &control)).unwrap();
    let (first, again, cpu) = (train(&gpu), train(&gpu), train(&Engine::cpu()));
    let distance = relative_distance(&first.delta, &cpu.delta).expect("updates");
    println!("native GPU and native CPU: distance {distance:.2e}");
    assert!(distance < 2e-4);
    assert_eq!(first, again);
}

/// However many parameters there are, the optimiser is one dispatch, and so are a norm's squares and the clipping by it.
#[test]
fn updates_are_one_dispatch_for_all_parameters() {
    let engine = open();
    use suite::models::{CLIPPED_SGD, SGD, adamw};
    for (optimizer, kinds) in [(SGD, 1), (CLIPPED_SGD, 3), (adamw(0.0), 1), (adamw(0.1), 3)] {
        for model in [suite::model(&[20]), suite::models::images(), suite::models::text(8, 2)] {
            let work = TrainWork { optimizer: optimizer.clone(), ..suite::work(model, 3, 1) };
            let (parameters, shard) = (init_parameters(&work.model, 3), suite::models::examples(&work.model, 3));
            let dispatches = |most| {
                let trainer = pollster::block_on(engine.trainer_cut(&work, &parameters, &shard, most)).unwrap();
                (trainer.dispatches().unwrap(), TrainPlan::compile_cut(&work, most).unwrap().program.ops.len())
            };
            let (whole, calls) = dispatches(CALL_FLOP_MAX);
            assert_eq!(whole, calls - kinds * (parameters.len() - 1), "{optimizer:?}");
            // Where a device shares its time in the smallest parts, nothing is joined.
            let (cut, calls) = dispatches(1);
            assert_eq!(cut, calls, "{optimizer:?}");
        }
    }
}

/// A visit tests a kernel before the first unit that calls it, and only then.
#[test]
fn units_are_computed_by_kernels_that_were_tested() {
    let kernel = KERNELS.iter().find(|kernel| kernel.name == "column_sum").unwrap();
    let options = GpuOptions {
        replaced_kernel: Some((kernel.name, kernel.wgsl.replace("total += sum;", "total = sum;"))),
        ..Default::default()
    };
    let engine = pollster::block_on(Engine::gpu_with(options)).unwrap();
    pollster::block_on(engine.self_test_product()).unwrap();
    let work = suite::work(suite::model(&[16]), 4, 1);
    for _ in 0..2 {
        match pollster::block_on(engine.self_test_training(&work)) {
            Err(EngineError::SelfTest { kernel, .. }) => assert!(kernel.starts_with("column_sum "), "{kernel}"),
            other => panic!("{other:?}"),
        }
    }
    let engine = open();
    pollster::block_on(engine.self_test_training(&work)).unwrap();
}

/// What is tested is the pipeline that the unit runs: a kernel may be right with the constants of another unit alone.
#[test]
fn units_are_computed_by_pipelines_that_were_tested() {
    let lying = |name: &'static str, change: &dyn Fn(&str) -> String| {
        let kernel = KERNELS.iter().find(|kernel| kernel.name == name).unwrap();
        let wgsl = change(kernel.wgsl);
        assert_ne!(wgsl, kernel.wgsl, "{name}");
        let (as_device, without_subgroups) = (name.ends_with("_parted"), !name.ends_with("_parted"));
        let replaced_kernel = Some((kernel.name, wgsl));
        let options = GpuOptions { replaced_kernel, as_device, without_subgroups, ..Default::default() };
        pollster::block_on(Engine::gpu_with(options)).unwrap()
    };
    let tested = |engine: &Engine, model| pollster::block_on(engine.self_test_training(&suite::work(model, 2, 1)));
    let first_part = |wgsl: &str| wgsl.replace("e < PARTS", "e < min(PARTS, 1u)");
    for name in ["attention_forward_parted", "attention_query_gradient_parted", "attention_key_gradient_parted"] {
        let engine = lying(name, &first_part);
        assert_eq!(tested(&engine, suite::models::text(16, 2)), Ok(()), "heads of one part");
        let got = tested(&engine, suite::models::text(64, 2));
        let shown = name.trim_end_matches("_parted");
        assert!(matches!(&got, Err(EngineError::SelfTest { kernel, .. }) if kernel.starts_with(shown)), "{name}: {got:?}");
    }
    // One channel, no padding, as a first layer has on grey pictures.
    let convolution = |channels, kernel| Layer::Convolution { channels, kernel, stride: 1, padding: 0 };
    let grey = vec![convolution(8, 5), Layer::Relu, convolution(8, 3), Layer::Relu, suite::models::dense(10)];
    let grey = suite::models::model(&[12, 12, 1], InputType::F32, grey);
    for name in ["convolution_forward", "convolution_weight_gradient"] {
        let nothing = |wgsl: &str| suite::tuning::at_main(wgsl, "if (!WIDE_CHANNELS && !PADDED) { return; }");
        let got = tested(&lying(name, &nothing), grey.clone());
        assert!(matches!(&got, Err(EngineError::SelfTest { kernel, .. }) if kernel.starts_with(name)), "{name}: {got:?}");
    }
}

/// Each call of a unit is of a pipeline that its cases run: a unit compiles no other.
#[test]
fn cases_run_the_pipelines_of_their_units() {
    let devices = [(false, false), (true, false), (false, true)];
    for (as_device, without_subgroups) in devices {
        let options = GpuOptions { as_device, without_subgroups, ..Default::default() };
        let engine = pollster::block_on(Engine::gpu_with(options)).unwrap();
        let Engine::Gpu(gpu) = &engine else { panic!("a GPU") };
        for model in [suite::model(&[20]), suite::models::images(), suite::models::text(64, 2), suite::models::dropping()] {
            let work = TrainWork { optimizer: suite::models::adamw(0.1), ..suite::work(model, 3, 1) };
            let ops = TrainPlan::compile(&work).unwrap().program.ops;
            pollster::block_on(engine.self_test_training(&work)).unwrap();
            let compiled = gpu.pipelines_count();
            pollster::block_on(gpu.prepare([&TrainPlan::compile(&work).unwrap().program].into_iter())).unwrap();
            assert_eq!(gpu.pipelines_count(), compiled, "{} calls", ops.len());
        }
    }
}

/// A kernel that is wrong, by a little or at all, is named by the self-test.
#[test]
fn the_self_test_catches_each_wrong_kernel() {
    let chunk = "let end = min(chunk + K_CHUNK, params.k);";
    let shallow = "let end = min(chunk + K_CHUNK, params.k - 1u);";
    let lies = [
        ("matmul_blocked", chunk, shallow),
        ("matmul_blocked_vec4", "value = max(value, vec4f());", ""),
        ("matmul_quad_vec2", "value = max(value, vec4f());", ""),
        ("matmul_quad", "let both = p + 1u < end;", "let both = true;"),
        ("column_sum", "total += sum;", "total = sum;"),
        ("relu_backward", "activation[i] > vec4f()", "activation[i] >= vec4f()"),
        ("add", "x[i] + y[i]", "x[i] - y[i]"),
        ("clear", "params.first + (", "params.first + 1u + ("),
        ("relu_forward", "max(x[i], vec4f())", "x[i]"),
        ("sgd_momentum", "params.momentum * velocity[i]", "velocity[i]"),
        ("accuracy", "other < own", "other <= own"),
        ("softmax_cross_entropy", "select(0.0, 1.0, i == hit)", "select(0.0, 0.999, i == hit)"),
        ("convolution_forward", "tap = (ky * params.width + kx)", "tap = (kx * params.width + ky)"),
        ("convolution_input_gradient", "i < vec4u(params.out_height)", "i <= vec4u(params.out_height)"),
        ("convolution_quad", "quadBroadcast(u, 3u)", "quadBroadcast(u, 2u)"),
        ("convolution_weight_gradient", "total00 += sum00;", "total00 = sum01;"),
        ("max_pool_forward", "value > largest", "value >= largest"),
        ("max_pool_backward", "params.window + column", "params.window + 1u + column"),
        ("average_pool_forward", "q < params.width", "q + 1u < params.width"),
        ("layer_norm_forward_shared", "parts[lane + width]", "parts[lane]"),
        ("layer_norm_backward_shared", "means.x - n", "means.x + n"),
        ("attention_forward_parted", "quadSwapY(pair)", "quadSwapX(pair)"),
        ("attention_query_gradient_parted", "quadSwapY(pair)", "quadSwapX(pair)"),
        ("attention_key_gradient_parted", "unheld < vec4u(own)", "unheld <= vec4u(own)"),
        ("average_pool_backward", "i_end = min(row / params.stride + 1u,", "i_end = min(row / params.stride,"),
    ];
    let lying = |name: &str, truth: &str, lie: &str| {
        let kernel = KERNELS.iter().find(|k| k.name == name).unwrap();
        assert!(kernel.wgsl.contains(truth), "{name}");
        // With subgroups a software adapter prefers the kernels that need them.
        let options = GpuOptions {
            replaced_kernel: Some((kernel.name, kernel.wgsl.replace(truth, lie))),
            as_device: ["_parted", "_shared"].iter().any(|end| name.ends_with(end)),
            without_subgroups: !kernel.needs_subgroups() && !name.ends_with("_shared"),
            ..Default::default()
        };
        pollster::block_on(Engine::gpu_with(options)).unwrap()
    };
    for (name, truth, lie) in lies.into_iter().chain(suite::sequence::LIES).chain(suite::dropout::LIES) {
        let shown = match name {
            name if name.starts_with("matmul") => "matmul ",
            "convolution_quad" => "convolution_forward ",
            name => ["_quad", "_parted", "_shared"].iter().fold(name, |name, end| name.trim_end_matches(end)),
        };
        match pollster::block_on(lying(name, truth, lie).self_test()) {
            Err(EngineError::SelfTest { kernel, .. }) => assert!(kernel.starts_with(shown), "{name}: {kernel}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    // No device chooses these variants for itself.
    let unchosen = [
        ("matmul_naive", chunk, shallow, Variant::Naive),
        ("matmul_tiled", "total.b10 + sum.b10", "sum.b10", Variant::Tiled),
        ("matmul_tiled_ahead", "total.b11 + sum.b11", "total.b11 + sum.b10", Variant::TiledAhead),
        ("matmul_blocked_f16", "a[at / 2u] >> (at % 2u * 16u)", "a[at / 2u]", Variant::BlockedF16),
        ("matmul_blocked_f16", "b[at / 2u] >> (at % 2u * 16u)", "b[at / 2u] >> 16u", Variant::BlockedF16),
        ("matmul_blocked_vec4_f16", "unpack2x16float(b[at].y)", "unpack2x16float(b[at].x)", Variant::BlockedVec4F16),
        ("matmul_tiled_f16", "unpack2x16float(a[at].y)", "unpack2x16float(a[at].x)", Variant::TiledF16),
        ("matmul_tiled_ahead_f16", "unpack2x16float(a[at].x)", "unpack2x16float(b[at].x)", Variant::TiledAheadF16),
    ];
    for (name, truth, lie, variant) in unchosen {
        let case = known::product(Shape { m: 36, k: 80, n: 36 }, Transposed::default(), Epilogue::Bias, Some(variant));
        let got = pollster::block_on(lying(name, truth, lie).answer(&case));
        assert!(matches!(got, Err(EngineError::SelfTest { .. })), "{name}: {got:?}");
    }
}

/// Every variant of the product that leaves out one epilogue, or takes A, B or C of another matrix, is wrong by the cases
/// that a device answers before it runs one.
#[test]
fn no_variant_may_forget_an_epilogue_or_a_matrix() {
    let epilogues = [
        (Epilogue::Accumulate, "EPILOGUE == 1u ||", ""),
        (Epilogue::Bias, "EPILOGUE >= 2u) {", "EPILOGUE >= 9u) {"),
        (Epilogue::BiasAccumulate, "|| EPILOGUE == 3u", ""),
        (Epilogue::BiasRelu, "EPILOGUE == 4u) {", "EPILOGUE == 9u) {"),
        (Epilogue::BiasGelu, "EPILOGUE == 5u) {", "EPILOGUE == 9u) {"),
    ];
    let shape = Shape { m: 36, k: 80, n: 36 };
    for variant in Variant::ALL {
        let kernel = variant.kernel();
        let mut lies: Vec<(Epilogue, String)> = Vec::new();
        for (epilogue, truth, lie) in epilogues {
            assert!(kernel.wgsl.contains(truth), "{variant:?} {truth}");
            lies.push((epilogue, kernel.wgsl.replace(truth, lie)));
        }
        for (at, truth) in kernel.wgsl.match_indices("matrix * ") {
            let (before, after) = (&kernel.wgsl[..at], &kernel.wgsl[at + truth.len()..]);
            lies.push((Epilogue::None, format!("{before}0u * {after}")));
        }
        assert_eq!(lies.len(), epilogues.len() + 3, "{variant:?}: A, B and C");
        for (epilogue, wgsl) in lies {
            let matrices = Matrices { first: 1, end: 3 };
            let case = known::products(matrices, shape, Transposed::default(), epilogue, Some(variant));
            let options = GpuOptions { replaced_kernel: Some((kernel.name, wgsl)), ..Default::default() };
            let got = pollster::block_on(pollster::block_on(Engine::gpu_with(options)).unwrap().answer(&case));
            assert!(matches!(got, Err(EngineError::SelfTest { .. })), "{variant:?} {epilogue:?}: {got:?}");
        }
    }
}

/// Every value of a kernel that reads f16 counts, also those that WGSL lets its unpacking flush to zero: a device that does
/// so runs none of these kernels, whether one wins or is wished for.
#[test]
fn a_device_that_flushes_subnormals_reads_no_f16() {
    let flush =
        "fn flushed(word: u32) -> vec2f { let v = unpack2x16float(word); return select(v, vec2f(), abs(v) < vec2f(6.1e-5)); }";
    for variant in Variant::ALL.into_iter().filter(|variant| variant.reads_f16()) {
        let kernel = variant.kernel();
        let mut lies = vec![format!("{}{flush}", kernel.wgsl.replace("unpack2x16float(", "flushed("))];
        // A's, and B's, alone.
        for (at, _) in kernel.wgsl.match_indices("unpack2x16float(") {
            let (before, after) = kernel.wgsl.split_at(at);
            lies.push(format!("{before}{}{flush}", after.replacen("unpack2x16float(", "flushed(", 1)));
        }
        assert!(lies.len() >= 3, "{variant:?}");
        let honest = open();
        honest.fix_variant(variant);
        pollster::block_on(honest.self_test_product()).expect("products in f32 run as ever");
        for (lie, wgsl) in lies.into_iter().enumerate() {
            let replaced_kernel = Some((kernel.name, wgsl));
            let options = GpuOptions { replaced_kernel, ..Default::default() };
            let engine = pollster::block_on(Engine::gpu_with(options)).unwrap();
            let task = Task::plain(Shape { m: 36, k: 144, n: 44 }, Dtype::F16);
            let got = pollster::block_on(engine.test_variant(&task, variant));
            assert!(
                matches!(&got, Err(EngineError::SelfTest { kernel: name, .. }) if name.starts_with(kernel.name)),
                "{variant:?} lie {lie}: {got:?}"
            );
            let usual = engine.usual_variant(&task);
            let bench =
                pollster::block_on(Bench::open(&engine, &task, usual, &suite::tuning::clock())).unwrap().expect("a clock");
            let got = pollster::block_on(bench.attempt(&engine, variant, &suite::tuning::clock()));
            assert!(matches!(got, Err(EngineError::SelfTest { .. })), "{variant:?}: {got:?}");
            pollster::block_on(engine.self_test_product()).unwrap();
            engine.fix_variant(variant);
            let got = pollster::block_on(engine.self_test_product());
            assert!(matches!(got, Err(EngineError::SelfTest { .. })), "{variant:?}: {got:?}");
        }
    }
}

/// A variant that keeps sums in registers to a certain depth is tested past it before it runs as an earlier session's winner.
#[test]
fn a_winner_is_tested_deeper_than_its_registers() {
    let task = Task::plain(Shape { m: 32, k: 64, n: 32 }, Dtype::F32);
    for variant in [Variant::Tiled, Variant::TiledAhead] {
        let kernel = variant.kernel();
        let replaced_kernel = Some((kernel.name, kernel.wgsl.replace("fold < params.k;", "fold < min(params.k, 1u);")));
        assert!(kernel.wgsl.contains("fold < params.k;"));
        let engine = pollster::block_on(Engine::gpu_with(GpuOptions { replaced_kernel, ..Default::default() })).unwrap();
        let got = pollster::block_on(engine.test_variant(&task, variant));
        assert!(matches!(&got, Err(EngineError::SelfTest { .. })), "{variant:?}: {got:?}");
        pollster::block_on(open().test_variant(&task, variant)).unwrap();
    }
}

/// A result of operands in f16 pins what read them, and pins that for these alone.
#[test]
fn a_replay_pins_what_reads_f16() {
    let nothing = BlobHash([0; 32]);
    let work = Work::Matmul(MatmulWork { a: nothing, b: nothing, m: 36, k: 144, n: 44, dtype: Dtype::F16 });
    let task = tasks(&work).unwrap().remove(0);
    let same = Task { dtype: Dtype::F32, ..task.clone() };
    for variant in [Variant::BlockedF16, Variant::Blocked] {
        let (first, again) = (open(), open());
        first.choose_variant(&task, variant);
        let kernels = first.kernels(&work).unwrap().expect("a GPU chooses");
        assert_eq!(kernels.products[0].kernel, variant.name());
        again.pin(&kernels).unwrap();
        assert_eq!(again.chosen_variant(&task), Some(variant));
        assert_eq!(again.chosen_variant(&same), Some(variant).filter(|variant| !variant.reads_f16()));
    }
}

/// WGSL that does not compile is an error of the call, and the device goes on.
#[test]
fn a_shader_that_does_not_compile_is_an_error() {
    let options = GpuOptions { replaced_kernel: Some(("column_sum", "nonsense".to_owned())), ..Default::default() };
    let engine = pollster::block_on(Engine::gpu_with(options)).unwrap();
    assert!(matches!(pollster::block_on(engine.self_test()), Err(EngineError::Validation(_))));
    let case = known::sgd_step(9);
    assert!(pollster::block_on(engine.answer(&case)).is_ok());
}

/// Does something at the first breath, in the middle of a computation.
struct AtFirstBreath<F: Fn() + Send + Sync>(F);

impl<F: Fn() + Send + Sync> Pace for AtFirstBreath<F> {
    fn now_ms(&self) -> f64 {
        0.0
    }

    fn breathe(&self) -> PaceFuture {
        self.0();
        Box::pin(std::future::ready(()))
    }
}

#[test]
fn a_lost_device_is_an_error_then_and_after() {
    let engine = std::sync::Arc::new(open());
    let Engine::Gpu(_) = &*engine else { panic!("a GPU") };
    let (work, control) = (suite::work(suite::model(&[128]), 32, 400), Control::new());
    let (parameters, shard) = (init_parameters(&work.model, 2), suite::shard(320, 784));
    let victim = engine.clone();
    let losing = Control::with_pace(AtFirstBreath(move || {
        if let Engine::Gpu(gpu) = &*victim {
            gpu.destroy();
        }
    }));
    let got = pollster::block_on(engine.train(&work, &parameters, &shard, &losing));
    assert!(matches!(got, Err(EngineError::DeviceLost(_))), "{got:?}");
    let again = pollster::block_on(engine.train(&work, &parameters, &shard, &control));
    assert!(matches!(again, Err(EngineError::DeviceLost(_))), "{again:?}");
    assert!(
        pollster::block_on(open().train(
            &suite::work(suite::model(&[8]), 32, 2),
            &init_parameters(&suite::model(&[8]), 1),
            &shard,
            &control
        ))
        .is_ok()
    );
}

/// Stop in mid-unit ends it within a second, also where it was paused.
#[test]
fn stop_in_mid_unit() {
    let engine = open();
    let work = suite::work(suite::model(&[128]), 32, 10_000);
    let (parameters, shard, control) = (init_parameters(&work.model, 2), suite::shard(320, 784), Control::new());
    let (told, hear) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let stopper = control.clone();
        scope.spawn(move || {
            // Once steps have been made.
            while stopper.progress().0 < 20 {
                std::thread::yield_now();
            }
            stopper.pause();
            let at = std::time::Instant::now();
            stopper.stop();
            told.send(at).unwrap();
        });
        let got = pollster::block_on(engine.train(&work, &parameters, &shard, &control));
        let ended = std::time::Instant::now();
        assert!(matches!(got, Err(EngineError::Stopped)), "{got:?}");
        let took = ended - hear.recv().unwrap();
        println!("stopped after {took:?}");
        assert!(took < std::time::Duration::from_secs(1), "{took:?}");
    });
}

/// What the device does not bind is refused with the bytes it would need.
#[test]
fn a_buffer_past_the_device_is_refused() {
    use manyhands::plan::{Op, Program};
    let engine = open();
    let mut program = Program::default();
    // One value past what 32-bit bindings reach, half the memory bound: never allocated.
    let buffer = program.buffer((1 << 30) + 1);
    program.ops.push(Op::ColumnSum { x: buffer, sums: buffer, rows: 1, columns: 1 });
    let got = pollster::block_on(engine.load(&program, &[])).map(drop);
    assert!(matches!(got, Err(EngineError::BufferTooLarge { bytes, .. }) if bytes > 1 << 32), "{got:?}");
}

/// What a unit brings is counted before anything is compiled or allocated for it, and what it does not meet is not counted.
#[test]
fn rows_past_the_device_are_refused_first() {
    let (values, rows) = (1 << 16, 1040);
    let options =
        GpuOptions { default_limits: true, replaced_kernel: Some(("column_sum", "nonsense".to_owned())), ..Default::default() };
    let engine = pollster::block_on(Engine::gpu_with(options)).unwrap();
    let model = suite::models::model(&[values], InputType::F32, vec![suite::models::dense(2)]);
    let (parameters, control) = (init_parameters(&model, 1), Control::new());
    let shard = Shard { rows, x: vec![0.5; rows * values as usize], y: vec![1; rows] };
    let train = |steps| {
        let work = suite::work(model.clone(), 16, steps);
        pollster::block_on(engine.train(&work, &parameters, &shard, &control))
    };
    let (bytes, most) = (4 * u64::from(values) * rows as u64, 1 << 28);
    assert!(bytes > most);
    assert_eq!(train(65), Err(EngineError::TooLarge { bytes, most }));
    assert!(matches!(train(1), Err(EngineError::Validation(_))), "sixteen rows fit: it is the kernel that does not compile");
}

#[test]
fn the_tuner_measures_checks_and_ends() {
    pollster::block_on(suite::tuning::measures_once_and_chooses(open(), "native GPU"));
    pollster::block_on(suite::tuning::the_faster_one_wins(open()));
    pollster::block_on(suite::tuning::no_wrong_kernel_wins());
    pollster::block_on(suite::tuning::ends_in_time(open()));
    pollster::block_on(suite::tuning::sharing_is_measured_once(open(), "native GPU"));
    let opened = async |options| Engine::gpu_with(options).await.unwrap();
    pollster::block_on(suite::tuning::a_faster_sharing_is_settled(opened));
    let as_device = async |options| Engine::gpu_with(GpuOptions { as_device: true, ..options }).await.unwrap();
    pollster::block_on(suite::tuning::a_faster_sharing_is_settled(as_device));
}

#[test]
fn the_default_limits_hold_every_kernel_and_refuse_what_is_past_them() {
    pollster::block_on(suite::limits::defaults());
}

/// A result names its products' kernels, and a device that pins them runs these and gives the same bits.
#[test]
fn a_replay_pins_the_kernels_of_a_result() {
    let work = suite::work(suite::model(&[128]), 32, 3);
    let (parameters, shard, control) = (init_parameters(&work.model, 2), suite::shard(96, 784), Control::new());
    let train = |engine: &Engine| pollster::block_on(engine.train(&work, &parameters, &shard, &control)).unwrap();
    let first = open();
    let usual = first.kernels(&Work::Train(work.clone())).unwrap();
    for task in tasks(&Work::Train(work.clone())).unwrap() {
        let takes = |variant: &Variant| variant.takes(task.shape, task.transposed) && *variant != first.usual_variant(&task);
        let other = Variant::ALL.into_iter().filter(|&v| first.offers_variant(v)).find(takes).unwrap();
        first.choose_variant(&task, other);
    }
    let (chosen, kernels) = (train(&first), first.kernels(&Work::Train(work.clone())).unwrap().expect("a GPU chooses"));
    assert_eq!(kernels.products.len(), 5, "a product forward and by weights per layer, and one by inputs");

    let again = open();
    assert_eq!(again.kernels(&Work::Train(work.clone())).unwrap(), usual);
    again.pin(&kernels).unwrap();
    let pinned = again.kernels(&Work::Train(work.clone())).unwrap();
    assert!(pinned.as_ref() == Some(&kernels) && pinned != usual);
    assert!(train(&again) == chosen, "other bits");

    let other_version = Kernels { version: "0".repeat(16), ..kernels.clone() };
    assert!(matches!(again.pin(&other_version), Err(EngineError::Unsupported(_))));
    let plain = GpuOptions { without_subgroups: true, ..Default::default() };
    let shares_otherwise = pollster::block_on(Engine::gpu_with(plain)).unwrap();
    assert!(matches!(shares_otherwise.pin(&kernels), Err(EngineError::Unsupported(_))), "attention by other kernels");
    let mut unknown = kernels;
    unknown.products[0].kernel = "matmul_unknown".to_owned();
    assert!(matches!(again.pin(&unknown), Err(EngineError::Unsupported(_))));
    assert_eq!(Engine::cpu().kernels(&Work::Train(work.clone())), Ok(None));
}
