// y = 0.5 x (1 + tanh(z)) = x / (1 + exp(-2z)), z = sqrt(2/pi) (x + 0.044715 x^3): GELU in the tanh form of Hendrycks and
// Gimpel, Gaussian Error Linear Units, 2016.
//
// params  uniform         values4 = ceil(values / 4)
// x       vec4f, read     [values4], the pre-activation
// y       vec4f, written  [values4]
//
// One invocation handles four values. Dispatch: ceil(values4 / WORKGROUP) workgroups, numbered along x, then y. Buffers
// are whole vec4; values past the end are computed and never read.
// Hazards: x is held within ±9 inside the exponential, which can then neither overflow nor meet an infinity. Backward
// reads the same x.

override WORKGROUP: u32 = 64u;

struct Params {
    values4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

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
    let value = x[i];
    let held = clamp(value, vec4f(-9.0), vec4f(9.0));
    let w = 1.5957691 * (held + 0.044715 * (held * held * held));
    y[i] = value / (1.0 + exp(-w));
}
