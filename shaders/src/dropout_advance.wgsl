// inner_step += steps: counts the inner steps for the masks of dropout.wgsl, once after each. Kept on the device, so that a
// recorded step can be replayed without an upload.
//
// params      uniform          steps
// inner_step  u32, read-write  [4], the step from 0 and three unused; 0 before the first step
//
// One invocation in all. Dispatch: one workgroup.
// Hazards: none.

struct Params {
    steps: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> inner_step: array<u32>;

@compute @workgroup_size(1)
fn main() {
    inner_step[0] += params.steps;
}
