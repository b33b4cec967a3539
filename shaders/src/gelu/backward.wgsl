// gradient *= s + x s (1 - s) w', s = 1 / (1 + exp(-w)), w = 2 sqrt(2/pi) (x + 0.044715 x^3): the backward pass of GELU
// in its tanh form (see forward.wgsl), in place, from the pre-activation.
//
// params    uniform            values4 = ceil(values / 4)
// x         vec4f, read        [values4], the pre-activation
// gradient  vec4f, read-write  [values4], dL/dy in, dL/dx out
//
// One invocation handles four values. Dispatch: ceil(values4 / WORKGROUP) workgroups, numbered along x, then y. Buffers
// are whole vec4; values past the end are computed and never read.
// Hazards: x is held within ±9, beyond which s is 0 or 1 and the second term vanishes. 1 - s is taken as exp(-w) s,
// which does not cancel; exp(-w) s comes before the other s, so that neither product overflows nor is denormal.

override WORKGROUP: u32 = 64u;

struct Params {
    values4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> gradient: array<vec4f>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * WORKGROUP + lane;
    if (i >= params.values4) {
        return;
    }
    let held = clamp(x[i], vec4f(-9.0), vec4f(9.0));
    let square = held * held;
    let e = exp(-1.5957691 * (held + 0.044715 * (square * held)));
    let s = 1.0 / (1.0 + e);
    let slope = 1.5957691 * (1.0 + 0.134145 * square);
    gradient[i] *= s + (e * s) * s * (held * slope);
}
