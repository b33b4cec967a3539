//! A device at WebGPU's default limits, whatever the adapter allows: every kernel fits them, and what does not says so
//! before it starts.

#![allow(dead_code)] // Run where there is a GPU.

use manyhands::control::Control;
use manyhands::engine::{Engine, EngineError, GpuOptions, init_parameters};
use manyhands::plan::{Placement, TrainPlan};
use manyhands::tensors::Shard;
use manyhands_protocol::model::{InputType, Layer};

use super::models::{dense, model};
use super::{println, work};

/// Of one binding (WebGPU, section 3.6.2).
const BINDING_BYTES: u64 = 128 << 20;

pub async fn defaults() {
    let engine = Engine::gpu_with(GpuOptions { default_limits: true, ..Default::default() }).await.unwrap();
    engine.self_test().await.unwrap();
    let net = model(&[1], InputType::F32, vec![dense(1 << 14), Layer::Gelu, dense(2)]);
    let (parameters, control) = (init_parameters(&net, 1), Control::new());
    // 2¹⁴ outputs of 4096 examples are twice what a binding may hold; the parameters are nothing beside them.
    let (large, rows) = (work(net.clone(), 4096, 1), Shard { rows: 4096, x: vec![0.5; 4096], y: vec![1; 4096] });
    let got = engine.train(&large, &parameters, &rows, &control).await;
    let needed = Placement::shared(&TrainPlan::compile(&large).unwrap().program).bytes(0);
    let expected = EngineError::BufferTooLarge { total: needed, bytes: 2 * BINDING_BYTES, most: BINDING_BYTES };
    println(&expected.to_string());
    assert!(needed > 4 * BINDING_BYTES, "an activation and its GELU at least");
    assert_eq!(got, Err(expected));
    // The device is as good as before, and takes the same model in smaller batches.
    let small = work(net, 64, 1);
    assert!(engine.train(&small, &parameters, &rows, &control).await.is_ok());
}
