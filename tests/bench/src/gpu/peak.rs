//! What an adapter's multipliers reach when nothing is in their way: multiply-adds on registers alone.

use std::time::Instant;

use anyhow::{Context as _, Result};

const LANES: u32 = 256;
const GROUPS: u32 = 4096;
/// vec4 that each invocation keeps, and rounds over them in one turn of its loop.
const KEPT: u32 = 8;
const ROUNDS: u32 = 8;

fn wgsl() -> String {
    let each = |line: &dyn Fn(u32) -> String| (0..KEPT).map(line).collect::<String>();
    let round = each(&|i| format!("x{i} = fma(x{i}, m, b);\n"));
    format!(
        "struct Params {{ turns: u32, m: f32 }}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> out: array<vec4f>;
@compute @workgroup_size({LANES})
fn main(@builtin(global_invocation_id) id: vec3u) {{
let m = vec4f(params.m);
let b = vec4f(0.0001);
{}for (var turn = 0u; turn < params.turns; turn++) {{
{}}}
out[id.x % 1024u] = {};
}}",
        each(&|i| format!("var x{i} = vec4f(f32(id.x) * 0.001 + {i}.0);\n")),
        round.repeat(ROUNDS as usize),
        (0..KEPT).map(|i| format!("x{i}")).collect::<Vec<_>>().join(" + "),
    )
}

/// GFLOP/s of so many turns, over some samples, the slowest first.
pub async fn fma_gflops(turns: u32, samples: usize) -> Result<Vec<f64>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let options = wgpu::RequestAdapterOptions { power_preference: wgpu::PowerPreference::HighPerformance, ..Default::default() };
    let adapter = instance.request_adapter(&options).await.context("no adapter")?;
    let (device, queue) = adapter.request_device(&wgpu::DeviceDescriptor::default()).await?;
    let source = wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(wgsl().into()) };
    // SAFETY: the only index is taken modulo the buffer's length, and the loop ends after `turns`.
    let module = unsafe { device.create_shader_module_trusted(source, wgpu::ShaderRuntimeChecks::unchecked()) };
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let buffer =
        |size, usage| device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
    let params = buffer(16, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
    let out = buffer(1024 * 16, wgpu::BufferUsages::STORAGE);
    queue.write_buffer(&params, 0, bytemuck::cast_slice(&[turns, 0.999_f32.to_bits(), 0, 0]));
    let entries = [(0, &params), (1, &out)];
    let entries = entries.map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() });
    let layout = pipeline.get_bind_group_layout(0);
    let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
    let flop = f64::from(LANES) * f64::from(GROUPS) * f64::from(turns) * f64::from(ROUNDS * KEPT * 4) * 2.0;
    let mut found = Vec::new();
    // The first warms up.
    for sample in 0..=samples {
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(GROUPS, 1, 1);
        drop(pass);
        let begun = Instant::now();
        queue.submit([encoder.finish()]);
        device.poll(wgpu::PollType::wait_indefinitely())?;
        if sample > 0 {
            found.push(flop / begun.elapsed().as_secs_f64() / 1e9);
        }
    }
    found.sort_by(f64::total_cmp);
    Ok(found)
}
