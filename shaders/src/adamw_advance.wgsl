// powers *= (b1, b2): advances b1^t and b2^t by one step, once before the updates of adamw.wgsl. Kept on the device, so
// that a recorded step can be replayed without an upload.
//
// params  uniform          the rates
// powers  f32, read-write  [4], b1^t, b2^t and two unused; 1, 1, 0, 0 before the first step
//
// One invocation in all. Dispatch: one workgroup.
// Hazards: after t steps a power is off by t roundings; see adamw.rs. It underflows to zero, where it belongs.

struct Params {
    beta1: f32,
    beta2: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> powers: array<f32>;

@compute @workgroup_size(1)
fn main() {
    powers[0] *= params.beta1;
    powers[1] *= params.beta2;
}
