//! The same suite in a dedicated worker of a browser: WebGPU (SwiftShader in the flags of webdriver.json), and the wasm
//! SIMD path. No adapter is a failure.
#![allow(clippy::unwrap_used)]
#![cfg(target_arch = "wasm32")]

use manyhands::engine::Engine;
use manyhands_protocol::statement::Backend;
use wasm_bindgen_test::{wasm_bindgen_test, wasm_bindgen_test_configure};

mod suite;

wasm_bindgen_test_configure!(run_in_dedicated_worker);

#[wasm_bindgen_test]
async fn wasm_agrees_with_the_reference() {
    let engine = Engine::cpu();
    assert_eq!(engine.device_class().backend, Backend::Wasm);
    suite::all(&engine, "wasm CPU").await;
}

#[cfg(feature = "gpu")]
mod gpu {
    use super::*;
    use manyhands::control::Control;
    use manyhands::engine::{AdapterChoice, EngineError, GpuOptions, init_parameters};
    use manyhands_shaders::KERNELS;
    use manyhands_shaders::compare::relative_distance;
    use manyhands_shaders::matmul::Variant;

    async fn open() -> Engine {
        Engine::gpu(AdapterChoice::Fastest).await.expect("WebGPU in a worker")
    }

    #[wasm_bindgen_test]
    async fn webgpu_agrees_with_the_reference() {
        let engine = open().await;
        let class = engine.device_class();
        assert_eq!(class.backend, Backend::Webgpu);
        wasm_bindgen_test::console_log!("adapter: {:?}, software: {}", class.adapter, engine.is_software_adapter());
        assert!(
            Variant::ALL.into_iter().filter(|v| v.spares_software()).all(|variant| engine.offers_variant(variant)),
            "a variant would go untested"
        );
        suite::all(&engine, "WebGPU").await;
    }

    /// The kernels that a device runs which is no program, and those of browsers without subgroups.
    #[wasm_bindgen_test]
    async fn what_devices_run_agrees_too() {
        for (as_device, without_subgroups) in [(true, false), (false, true)] {
            let options = GpuOptions { as_device, without_subgroups, ..Default::default() };
            let engine = Engine::gpu_with(options).await.unwrap();
            engine.self_test().await.unwrap();
            suite::others(&engine).await;
        }
    }

    #[wasm_bindgen_test]
    async fn webgpu_and_wasm_agree() {
        let work = suite::work(suite::model(&[128]), 32, 40);
        let (parameters, shard, control) = (init_parameters(&work.model, 2), suite::shard(320, 784), Control::new());
        let gpu = open().await.train(&work, &parameters, &shard, &control).await.unwrap();
        let cpu = Engine::cpu().train(&work, &parameters, &shard, &control).await.unwrap();
        let distance = relative_distance(&gpu.delta, &cpu.delta).expect("updates");
        wasm_bindgen_test::console_log!("WebGPU and wasm: distance {distance:.2e}");
        assert!(distance < 2e-4);
    }

    #[wasm_bindgen_test]
    async fn wrong_and_broken_kernels_are_errors() {
        let kernel = KERNELS.iter().find(|k| k.name == "relu_backward").unwrap();
        let lie = kernel.wgsl.replace("activation[i] > vec4f()", "activation[i] >= vec4f()");
        let with = |wgsl: String| GpuOptions { replaced_kernel: Some((kernel.name, wgsl)), ..Default::default() };
        let got = Engine::gpu_with(with(lie)).await.unwrap().self_test().await;
        assert!(matches!(&got, Err(EngineError::SelfTest { kernel, .. }) if kernel.starts_with("relu_backward ")), "{got:?}");
        let got = Engine::gpu_with(with("nonsense".to_owned())).await.unwrap().self_test().await;
        assert!(matches!(got, Err(EngineError::Validation(_))), "{got:?}");
    }

    #[wasm_bindgen_test]
    async fn the_default_limits_hold_every_kernel_and_refuse_what_is_past_them() {
        suite::limits::defaults().await;
    }

    #[wasm_bindgen_test]
    async fn a_lost_device_is_an_error() {
        let engine = open().await;
        let Engine::Gpu(gpu) = &engine else { panic!("a GPU") };
        gpu.destroy();
        let got = engine.self_test().await;
        assert!(matches!(got, Err(EngineError::DeviceLost(_))), "{got:?}");
        assert!(open().await.answer(&manyhands::engine::known::sgd_step(9)).await.is_ok());
    }

    #[wasm_bindgen_test]
    async fn the_tuner_measures_checks_and_ends() {
        suite::tuning::measures_once_and_chooses(open().await, "WebGPU").await;
        suite::tuning::the_faster_one_wins(open().await).await;
        suite::tuning::no_wrong_kernel_wins().await;
        suite::tuning::ends_in_time(open().await).await;
        suite::tuning::sharing_is_measured_once(open().await, "WebGPU").await;
        suite::tuning::a_faster_sharing_is_settled(async |options| Engine::gpu_with(options).await.unwrap()).await;
    }
}
